// The browser's own EventSource and WebSocket, cut off and coming back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { newPage } from "./support/browser.mjs";
import { Comet } from "./support/comet.mjs";
import { Cuttable } from "./support/cuttable.mjs";

const CHANNEL = "a/b?c d&e%é";

/** A page of the server's origin without scripts of its own, reached over connections that can be cut. */
async function openPlain(t) {
  const comet = await Comet.demo(t);
  const relay = await Cuttable.before(t, comet.origin);
  const page = await newPage(t);
  await page.goto(`${relay.origin}/health/live`);
  return { comet, relay, page };
}

/** Waits until so many messages came, and returns all that came, oldest first. */
async function received(page, count) {
  await page.waitForFunction((count) => globalThis.received.length >= count, count);
  return page.evaluate(() => globalThis.received);
}

/**
 * Listens as any page would: nothing but the constructor and `onmessage`. Settles once the stream is open and its first
 * id is on its way, which a page cannot see.
 */
async function listenByEventSource(page, relay, path) {
  await page.evaluate((path) => {
    globalThis.received = [];
    globalThis.source = new EventSource(path);
    globalThis.source.onmessage = (e) => globalThis.received.push(JSON.parse(e.data).data);
    return new Promise((opened) => (globalThis.source.onopen = () => opened()));
  }, path);
  await relay.answered(/^id: ?\S[^]*?\n\n/m);
}

/** Listens from the last cursor received, and comes back at once when cut off. Settles at the first object. */
function listenByWebSocket(page, relay, path) {
  return page.evaluate((path) => {
    globalThis.received = [];
    const address = new URL(path, location.href);
    address.protocol = "ws:";
    return new Promise((greeted) => {
      (function connect() {
        const socket = new WebSocket(address);
        socket.onmessage = (e) => {
          const object = JSON.parse(e.data);
          if (object.cursor) address.searchParams.set("cursor", object.cursor);
          if (object.type === "publication") globalThis.received.push(object.data);
          greeted();
        };
        socket.onclose = connect;
      })();
    });
  }, path);
}

/** Publishes while the connection is cut and the browser is waiting to get through again. */
async function publishWhileCut(comet, relay, ...messages) {
  relay.cut();
  await relay.somebodyCameBack();
  for (const message of messages) await comet.publish(CHANNEL, message);
  relay.mend();
}

const path = (transport) => `/v1/${transport}?${new URLSearchParams({ channel: CHANNEL })}`;

for (const [name, transport, listen] of [
  ["EventSource", "sse", listenByEventSource],
  ["WebSocket", "ws", listenByWebSocket],
]) {
  test(`${name} that is cut off gets what it missed, once and in order`, async (t) => {
    const { comet, relay, page } = await openPlain(t);
    await comet.publish(CHANNEL, "before anybody listened");
    await listen(page, relay, path(transport));
    for (const message of ["1", "2", "3"]) await comet.publish(CHANNEL, message);
    assert.deepEqual(await received(page, 3), ["1", "2", "3"]);

    await publishWhileCut(comet, relay, "4", "5", "6");
    assert.deepEqual(await received(page, 6), ["1", "2", "3", "4", "5", "6"]);
    await publishWhileCut(comet, relay, "7");
    await received(page, 7);
    // The next one proves that nothing came twice.
    await comet.publish(CHANNEL, "8");
    assert.deepEqual(await received(page, 8), ["1", "2", "3", "4", "5", "6", "7", "8"]);
  });

  test(`${name} that is cut off before its first message resumes from where it began`, async (t) => {
    const { comet, relay, page } = await openPlain(t);
    await comet.publish(CHANNEL, "before anybody listened");
    await listen(page, relay, path(transport));
    await publishWhileCut(comet, relay, "1", "2");
    await received(page, 2);
    await comet.publish(CHANNEL, "3");
    assert.deepEqual(await received(page, 3), ["1", "2", "3"]);
  });

  test(`${name} on a quiet channel resumes though only others were talking`, async (t) => {
    const { comet, relay, page } = await openPlain(t);
    await listen(page, relay, path(transport));
    await comet.publish(`${CHANNEL}/other`, "not for this one");
    await publishWhileCut(comet, relay);
    await comet.publish(CHANNEL, "1");
    assert.deepEqual(await received(page, 1), ["1"]);
  });
}

test("EventSource comes back with the id it saw last in Last-Event-ID", async (t) => {
  const { comet, relay, page } = await openPlain(t);
  await listenByEventSource(page, relay, path("sse"));
  await comet.publish(CHANNEL, "1");
  await received(page, 1);
  await publishWhileCut(comet, relay, "2");
  await received(page, 2);

  const [first, second] = relay.requests.filter((head) => head.startsWith("GET /v1/sse"));
  assert.doesNotMatch(first, /^last-event-id:/im);
  assert.match(second, /^last-event-id: *\S/im);
});

test("EventSource gets line breaks, NUL and characters beyond the first plane unharmed", async (t) => {
  const { comet, relay, page } = await openPlain(t);
  await listenByEventSource(page, relay, path("sse"));
  const text = "one\ntwo\r\nthree\rfour\u0000five\u2028six 🛰 é\n\n";
  await comet.publish(CHANNEL, text);
  await comet.publish(CHANNEL, '{\n  "pretty": [1,\r\n 2]\n}', "application/json");
  assert.deepEqual(await received(page, 2), [text, { pretty: [1, 2] }]);
});
