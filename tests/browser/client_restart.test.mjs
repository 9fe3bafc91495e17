// Pages that stay open while the server ends in the middle of a burst and begins again in the same folder.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHANNEL, events, listen, live, openSite, openTab, received } from "./support/client.mjs";

const TRANSPORTS = ["websocket", "sse", "stream", "poll", "interval"];
const COUNT = 20;
/** What is on its way while the server ends. */
const MIDDLE = COUNT / 2;
const TEXTS = Array.from({ length: COUNT }, (_, index) => `${index + 1} of ${COUNT}`);

/** Settles when it is answered that it is published. Under a key of its own: what got no answer may be published again. */
async function publish(comet, text) {
  const query = new URLSearchParams({ channel: CHANNEL, idempotency_key: text });
  const answer = await fetch(`${comet.origin}/v1/publish?${query}`, { method: "POST", body: text });
  assert.equal(answer.status, 200, await answer.text());
}

/** Publishes one after the other; in the middle, with one on its way, the server ends by `end` and begins again. */
async function burst({ comet, site }, end, pages) {
  for (const [index, text] of TEXTS.entries()) {
    if (index === MIDDLE) {
      const answered = publish(comet, text).catch(() => "it was cut off");
      await comet[end]();
      await answered;
      await comet.start();
      site.target = comet.origin;
      // How long a page waits of its own choosing is a matter of other tests.
      for (const page of pages) await page.evaluate(() => dispatchEvent(new Event("online")));
    }
    await publish(comet, text);
  }
  await publish(comet, "the end");
}

/** The stream of JSON lines, for which our client has no use, as somebody would write it who reads docs/protocol.md. */
function followStream(page) {
  return page.evaluate(async (channel) => {
    globalThis.received = [];
    globalThis.events = [];
    let cursor = "now";
    const take = (object, opened) => {
      cursor = object.cursor ?? cursor;
      if (object.type === "publication") globalThis.received.push(object.data);
      if (object.type === "gap") globalThis.events.push({ on: "gap", ...object });
      opened();
    };
    const follow = async (opened) => {
      const { body } = await fetch(`/v1/stream?${new URLSearchParams({ channel, cursor })}`);
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) take(JSON.parse(line), opened);
      }
    };
    await new Promise((opened) => {
      const again = () => setTimeout(() => follow(opened).then(again, again), 50);
      follow(opened).then(again, again);
    });
  }, CHANNEL);
}

async function open(page, transport, more) {
  if (transport === "stream") return followStream(page);
  await listen(page, CHANNEL, { transports: [transport], interval: 100, ...more });
  await live(page, transport);
}

/** Each page was shown everything, once and in order, and was told of no gap. */
async function sawAll(pages) {
  for (const page of pages) {
    await page.waitForFunction(() => globalThis.received.includes("the end"));
    assert.deepEqual(await received(page, COUNT + 1), [...TEXTS, "the end"]);
    assert.deepEqual(await events(page, "gap"), []);
  }
}

for (const end of ["kill", "stop"]) {
  const how = end === "kill" ? "killed" : "stopped";
  for (const transport of TRANSPORTS) {
    test(`${transport}: a server that is ${how} in a burst and begins again in its folder has lost nothing and shows nothing twice`, async (t) => {
      const opened = await openSite(t);
      await open(opened.page, transport, { share: false });
      await burst(opened, end, [opened.page]);
      await sawAll([opened.page]);
    });
  }
}

test("tabs that share a connection see all of it too when the server is killed", async (t) => {
  const opened = await openSite(t);
  const tabs = [opened.page, await openTab(opened.page), await openTab(opened.page)];
  for (const tab of tabs) await open(tab, "websocket");
  await burst(opened, "kill", tabs);
  await sawAll(tabs);
});

test("a page that is opened with its cursor after the server was killed is shown what came since", async (t) => {
  const opened = await openSite(t);
  const { cursor } = await (await fetch(`${opened.comet.origin}/v1/now`)).json();
  await burst(opened, "kill", []);
  await listen(opened.page, CHANNEL, { cursor });
  await sawAll([opened.page]);
});
