// What of deploy/docker can be tried without a container engine: its configuration, its nginx, its page.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { newPage } from "../browser/support/browser.mjs";
import * as fronts from "./support/fronts.mjs";
import { copy } from "./support/placeholders.mjs";
import { BINARY, Site } from "./support/site.mjs";

test("the server of the image takes its configuration", () => {
  const file = fileURLToPath(new URL("../../deploy/docker/comet.toml", import.meta.url));
  execFileSync(BINARY, ["config", "check", "--config", file], { stdio: "pipe" });
});

test("the page of the compose file shows what is published", async (t) => {
  const site = await Site.open(t, {
    name: "docker",
    // Without its port, which may be taken here.
    config: "comet.toml",
    async front(_, site) {
      const own = join(site.dir, "etc/site.conf");
      const comet = join(site.dir, "etc/comet.conf");
      const { "/var/lib/cometserver": data, "/var/www/html": www } = site.placeholders;
      await copy("nginx/comet.conf", comet, { "/var/lib/cometserver": data });
      await copy("docker/www/index.html", join(www, "index.html"), {});
      await copy("docker/site.conf", own, {
        "listen 80": `listen 127.0.0.1:${site.where.port}`,
        "/var/www/html": www,
        "/etc/nginx/comet.conf": comet,
      });
      return fronts.nginx(site, "", { http: `include ${own};` });
    },
  });
  const page = await newPage(t);
  const socket = page.waitForEvent("websocket");
  await page.goto(site.origin);
  // From its first frame on it knows where it stands.
  await (await socket).waitForEvent("framereceived");
  await site.publish("public/news", "Hello");
  await page.getByText("Hello").waitFor();
  assert.deepEqual(
    page.complaints.filter((complaint) => !complaint.includes("favicon")),
    [],
  );
});
