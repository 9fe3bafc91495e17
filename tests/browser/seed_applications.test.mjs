// Applications written to the older versions, unchanged, in the drop-in folder: PHP's own web server, the real server, Chromium.

import assert from "node:assert/strict";
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { newPage } from "./support/browser.mjs";
import { Comet, folder } from "./support/comet.mjs";
import { ROOT, servePhp } from "./support/php.mjs";

const TEXTS = Array.from({ length: 20 }, (_, index) => `${index + 1} of 20`);
/** What something on the way might mangle. */
const ODD = [
  "<b onclick=\"x\">bold</b> &amp; & <",
  "]]> in the middle ]]>",
  "value: a second one",
  "100 % + 1 %2B %25 %E9",
  "'single' \"double\" `back` $x \\ \\n",
  "  blanks  around  ",
  "lines\r\nand\nmore\tand tabs",
  "grün € ☃ 𝄞",
  "0",
  "x".repeat(100_000),
];

/** The older versions' folder as somebody replaces it, with the application beside it, and pages of it in a browser. */
async function openApplication(t, version) {
  const root = await folder(t);
  await cp(join(ROOT, "clients/php/drop-in"), join(root, "comet"), { recursive: true });
  await cp(join(ROOT, "clients/js/seed-helper.js"), join(root, "comet/js/seed-helper.js"));
  await cp(join(ROOT, "tests/php/apps", version), join(root, "comet/exemples", version), { recursive: true });
  await writeFile(join(root, "favicon.ico"), "");
  const socket = join(root, "comet.sock");
  const comet = await Comet.serve(t, `socket = "${socket}"\n[public]\nlisten = ["127.0.0.1:0"]\n[held.drop_in]\nmax = 16\n`);
  const php = await servePhp(t, { COMETSERVER_SOCKET: socket }, root);
  const address = `${php}/comet/exemples/${version}`;
  const pages = [await openIndex(t, address), await openIndex(t, address)];
  return { comet, address, pages };
}

/** A page of the application; what its function gets is in `seen`. */
async function openIndex(t, address) {
  const page = await newPage(t);
  page.on("dialog", (dialog) => assert.fail(`it says ${dialog.message()}`));
  await page.goto(`${address}/index.php`);
  await page.evaluate(() => {
    const own = globalThis.notify;
    globalThis.seen = [];
    globalThis.notify = (text) => {
      globalThis.seen.push(text);
      own(text);
    };
  });
  return page;
}

/** Sends the application's form; what it answers is between brackets, empty if all is well. */
async function send(page, address, form) {
  const answer = await page.context().request.post(`${address}/write.php`, { form });
  assert.equal(answer.status(), 200);
  return /\[([^]*)\]/.exec(await answer.text())[1];
}

async function write(page, address, ...texts) {
  for (const text of texts) assert.equal(await send(page, address, { "comet-text": text }), "");
}

/** Each page was shown this, once and in order, and nothing else. */
async function shows(pages, expected) {
  for (const page of pages) {
    await page.waitForFunction((count) => globalThis.seen.length >= count, expected.length);
    assert.deepEqual(await page.evaluate(() => globalThis.seen), expected);
    assert.equal(await page.locator(".notification").count(), expected.length);
  }
}

for (const version of ["v1", "v2"]) {
  test(`${version}: every open page is shown a burst once and in order, any text unchanged, and again after refresh`, async (t) => {
    const { address, pages } = await openApplication(t, version);
    const [page] = pages;
    await write(page, address, ...TEXTS, ...ODD);
    await shows(pages, [...TEXTS, ...ODD]);
    assert.equal(await page.locator(".notification").first().textContent(), TEXTS[0]);
    assert.equal(await page.locator(".notification b").textContent(), "bold");
    assert.equal(await send(page, address, { "frm-comet-refresh": "true" }), "");
    // The same text again is another message.
    await write(page, address, "the end", "the end");
    await shows(pages, [...TEXTS, ...ODD, ODD.at(-1), "the end", "the end"]);
    // What is there already is not shown to a page that is opened now.
    const late = await openIndex(t, address);
    await write(page, address, "for all");
    await shows([late], ["for all"]);
    for (const one of [...pages, late]) assert.deepEqual(one.complaints, []);
  });

  for (const end of ["kill", "stop"]) {
    const how = end === "kill" ? "killed" : "stopped";
    test(`${version}: when the server is ${how} in a burst and begins again, no page misses anything or is shown it twice`, async (t) => {
      const { comet, address, pages } = await openApplication(t, version);
      const [page] = pages;
      await write(page, address, ...TEXTS.slice(0, 10));
      await comet[end]();
      // The application is told in words, and its page goes on.
      assert.match(await send(page, address, { "comet-text": "nobody takes this" }), /\w/);
      await comet.start();
      await write(page, address, ...TEXTS.slice(10), ...ODD, "the end");
      await shows(pages, [...TEXTS, ...ODD, "the end"]);
      const late = await openIndex(t, address);
      await write(page, address, "for all");
      await shows(pages, [...TEXTS, ...ODD, "the end", "for all"]);
      await shows([late], ["for all"]);
    });
  }
}
