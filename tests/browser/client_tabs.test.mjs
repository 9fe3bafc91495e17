// The tabs of a site share one connection of our client, and none of them notices.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHANNEL, events, held, listen, live, openSite, openTab, received, receivedAll } from "./support/client.mjs";
import { token } from "./support/token.mjs";

/** Tabs of one profile, all live, the first of them leading. */
async function openTabs(t, count, options, subscriptions) {
  const opened = await openSite(t);
  const tabs = [opened.page];
  while (tabs.length < count) tabs.push(await openTab(opened.page));
  for (const tab of tabs) {
    if (options?.locks === false) await withoutLocks(tab);
    await listen(tab, subscriptions, options);
    await live(tab);
  }
  return { ...opened, tabs };
}

/** As on a page without a secure connection. */
const withoutLocks = (tab) => tab.evaluate(() => Object.defineProperty(navigator, "locks", { value: undefined }));
const leads = (tab) => tab.evaluate(() => globalThis.comet.state.leading);
const leader = async (tabs) => {
  const leading = [];
  for (const tab of tabs) if (await leads(tab)) leading.push(tab);
  assert.equal(leading.length, 1, `${leading.length} tabs lead`);
  return leading[0];
};

test("ten tabs are live over one connection", async (t) => {
  const { comet, tabs } = await openTabs(t, 10);
  assert.deepEqual(await held(comet), { websocket: 1 });
  const sent = [];
  for (let number = 1; number <= 20; number++) {
    sent.push(`${number}`);
    await comet.publish(CHANNEL, sent.at(-1));
  }
  await receivedAll(comet, CHANNEL, tabs, sent);
  assert.deepEqual(await held(comet), { websocket: 1 });
  assert.equal(await leader(tabs), tabs[0]);
});

for (const locks of [true, false]) {
  const how = locks ? "" : ", also without Web Locks";
  for (const end of ["closed", "crashed"]) {
    if (!locks && end === "crashed") continue;
    test(`when the tab that leads is ${end} in a burst, another goes on: nothing lost, nothing twice${how}`, async (t) => {
      const { comet, tabs } = await openTabs(t, 3, { locks, transports: ["sse"] });
      const first = await leader(tabs);
      const rest = tabs.filter((tab) => tab !== first);
      const sent = [];
      for (let number = 1; number <= 60; number++) {
        sent.push(`${number}`);
        await comet.publish(CHANNEL, sent.at(-1));
        if (number !== 20) continue;
        if (end === "closed") await first.close();
        else first.goto("chrome://crash").catch(() => {});
      }
      await receivedAll(comet, CHANNEL, rest, sent);
      await leader(rest);
    });
  }
}

test("a tab that is late begins where its page stands, whatever the others have seen", async (t) => {
  const { comet, tabs } = await openTabs(t, 2);
  await comet.publish(CHANNEL, "1");
  const { cursor } = await (await fetch(`${comet.origin}/v1/now`)).json();
  await comet.publish(CHANNEL, "2");
  await comet.publish(CHANNEL, "3");
  const page = await openTab(tabs[0]);
  await listen(page, [[CHANNEL]], { cursor });
  const all = await openTab(tabs[0]);
  await listen(all, [[CHANNEL, { since: "earliest" }]]);
  const now = await openTab(tabs[0]);
  await listen(now);
  for (const tab of [page, all, now]) await live(tab);
  await receivedAll(comet, CHANNEL, page, ["2", "3"]);
  await receivedAll(comet, CHANNEL, all, ["1", "2", "3", "the end"]);
  assert.deepEqual(await received(now, 2), ["the end", "the end"]);
  assert.deepEqual(await held(comet), { websocket: 1 });
});

test("what comes while a late subscription catches up comes once", async (t) => {
  const { comet, site, tabs } = await openTabs(t, 1);
  await comet.publish(CHANNEL, "1");
  await received(tabs[0], 1);
  const late = await openTab(tabs[0]);
  site.stop(/v1\/poll/);
  await listen(late, [[CHANNEL, { since: "earliest" }]]);
  await site.asked(/v1\/poll/);
  // These come over the link, and are in the answer too.
  for (const text of ["2", "3"]) await comet.publish(CHANNEL, text);
  await received(tabs[0], 3);
  site.go();
  await received(late, 3);
  await receivedAll(comet, CHANNEL, late, ["1", "2", "3"]);
});

test("a tab that has not heard everything, as one that slept, fetches it", async (t) => {
  const { comet, tabs } = await openTabs(t, 1);
  const sleeper = await openTab(tabs[0]);
  await sleeper.evaluate(() => {
    const Real = globalThis.BroadcastChannel;
    globalThis.BroadcastChannel = class extends Real {
      set onmessage(heard) {
        super.onmessage = (message) => globalThis.sleeps || heard(message);
      }
    };
  });
  await listen(sleeper);
  await live(sleeper);
  await comet.publish(CHANNEL, "1");
  await received(sleeper, 1);
  await sleeper.evaluate(() => (globalThis.sleeps = true));
  for (const text of ["2", "3"]) await comet.publish(CHANNEL, text);
  await received(tabs[0], 3);
  await sleeper.evaluate(() => (globalThis.sleeps = false));
  await receivedAll(comet, CHANNEL, sleeper, ["1", "2", "3"]);
});

test("each tab gets what it wants, and what nobody wants any more is not listened to", async (t) => {
  const { comet, site, tabs } = await openTabs(t, 2, { transports: ["sse"] }, "shared");
  for (const [index, tab] of tabs.entries()) {
    await tab.evaluate((name) => {
      globalThis.own = globalThis.comet.subscribe(name, ({ data }) => globalThis.received.push(data));
    }, `own/${index}`);
  }
  for (const tab of tabs) await events(tab, "subscribed", 2);
  for (const name of ["own/0", "own/1", "shared"]) await comet.publish(name, name);
  assert.deepEqual((await received(tabs[0], 2)).sort(), ["own/0", "shared"]);
  assert.deepEqual((await received(tabs[1], 2)).sort(), ["own/1", "shared"]);

  const before = site.requests.length;
  await tabs[1].evaluate(() => globalThis.own.unsubscribe());
  await site.until(() => site.requests.slice(before).some((request) => /v1\/sse/.test(request)), "another stream");
  const query = new URLSearchParams(site.requests.findLast((request) => /v1\/sse/.test(request)).split("?")[1]);
  assert.deepEqual(query.getAll("channel").sort(), ["own/0", "shared"]);
  // A tab that is gone wants nothing.
  await tabs[1].evaluate(() => globalThis.comet.subscribe("own/again", () => {}));
  await events(tabs[1], "subscribed", 3);
  const others = site.requests.length;
  await tabs[1].close();
  await site.until(() => site.requests.slice(others).some((request) => /v1\/sse/.test(request)), "a stream without it");
  assert.doesNotMatch(site.requests.at(-1), /again/);
});

test("what the server refuses one tab is no harm to the others", async (t) => {
  const { comet, tabs } = await openTabs(t, 2);
  await tabs[1].evaluate(() => globalThis.comet.subscribe("private/not/mine", () => {}));
  const [error] = await events(tabs[1], "error", 1);
  assert.deepEqual([error.status, error.channel], [401, "private/not/mine"]);
  await receivedAll(comet, CHANNEL, tabs, []);
  assert.deepEqual(await events(tabs[0], "error"), []);
});

test("tabs of different users do not share", async (t) => {
  const { comet, page } = await openSite(t);
  const tabs = [page];
  for (const user of ["anna", "anna", "otto", undefined]) {
    const claims = { sub: user, exp: Date.now() / 1000 + 3600, comet: { channels: [CHANNEL], actions: ["subscribe"] } };
    const tab = tabs.at(-1);
    await listen(tab, CHANNEL, user ? { token: token(claims) } : {});
    await live(tab);
    tabs.push(await openTab(page));
  }
  await tabs.pop().close();
  assert.deepEqual(await held(comet), { websocket: 3 });
  await receivedAll(comet, CHANNEL, tabs, []);
});

test("a page that was put aside and comes back has missed nothing", async (t) => {
  const { comet, tabs } = await openTabs(t, 2);
  for (const tab of tabs) {
    await tab.evaluate(() => dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true })));
    await comet.publish(CHANNEL, "meanwhile");
    await tab.evaluate(() => dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })));
    await received(tab, (await tab.evaluate(() => globalThis.received.length)) || 1);
  }
  await receivedAll(comet, CHANNEL, tabs, ["meanwhile", "meanwhile"]);
  await leader(tabs);
});
