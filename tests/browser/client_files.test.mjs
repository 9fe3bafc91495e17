// The files of our client that are made from others, and the example that uses them.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "../../scripts/build-client.mjs";
import { openSite } from "./support/client.mjs";

/** Everything, as a browser fetches it. */
const MOST_BYTES = 7600;

const read = (path) => readFile(new URL(`../../${path}`, import.meta.url), "utf8");

test("the files that people use are what scripts/build-client.mjs makes of clients/js/src", async () => {
  for (const [name, made] of Object.entries(await build())) {
    assert.ok((await read(`clients/js/${name}`)) === made, `clients/js/${name} is out of date: run scripts/build-client.mjs`);
  }
});

test("the small files are small", async () => {
  for (const name of ["comet.min.js", "comet.global.js"]) {
    const { length } = gzipSync(await read(`clients/js/${name}`), { level: 9 });
    assert.ok(length <= MOST_BYTES, `${name} has ${length} bytes compressed`);
  }
});

test("the types name everything that the module exports, and every method", async () => {
  const source = await read("clients/js/src/comet.js");
  const types = await read("clients/js/comet.d.ts");
  const exported = Object.keys(await import("../../clients/js/comet.js"));
  assert.deepEqual([...types.matchAll(/^export class (\w+)/gm)].map(([, name]) => name).sort(), exported.sort());
  const comet = source.slice(source.indexOf("export class Comet {"));
  const methods = [...comet.matchAll(/^  (?:async |get )?([a-z]\w*)\([^;]*\{$/gm)].map(([, name]) => name);
  assert.ok(methods.length > 8);
  for (const name of methods) assert.match(types, new RegExp(`^  (readonly )?${name}\\b`, "m"), name);
});

test("the plain example shows what it sends, on a strict page", async (t) => {
  const { site, page } = await openSite(t);
  const headers = { "Content-Security-Policy": "default-src 'self'" };
  for (const [name, type] of [["index.html", "text/html; charset=utf-8"], ["page.js", "text/javascript"], ["style.css", "text/css"]]) {
    site.pages.set(`/example/${name}`, { type, headers, body: await read(`examples/plain-html/${name}`) });
  }
  site.pages.set("/favicon.ico", { type: "image/x-icon", body: "" });
  await page.goto(`${site.origin}/example/index.html`);
  await page.waitForSelector("#state[data-state=live]");
  await page.fill("#text", "<b>hello</b>");
  await page.press("#text", "Enter");
  await page.waitForFunction(() => document.querySelector("#messages li")?.textContent.endsWith("<b>hello</b>"));
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll("#messages li").length === 1);
  assert.deepEqual(page.complaints, []);
});
