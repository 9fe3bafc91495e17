// The address that a page asks for its token answers with something else: the page is told, nobody asks in a loop, and
// when there is a token again, the page is live.

import assert from "node:assert/strict";
import { test } from "node:test";
import { KEY, events, listen, live, openSite, received, until } from "./support/client.mjs";
import { token } from "./support/token.mjs";

const PRIVATE = "private/anna";
const html = { "Content-Type": "text/html; charset=utf-8" };
const now = () => Date.now() / 1000;
const grant = (more) => token({ sub: "anna", exp: now() + 3600, ...more, comet: { patterns: ["private/**"], actions: ["subscribe"] } });
const PAGE = "<!doctype html>\n<title>Log in</title>";
/** What may come in place of a token, and how the page reads its answers. */
const WRONG = {
  "a page with 200": [{ headers: html, body: PAGE }, "text"],
  "a page with 403": [{ status: 403, headers: html, body: PAGE }, "text"],
  "a page where JSON is read": [{ headers: html, body: PAGE }, "json"],
  "nothing": [{ status: 500 }, "text"],
  "JSON of something": [{ headers: html, body: '{"error":"log in"}' }, "text"],
  "half an answer": [undefined, "text"],
};

/** The site answers `/token` with this; the page's callback reads it so. Counts how often it was asked. */
async function tokenAddress(site, page, read) {
  const address = { answer: undefined, asked: 0 };
  site.pages.set("/token", (request, response) => {
    address.asked++;
    // Begun and cut off: what has not begun browsers ask for again by themselves.
    if (!address.answer) return response.writeHead(200, { "Content-Length": 100 }).write("<", () => response.destroy());
    response.writeHead(address.answer.status ?? 200, address.answer.headers).end(address.answer.body);
  });
  await page.evaluate((read) => {
    globalThis.giveToken = async () => {
      const answer = await (await fetch("/token"))[read]();
      return read === "json" ? answer.token : answer;
    };
  }, read);
  return address;
}

const right = (read, text = grant()) => ({ body: read === "json" ? JSON.stringify({ token: text }) : `${text}\n` });
const nudge = (page) => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));

async function publish(comet, text) {
  const headers = { Authorization: `Bearer ${KEY}` };
  const sent = await fetch(`${comet.origin}/v1/publish?${new URLSearchParams({ channel: PRIVATE })}`, { method: "POST", headers, body: text });
  assert.equal(sent.status, 200, await sent.text());
}

for (const share of [true, false]) {
  for (const [name, [wrong, read]] of Object.entries(WRONG)) {
    test(`${name} in place of a token${share ? ", in tabs that share" : ""}: the page is told, and comes back`, async (t) => {
      const { comet, site, page } = await openSite(t);
      const address = await tokenAddress(site, page, read);
      address.answer = wrong;
      await page.clock.install();
      await listen(page, PRIVATE, { token: "callback", share });
      const [error] = await events(page, "error", 1);
      assert.deepEqual([error.code, error.status], ["no_token", undefined]);
      assert.ok(error.message.length < 200, error.message);
      await page.waitForFunction(() => globalThis.comet.state.state === "waiting", undefined, { polling: 20 });
      const { retry_ms } = await page.evaluate(() => globalThis.comet.state);
      assert.ok(retry_ms >= 5000 && retry_ms <= 300_000, retry_ms);
      // It waits: time that does not pass brings no second question.
      assert.equal(address.asked, 1);
      await page.clock.fastForward(retry_ms + 10);
      await events(page, "error", 2);
      assert.equal(address.asked, 2);
      assert.deepEqual(site.requests, [], "our server is not asked without a token");

      address.answer = right(read);
      await until(async () => {
        await nudge(page);
        return (await page.evaluate(() => globalThis.comet.state.state)) === "live";
      }, "a page that is live");
      await live(page);
      await publish(comet, "for anna");
      assert.deepEqual(await received(page, 1), ["for anna"]);
      assert.equal((await events(page, "error")).length, 2);
    });
  }
}

test("a page in place of the next token: the one that is there goes on, the page is told once, and nobody asks at each turn", async (t) => {
  const { comet, site, page } = await openSite(t);
  const address = await tokenAddress(site, page, "text");
  address.answer = right("text", grant({ iat: now() - 100, exp: now() + 20 }));
  await page.clock.install();
  await listen(page, PRIVATE, { token: "callback", share: false, transports: ["interval"], interval: 100 });
  await live(page, "interval");
  address.answer = WRONG["a page with 200"][0];
  // The token is to be renewed when a quarter of its life is left.
  await page.clock.fastForward(91_000);
  await events(page, "error", 1);
  const asked = site.requests.length;
  await site.until(() => site.requests.length > asked + 10, "polls");
  assert.equal(address.asked, 2);
  await publish(comet, "with the first token");
  assert.deepEqual(await received(page, 1), ["with the first token"]);
  address.answer = right("text");
  await page.clock.fastForward(15_000);
  await site.until(() => address.asked === 3, "the next token");
  await publish(comet, "with the second");
  assert.deepEqual(await received(page, 2), ["with the first token", "with the second"]);
  assert.equal((await events(page, "error")).length, 1);
});

test("a foreign refusal is no reason to ask for another token", async (t) => {
  const { site, page } = await openSite(t);
  const address = await tokenAddress(site, page, "text");
  address.answer = right("text");
  site.foreign = { status: 401, headers: html, body: PAGE };
  await listen(page, PRIVATE, { token: "callback", share: false });
  await events(page, "blocked", 1);
  assert.equal(address.asked, 1);
  site.foreign = undefined;
  await live(page);
});

test("a visitor without a token is one to whom the callback gives none", async (t) => {
  const { comet, page } = await openSite(t);
  await page.evaluate(() => (globalThis.giveToken = async () => null));
  await listen(page, [["news"], [PRIVATE]], { token: "callback" });
  const [error] = await events(page, "error", 1);
  assert.deepEqual([error.code, error.channel], ["unauthorized", PRIVATE]);
  await comet.publish("news", "for all");
  assert.deepEqual(await received(page, 1), ["for all"]);
});
