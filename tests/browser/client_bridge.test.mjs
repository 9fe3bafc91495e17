// Our client through PHP, where nothing tells the server that a page has gone but the page.

import assert from "node:assert/strict";
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { newPage } from "./support/browser.mjs";
import { CHANNEL, OPEN, events, held, listen, live, receivedAll, until } from "./support/client.mjs";
import { Comet, folder } from "./support/comet.mjs";
import { ROOT, servePhp } from "./support/php.mjs";
import { token } from "./support/token.mjs";

/** A site with the bridge, which does not hold back streams, and a page of it. */
async function openBridge(t) {
  const root = await folder(t);
  const socket = join(root, "public.sock");
  const configuration = OPEN.replace("[public]", `[public]\nsocket = "${socket}"`) + '\n[held]\nbridge.hold = "25s"\n';
  const comet = await Comet.serve(t, configuration);
  await cp(join(ROOT, "clients/php/bridge.php"), join(root, "bridge.php"));
  await cp(join(ROOT, "clients/js/comet.min.js"), join(root, "comet.js"));
  await writeFile(join(root, "comet-config.php"), `<?php return array('public_socket' => '${socket}', 'sse' => true);`);
  await writeFile(join(root, "index.html"), "<!doctype html><title>test</title><link rel=icon href=data:,>");
  const php = await servePhp(t, {}, root);
  const page = await newPage(t);
  await page.goto(`${php}/index.html`);
  return { comet, page };
}

const ANNA = { sub: "anna", exp: Date.now() / 1000 + 3600, comet: { channels: [CHANNEL], actions: ["subscribe"] } };

for (const [url, claims] of [["bridge.php"], ["bridge.php?call="], ["bridge.php", ANNA]]) {
  for (const transport of ["poll", "sse"]) {
    test(`${transport} by ${url}${claims ? " with a token" : ""}: a page that is left gives back what PHP holds for it, and goes on when it is shown again`, async (t) => {
      const { comet, page } = await openBridge(t);
      const asked = page.waitForRequest(transport === "poll" ? /wait_ms=[1-9]/ : /v1(\/|%2F)sse/);
      await listen(page, CHANNEL, { transports: [transport], share: false, url, token: claims && token(claims) });
      await live(page, transport);
      await asked;
      await until(async () => (await held(comet))[transport] === 1, "PHP to wait");
      const released = page.waitForResponse(/v1(\/|%2F)release/);
      await page.evaluate(() => dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true })));
      // Its body is not asked for: the page reads none, and PHP tells no length of it.
      assert.equal((await released).status(), 200);
      await until(async () => !(await held(comet))[transport], "the server to let go");
      await comet.publish(CHANNEL, "meanwhile");
      await page.evaluate(() => dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })));
      await receivedAll(comet, CHANNEL, page, ["meanwhile"]);
      assert.deepEqual(await events(page, "error"), []);
    });
  }
}
