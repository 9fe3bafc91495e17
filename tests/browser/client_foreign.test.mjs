// Something else than our server answers for a while, as when files are uploaded, a firewall or a login page is in between:
// our client waits, says so, and comes back, whatever it was and over every transport.

import assert from "node:assert/strict";
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { account, isThere } from "./support/apache.mjs";
import { newPage } from "./support/browser.mjs";
import { CHANNEL, OPEN, events, listen, live, openSite, openTab, received, receivedAll, until } from "./support/client.mjs";
import { Comet } from "./support/comet.mjs";
import { ROOT } from "./support/php.mjs";
import { Site } from "./support/site.mjs";

const html = { "Content-Type": "text/html; charset=utf-8" };
const json = { "Content-Type": "application/json" };
const page = (status) => ({ status, headers: html, body: `<!doctype html><title>${status}</title><p>Not what you asked for.` });
/** What a page may meet in place of our server. */
const FOREIGN = {
  "a page with 404": page(404),
  "a page with 403": page(403),
  "a page with 401": page(401),
  "a page with 400": page(400),
  "a page with 410": page(410),
  "a 403 of JSON with a code": { status: 403, headers: json, body: '{"code":"rest_forbidden","message":"no","data":{"status":403}}' },
  "a 404 of JSON in an error": { status: 404, headers: json, body: '{"error":{"code":"not_found","message":"no"}}' },
  "a 403 that says no more": { status: 403 },
  "a page with 200": page(200),
  "a 200 that is empty": { status: 200, headers: json },
  "a 204": { status: 204 },
  "a 200 of other JSON": { status: 200, headers: json, body: '{"status":"ok","list":[[1],2]}' },
  "a 200 of JSON that is no object": { status: 200, headers: json, body: "null" },
  "a redirect to a login page": { status: 302, headers: { Location: "/login" } },
};
const TRANSPORTS = ["websocket", "sse", "poll", "interval"];

/** What waits tries now. */
const nudge = (page) => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));

/** Waits until the page was told so many times that it is blocked, without waiting for back-off. */
async function blocked(page, count) {
  await until(async () => {
    await nudge(page);
    return (await events(page, "blocked")).length >= count;
  }, `${count} times blocked`);
  return (await events(page, "blocked")).at(-1);
}

async function liveAgain(page) {
  await until(async () => {
    await nudge(page);
    return (await page.evaluate(() => globalThis.comet.state.state)) === "live";
  }, "a page that is live again");
}

/** What the page wrote as warnings. */
function warnings(page) {
  const texts = [];
  page.on("console", (message) => message.type() === "warning" && texts.push(message.text()));
  return texts;
}

for (const transport of TRANSPORTS) {
  test(`${transport}: nothing that is not our server's takes a channel away, and the page is told once each time`, async (t) => {
    const { comet, site, page } = await openSite(t);
    site.pages.set("/login", { type: "text/html", body: "<!doctype html><title>Log in</title>" });
    const warned = warnings(page);
    await listen(page, CHANNEL, { transports: [transport], interval: 100, share: false });
    await live(page, transport);
    const expected = [];
    for (const [index, [name, foreign]] of Object.entries(FOREIGN).entries()) {
      await t.test(name, async () => {
        site.foreign = foreign;
        site.cut();
        const told = await blocked(page, index + 1);
        assert.equal((await page.evaluate(() => globalThis.comet.state.state)) === "live", false);
        assert.ok(told.url.startsWith(site.origin), told.url);
        expected.push(name);
        await comet.publish(CHANNEL, name);
        site.foreign = undefined;
        await liveAgain(page);
        assert.deepEqual(await received(page, expected.length), expected);
        assert.deepEqual(warned.map((text) => text.includes(site.origin)), expected.map(() => true), "one warning each time, with the address");
      });
    }
    await receivedAll(comet, CHANNEL, page, expected);
    assert.deepEqual(await events(page, "error"), []);
    assert.deepEqual(await events(page, "gap"), []);
  });
}

test("a redirect to another site is known for one, though its answer cannot be read", async (t) => {
  const { comet, site, page } = await openSite(t);
  const elsewhere = await Site.before(t, comet.origin);
  await listen(page, CHANNEL, { share: false });
  await live(page);
  site.foreign = { status: 302, headers: { Location: `${elsewhere.origin}/` } };
  site.cut();
  await blocked(page, 1);
  site.foreign = undefined;
  await liveAgain(page);
  await receivedAll(comet, CHANNEL, page, []);
});

test("a redirect to where our server is, is followed", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.pages.set("/push/v1/poll", (request, response) => response.writeHead(307, { Location: request.url.replace("/push", "") }).end());
  await listen(page, CHANNEL, { url: `${site.origin}/push`, transports: ["poll"], share: false });
  await live(page, "poll");
  await receivedAll(comet, CHANNEL, page, []);
});

test("a page that is opened meanwhile is live by itself afterwards, over the best transport", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.foreign = FOREIGN["a page with 404"];
  await listen(page, CHANNEL, { share: false });
  await events(page, "blocked", 1);
  site.foreign = undefined;
  await live(page, "websocket");
  await receivedAll(comet, CHANNEL, page, []);
});

test("tabs that share a connection are all told, and all come back", async (t) => {
  const { comet, site, page } = await openSite(t);
  const tabs = [page, await openTab(page)];
  for (const tab of tabs) {
    await listen(tab);
    await live(tab);
  }
  site.foreign = FOREIGN["a page with 403"];
  site.cut();
  await blocked(page, 1);
  await events(tabs[1], "blocked", 1);
  site.foreign = undefined;
  await liveAgain(page);
  await receivedAll(comet, CHANNEL, tabs, []);
  for (const tab of tabs) assert.deepEqual([await events(tab, "error"), (await events(tab, "blocked")).length], [[], 1]);
});

test("the wait grows to five minutes and not beyond, whatever the foreign answer asks for", async (t) => {
  const { site, page } = await openSite(t);
  await page.clock.install();
  await page.evaluate(() => (Math.random = () => 0.999));
  site.foreign = { ...FOREIGN["a page with 403"], headers: { ...html, "Retry-After": "1" } };
  await listen(page, CHANNEL, { share: false });
  const waits = [];
  while (!(waits.at(-1) >= 299_000)) {
    await page.waitForFunction((count) => globalThis.events.filter(({ state }) => state === "waiting").length > count, waits.length, { polling: 20 });
    waits.push((await page.evaluate(() => globalThis.comet.state)).retry_ms);
    assert.ok(waits.length < 15, waits.join());
    await page.clock.fastForward(waits.at(-1) + 10);
  }
  assert.ok(Math.max(...waits) <= 301_000, waits.join());
  site.foreign.headers["Retry-After"] = "86400";
  await page.waitForFunction((count) => globalThis.events.filter(({ state }) => state === "waiting").length > count, waits.length, { polling: 20 });
  assert.ok((await page.evaluate(() => globalThis.comet.state)).retry_ms <= 301_000);
  // It asked each time what the path says, and no more.
  assert.ok(site.requests.length <= 3 * (waits.length + 2), site.requests.length);
  assert.equal((await events(page, "blocked")).length, 1);
});

test("what catches up late waits too, and is not dropped", async (t) => {
  const { comet, site, page } = await openSite(t);
  await comet.publish("old", "from before");
  await listen(page, CHANNEL, { share: false });
  await live(page, "websocket");
  let asked = 0;
  site.pages.set("/v1/poll", (request, response) => {
    asked++;
    response.writeHead(403, html).end("<!doctype html>");
  });
  await page.evaluate(() => globalThis.comet.subscribe("old", ({ data }) => globalThis.received.push(data), { since: "earliest" }));
  await site.until(() => asked >= 2, "questions for what came before");
  site.pages.delete("/v1/poll");
  assert.deepEqual(await received(page, 1), ["from before"]);
  assert.deepEqual(await events(page, "error"), []);
});

test("a refusal of our own server still takes a channel away, whatever stands in between otherwise", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.foreign = FOREIGN["a page with 403"];
  await listen(page, [[CHANNEL], ["private/anna"]], { share: false });
  await events(page, "blocked", 1);
  site.foreign = undefined;
  const [error] = await events(page, "error", 1);
  assert.deepEqual([error.status, error.code, error.channel], [401, "unauthorized", "private/anna"]);
  await receivedAll(comet, CHANNEL, page, []);
});

test("a foreign refusal of a publication is tried again, but what is too large for the path is not", async (t) => {
  const { comet, site, page } = await openSite(t);
  await listen(page, CHANNEL, { share: false });
  await live(page);
  const answers = [page404(), page404()];
  let tries = 0;
  site.pages.set("/v1/publish", async (request, response) => {
    tries++;
    const foreign = answers.shift();
    if (foreign) return response.writeHead(foreign.status, foreign.headers).end(foreign.body);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const answer = await fetch(comet.origin + request.url, { method: "POST", headers: json, body: Buffer.concat(chunks) });
    response.writeHead(answer.status, json).end(await answer.text());
  });
  await page.evaluate((channel) => globalThis.comet.publish(channel, "tried again"), CHANNEL);
  assert.deepEqual(await received(page, 1), ["tried again"]);
  assert.equal(tries, 3);
  answers.push({ ...page404(), status: 413 });
  const problem = await page.evaluate((channel) => globalThis.comet.publish(channel, "large").catch(({ status }) => status), CHANNEL);
  assert.deepEqual([problem, tries], [413, 4]);

  function page404() {
    return { status: 404, headers: html, body: "<!doctype html>" };
  }
});

test("a page in place of the files that tell how far channels are hides nothing", async (t) => {
  const { comet, site, page } = await openSite(t);
  site.pages.set(`/live/${Buffer.from(CHANNEL).toString("base64url")}.comet.json`, { type: "text/html", body: "<!doctype html><title>Log in</title>" });
  await listen(page, CHANNEL, { transports: ["interval"], interval: 100, share: false, files: "/live/" });
  await live(page, "interval");
  // It would be believed from the second time on.
  await site.asked(/v1\/poll/, 4);
  await receivedAll(comet, CHANNEL, page, []);
});

test("a real Apache that refuses, redirects and misses files for a while", { skip: !isThere }, async (t) => {
  const host = await account(t, { modules: ["proxy"] });
  const comet = await Comet.serve(t, OPEN);
  const rule = (text) => writeFile(join(host.root, ".htaccess"), `RewriteEngine On\n${text}\n`);
  const pass = () => rule(`RewriteRule ^v1/ ${comet.origin}%{REQUEST_URI} [P,L]`);
  await pass();
  await cp(join(ROOT, "clients/js/comet.min.js"), join(host.root, "comet.js"));
  await writeFile(join(host.root, "index.html"), "<!doctype html><title>test</title><link rel=icon href=data:,>");
  const page = await newPage(t);
  await page.goto(`${host.origin}/index.html`);
  await listen(page, CHANNEL, { transports: ["sse", "poll"], share: false });
  await live(page);
  const expected = [];
  for (const text of ["RewriteRule ^v1/ - [F]", "RewriteRule ^v1/ - [R=404,L]", "RewriteRule ^v1/ /index.html [R=302,L]", "# not yet uploaded"]) {
    await rule(text);
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await blocked(page, expected.length + 1);
    expected.push(text);
    await comet.publish(CHANNEL, text);
    await pass();
    await liveAgain(page);
    assert.deepEqual(await received(page, expected.length), expected);
  }
  assert.deepEqual(await events(page, "error"), []);
});
