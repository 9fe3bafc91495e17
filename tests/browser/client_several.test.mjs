// Publications in several channels: over a connection they come under one, and our client shows them under each.

import assert from "node:assert/strict";
import { test } from "node:test";
import { events, listen, live, openSite, openTab } from "./support/client.mjs";

/** Makes a `Comet` in the page and subscribes; what comes is in `shown`, as `data in channel`, a list for each target. */
async function show(page, targets, options, subscription) {
  await listen(page, [], options);
  await subscribe(page, targets, subscription);
}

/** More targets, after those that are there. */
function subscribe(page, targets, options) {
  return page.evaluate(
    ([targets, options]) => {
      globalThis.shown ??= [];
      for (const target of targets) {
        const list = [];
        globalThis.shown.push(list);
        const take = ({ channel, data }) => list.push(`${data} in ${channel}`);
        globalThis.subscriptions.push(globalThis.comet.subscribe(target, take, options));
      }
    },
    [targets, options],
  );
}

/** One publication in all these channels. */
async function publish(comet, data, ...channels) {
  const headers = { "Content-Type": "application/json" };
  const sent = await fetch(`${comet.origin}/v1/publish`, { method: "POST", headers, body: JSON.stringify({ channels, data }) });
  assert.equal(sent.status, 200, await sent.text());
}

const now = async (comet) => (await (await fetch(`${comet.origin}/v1/now`)).json()).cursor;
const all = (channel, ...list) => list.map((data) => `${data} in ${channel}`);

/** Waits until so much was shown, and then the end, which is published in these channels: so nothing came twice. */
async function shownAll(comet, page, channels, expected) {
  const isThere = (counts) => counts.every((count, index) => globalThis.shown[index].length >= count);
  await page.waitForFunction(isThere, expected.map(({ length }) => length));
  for (const channel of channels) await comet.publish(channel, "the end");
  await page.waitForFunction(() => globalThis.shown.every((list) => list.at(-1)?.startsWith("the end")));
  const shown = await page.evaluate(() => globalThis.shown.map((list) => list.filter((one) => !one.startsWith("the end"))));
  assert.deepEqual(shown, expected);
  assert.deepEqual(await events(page, "gap"), []);
}

for (const transport of ["websocket", "poll"]) {
  test(`${transport}: a publication in several channels reaches every tab under each of them that it listens to, once and in order`, async (t) => {
    const { comet, page } = await openSite(t);
    const wants = [["left"], ["right"], ["other", "right", "left", { pattern: "le*" }]];
    const tabs = [page, await openTab(page), await openTab(page)];
    for (const [index, tab] of tabs.entries()) {
      await show(tab, wants[index], { transports: [transport] });
      await live(tab);
    }
    for (const [data, ...channels] of [[1, "left", "right"], [2, "left"], [3, "right", "left"], [4, "right"], [5, "right", "left"]]) {
      await publish(comet, data, ...channels);
    }
    const [left, right] = [all("left", 1, 2, 3, 5), all("right", 1, 3, 4, 5)];
    const expected = [[left], [right], [[], right, left, left]];
    for (const [index, tab] of tabs.entries()) await shownAll(comet, tab, ["left", "right", "other"], expected[index]);
  });

  test(`${transport}: a publication in all channels of a page is shown under each of them`, async (t) => {
    const { comet, page } = await openSite(t);
    const channels = ["a", "b", "c", "d"];
    await show(page, channels, { transports: [transport], share: false });
    await live(page);
    await publish(comet, 1, "a", "b", "c");
    await publish(comet, 2, "d", "c");
    await publish(comet, 3, ...channels);
    await shownAll(comet, page, channels, [all("a", 1, 3), all("b", 1, 3), all("c", 1, 2, 3), all("d", 2, 3)]);
  });
}

for (const transport of ["websocket", "poll", "interval"]) {
  test(`${transport}: a page that begins where it was made is shown under each channel what came meanwhile`, async (t) => {
    const { comet, page } = await openSite(t);
    const cursor = await now(comet);
    await publish(comet, 1, "left", "right");
    await publish(comet, 2, "right", "left");
    const tabs = [page, await openTab(page)];
    for (const tab of tabs) {
      await show(tab, ["left", "right"], { transports: [transport], interval: 100, cursor });
      await live(tab);
    }
    for (const tab of tabs) await shownAll(comet, tab, ["left", "right"], [all("left", 1, 2), all("right", 1, 2)]);
  });
}

test("a tab that has not heard what is in several channels fetches it for each of them", async (t) => {
  const { comet, page } = await openSite(t);
  await show(page, ["left", "right"]);
  await live(page);
  const sleeper = await openTab(page);
  await sleeper.evaluate(() => {
    const Real = globalThis.BroadcastChannel;
    globalThis.BroadcastChannel = class extends Real {
      set onmessage(heard) {
        super.onmessage = (message) => globalThis.sleeps || heard(message);
      }
    };
  });
  await show(sleeper, ["left", "right"]);
  await live(sleeper);
  await sleeper.evaluate(() => (globalThis.sleeps = true));
  await publish(comet, 1, "left", "right");
  await page.waitForFunction(() => globalThis.shown.flat().length === 2);
  await sleeper.evaluate(() => (globalThis.sleeps = false));
  // Only what it hears next tells it.
  await comet.publish("left", "2");
  await shownAll(comet, sleeper, ["left", "right"], [all("left", 1, 2), all("right", 1)]);
});

test("what catches up gets through, however often something in several channels comes meanwhile", async (t) => {
  const { comet, page } = await openSite(t);
  await show(page, ["job/1"], { transports: ["websocket"], share: false });
  await live(page);
  await comet.publish("user/1", "1");
  let [sent, isSteady] = [0, true];
  await page.route(/v1\/poll/, async (route) => {
    if (isSteady) {
      await publish(comet, ++sent, "job/1", "jobs");
      await page.waitForFunction((count) => globalThis.shown[0].length >= count, sent);
    }
    await route.continue();
  });
  await subscribe(page, ["user/1"], { since: "earliest" });
  await page.waitForFunction(() => globalThis.shown[1].length > 0);
  isSteady = false;
  await comet.publish("user/1", "2");
  const jobs = Array.from({ length: sent }, (_, index) => index + 1);
  await shownAll(comet, page, ["job/1", "user/1"], [all("job/1", ...jobs), all("user/1", 1, 2)]);
});

test("who listens to something else asks once for many publications in several channels, and not in the same moment", async (t) => {
  const { comet, site, page } = await openSite(t);
  await page.clock.install();
  await show(page, ["left", "other"], { transports: ["websocket"], share: false });
  await live(page);
  const asked = () => site.requests.filter((request) => /v1\/poll/.test(request)).length;
  const before = asked();
  // Nobody's time goes on.
  await page.clock.pauseAt(Date.now() + 1_000);
  const numbers = [1, 2, 3, 4, 5];
  for (const number of numbers) await publish(comet, number, "left", "right");
  await page.waitForFunction((count) => globalThis.shown[0].length === count, numbers.length);
  assert.equal(asked(), before);
  const answered = page.waitForResponse(/v1\/poll/);
  await page.clock.resume();
  await answered;
  await shownAll(comet, page, ["left", "other"], [all("left", ...numbers), []]);
  assert.equal(asked(), before + 1);
});
