// What a page does with our client: tokens, gaps, cursors of pages, publishing, and leaving.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHANNEL, KEY, OPEN, events, held, listen, live, openSite, openTab, received, receivedAll, until } from "./support/client.mjs";
import { Site } from "./support/site.mjs";
import { token } from "./support/token.mjs";

const PRIVATE = "private/anna";
const now = () => Date.now() / 1000;
// So many seconds longer the server takes a token.
const LEEWAY = 60;
const grant = (more) => token({ sub: "anna", exp: now() + 3600, ...more, comet: { patterns: ["private/**"], actions: ["subscribe", "history", "presence"], ...more?.comet } });

/** The page's callback gives these tokens, one after the other, the last again and again; how often it was asked is in `asks`. */
async function giveTokens(page, ...tokens) {
  await page.evaluate((tokens) => {
    globalThis.asks = 0;
    globalThis.giveToken = async () => tokens[Math.min(globalThis.asks++, tokens.length - 1)];
  }, tokens);
}
const asks = (page) => page.evaluate(() => globalThis.asks);

/** Publishes where only the site's own code may. */
async function publish(comet, channel, text) {
  const headers = { Authorization: `Bearer ${KEY}` };
  const sent = await fetch(`${comet.origin}/v1/publish?${new URLSearchParams({ channel })}`, { method: "POST", headers, body: text });
  assert.equal(sent.status, 200, await sent.text());
}

for (const transport of ["websocket", "sse", "poll"]) {
  test(`${transport}: a token is renewed before it ends, and nothing is missed`, async (t) => {
    const { comet, site, page } = await openSite(t);
    // On a WebSocket the client renews it by itself before it ends; else the server ends what was opened with it.
    const ends = transport === "websocket" ? now() + 3 : now() + 3 - LEEWAY;
    await giveTokens(page, grant({ exp: ends }), grant());
    const told = [];
    page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => told.push(JSON.parse(payload).type)));
    await listen(page, PRIVATE, { token: "callback", transports: [transport], share: false });
    await live(page, transport);
    await publish(comet, PRIVATE, "with the first token");
    await received(page, 1);
    await page.waitForFunction(() => globalThis.asks === 2);
    await publish(comet, PRIVATE, "with the second");
    assert.deepEqual(await received(page, 2), ["with the first token", "with the second"]);
    // A WebSocket is told the new token, and goes on.
    if (transport === "websocket") {
      await until(() => page.evaluate(() => 0).then(() => told.includes("authorized")), "the new token's answer");
      assert.equal(site.requests.filter((request) => /v1\/ws/.test(request)).length, 1);
    }
    assert.deepEqual(await events(page, "error"), []);
    assert.equal(await asks(page), 2);
  });

  test(`${transport}: a token that is refused is asked for anew once, then the page is told`, async (t) => {
    const { site, page } = await openSite(t);
    const expired = grant({ exp: now() - 10 - LEEWAY });
    await giveTokens(page, expired, grant({ exp: now() - 5 - LEEWAY }));
    await listen(page, PRIVATE, { token: "callback", transports: [transport], share: false });
    const [error] = await events(page, "error", 1);
    assert.deepEqual([error.status, error.code], [401, "token_expired"]);
    assert.equal(await asks(page), 2);
    await page.waitForFunction(() => globalThis.comet.state.retry_ms >= 60_000);
    assert.ok(site.requests.length <= 4, site.requests.join("\n"));

    await giveTokens(page, grant());
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await live(page, transport);
  });

  test(`${transport}: channels that are not allowed are named, the others go on`, async (t) => {
    const { comet, page } = await openSite(t);
    const only = grant({ comet: { patterns: [PRIVATE] } });
    await listen(page, [[PRIVATE], ["private/otto"], ["news"], ["private/eve"]], { token: only, transports: [transport], share: false });
    const errors = await events(page, "error", 2);
    assert.deepEqual(errors.map(({ status, channel }) => [status, channel]).sort(), [[403, "private/eve"], [403, "private/otto"]]);
    await events(page, "subscribed", 2);
    await publish(comet, PRIVATE, "for anna");
    await comet.publish("news", "for all");
    assert.deepEqual((await received(page, 2)).sort(), ["for all", "for anna"]);
  });
}

test("a page begins where it was made", async (t) => {
  const { comet, page } = await openSite(t);
  await comet.publish(CHANNEL, "in the page already");
  const { cursor } = await (await fetch(`${comet.origin}/v1/now`)).json();
  await comet.publish(CHANNEL, "made meanwhile");
  await listen(page, [[CHANNEL], [{ pattern: "a/*" }]], { cursor });
  await live(page);
  assert.deepEqual(await received(page, 2), ["made meanwhile", "made meanwhile"]);
  await comet.publish(CHANNEL, "the end");
  assert.deepEqual((await received(page, 4)).slice(2), ["the end", "the end"]);
});

test("a page that is asked to remember goes on where the page before ended", async (t) => {
  const { comet, page } = await openSite(t);
  const options = { persist: "session" };
  await listen(page, CHANNEL, options);
  await live(page);
  await comet.publish(CHANNEL, "1");
  await received(page, 1);
  await page.goto("about:blank");
  await comet.publish(CHANNEL, "2");
  await comet.publish(CHANNEL, "3");
  await page.goBack();
  await listen(page, CHANNEL, options);
  await receivedAll(comet, CHANNEL, page, ["2", "3"]);
});

test("what is lost is announced", async (t) => {
  const short = OPEN.replace("[namespace_default]", '[namespace_default]\nhistory.count = 2\n') + '\n[limits]\nwindow = "0s"\n';
  const { comet, page } = await openSite(t, { configuration: short });
  const { cursor } = await (await fetch(`${comet.origin}/v1/now`)).json();
  for (const text of ["1", "2", "3", "4"]) await comet.publish(CHANNEL, text);
  await listen(page, [[CHANNEL]], { cursor });
  await live(page);
  const kept = await received(page, 1);
  assert.equal((await events(page, "gap", 1))[0].channel, CHANNEL);
  assert.deepEqual(kept, ["1", "2", "3", "4"].slice(-kept.length));
  assert.ok(kept.length < 4);
});

test("a cursor of no server is a gap, not the end", async (t) => {
  const { comet, page } = await openSite(t);
  await comet.publish(CHANNEL, "kept");
  await listen(page, [[CHANNEL]], { cursor: "nonsense", transports: ["sse"] });
  await events(page, "gap", 1);
  await receivedAll(comet, CHANNEL, page, ["kept"]);
});

test("a publication that gets no answer is tried again, and published once", async (t) => {
  const { comet, site, page } = await openSite(t);
  await listen(page);
  await live(page);
  // The first try is carried out, but nobody hears of it.
  let tries = 0;
  site.pages.set("/v1/publish", async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const answer = await fetch(comet.origin + request.url, { method: "POST", headers: { "Content-Type": "application/json" }, body: Buffer.concat(chunks) });
    if (tries++ === 0) return response.destroy();
    response.writeHead(answer.status, { "Content-Type": "application/json" }).end(await answer.text());
  });
  const answer = await page.evaluate((channel) => globalThis.comet.publish(channel, { any: "json" }), CHANNEL);
  assert.equal(answer.duplicate, true);
  assert.equal(answer.channels[0].channel, CHANNEL);
  await receivedAll(comet, CHANNEL, page, [{ any: "json" }]);
});

test("a publication that is refused says why", async (t) => {
  const { page } = await openSite(t);
  await listen(page);
  const problem = await page.evaluate(() => globalThis.comet.publish("private/anna", 1).catch(({ name, status, code, message }) => ({ name, status, code, message })));
  assert.deepEqual([problem.name, problem.status, problem.code], ["CometError", 401, "unauthorized"]);
  assert.ok(problem.message.length > 10);
});

test("who wants no echo gets none, and others do", async (t) => {
  const { comet, page } = await openSite(t);
  const other = await openTab(page);
  for (const tab of [page, other]) {
    await listen(tab);
    await live(tab);
  }
  await page.evaluate((channel) => globalThis.comet.publish(channel, "mine", { echo: false }), CHANNEL);
  await receivedAll(comet, CHANNEL, page, []);
  await receivedAll(comet, CHANNEL, other, ["mine", "the end"]);
});

test("who wants no echo of what it publishes in several channels gets it from none of them", async (t) => {
  const { comet, page } = await openSite(t);
  await listen(page, [["left"], ["right"]]);
  await live(page);
  await page.evaluate(() => globalThis.comet.publish(["left", "right"], "mine", { echo: false }));
  for (const channel of ["left", "right"]) await comet.publish(channel, "the end");
  assert.deepEqual(await received(page, 2), ["the end", "the end"]);
});

test("history and presence are asked for with the page's token", async (t) => {
  const { comet, page } = await openSite(t);
  await listen(page, [[PRIVATE, { presence: "join" }]], { token: grant() });
  await live(page);
  for (const text of ["1", "2", "3"]) await publish(comet, PRIVATE, text);
  const [history, presence] = await page.evaluate(async (channel) => [
    await globalThis.comet.history(channel, { limit: 2, reverse: true }),
    await globalThis.comet.presence(channel),
  ], PRIVATE);
  assert.deepEqual(history.publications.map(({ data }) => data), ["3", "2"]);
  assert.deepEqual(presence.members.map(({ user }) => user), ["anna"]);
});

test("a page that is left gives its held request back at once", async (t) => {
  for (const transport of ["poll", "sse", "websocket"]) {
    const { comet, page } = await openSite(t);
    const other = await openTab(page);
    await listen(other, CHANNEL, { transports: [transport] });
    await live(other, transport);
    assert.deepEqual(await held(comet), { [transport]: 1 });
    await other.goto("about:blank");
    await until(async () => Object.keys(await held(comet)).length === 0, "nobody held");
  }
});

for (const transport of ["poll", "sse"]) {
  for (const where of ["", ", at another origin"]) {
    test(`${transport}: what its path would keep holding is given back by the page that leaves${where}, the token in no address`, async (t) => {
      const { comet, site: own, page } = await openSite(t, { configuration: OPEN.replace("[public]", '[public]\norigins = ["*"]') });
      const site = where ? await Site.before(t, comet.origin) : own;
      const anna = grant();
      await listen(page, PRIVATE, { url: site.origin, transports: [transport], token: anna });
      await live(page, transport);
      const held = await site.asked(transport === "poll" ? /wait_ms=25000/ : /v1\/sse/);
      await page.goto("about:blank");
      const released = await site.asked(/^POST \/v1\/release/);
      const session = (request) => new URLSearchParams(request.split("?")[1]).get("session");
      assert.equal(session(released), session(held));
      // Of another user nothing would be ended.
      assert.equal(site.heads[site.requests.indexOf(released)].authorization, `Bearer ${anna}`);
      for (const request of site.requests) assert.ok(!request.includes(anna), request);
    });
  }
}

test("a strict page allows all of it, and nobody complains", async (t) => {
  const { comet, site, page } = await openSite(t);
  const headers = { "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; require-trusted-types-for 'script'" };
  site.pages.set("/strict", { type: "text/html", headers, body: "<!doctype html><title>strict</title><link rel=icon href=data:,><script type=module src=/page.js></script>" });
  site.pages.set("/page.js", {
    type: "text/javascript",
    body: `import { Comet } from "/client.js";
      const comet = new Comet("/");
      globalThis.received = [];
      comet.on("state", ({ state }) => (document.documentElement.dataset.state = state));
      comet.subscribe(${JSON.stringify(CHANNEL)}, ({ data }) => received.push(data));`,
  });
  for (const transport of ["websocket", "sse"]) {
    site.websockets = transport === "sse" ? "refuse" : "pass";
    await page.goto(`${site.origin}/strict`);
    await page.waitForSelector("html[data-state=live]", { state: "attached" });
    await receivedAll(comet, CHANNEL, page, []);
  }
  // That a WebSocket was refused is what the browser itself complains of.
  assert.deepEqual(page.complaints.filter((text) => !/WebSocket connection .* failed|400/.test(text)), []);
});

test("a plain script has the same client", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.pages.set("/plain", {
    type: "text/html; charset=utf-8",
    body: `<!doctype html><title>plain</title><link rel=icon href=data:,><script src=/client.global.js></script>
      <script>var received = []; new Comet(location.origin).subscribe(${JSON.stringify(CHANNEL)}, function (message) { received.push(message.data) })</script>`,
  });
  await page.goto(`${site.origin}/plain`);
  await site.asked(/v1\/ws/);
  await until(async () => (await held(comet)).websocket === 1, "a WebSocket");
  await receivedAll(comet, CHANNEL, page, []);
  assert.deepEqual(page.complaints, []);
});

test("after it is closed nothing comes, nothing is asked, and it may be closed again", async (t) => {
  const { comet, page } = await openSite(t);
  await listen(page);
  await live(page);
  await page.evaluate(() => {
    globalThis.comet.close();
    globalThis.comet.close();
  });
  await comet.publish(CHANNEL, "nobody hears this");
  assert.equal((await page.evaluate(() => globalThis.comet.state)).state, "closed");
  await until(async () => Object.keys(await held(comet)).length === 0, "nobody held");
  assert.deepEqual(await received(page, 0), []);
});
