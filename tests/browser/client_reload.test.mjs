// A page that has lost something loads itself anew, once for each cursor it was made with: one from a cache has the same
// cursor again, and would never stop.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { CHANNEL, OPEN, openSite, until } from "./support/client.mjs";
import { Comet, folder } from "./support/comet.mjs";
import { ROOT, servePhp } from "./support/php.mjs";

/** Two are kept of each channel. */
const SHORT = OPEN.replace("[namespace_default]", "[namespace_default]\nhistory.count = 2\n") + '\n[limits]\nwindow = "0s"\n';
const LATEST = "the last one";

/**
 * A site whose page has what `cursors` gives for its nth load, and reloads at a gap. `loads`: how often it was loaded;
 * `lost`: the cursor of long ago, after which there is a gap.
 */
async function openPage(t, cursors, options = {}) {
  const opened = await openSite(t, { configuration: SHORT });
  const { comet, site, page } = opened;
  const { cursor: lost } = await (await fetch(`${comet.origin}/v1/now`)).json();
  for (const text of ["1", "2", "3", LATEST]) await comet.publish(CHANNEL, text);
  const state = { ...opened, loads: 0, lost };
  site.pages.set("/page", (request, response) => {
    const cursor = cursors(state.loads++, lost);
    response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(`<!doctype html><title>page</title><link rel=icon href=data:,>
      <script type="module">
        import { Comet } from "/comet.min.js";
        globalThis.shown = [];
        globalThis.reloads = [];
        const comet = new Comet("/", ${JSON.stringify({ ...options, cursor })});
        comet.on("gap", () => reloads.push(comet.reload()));
        comet.subscribe(${JSON.stringify(CHANNEL)}, ({ data }) => shown.push(data));
      </script>`);
  });
  await page.goto(`${site.origin}/page`);
  return state;
}

/** Waits until the page stays, and shows what there is. */
async function stays({ page, site }) {
  await until(
    () => page.evaluate((text) => globalThis.reloads?.[0] === false && globalThis.shown.includes(text), LATEST).catch(() => false),
    "a page that stays",
  );
  assert.equal(page.url(), `${site.origin}/page`);
}

for (const options of [{ share: false }, { share: true }, { share: false, transports: ["poll"] }]) {
  test(`a page from a cache is loaded anew once, then it shows what there is (${JSON.stringify(options)})`, async (t) => {
    const state = await openPage(t, (load, lost) => lost, options);
    await stays(state);
    assert.equal(state.loads, 2);
    // Whoever comes back to it has the same page, and no new loop.
    await state.page.reload();
    await stays(state);
    assert.equal(state.loads, 3);
  });
}

test("a page that is made anew is loaded once", async (t) => {
  const state = await openPage(t, (load, lost) => (load ? "earliest" : lost));
  await state.site.until(() => state.loads === 2, "the second load");
  await state.page.waitForFunction((text) => globalThis.shown?.includes(text), LATEST);
  assert.equal(state.loads, 2);
});

test("another cursor is another page: it is loaded anew once, too", async (t) => {
  // Any cursor that the server could not have given is a gap.
  const state = await openPage(t, (load) => (load < 2 ? "first" : "second"));
  await stays(state);
  assert.equal(state.loads, 2);
  await state.page.reload();
  await stays(state);
  assert.equal(state.loads, 4);
});

test("a page that has lost something with each new cursor stops, too", async (t) => {
  const state = await openPage(t, (load) => `cursor-${load}`);
  await stays(state);
  assert.equal(state.loads, 4);
});

test("who cannot remember that it was loaded anew is not", async (t) => {
  const state = await openPage(t, (load, lost) => lost);
  await stays(state);
  await state.page.addInitScript(() => Object.defineProperty(window, "sessionStorage", { get: () => { throw new Error("forbidden"); } }));
  const before = state.loads;
  await state.page.goto(`${state.site.origin}/page`);
  await stays(state);
  assert.equal(state.loads, before + 1);
});

test("the example page-cursor is loaded anew once, too", async (t) => {
  const { site, page } = await openSite(t, { configuration: SHORT });
  const read = (name) => readFile(join(ROOT, "examples/page-cursor", name), "utf8");
  let loads = 0;
  const html = (await read("page.html")).replace("http://127.0.0.1:8080", site.origin).replace("{{channel}}", CHANNEL.replaceAll("&", "&amp;")).replace("{{lines}}", "");
  // A server of that name begins at another place: a gap.
  const cursor = await (await fetch(`${site.origin}/v1/now`)).json().then(({ cursor }) => cursor);
  for (const text of ["1", "2", "3", LATEST]) await fetch(`${site.origin}/v1/publish?${new URLSearchParams({ channel: CHANNEL })}`, { method: "POST", headers: { "Content-Type": "text/plain" }, body: text });
  site.pages.set("/page.js", { type: "text/javascript", body: await read("page.js") });
  site.pages.set("/example", (request, response) => {
    loads++;
    response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(html.replace("{{cursor}}", cursor));
  });
  await page.goto(`${site.origin}/example`);
  await site.until(() => loads === 2, "the second load");
  await page.waitForFunction((text) => document.querySelector("#lines")?.textContent.includes(text), LATEST);
  assert.equal(loads, 2);
});

test("a page without a cursor that loses something while it is open is loaded anew each time", async (t) => {
  const { site, page } = await openSite(t);
  await page.goto(site.origin);
  for (let load = 0; load < 2; load++) {
    const loaded = page.waitForEvent("load");
    await page.evaluate(() => import("/comet.js").then(({ Comet }) => setTimeout(() => new Comet("/").reload())));
    await loaded;
  }
});

test("our PHP lets no cache keep a page that holds a cursor", async (t) => {
  const root = await folder(t);
  const socket = join(root, "comet.sock");
  await Comet.serve(t, `socket = "${socket}"\n${OPEN}`);
  const client = `require '${join(ROOT, "clients/php/autoload.php")}'; $cursor = (new CometServer\\Client())->now();`;
  const dropIn = `require '${join(ROOT, "clients/php/drop-in/lib/CometAutoloader.class.php")}'; Comet\\Web\\JsHelper::create()->renderJsTag('read.php', 'notify');`;
  const pages = {
    "client.php": `<?php ${client} echo "cursor=$cursor";`,
    "dropin.php": `<?php ${dropIn}`,
    // Its headers are sent: nothing can be done, and nothing may be said in the page.
    "late.php": `<?php echo str_repeat('-', 10000); flush(); ${client} ${dropIn} echo "cursor=$cursor";`,
  };
  for (const [name, text] of Object.entries(pages)) await writeFile(join(root, name), text);
  const php = await servePhp(t, { COMETSERVER_SOCKET: socket }, root);
  for (const name of Object.keys(pages)) {
    const answer = await fetch(`${php}/${name}`);
    const text = await answer.text();
    assert.match(text, /cursor=/, text);
    assert.doesNotMatch(text, /Warning|Notice/i);
    if (name !== "late.php") assert.equal(answer.headers.get("cache-control"), "no-store", name);
  }
});
