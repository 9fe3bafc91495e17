// The notifier, the progress bar and the people, as their READMEs run them: the real server, PHP's own web server, Chromium.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { after, test } from "node:test";
import { newPage } from "./support/browser.mjs";
import { Comet, folder } from "./support/comet.mjs";
import { ROOT, servePhp } from "./support/php.mjs";

// One of each for the whole file: what a test opens begins with what comes then.
const SOCKET = join(await folder({ after }), "comet.sock");
const comet = await Comet.serve({ after }, `
socket = "${SOCKET}"
[public]
listen = ["127.0.0.1:0"]
origins = ["*"]
[presence]
grace = "100ms"
[held.drop_in]
max = 16
[namespace_default]
public = true
anonymous_publish = true
presence = true
anonymous_presence = true
durability = "memory"
`);
const php = await servePhp({ after }, { COMETSERVER_SOCKET: SOCKET });
const EXAMPLES = `${php}/examples`;
const AWKWARD = `<b>bold</b> & <img src=x onerror="document.title='hit'"> 'single' "double" %41 %2B a+b grün ☃ 𝄞 ]]> value: again value:`;

/** A page of an example, and all that its notifier has shown in `seen`, dismissed or not. */
async function open(t, path, { change, clock, ...options } = {}) {
  const page = await newPage(t, options);
  if (clock) await page.clock.install();
  if (change) {
    await page.route(/index\.php/, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: change(await response.text()) });
    });
  }
  await watch(page);
  await page.goto(`${EXAMPLES}/${path}?server=${comet.origin}`);
  return page;
}

function watch(page) {
  return page.addInitScript(() => {
    globalThis.seen = [];
    new MutationObserver((records) => {
      for (const { addedNodes } of records) {
        for (const node of addedNodes) {
          if (node.matches?.(".jGrowl-notification")) globalThis.seen.push(node.querySelector(".jGrowl-message").textContent);
        }
      }
    }).observe(document, { childList: true, subtree: true });
  });
}

/** Each page has shown this, and nothing else. */
async function showsAll(pages, expected) {
  for (const page of pages) {
    await page.waitForFunction((last) => globalThis.seen.includes(last), expected.at(-1));
    await page.waitForFunction((count) => globalThis.seen.length >= count, expected.length);
    assert.deepEqual(await page.evaluate(() => globalThis.seen), expected);
  }
}

/** By the form, as a person does. */
async function write(writer, text) {
  await writer.fill("#comet-text", text);
  await press(writer, "#send");
}

/** A button of write.php; settles when the page is there again and says that all went well. */
async function press(writer, button) {
  await Promise.all([writer.waitForEvent("load"), writer.click(button)]);
  await writer.waitForSelector("#said.good:not(:empty)");
}

/** A plain page that is connected. */
async function openLive(t, path, options) {
  const page = await open(t, path, options);
  await page.waitForFunction(() => document.querySelector("#state").textContent.startsWith("Live"));
  return page;
}

function flawless(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.complaints, []);
    for (const origin of page.visited) assert.ok([php, comet.origin, "null"].includes(origin), `asked ${origin}`);
  }
}

test("every open notifier shows what write.php sends, unchanged and as text, and again after refresh", async (t) => {
  const pages = [await open(t, "notifier/index.php"), await open(t, "notifier/index.php")];
  const writer = await open(t, "notifier/write.php");
  await write(writer, AWKWARD);
  await showsAll(pages, [AWKWARD]);
  assert.equal(await pages[0].locator(".jGrowl-notification .jGrowl-message").textContent(), AWKWARD);
  await write(writer, "  blanks around, and two\nlines ");
  // Forms send line ends as CR LF.
  await showsAll(pages, [AWKWARD, "  blanks around, and two\r\nlines "]);
  await write(writer, AWKWARD);
  await press(writer, "#refresh");
  await showsAll(pages, [AWKWARD, "  blanks around, and two\r\nlines ", AWKWARD, AWKWARD]);
  assert.equal(await pages[0].title(), "Notifier");
  flawless(...pages, writer);
});

test("a burst of twenty arrives in each page once and in order", async (t) => {
  const pages = [await open(t, "notifier/index.php"), await open(t, "notifier/index.php"), await openLive(t, "notifier/plain.html")];
  const writer = await open(t, "notifier/write.php");
  const token = await writer.locator("[name=token]").first().inputValue();
  const texts = Array.from({ length: 20 }, (_, number) => `message ${number}`);
  for (const text of texts) {
    const form = { token, "comet-text": text };
    const answer = await writer.context().request.post(`${EXAMPLES}/notifier/write.php`, { form, maxRedirects: 0 });
    assert.equal(answer.status(), 303);
  }
  await write(writer, "the end");
  await showsAll(pages, [...texts, "the end"]);
  flawless(...pages);
});

test("write.php takes no form that is not its own, and no empty message", async (t) => {
  const page = await open(t, "notifier/index.php");
  const writer = await open(t, "notifier/write.php");
  const { request } = writer.context();
  for (const forged of [{}, { token: "0".repeat(32) }, { "token[]": "x" }]) {
    for (const wish of [{ "comet-text": "forged" }, { "frm-comet-refresh": "true" }]) {
      const answer = await request.post(`${EXAMPLES}/notifier/write.php`, { form: { ...wish, ...forged }, maxRedirects: 0 });
      assert.equal(answer.status(), 403);
    }
  }
  for (const text of [" ", `\n${"x".repeat(10_001)}`]) {
    await writer.fill("#comet-text", text);
    await writer.click("#send");
    await writer.waitForSelector("#said.bad:not(:empty)");
    assert.equal(await writer.inputValue("#comet-text"), text, "what was typed is still there");
  }
  await write(writer, "genuine");
  assert.equal(await writer.inputValue("#comet-text"), "", "and no longer once it was sent");
  await showsAll([page], ["genuine"]);
});

test("where no server runs, every page says so, and nothing that it does not know", async (t) => {
  const socket = join(await folder(t), "comet.sock");
  const site = `${await servePhp(t, { COMETSERVER_SOCKET: socket })}/examples`;
  const page = await newPage(t);
  await page.goto(`${site}/notifier/index.php`);
  assert.match(await page.textContent("[role=alert]"), /The server is not running/);
  await page.goto(`${site}/notifier/write.php`);
  await page.fill("#comet-text", "not yet");
  await page.click("#send");
  assert.match(await page.textContent("#said.bad"), /Not sent: Server is not running/);
  assert.equal(await page.inputValue("#comet-text"), "not yet");
  // Nobody listens on the port of a server that has ended.
  const ended = await Comet.serve(t, '[public]\nlisten = ["127.0.0.1:0"]');
  await ended.stop();
  await page.goto(`${site}/progress/index.html?server=${ended.origin}`);
  await page.waitForFunction(() => document.querySelector("#state").textContent.startsWith("No connection"));
  assert.doesNotMatch(await page.textContent("main"), /No job has run yet/);
});

test("notifications cover nothing of the page where there is room beside it", async (t) => {
  for (const width of [700, 1000, 1280, 1600]) {
    const page = await open(t, "notifier/index.php", { viewport: { width, height: 700 } });
    await page.evaluate(() => globalThis.notify("wide ".repeat(30)));
    const edge = async (selector) => (await page.locator(selector).first().boundingBox());
    const [text, notification] = [await edge("main .card"), await edge(".jGrowl-notification")];
    assert.equal(await page.locator(".jGrowl-closer").isVisible(), false, "there is only one to dismiss");
    assert.ok(text.x + text.width <= notification.x, `${width}: ${text.x + text.width} > ${notification.x}`);
    assert.ok(text.x >= 0 && text.width > 200, `${width}: ${text.width}`);
  }
});

test("the keyboard reaches notifications, dismisses them, and comes back to where it was", async (t) => {
  const page = await open(t, "notifier/index.php");
  await page.focus("a.button");
  await page.evaluate(() => ["one", "two", "three"].forEach(globalThis.notify));
  const focused = () => page.evaluate(() => document.activeElement.parentElement.querySelector(".jGrowl-message")?.textContent);
  await page.keyboard.press("F8");
  assert.equal(await focused(), "three");
  await page.keyboard.press("Enter");
  assert.equal(await focused(), "two");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await focused(), "one");
  await page.keyboard.press("Escape");
  assert.equal(await focused(), "two");
  await page.keyboard.press("Space");
  assert.equal(await page.evaluate(() => document.activeElement.className), "button");
  await page.waitForFunction(() => !document.querySelector(".jGrowl-notification"));
});

test("a notification goes by itself, but not while somebody points at it or has the focus on it", async (t) => {
  const page = await open(t, "notifier/index.php", { clock: true });
  const shown = page.locator(".jGrowl-notification");
  await page.evaluate(() => globalThis.notify("read me"));
  await shown.hover();
  await page.clock.fastForward(60_000);
  await page.focus(".jGrowl-close");
  await page.mouse.move(5, 5);
  await page.clock.fastForward(60_000);
  assert.equal(await shown.count(), 1);
  assert.equal(await shown.evaluate((item) => item.inert), false);
  await page.focus("a.button");
  await page.clock.fastForward(60_000);
  await shown.waitFor({ state: "detached" });
  assert.deepEqual(await page.evaluate(() => globalThis.seen), ["read me"]);
});

test("screen readers hear of notifications, and who wants no motion gets none", async (t) => {
  const page = await open(t, "notifier/index.php", { reducedMotion: "reduce" });
  await page.evaluate(() => ["one", "two"].forEach(globalThis.notify));
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  const region = page.getByRole("region", { name: "Notifications" });
  assert.equal(await region.locator("[aria-live=polite][role=list] > li").count(), 2);
  assert.equal(await region.getByRole("button", { name: "Dismiss", exact: true }).count(), 2);
  await region.getByRole("button", { name: "Dismiss all" }).click();
  assert.equal(await page.locator(".jGrowl-notification").count(), 0);
});

test("a page that opts in shows HTML", async (t) => {
  const change = (html) => html.replace('class="jGrowl"', 'class="jGrowl" data-html');
  const page = await open(t, "notifier/index.php", { change });
  const writer = await open(t, "notifier/write.php");
  await write(writer, "<table><tr><td>cell</td></tr></table>");
  assert.equal(await page.locator(".jGrowl-message td").textContent(), "cell");
});

test("the page without PHP shows the same messages, and writes them", async (t) => {
  const pages = [await openLive(t, "notifier/plain.html"), await openLive(t, "notifier/plain.html"), await open(t, "notifier/index.php")];
  const writer = await open(t, "notifier/write.php");
  await pages[0].fill("#comet-text", AWKWARD);
  await pages[0].click("#send");
  await showsAll(pages, [AWKWARD]);
  await pages[1].click("#refresh");
  await showsAll(pages, [AWKWARD, AWKWARD]);
  await press(writer, "#refresh");
  await showsAll(pages, [AWKWARD, AWKWARD, AWKWARD]);
  await write(writer, "from PHP");
  await showsAll(pages, [AWKWARD, AWKWARD, AWKWARD, "from PHP"]);
  flawless(...pages);
});

/** The job, as from a terminal; ended after the test. */
function startJob(t, steps, pace) {
  const env = { ...process.env, COMETSERVER_SOCKET: SOCKET };
  const job = spawn("php", [join(ROOT, "examples/progress/job.php"), steps, pace], { env, stdio: "inherit" });
  const ended = new Promise((gone) => job.on("exit", gone));
  t.after(() => {
    job.kill("SIGKILL");
    return ended;
  });
  return { job, ended };
}

const bar = (page) => page.locator("#bar").evaluate(({ value, max }) => value / max);

test("a job's progress is shown live, and a page that is reloaded in the middle goes on where the job is", async (t) => {
  const page = await openLive(t, "progress/index.html");
  const { job, ended } = startJob(t, 50, 20);
  await page.waitForFunction(() => document.querySelector("#bar").value >= 10);
  job.kill("SIGSTOP");
  await page.reload();
  await page.waitForFunction(() => document.querySelector("#bar").value >= 10);
  const middle = await bar(page);
  assert.ok(middle < 1, `${middle}`);
  assert.equal(await page.locator("#start").isDisabled(), true);
  const other = await openLive(t, "progress/index.html");
  job.kill("SIGCONT");
  for (const one of [page, other]) {
    await one.waitForFunction(() => document.querySelector("#news").textContent === "Done.");
    assert.equal(await bar(one), 1);
    assert.equal(await one.locator("#percent").textContent(), "100 %");
  }
  assert.equal(await ended, 0);
  flawless(page, other);
});

test("the button starts the job, one at a time, and other sites cannot", async (t) => {
  const page = await openLive(t, "progress/index.html");
  const other = await openLive(t, "progress/index.html");
  const refused = await page.context().request.post(`${EXAMPLES}/progress/job.php`);
  assert.equal(refused.status(), 403);
  await page.click("#start");
  await other.waitForFunction(() => document.body.dataset.job === "running");
  const second = await other.evaluate(() => fetch("job.php", { method: "POST", headers: { "X-Start-Job": "1" } }).then(({ status }) => status));
  assert.equal(second, 409);
  flawless(page);
});

test("people who come and go are counted in every page, by their names as text, each browser once", async (t) => {
  const first = await openLive(t, "people-here/index.html");
  const says = (page, text) => page.waitForFunction((text) => document.querySelector("#count").textContent === text, text);
  await says(first, "1 person is here");
  const second = await openLive(t, "people-here/index.html");
  await Promise.all([says(first, "2 people are here"), says(second, "2 people are here")]);
  const tab = await second.context().newPage();
  await tab.goto(second.url());
  await says(tab, "2 people are here");

  await second.fill("#name", "<i>Anna</i>");
  await second.click("text=Say it");
  await first.locator("#people li", { hasText: "<i>Anna</i>" }).waitFor();
  for (const page of [first, second, tab]) await says(page, "2 people are here");
  await second.context().close();
  await says(first, "1 person is here");
  flawless(first);
});
