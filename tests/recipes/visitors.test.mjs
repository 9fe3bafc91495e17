// Through every recipe, and the nginx of README.md: the server tells two visitors apart, and believes no address that one of
// them claims. RECIPES=nginx,caddy: only those.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { recipes } from "./recipes.mjs";
import * as fronts from "./support/fronts.mjs";
import { ask, stream, webSocket } from "./support/http.mjs";
import { until } from "./support/processes.mjs";
import { Site } from "./support/site.mjs";

/** Recipes at a time: they wait more than they work. */
const AT_A_TIME = 6;

/** Two visitors, as the front web server sees them. */
const [ANNA, BERTA] = ["127.0.0.2", "127.0.0.3"];

/** The lines that README.md has for a site's nginx. */
const readme = {
  name: "README",
  base: "",
  async front(_, site) {
    const text = await readFile(new URL("../../README.md", import.meta.url), "utf8");
    const lines = /```nginx\n([^`]+)```/.exec(text)[1];
    const { "/var/lib/cometserver": data } = site.placeholders;
    assert.ok(lines.includes("/var/lib/cometserver"));
    return fronts.nginx(site, lines.replaceAll("/var/lib/cometserver", data));
  },
};

const chosen = process.env.RECIPES?.split(",");
const selected = [...recipes, readme].filter((recipe) => chosen === undefined || chosen.includes(recipe.name));

test("visitors", { concurrency: AT_A_TIME }, async (t) => {
  await Promise.all(selected.map((recipe) => t.test(recipe.name, (t) => visitors(t, recipe))));
});

async function visitors(t, recipe) {
  const settings = ["limits.connections_per_address=1", "held.poll.hold=25s", "held.bridge.hold=25s", "held.cgi.hold=25s", "held.heartbeat=2s"];
  const site = await Site.open(t, recipe, { settings });
  const channel = `${recipe.prefix ?? ""}news`;
  const query = new URLSearchParams({ channel });
  const headers = {};
  if (recipe.signIn) headers.Cookie = await site.cookie();
  else query.set("token", site.token({ channels: [channel] }));
  /** What a visitor at `address` sends who claims to be at `claimed`: where from, the path, the headers. */
  const request = (call, address, claimed) => [
    { ...site.where, localAddress: address },
    `${site.base}/v1/${call}?${query}`,
    { ...headers, "X-Forwarded-For": claimed, "X-Real-IP": claimed, Forwarded: `for=${claimed}` },
  ];
  const poll = (...visitor) => {
    const [where, path, headers] = request("poll", ...visitor);
    return ask(where, "GET", path, { headers });
  };
  const held = async (count, transport = "poll") => {
    await until(`${count} to be held`, async () => (await site.stats()).connections[transport] === count);
  };
  const anna = poll(ANNA, "192.0.2.7");
  await held(1);
  for (const claimed of [BERTA, "192.0.2.8", `192.0.2.9, ${BERTA}`]) {
    const again = await poll(ANNA, claimed);
    assert.equal(again.status, 200, again.body);
    assert.ok(JSON.parse(again.body).retry_ms > 0, `believed to be at ${claimed}: ${again.body}`);
  }
  const berta = poll(BERTA, ANNA);
  await held(2);
  await site.publish(channel, "for both");
  for (const answer of await Promise.all([anna, berta])) {
    assert.deepEqual(
      JSON.parse(answer.body).publications.map((publication) => publication.data),
      ["for both"],
    );
  }
  // Who has got an answer is nobody's hindrance, whatever connections their front web server keeps.
  for (const address of [ANNA, BERTA, ANNA]) {
    const next = poll(address, BERTA);
    await held(1);
    await site.publish(channel, "next");
    assert.equal(JSON.parse((await next).body).retry_ms, undefined);
  }
  const silent = { onData() {}, onText() {}, onEnd() {} };
  const others = {
    sse: recipe.streams === undefined && ((...visitor) => stream(...request("sse", ...visitor), silent)),
    websocket: recipe.refused?.websocket === undefined && ((...visitor) => webSocket(...request("ws", ...visitor), silent)),
  };
  for (const [transport, open] of Object.entries(others).filter(([, open]) => open)) {
    const close = [open(ANNA, "192.0.2.7"), open(BERTA, ANNA)];
    await held(2, transport);
    for (const [address, claimed] of [[ANNA, "192.0.2.8"], [BERTA, "192.0.2.8"]]) {
      assert.ok(JSON.parse((await poll(address, claimed)).body).retry_ms > 0, `${transport} of ${address}`);
    }
    close.forEach((end) => end());
    await held(0, transport);
  }
}
