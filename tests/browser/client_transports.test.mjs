// Our client over each transport, alone: what comes, once and in order, whatever happens to the connection.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHANNEL, OPEN, events, held, listen, live, openSite, received, receivedAll, until } from "./support/client.mjs";
import { Comet } from "./support/comet.mjs";

const TRANSPORTS = ["websocket", "sse", "poll", "interval"];

/** An interval poll that no test has to wait for. */
const quick = (transport, more) => ({ transports: [transport], interval: 100, share: false, ...more });
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

/** Nobody has to wait for a back-off, which is a matter of another test. */
const hurry = (page) => page.evaluate(() => dispatchEvent(new Event("online")));

/** Waits until the server counts so many channels and patterns that are listened to. */
function subscribed(comet, count) {
  return until(async () => {
    const text = await (await fetch(`${comet.origin}/metrics`)).text();
    const counts = [...text.matchAll(/^cometserver_subscriptions\{[^}]*\} (\d+)$/gm)].map(([, one]) => +one);
    assert.ok(counts.length, "the metric is there");
    return counts.reduce((sum, one) => sum + one, 0) === count;
  }, `${count} subscriptions`);
}

for (const transport of TRANSPORTS) {
  test(`${transport}: what is cut off in the middle of a burst comes all the same, once and in order`, async (t) => {
    const { comet, site, page } = await openSite(t);
    await listen(page, CHANNEL, quick(transport));
    await live(page, transport);
    const sent = [];
    for (let cuts = 0; cuts < 2; cuts++) {
      for (const number of numbers(1, 30)) {
        sent.push(`${cuts}.${number}`);
        await comet.publish(CHANNEL, sent.at(-1));
        if (number === 15) site.cut();
      }
      await hurry(page);
      await received(page, sent.length);
    }
    await receivedAll(comet, CHANNEL, page, sent);
    assert.deepEqual(await events(page, "gap"), []);
  });

  test(`${transport}: a server that restarts is found again; what it forgot is announced, what follows is complete`, async (t) => {
    const { comet, site, page } = await openSite(t);
    await listen(page, CHANNEL, quick(transport));
    await live(page, transport);
    for (const number of numbers(1, 5)) await comet.publish(CHANNEL, `${number}`);
    await received(page, 5);
    await comet.stop();
    const next = await Comet.serve(t, OPEN);
    for (const number of numbers(6, 9)) await next.publish(CHANNEL, `${number}`);
    site.target = next.origin;
    await hurry(page);
    await events(page, "gap", 1);
    await receivedAll(next, CHANNEL, page, numbers(1, 9).map(String));
  });

  test(`${transport}: subscriptions come and go, and several share the connection`, async (t) => {
    const { comet, page } = await openSite(t);
    const retained = await fetch(`${comet.origin}/v1/publish?channel=kept&retain=1`, { method: "POST", body: "kept value" });
    assert.equal(retained.status, 200);
    await comet.publish("old", "before");
    await listen(page, [["one"], [{ pattern: "many/*" }]], quick(transport));
    await live(page, transport);
    await page.evaluate(() => {
      const take = ({ data }) => globalThis.received.push(data);
      globalThis.comet.subscribe("kept", take);
      globalThis.comet.subscribe("old", take, { since: "earliest" });
    });
    await page.waitForFunction(() => globalThis.received.length === 2);
    assert.deepEqual((await received(page, 2)).sort(), ["before", "kept value"]);
    await events(page, "subscribed", 4);
    const connections = Object.values(await held(comet)).reduce((sum, count) => sum + count, 0);
    assert.ok(connections <= 1, `${connections} connections`);
    const unwanted = await page.evaluate(() => {
      globalThis.received.length = 0;
      globalThis.subscriptions[0].unsubscribe();
      return globalThis.subscriptions[0].channel;
    });
    if (transport !== "interval") await subscribed(comet, 3);
    await comet.publish(unwanted, "nobody wants this");
    await comet.publish("many/é", "by pattern");
    await comet.publish("many/a/b", "of no pattern");
    await comet.publish("kept", "the end");
    assert.deepEqual(await received(page, 2), ["by pattern", "the end"]);
  });

  test(`${transport}: every text comes unharmed`, async (t) => {
    const { comet, page } = await openSite(t);
    await listen(page, CHANNEL, quick(transport));
    await live(page, transport);
    const texts = ["one\ntwo\r\nthree\rfour\u0000five\u2028six\u2029 🛰 é\n\n", "data: x\n\nid: 1", "", " ", "🛰".repeat(20_000)];
    for (const text of texts) await comet.publish(CHANNEL, text);
    await receivedAll(comet, CHANNEL, page, texts);
    // Over this very connection: a plain request would have brought what broke it.
    assert.deepEqual((await events(page, "state")).map(({ state }) => state), ["connecting", "live"]);
  });

  test(`${transport}: presence in one channel does not need it in the others`, async (t) => {
    const { comet, page } = await openSite(t);
    await listen(page, [["room", { presence: "join" }], ["plain/text"]], quick(transport));
    await live(page, transport);
    const other = await page.context().newPage();
    await other.goto(page.url());
    await listen(other, [["room", { presence: "join" }]], quick("websocket"));
    const [join] = await events(page, "presence", 1);
    assert.deepEqual([join.type, join.channel], ["join", "room"]);
    // Who polls is away for a moment with each answer.
    await until(() => page.evaluate(async () => (await globalThis.comet.presence("room")).count === 2), "two members");
    await comet.publish("plain/text", "without members");
    assert.deepEqual(await received(page, 1), ["without members"]);
    assert.deepEqual(await events(page, "error"), []);
  });
}

for (const transport of ["websocket", "sse"]) {
  test(`${transport}: a server whose heartbeats come seldom is not taken for dead between two of them, a silent one is`, async (t) => {
    const seldom = `${OPEN}\n[held]\nheartbeat = "10m"\n`;
    const states = async (page) => (await events(page, "state")).map(({ state }) => state);
    const quiet = async (configuration, seconds) => {
      const { comet, page } = await openSite(t, { configuration });
      // What is kept comes before the first cursor.
      await fetch(`${comet.origin}/v1/publish?channel=kept&retain=1`, { method: "POST", body: "kept value" });
      await page.clock.install();
      await listen(page, [["quiet"], ["kept"]], quick(transport));
      await live(page, transport);
      // A sign of life that was asked for may still be to come.
      await comet.publish("quiet", "a sign");
      await received(page, 2);
      await page.clock.fastForward(seconds * 1000);
      // Waking up is no reason either.
      await page.evaluate(() => document.dispatchEvent(new Event("resume")));
      await comet.publish("quiet", "another");
      await received(page, 3);
      return states(page);
    };
    assert.deepEqual(await quiet(seldom, 20 * 60), ["connecting", "live"]);
    assert.ok((await quiet(OPEN, 80)).length > 2);
  });
}
