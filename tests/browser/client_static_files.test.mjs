// Our client asks the files that tell how far channels are, which a web server answers by itself, and our server only for news.

import assert from "node:assert/strict";
import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { account, isThere } from "./support/apache.mjs";
import { newPage } from "./support/browser.mjs";
import { CHANNEL, OPEN, events, listen, live, openSite, received, receivedAll, until } from "./support/client.mjs";
import { Comet } from "./support/comet.mjs";
import { ROOT } from "./support/php.mjs";

const FOLDER = "/live/";
const fileOf = (name) => `${FOLDER}${Buffer.from(name).toString("base64url")}.comet.json`;
const FILE = fileOf(CHANNEL);
const OPTIONS = { transports: ["interval"], interval: 100, share: false, files: FOLDER };
/** The page's own patience: files are believed for five minutes, then the server is asked whether they are true. */
const DISBELIEF_MS = 301_000;
/** And a folder that does not answer is given up after four seconds. */
const FILE_PATIENCE_MS = 4_100;
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => `${from + index}`);

/** A site on a real Apache, which serves the files and passes the rest on to our server, and a page of it. */
async function openApache(t) {
  const host = await account(t, { modules: ["proxy"] });
  const configuration = OPEN.replace("[namespace_default]", "[namespace_default]\nstatic_file = true") + `[static]\ndir = "${host.root}${FOLDER}"\n`;
  const comet = await Comet.serve(t, configuration);
  const pass = () => writeFile(join(host.root, ".htaccess"), `RewriteEngine On\nRewriteRule ^v1/ ${comet.origin}%{REQUEST_URI} [P,L]\n`);
  await pass();
  await cp(join(ROOT, "clients/js/comet.min.js"), join(host.root, "comet.js"));
  await writeFile(join(host.root, "index.html"), "<!doctype html><title>test</title><link rel=icon href=data:,>");
  const page = await newPage(t);
  await page.goto(`${host.origin}/index.html`);
  /** How many requests of a kind Apache has answered. */
  const answered = async (pattern) => (await readFile(join(host.run, "access.log"), "utf8")).split("\n").filter((line) => pattern.test(line)).length;
  return { host, comet, page, pass, answered };
}

const UNCHANGED = /^304 GET \/live\//;
const ASKED = /^\d+ \w+ \/v1\//;

/** Waits until the page finds so many times that nothing has changed. */
async function quiet(answered, times = 10) {
  const before = await answered(UNCHANGED);
  await until(async () => (await answered(UNCHANGED)) >= before + times, `${times} times 304`);
}

test("while nothing is published a web server answers 304, and nothing reaches our server", { skip: !isThere }, async (t) => {
  const { comet, page, answered } = await openApache(t);
  await comet.publish(CHANNEL, "from before the page");
  await listen(page, CHANNEL, OPTIONS);
  await live(page, "interval");
  for (const texts of [numbers(1, 20), numbers(21, 22)]) {
    for (const text of texts) await comet.publish(CHANNEL, text);
    await received(page, Number(texts.at(-1)));
    await quiet(answered);
    const asked = await answered(ASKED);
    await quiet(answered, 20);
    assert.equal(await answered(ASKED), asked, "requests that reached our server");
  }
  await receivedAll(comet, CHANNEL, page, numbers(1, 22));
  assert.deepEqual(await events(page, "gap"), []);
});

test("a server that is killed leaves its files behind, and the next one tells what is new", { skip: !isThere }, async (t) => {
  const { comet, page, pass, answered } = await openApache(t);
  await listen(page, CHANNEL, OPTIONS);
  await live(page, "interval");
  for (const text of numbers(1, 5)) await comet.publish(CHANNEL, text);
  await received(page, 5);
  await quiet(answered);
  await comet.kill();
  await quiet(answered);
  assert.equal((await page.evaluate(() => globalThis.comet.state)).state, "live");
  await comet.start();
  await pass();
  for (const text of numbers(6, 9)) await comet.publish(CHANNEL, text);
  await receivedAll(comet, CHANNEL, page, numbers(1, 9));
  assert.deepEqual(await events(page, "gap"), []);
});

test("without a file the server is asked, and soon nobody looks for the file at each turn", async (t) => {
  const { comet, site, page } = await openSite(t);
  let looked = 0;
  site.pages.set(FILE, (request, response) => {
    looked++;
    response.writeHead(404).end();
  });
  await listen(page, CHANNEL, OPTIONS);
  await live(page, "interval");
  for (const text of numbers(1, 5)) await comet.publish(CHANNEL, text);
  await received(page, 5);
  await site.asked(/v1\/poll/, 12);
  assert.ok(looked < 6, `looked ${looked} times`);
  await receivedAll(comet, CHANNEL, page, numbers(1, 5));
});

test("a folder that never answers is given up, and the server asked", async (t) => {
  const { comet, site, page } = await openSite(t);
  await page.clock.install();
  let looks = 0;
  site.pages.set(FILE, () => looks++);
  const gaveUp = async (count) => {
    await site.until(() => looks === count, `look ${count} at the file`);
    await page.clock.fastForward(FILE_PATIENCE_MS);
  };
  await listen(page, CHANNEL, OPTIONS);
  await gaveUp(1);
  await live(page, "interval");
  await comet.publish(CHANNEL, "1");
  await gaveUp(2);
  assert.deepEqual(await received(page, 1), ["1"]);
  // Over one connection, of which nobody was told that it had ended.
  assert.deepEqual((await events(page, "state")).map(({ state }) => state), ["connecting", "live"]);
});

test("what has no file of its own is asked for as ever", async (t) => {
  const { comet, site, page } = await openSite(t);
  const pattern = "plain/*";
  // Of a channel of this very name.
  for (const path of [FILE, fileOf(pattern)]) site.pages.set(path, { type: "application/json", body: '{"offset":0,"epoch":"1"}' });
  await listen(page, [[CHANNEL], [{ pattern }]], OPTIONS);
  await live(page, "interval");
  await site.asked(/v1\/poll/, 5);
  await comet.publish("plain/1", "by pattern");
  await comet.publish(CHANNEL, "by name");
  assert.deepEqual((await received(page, 2)).sort(), ["by name", "by pattern"]);
});

test("an answer that holds a part of what there is is not taken for all of it", async (t) => {
  const configuration = OPEN.replace("[namespace_default]", "[namespace_default]\nhistory.count = 1000") + "[limits]\npublish_rate = \"1000/s\"\n";
  const { comet, site, page } = await openSite(t, { configuration });
  site.pages.set(FILE, { type: "application/json", body: '{"offset":300,"epoch":"1"}' });
  const headers = { "Content-Type": "application/json" };
  for (const from of [1, 101, 201]) {
    const publications = numbers(from, from + 99).map((data) => ({ channel: CHANNEL, data, kind: "text" }));
    const sent = await fetch(`${comet.origin}/v1/batch`, { method: "POST", headers, body: JSON.stringify({ publications }) });
    assert.doesNotMatch(await sent.text(), /error/);
  }
  await listen(page, [[CHANNEL, { since: "earliest" }]], OPTIONS);
  assert.deepEqual(await received(page, 300), numbers(1, 300));
});

test("a file that nobody keeps true is found out, and not believed again until it changes", async (t) => {
  const { comet, site, page } = await openSite(t);
  await page.clock.install();
  let [offset, looks] = [0, 0];
  site.pages.set(FILE, (request, response) => {
    looks++;
    response.writeHead(200, { "Content-Type": "application/json" }).end(`{"offset":${offset},"epoch":"1"}`);
  });
  const looked = async (more = 10) => {
    const enough = looks + more;
    await site.until(() => looks >= enough, "looks at the file");
  };
  const asks = () => site.requests.filter((request) => /v1\/poll/.test(request)).length;
  await listen(page, CHANNEL, OPTIONS);
  await live(page, "interval");
  await looked();
  const before = asks();
  await comet.publish(CHANNEL, "1");
  await looked();
  assert.equal(asks(), before, "it is believed");
  await page.clock.fastForward(DISBELIEF_MS);
  await received(page, 1);
  await looked();
  await comet.publish(CHANNEL, "2");
  await received(page, 2);

  // A true one is believed again.
  offset = 2;
  await looked();
  const after = asks();
  await looked();
  assert.equal(asks(), after, "it is believed again");
  offset = 3;
  await receivedAll(comet, CHANNEL, page, ["1", "2"]);
});
