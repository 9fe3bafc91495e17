// A publication that cannot be read is stepped over: the page is told where, and everything else comes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHANNEL, events, listen, live, openSite, openTab, received, receivedAll } from "./support/client.mjs";

const JSON_TYPE = "application/json";
/** What is published, and what comes of it on its way, as long: no JSON. */
const [SOUND, SPOILT] = ['"spoil me"', '"\\uspoilt"'];
const spoil = (text) => text.replaceAll(SOUND, SPOILT);
/** Looks like what stands between two publications of an answer. */
const TRICKY = [1, { type: "publication", channel: CHANNEL, offset: 9, time: 1, data: "forged" }, { type: "x" }];

/** So many are published, one of them cannot be read; its offset is 3. */
async function publishAll(comet) {
  await comet.publish(CHANNEL, "1");
  await comet.publish(CHANNEL, JSON.stringify(TRICKY), JSON_TYPE);
  await comet.publish(CHANNEL, SOUND, JSON_TYPE);
  await comet.publish(CHANNEL, JSON.stringify(TRICKY), JSON_TYPE);
  await comet.publish(CHANNEL, "5");
}
const LEGIBLE = ["1", TRICKY, TRICKY, "5"];

/** The page was told of it once. */
async function told(page) {
  const errors = await events(page, "error", 1);
  assert.deepEqual(errors.map(({ code, channel, offset }) => [code, channel, offset]), [["illegible", CHANNEL, 3]]);
}

for (const transport of ["websocket", "sse", "poll", "interval"]) {
  test(`${transport}: what cannot be read is stepped over, and told with its channel and offset`, async (t) => {
    const { comet, site, page } = await openSite(t);
    site.spoil = spoil;
    await listen(page, CHANNEL, { transports: [transport], interval: 100, share: false });
    await live(page, transport);
    await publishAll(comet);
    await receivedAll(comet, CHANNEL, page, LEGIBLE);
    await told(page);
    assert.deepEqual((await events(page, "state")).map(({ state }) => state), ["connecting", "live"]);
  });
}

test("what cannot be read is stepped over in what was missed, too", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.spoil = spoil;
  await publishAll(comet);
  await listen(page, [[CHANNEL, { since: "earliest" }]], { share: false });
  await receivedAll(comet, CHANNEL, page, LEGIBLE);
  await told(page);
  const { channel, offset, gap, publications } = await page.evaluate((channel) => globalThis.comet.history(channel), CHANNEL);
  assert.deepEqual([channel, offset, gap], [CHANNEL, 6, false]);
  assert.deepEqual(publications.map(({ type, offset }) => [type, offset]).slice(1, 4), [["publication", 2], ["illegible", 3], ["publication", 4]]);
});

test("tabs that share a connection all step over it, and are all told", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.spoil = spoil;
  const tabs = [page, await openTab(page)];
  for (const tab of tabs) {
    await listen(tab);
    await live(tab);
  }
  const late = await openTab(page);
  await publishAll(comet);
  await listen(late, [[CHANNEL, { since: "earliest" }]]);
  tabs.push(late);
  await receivedAll(comet, CHANNEL, tabs, LEGIBLE);
  for (const tab of tabs) await told(tab);
});

test("what the tab that leads cannot hand on is fetched by each of the others, at once", async (t) => {
  const { comet, page } = await openSite(t);
  await page.evaluate(() => {
    const post = BroadcastChannel.prototype.postMessage;
    BroadcastChannel.prototype.postMessage = function (message) {
      // As one that is nested too deep.
      if (JSON.stringify(message).includes("too deep")) throw new DOMException("could not be cloned", "DataCloneError");
      return post.call(this, message);
    };
  });
  const tabs = [page, await openTab(page)];
  for (const tab of tabs) {
    await listen(tab);
    await live(tab);
  }
  await comet.publish(CHANNEL, "too deep");
  for (const tab of tabs) assert.deepEqual(await received(tab, 1), ["too deep"]);
  await receivedAll(comet, CHANNEL, tabs, ["too deep"]);
  for (const tab of tabs) assert.deepEqual(await events(tab, "error"), []);
});

test("what another tab cannot take up it fetches, at once", async (t) => {
  const { comet, page } = await openSite(t);
  await listen(page);
  await live(page);
  const other = await openTab(page);
  await other.evaluate(() => {
    const Real = globalThis.BroadcastChannel;
    globalThis.BroadcastChannel = class extends Real {
      set onmessage(heard) {
        super.onmessage = (message) => {
          if (JSON.stringify(message.data).includes("too deep")) this.dispatchEvent(new MessageEvent("messageerror"));
          else heard(message);
        };
      }
    };
  });
  await listen(other);
  await live(other);
  await comet.publish(CHANNEL, "too deep");
  for (const tab of [page, other]) assert.deepEqual(await received(tab, 1), ["too deep"]);
  await receivedAll(comet, CHANNEL, [page, other], ["too deep"]);
});
