// Our client finds the best transport that a path allows, remembers it, and climbs again.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHANNEL, OPEN, events, listen, live, openSite, openTab, received, receivedAll } from "./support/client.mjs";

const alone = { share: false, interval: 100 };

/** The page's clock can be put forward, so that nobody waits for patience to end. */
async function openWithClock(t, options) {
  const opened = await openSite(t, options);
  await opened.page.clock.install();
  return opened;
}

/** The transports that were begun, in order. */
const begun = (site) => site.requests.map((request) => /\/v1\/(ws|sse|poll)/.exec(request)?.[1]).filter(Boolean);

test("a path that refuses WebSockets is climbed down at once, and nothing is lost on the way", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.websockets = "refuse";
  await listen(page, CHANNEL, alone);
  await live(page, "sse");
  await receivedAll(comet, CHANNEL, page, []);
  assert.deepEqual(begun(site), ["ws", "poll", "sse"]);
});

test("a path that swallows WebSockets is not waited for longer than patience lasts", async (t) => {
  const { comet, site, page } = await openWithClock(t);
  site.websockets = "swallow";
  await listen(page, CHANNEL, alone);
  await site.asked(/v1\/ws/);
  await page.clock.fastForward(5000);
  await live(page, "sse");
  await receivedAll(comet, CHANNEL, page, []);
});

for (const streams of ["hold", "opening"]) {
  test(`a path that buffers streams (${streams}) is noticed, and polled instead`, async (t) => {
    const { comet, site, page } = await openWithClock(t);
    site.websockets = "refuse";
    site.streams = streams;
    await listen(page, CHANNEL, alone);
    await site.asked(/v1\/sse/);
    await comet.publish(CHANNEL, "kept back");
    // With the opening the second sign of life is what is missing.
    if (streams === "opening") await live(page, "sse");
    await page.clock.fastForward(6000);
    await live(page, "poll");
    assert.deepEqual(await received(page, 1), ["kept back"]);
    await receivedAll(comet, CHANNEL, page, ["kept back"]);
  });
}

test("a path that streams is left alone", async (t) => {
  const { comet, site, page } = await openWithClock(t);
  site.websockets = "refuse";
  await listen(page, CHANNEL, { ...alone, transports: ["sse", "poll"] });
  await live(page, "sse");
  // The first heartbeat, which the client asked for.
  await site.until(() => site.streamed >= 2, "a second sign of life");
  await page.clock.fastForward(20_000);
  await receivedAll(comet, CHANNEL, page, []);
  assert.deepEqual(begun(site), ["sse"]);
});

test("where no answer may take long, polls are not held", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.websockets = "refuse";
  site.streams = "hold";
  site.impatience = 300;
  await listen(page, CHANNEL, { ...alone, transports: ["poll", "interval"] });
  await live(page, "interval");
  await receivedAll(comet, CHANNEL, page, []);
});

test("what worked is remembered for the next page, and better things are tried again later", async (t) => {
  const { comet, site, page } = await openWithClock(t);
  site.websockets = "refuse";
  await listen(page, CHANNEL, alone);
  await live(page, "sse");
  // The second sign of life proves that it works.
  await page.waitForFunction(() => Object.keys(localStorage).length > 0);
  await page.evaluate(() => globalThis.comet.close());

  const next = await openTab(page);
  await next.clock.install();
  const before = site.requests.length;
  await listen(next, CHANNEL, alone);
  await live(next, "sse");
  assert.doesNotMatch(site.requests.slice(before).join(), /v1\/ws/);

  site.websockets = "pass";
  await next.clock.fastForward(301_000);
  await live(next, "websocket");
  await receivedAll(comet, CHANNEL, next, []);
  assert.equal(await next.evaluate(() => localStorage.length), 0);
});

test("a WebSocket that worked is not given up because the server was away", async (t) => {
  const { comet, site, page } = await openSite(t);
  await listen(page, CHANNEL, alone);
  await live(page, "websocket");
  site.cut({ down: true });
  await page.waitForFunction(() => globalThis.events.filter((event) => event.state === "waiting").length >= 2);
  await comet.publish(CHANNEL, "meanwhile");
  site.up();
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await received(page, 1);
  await live(page, "websocket");
  await receivedAll(comet, CHANNEL, page, ["meanwhile"]);
});

test("a WebSocket that worked and once does not is tried again before it is given up", async (t) => {
  const { comet, site, page } = await openSite(t);
  await listen(page, CHANNEL, alone);
  await live(page, "websocket");
  site.websockets = "refuse";
  site.stop(/v1\/poll/);
  site.cut();
  // The question whether the path is at fault.
  await site.asked(/v1\/poll/);
  site.websockets = "pass";
  site.go();
  await live(page, "websocket");
  await receivedAll(comet, CHANNEL, page, []);
  assert.deepEqual(begun(site).filter((path) => path === "sse"), []);
});

test("`online` and a page that is shown again end the waiting at once", async (t) => {
  for (const wake of [() => dispatchEvent(new Event("online")), () => document.dispatchEvent(new Event("visibilitychange"))]) {
    const { site, page } = await openWithClock(t);
    await listen(page, CHANNEL, alone);
    await live(page, "websocket");
    // Time stands still: nothing but the wake-up ends the wait.
    await page.clock.pauseAt(Date.now() + 3_600_000);
    await listenAgain(page);
    site.cut({ down: true });
    await page.waitForFunction(() => globalThis.comet.state.state === "waiting", undefined, { polling: 50 });
    site.up();
    await page.evaluate(wake);
    await page.waitForFunction(() => globalThis.comet.state.state === "live", undefined, { polling: 50 });
  }

  async function listenAgain(page) {
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await page.waitForFunction(() => globalThis.comet.state.state === "live");
  }
});

test("the server's own delay is kept, whatever wakes the page", async (t) => {
  const { site, page } = await openWithClock(t, { configuration: OPEN + '\n[held]\nws.max = 1\nretry = "20s"\n' });
  await listen(page, CHANNEL, { share: false, transports: ["websocket"] });
  await live(page, "websocket");
  const other = await openTab(page);
  await other.clock.install();
  await listen(other, CHANNEL, { share: false, transports: ["websocket"] });
  await other.waitForFunction(() => globalThis.comet.state.retry_ms >= 20_000);
  const before = site.requests.length;
  await other.evaluate(() => dispatchEvent(new Event("online")));
  await other.evaluate(() => globalThis.comet.publish("elsewhere", "a request that comes after"));
  assert.deepEqual(site.requests.slice(before).map((request) => request.split("?")[0]), ["POST /v1/publish"]);
  await page.evaluate(() => globalThis.comet.close());
  await other.clock.fastForward(40_000);
  await live(other, "websocket");
});

test("where there is no room for streams, polls are used", async (t) => {
  const budget = '\n[held]\nws.max = 1\nsse.max = 1\nretry = "50ms"\n';
  const { comet, page } = await openSite(t, { configuration: OPEN + budget });
  for (const transport of ["websocket", "sse"]) {
    const tab = await openTab(page);
    await listen(tab, CHANNEL, { share: false, transports: [transport] });
    await live(tab, transport);
  }
  await listen(page, CHANNEL, alone);
  await live(page, "poll");
  await receivedAll(comet, CHANNEL, page, []);
  assert.deepEqual(await events(page, "error"), []);
});

test("an address where nothing but polls is there is polled", async (t) => {
  const { comet, site, page } = await openSite(t);
  const away = (request, response) => response.writeHead(404).end();
  site.pages.set("/v1/sse", away);
  site.websockets = "refuse";
  await listen(page, CHANNEL, alone);
  await live(page, "poll");
  await receivedAll(comet, CHANNEL, page, []);
});
