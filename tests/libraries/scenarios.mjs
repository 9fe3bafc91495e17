// What every library goes through, each with a server of its own behind a relay that cuts.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { SECRET } from "../browser/support/client.mjs";
import { Comet } from "../browser/support/comet.mjs";
import { token } from "../browser/support/token.mjs";
import { Listener } from "./support/listener.mjs";
import { Relay } from "./support/relay.mjs";

const CHANNEL = "news";
const NAMES = ["1", "2", "3", "4", "5", "6"];
/** More than the buffers that libraries begin with. */
const LARGE_BYTES = 200_000;
/** How long a token holds that ends in the middle of a stream. */
const LIFE_SECONDS = 3;
/** How long a library that never gives up is watched, and how often it may ask meanwhile: about once a second. */
const WATCHED_MS = 5_000;
const MOST_REQUESTS = 10;

/** Where an answer is cut off: the pattern ends there, for a message that is called `name`. */
const PLACES = {
  "in the middle of its data": (name) => new RegExp(`${name} middle`),
  "behind its data": (name) => new RegExp(`${name} end[^\\n]*\\n`),
  "behind all of it": (name) => new RegExp(`${name} end[^]*?\\n\\n`),
};

/** A server behind a relay. */
async function serve(t) {
  const comet = await Comet.serve(
    t,
    `[public]
listen = ["127.0.0.1:0"]
[held]
retry = "1s"
[[tokens]]
name = "test"
secret = "${SECRET}"
`,
  );
  const relay = await Relay.before(t, comet.origin);
  const publish = async (...texts) => {
    for (const text of texts) await publishOne(comet, text);
  };
  const listen = (library, parameters) => {
    const query = new URLSearchParams({ channel: CHANNEL, token: granting(3600), ...parameters });
    return Listener.open(t, library, `${relay.origin}/v1/sse?${query}`);
  };
  return { comet, relay, publish, listen };
}

/** The library listens already. */
async function listening(t, library, parameters) {
  const { relay, publish, listen } = await serve(t);
  const listener = await listen(library, parameters);
  await listener.opened();
  return { relay, publish, listener };
}

/** A token that allows everything here, for so many seconds. */
function granting(seconds) {
  return token({ exp: Date.now() / 1000 + seconds, comet: { channels: [CHANNEL], actions: ["subscribe", "publish"] } });
}

/** How many seconds after its end a token is still taken. */
async function graceSeconds(comet) {
  const query = new URLSearchParams({ channel: CHANNEL, token: granting(-30), wait_ms: 0 });
  const response = await fetch(`${comet.origin}/v1/poll?${query}`);
  return response.ok ? 60 : 0;
}

function replaceToken(url, token) {
  const [path, query] = url.split("?");
  const parameters = new URLSearchParams(query);
  parameters.set("token", token);
  return `${path}?${parameters}`;
}

async function publishOne(comet, text) {
  const query = new URLSearchParams({ channel: CHANNEL, token: granting(3600) });
  const headers = { "Content-Type": "text/plain;charset=utf-8" };
  const response = await fetch(`${comet.origin}/v1/publish?${query}`, { method: "POST", headers, body: text });
  assert.equal(response.status, 200, await response.text());
}

async function cutBeforeItsFirstMessage(t, library, how) {
  const { relay, publish, listen } = await serve(t);
  await publish("before anybody listened");
  const listener = await listen(library);
  await listener.opened();
  relay.cut(how);
  await relay.somebodyCameBack();
  await publish(...NAMES);
  relay.mend();
  assert.deepEqual(await listener.received(NAMES.length), NAMES);
  await publish("last");
  assert.deepEqual(await listener.received(NAMES.length + 1), [...NAMES, "last"]);
  assert.equal(relay.requests.length, 2);
}

async function cutInMessages(t, library, how) {
  const { relay, publish, listener } = await listening(t, library);
  const expected = [];
  const places = Object.keys(PLACES);
  for (const [at, place] of places.entries()) {
    const text = `${at} middle ${"x".repeat(100)} ${at} end`;
    const cut = relay.cutBehind(PLACES[place](at), how);
    await publish(text);
    await cut;
    await relay.somebodyCameBack();
    await publish("missed 1", "missed 2");
    relay.mend();
    expected.push(text, "missed 1", "missed 2");
    assert.deepEqual(await listener.received(expected.length), expected, place);
  }
  // It proves that nothing comes twice.
  await publish("last");
  assert.deepEqual(await listener.received(expected.length + 1), [...expected, "last"]);
  assert.equal(relay.requests.length, 1 + places.length);
}

/** Each scenario by its name. */
export const scenarios = {
  "cut off before its first message it misses nothing": (t, library) => cutBeforeItsFirstMessage(t, library, "breaks"),
  "its answer ended before its first message it misses nothing": (t, library) => cutBeforeItsFirstMessage(t, library, "ends"),
  "cut off in and behind messages it gets each once and in order": (t, library) => cutInMessages(t, library, "breaks"),
  "its answer ended in and behind messages it gets each once and in order": (t, library) => cutInMessages(t, library, "ends"),

  async "it hands out messages whole, and heartbeats as none"(t, library) {
    const { relay, publish, listener } = await listening(t, library, { heartbeat_ms: 1000 });
    await relay.answered("^id:", 4);
    assert.deepEqual(listener.objects(), []);
    const texts = [
      "one\ntwo\r\nthree\rfour\u0000five \u2028 \u2029 \u0085 \u001c \u000b six é 🛰\n\n",
      "\ufeff: no comment\n\ndata: no data\nid: no id\nretry: 1\n\n",
      `é${"x".repeat(LARGE_BYTES)}\u2028`,
    ];
    await publish(...texts);
    assert.deepEqual(await listener.received(texts.length), texts);
    assert.equal(relay.requests.length, 1);
  },

  async "when its token ends it does not storm, and goes on with the next one"(t, library) {
    const { comet, relay, publish, listen } = await serve(t);
    const grace = await graceSeconds(comet);
    // Made when it is first used: however slowly the library starts, the token lives for a while.
    let ending;
    relay.rewrite = (url) => replaceToken(url, (ending ??= granting(LIFE_SECONDS - grace)));
    const listener = await listen(library);
    await listener.opened();
    // Before the token ends or behind it: both are caught up.
    await publish("1");
    await relay.asked(2);
    await publish("2", "3");
    // It may ask for ever: then it is enough that it asks seldom. A slow machine only makes that fewer.
    await Promise.race([listener.gaveUp(), pause(WATCHED_MS)]);
    assert.ok(relay.requests.length <= MOST_REQUESTS, `${relay.requests.length} requests`);
    for (const [, retry] of relay.answers.matchAll(/^retry: ?(\d+)$/gm)) assert.ok(retry >= 1000, `told to ask after ${retry} ms`);
    relay.rewrite = (url) => url;
    await listener.openAgain(t);
    assert.deepEqual(await listener.received(3), ["1", "2", "3"]);
  },

  async "told 502 while the server restarts it goes on, or gives up and can be started again"(t, library) {
    const { relay, publish, listener } = await listening(t, library);
    const cut = relay.cutBehind(/1 end[^]*?\n\n/, "breaks");
    await publish("1 end");
    await cut;
    await relay.somebodyCameBack();
    relay.refuse(2);
    relay.mend();
    await publish("2");
    await Promise.race([listener.gaveUp(), listener.received(2)]);
    assert.equal(listener.ended !== undefined, library.givesUpAt502 ?? false, `it ended: ${listener.ended}`);
    if (listener.ended !== undefined) {
      relay.refuse(0);
      await listener.openAgain(t);
    }
    assert.deepEqual(await listener.received(2), ["1 end", "2"]);
  },
};
