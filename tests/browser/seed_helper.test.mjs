// The script behind the older versions' `renderJsTag`, against a page of the site that answers as PHP does.

import assert from "node:assert/strict";
import { test } from "node:test";
import { newPage } from "./support/browser.mjs";
import { Site } from "./support/site.mjs";

const cdata = (text) => `<![CDATA[${text.replaceAll("]]>", "]]]]><![CDATA[>")}]]>`;

/** A `read.php`: holds what asks until there is something after its cursor; `cursors: false` is the original one. */
class ReadPage {
  messages = [];
  asked = [];
  cursors = true;
  #waiting = new Map();

  constructor(site, path) {
    this.site = site;
    site.pages.set(path, (request, response) => this.#answer(request, response));
  }

  write(...texts) {
    for (const text of texts) this.messages.push(text.time ? text : { text, time: `${1000 + this.messages.length}.5` });
    for (const [response, cursor] of this.#waiting) this.#give(response, cursor);
  }

  /** Settles when a page waits here. */
  waits(count = 1) {
    return this.site.until(() => this.#waiting.size >= count, "a page that waits");
  }

  #answer(request, response) {
    const query = new URL(request.url, "http://site").searchParams;
    this.asked.push({ method: request.method, ...Object.fromEntries(query) });
    if (query.has("comet_release")) return response.writeHead(204).end();
    const cursor = this.cursors && query.get("comet_cursor") ? +query.get("comet_cursor").slice(1) : this.messages.length;
    if (cursor < this.messages.length) return this.#give(response, cursor);
    this.#waiting.set(response, cursor);
    response.on("close", () => this.#waiting.delete(response));
    this.site.cameTo();
  }

  #give(response, cursor) {
    this.#waiting.delete(response);
    const news = this.messages.slice(cursor);
    const [first] = this.cursors ? news : news.slice(-1);
    const one = ({ text, time }) => `<data>${cdata(`value: ${text}`)}</data>\n  <time>${cdata(time)}</time>`;
    let xml = `<?xml version="1.0" encoding="utf-8"?>\n<comet>\n  ${one(first)}\n`;
    if (this.cursors && news.length > 1) for (const message of news) xml += `  <message>${one(message)}</message>\n`;
    if (this.cursors) xml += `  <cursor>${cdata(`c${this.messages.length}`)}</cursor>\n`;
    response.writeHead(200, { "Content-Type": "text/xml" }).end(`${xml}</comet>\n`);
  }
}

const STRICT = { "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; require-trusted-types-for 'script'" };
const tag = (url, call, more = "") => `<script src="/seed-helper.js" data-comet-url="${url}" data-comet-function="${call}"${more}></script>`;
const html = (...tags) => `<!doctype html><title>old</title><link rel=icon href=data:,><script src=/app.js></script>${tags.join("")}`;

async function openOld(t, ...tags) {
  const site = await Site.before(t, "http://127.0.0.1:1");
  site.pages.set("/index.php", { type: "text/html; charset=utf-8", headers: STRICT, body: html(...tags) });
  site.pages.set("/app.js", { type: "text/javascript", body: "var shown = [], others = []; function notify(text) { shown.push(text) } var app = { notify: function (text) { others.push(text) } };" });
  const page = await newPage(t);
  return { site, page };
}

async function shown(page, count, list = "shown") {
  await page.waitForFunction(([list, count]) => globalThis[list].length >= count, [list, count]);
  return page.evaluate((list) => globalThis[list], list);
}

const ODD = ["<b>bold</b> & &amp;", "]]> in the middle", "value: a second one", "100 % + é 🛰 \"quoted\"", "  blanks  around  ", "line\nbreak"];

test("every text comes, in order and unchanged, bursts too, on a strict page and without complaints", async (t) => {
  const { site, page } = await openOld(t, tag("/read.php", "notify"));
  const read = new ReadPage(site, "/read.php");
  read.write("from before the page");
  await page.goto(`${site.origin}/index.php`);
  await read.waits();
  read.write(ODD[0]);
  // Nobody waits just now: these are written between two requests.
  read.write(...ODD.slice(1));
  assert.deepEqual(await shown(page, ODD.length), ODD);
  await read.waits();
  read.write("the end");
  assert.deepEqual(await shown(page, ODD.length + 1), [...ODD, "the end"]);
  assert.deepEqual(page.complaints, []);
});

test("a page begins at the cursor that it was rendered with", async (t) => {
  const { site, page } = await openOld(t, tag("/read.php", "notify", ' data-comet-cursor="c1"'));
  const read = new ReadPage(site, "/read.php");
  read.write("seen", "written while the page was on its way");
  await page.goto(`${site.origin}/index.php`);
  assert.deepEqual(await shown(page, 1), ["written while the page was on its way"]);
});

test("an original read.php, which knows no cursor, is understood, and repeats itself in vain", async (t) => {
  const { site, page } = await openOld(t, tag("/read.php", "notify"));
  const read = new ReadPage(site, "/read.php");
  read.cursors = false;
  await page.goto(`${site.origin}/index.php`);
  for (const text of ["1", "2"]) {
    await read.waits();
    read.write(text);
  }
  await read.waits();
  // A time that was shown already: as if the poll had found the old message again.
  read.write({ text: "2 again", time: read.messages.at(-1).time });
  await read.waits();
  read.write("3");
  await page.waitForFunction(() => globalThis.shown.includes("3"));
  assert.deepEqual(await shown(page, 3), ["1", "2", "3"]);
});

test("several on one page do not disturb each other, and a function may belong to an object", async (t) => {
  const { site, page } = await openOld(t, tag("/read.php?a=1", "notify"), tag("/other.php", "app.notify"));
  const [read, other] = [new ReadPage(site, "/read.php"), new ReadPage(site, "/other.php")];
  await page.goto(`${site.origin}/index.php`);
  await read.waits();
  await other.waits();
  read.write("for the one");
  other.write("for the other");
  assert.deepEqual(await shown(page, 1), ["for the one"]);
  assert.deepEqual(await shown(page, 1, "others"), ["for the other"]);
  assert.equal(read.asked[0].a, "1");
});

test("a server that is away is found again without an alert, and nothing is lost", async (t) => {
  const { site, page } = await openOld(t, tag("/read.php", "notify"));
  page.on("dialog", (dialog) => assert.fail(dialog.message()));
  const read = new ReadPage(site, "/read.php");
  await page.goto(`${site.origin}/index.php`);
  await read.waits();
  read.write("1");
  await shown(page, 1);
  await read.waits();
  const answers = site.pages.get("/read.php");
  let faults = 0;
  site.pages.set("/read.php", (request, response) => {
    if (faults++ > 2) site.pages.set("/read.php", answers);
    // Broken XML, a status, an empty answer; the last with the time to come back.
    if (faults === 1) response.writeHead(200, { "Content-Type": "text/xml" }).end("<?xml version='1.0'?>\n<b>Warning</b><comet>");
    else response.writeHead(500, { "X-Comet-Retry-Ms": "10" }).end();
  });
  site.cut();
  read.write("2", "3");
  assert.deepEqual(await shown(page, 3), ["1", "2", "3"]);
  assert.ok(faults >= 3);
});

test("a page that is left says so", async (t) => {
  const { site, page } = await openOld(t, tag("/read.php", "notify"));
  const read = new ReadPage(site, "/read.php");
  await page.goto(`${site.origin}/index.php`);
  await read.waits();
  await page.goto("about:blank");
  await site.until(() => read.asked.some((one) => one.comet_release), "a release");
  const release = read.asked.find((one) => one.comet_release);
  assert.deepEqual([release.method, release.comet_release], ["POST", read.asked[0].comet_session]);
});
