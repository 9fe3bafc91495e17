// The demo page in a real browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { newPage } from "./support/browser.mjs";
import { Comet } from "./support/comet.mjs";
import { Cuttable } from "./support/cuttable.mjs";

const CHANNEL = "a/b?c d&e%é";

/** A demo server with its page open on `channel`, connected. */
async function openDemo(t, { channel = CHANNEL, transport = "websocket", ...options } = {}) {
  const comet = await Comet.demo(t);
  const page = await newPage(t, options);
  await page.goto(`${comet.origin}/?${new URLSearchParams({ channel, transport })}`);
  await live(page);
  return { comet, page };
}

/** Waits until the page says that it listens. */
const live = (page) => page.waitForSelector("#state[data-state=live]");

/** Waits until a message with this text is on the page. */
function shown(page, text) {
  return page.waitForFunction(
    (text) => [...document.querySelectorAll("#messages .payload")].some((row) => row.textContent === text),
    text,
  );
}

/** The texts on the page, oldest first. */
async function texts(page) {
  return (await page.locator("#messages .payload").allTextContents()).reverse();
}

async function choose(page, transport) {
  await page.locator(`#picker input[value=${transport}]`).check({ force: true });
}

/** The lightness (0 to 255) of a colour property as it is painted, whatever notation the style sheet used. */
function lightness(page, property) {
  return page.evaluate((property) => {
    const transparent = (colour) => colour === "rgba(0, 0, 0, 0)";
    const candidates = [document.body, document.documentElement].map((e) => getComputedStyle(e)[property]);
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    context.fillStyle = candidates.find((colour) => !transparent(colour)) ?? "white";
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }, property);
}

/** How many pixels the page is wider than the screen. */
const overhang = (page) => page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);

test("the page opens without complaints and asks nothing of anybody else", async (t) => {
  const comet = await Comet.demo(t);
  const page = await newPage(t);
  await page.goto(comet.origin);
  await live(page);
  await comet.publish("demo", "on the default channel");
  await shown(page, "on the default channel");
  assert.deepEqual(page.complaints, []);
  assert.deepEqual([...page.visited].filter((origin) => origin !== comet.origin.replace("http", "ws")), [comet.origin]);
});

test("a message published over HTTP appears", async (t) => {
  const { comet, page } = await openDemo(t);
  await comet.publish(CHANNEL, "first");
  await shown(page, "first");
  await comet.publish(CHANNEL, "second");
  await shown(page, "second");
  assert.deepEqual(await texts(page), ["first", "second"]);
});

test("a page that opens later shows what is kept", async (t) => {
  const { comet, page } = await openDemo(t);
  await comet.publish(CHANNEL, "before");
  await shown(page, "before");
  await page.reload();
  await shown(page, "before");
  assert.deepEqual(await texts(page), ["before"]);
});

test("the form sends a message and takes the next one", async (t) => {
  const { comet, page } = await openDemo(t);
  await page.fill("#text", "by the button");
  await page.click("#send button[type=submit]");
  await shown(page, "by the button");
  await page.fill("#text", "by Enter");
  await page.press("#text", "Enter");
  await shown(page, "by Enter");
  assert.equal(await page.inputValue("#text"), "");
  assert.deepEqual(await texts(page), ["by the button", "by Enter"]);
  assert.deepEqual((await comet.history(CHANNEL)).map(({ data }) => data), ["by the button", "by Enter"]);
  assert.deepEqual(page.complaints, []);
});

test("a message sent in one window appears in another", async (t) => {
  const { page } = await openDemo(t);
  const other = await newPage(t);
  await other.goto(page.url());
  await live(other);
  await page.fill("#text", "hello, other window");
  await page.press("#text", "Enter");
  await shown(other, "hello, other window");
  assert.deepEqual(await texts(other), ["hello, other window"]);
});

test("markup in a message, an event name or a channel is shown as text", async (t) => {
  const markup = `<img src=x onerror="document.title='taken over'"><b>bold</b> & &amp; </pre><script>document.title='taken over'</script>`;
  const { comet, page } = await openDemo(t, { channel: markup });
  const query = new URLSearchParams({ channel: markup, event: markup });
  const sent = await fetch(`${comet.origin}/v1/publish?${query}`, { method: "POST", body: markup });
  assert.equal(sent.status, 200);
  await shown(page, markup);
  await comet.publish(markup, JSON.stringify({ [markup]: markup }), "application/json");
  await shown(page, JSON.stringify({ [markup]: markup }, null, 2));
  assert.equal(await page.locator("#messages :is(img, b, script)").count(), 0);
  assert.equal(await page.locator("body script").count(), 0);
  assert.notEqual(await page.title(), "taken over");
  assert.deepEqual(page.complaints, []);
});

test("every transport delivers and resumes across a switch, nothing lost and nothing twice", async (t) => {
  const { comet, page } = await openDemo(t);
  const transports = await page
    .locator("#picker input[name=transport]")
    .evaluateAll((inputs) => inputs.map((input) => input.value));
  assert.deepEqual([...transports].sort(), ["poll", "sse", "stream", "websocket"]);

  // Each is left for each other once: twelve switches.
  const walk = "websocket sse websocket stream websocket poll sse stream sse poll stream poll websocket".split(" ");
  const sent = [];
  const publish = (text) => {
    sent.push(text);
    return comet.publish(CHANNEL, text);
  };
  for (const [step, transport] of walk.entries()) {
    // One is under way while the transport changes, one comes through the new one.
    const [, racing] = await Promise.all([choose(page, transport), publish(`${step} on the way to ${transport}`)]);
    assert.ok(racing.cursor);
    await live(page);
    const text = `${step} by ${transport}`;
    await publish(text);
    await shown(page, text);
    assert.deepEqual(await texts(page), sent);
  }
  assert.deepEqual(page.complaints, []);
});

test("the page that is cut off comes back with every transport, the same or another, from where it was", async (t) => {
  const comet = await Comet.demo(t);
  const relay = await Cuttable.before(t, comet.origin);
  const page = await newPage(t);
  await page.goto(`${relay.origin}/?${new URLSearchParams({ channel: CHANNEL })}`);
  await live(page);

  const sent = [];
  const publish = (text) => {
    sent.push(text);
    return comet.publish(CHANNEL, text);
  };
  for (const [before, after] of [
    ["websocket", "websocket"],
    ["websocket", "sse"],
    ["sse", "sse"],
    ["sse", "stream"],
    ["stream", "stream"],
    ["stream", "poll"],
    ["poll", "poll"],
    ["poll", "websocket"],
  ]) {
    await choose(page, before);
    await live(page);
    await publish(`${before}, seen before ${after}`);
    await shown(page, sent.at(-1));

    // Nobody gets through until the message is there, so it can only come by the cursor.
    relay.cut();
    await choose(page, after);
    await relay.somebodyCameBack();
    await publish(`${before}, missed before ${after}`);
    relay.mend();
    await shown(page, sent.at(-1));
    assert.deepEqual(await texts(page), sent);
  }
});

test("only lost messages are counted as a gap, not lost joins and leaves", async (t) => {
  const comet = await Comet.demo(t);
  const page = await newPage(t);
  const gaps = [{ type: "gap", channel: "demo", presence: true }, { type: "gap", channel: "demo" }];
  await page.route(/\/v1\/poll/, async (route) => {
    const response = await route.fetch();
    const answer = await response.json();
    if (answer.publications.some(({ type }) => type === "publication")) answer.publications.unshift(gaps.shift());
    await route.fulfill({ response, json: answer });
  });
  await page.goto(`${comet.origin}/?transport=poll`);
  await live(page);
  for (const [text, expected] of [["without presence news", "0"], ["without messages", "1"]]) {
    await comet.publish("demo", text);
    await shown(page, text);
    assert.equal(await page.textContent("#count-gaps"), expected);
    assert.equal(await page.locator("#messages .notice").count(), Number(expected));
  }
});

test("a window is one of those who are here, whatever transport it takes", async (t) => {
  const { page } = await openDemo(t);
  for (const transport of ["sse", "stream", "poll", "websocket"]) {
    const answered = page.waitForResponse(/\/v1\/presence/);
    await choose(page, transport);
    const { count, members } = await (await answered).json();
    assert.deepEqual([count, members.length], [1, 1], transport);
  }
  await page.route(/\/v1\/presence/, (route) =>
    route.fulfill({ json: { count: 3, members: [{ connections: 0 }, { connections: 1 }, { connections: 1 }] } }),
  );
  await choose(page, "sse");
  await page.waitForFunction(() => document.querySelector("#count-here").textContent === "2");
});

for (const width of [320, 390]) {
  test(`at a phone's width of ${width} nothing has to be scrolled sideways`, async (t) => {
    const { comet, page } = await openDemo(t, {
      viewport: { width, height: 740 },
      isMobile: true,
      hasTouch: true,
      channel: `long/${"channel".repeat(20)}`,
    });
    const channel = new URL(page.url()).searchParams.get("channel");
    for (const text of ["short", "w".repeat(2000), "words ".repeat(300).trim()]) {
      await comet.publish(channel, text);
      await shown(page, text);
    }
    await comet.publish(channel, JSON.stringify({ key: "v".repeat(500) }), "application/json");
    await page.waitForFunction(() => document.querySelectorAll("#messages .payload").length === 4);
    assert.ok((await overhang(page)) <= 0, `${await overhang(page)} px too wide`);
    assert.ok(await page.locator("#send button[type=submit]").isVisible());
  });
}

test("the page is light or dark as the reader's system is", async (t) => {
  const { page } = await openDemo(t, { colorScheme: "light" });
  assert.ok((await lightness(page, "backgroundColor")) > 200);
  assert.ok((await lightness(page, "color")) < 80);
  await page.emulateMedia({ colorScheme: "dark" });
  await page.waitForFunction(() => matchMedia("(prefers-color-scheme: dark)").matches);
  assert.ok((await lightness(page, "backgroundColor")) < 60);
  assert.ok((await lightness(page, "color")) > 180);
});
