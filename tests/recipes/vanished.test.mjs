// Through every recipe: a member whose link goes down, and who therefore says nothing, is gone within four heartbeats.
// RECIPES=nginx,caddy: only those. VANISHED=as-it-is: with the recipe's own heartbeat, as docs/deploy/README.md has it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { recipes } from "./recipes.mjs";
import { ask, stream } from "./support/http.mjs";
import { Link } from "./support/link.mjs";
import { until } from "./support/processes.mjs";
import { Site } from "./support/site.mjs";

/** Recipes at a time: they wait more than they work. */
const AT_A_TIME = 7;

/** Heartbeats within which it is gone, and one for where between two of the witness's it vanished. */
const GONE = 4 + 1;

const isAsItIs = process.env.VANISHED === "as-it-is";

/** Nothing of what is measured here, or too long to sit out. */
const SETTINGS = ["presence.grace=0s", "namespace_default.presence=true", ...(isAsItIs ? [] : ["held.heartbeat=1s"])];

const chosen = process.env.RECIPES?.split(",");
const selected = recipes.filter((recipe) => chosen === undefined || chosen.includes(recipe.name));

test("vanished members", { concurrency: AT_A_TIME }, async (t) => {
  const refused = Link.refused(t);
  if (refused) {
    console.log(`SKIPPED: ${refused}`);
    return t.skip(refused);
  }
  await Promise.all(selected.map((recipe) => t.test(recipe.name, (t) => vanish(t, recipe))));
});

async function vanish(t, recipe) {
  const link = new Link(t);
  const site = await Site.open(t, recipe, { settings: SETTINGS, host: link.host });
  if (recipe.streams) await site.probe();
  const headers = recipe.signIn ? { Cookie: await site.cookie() } : {};
  const transports = ["websocket", "sse"].filter((name) => recipe.closed[name] !== undefined);
  const room = (transport) => `${recipe.prefix ?? "room/"}${transport}`;
  const members = async (transport) => {
    const query = new URLSearchParams({ channel: room(transport) });
    return JSON.parse((await ask(site.backend, "GET", `/v1/presence?${query}`)).body).count;
  };
  const children = transports.map((transport) => {
    const channel = room(transport);
    const token = recipe.signIn ? undefined : site.token({ channels: [channel], actions: ["subscribe", "presence"] });
    const query = new URLSearchParams({ join: channel, ...(token && { token }) });
    const member = { url: site.origin + site.base, where: site.where, path: `${site.base}/v1/ws?${query}`, channel, transport, token, headers };
    return link.run(t, [process.execPath, new URL("support/member.mjs", import.meta.url).pathname], { MEMBER: JSON.stringify(member) });
  });
  for (const transport of transports) {
    const said = () => `${transport} to be a member; ${children.map((child) => child.said).join("")}`;
    await until(said, async () => (await members(transport)) === 1);
  }
  let heartbeats = 0;
  const end = stream(site.backend, "/v1/sse?channel=witness", {}, { onData: () => heartbeats++, onEnd() {} });
  t.after(() => end());
  // Healthy members stay, however long.
  await until("heartbeats", () => heartbeats > (isAsItIs ? 1 : 5), 600_000);
  for (const transport of transports) assert.equal(await members(transport), 1, `${transport} has left by itself`);
  link.down();
  heartbeats = 0;
  const began = Date.now();
  for (const transport of transports) {
    const who = `a member by ${transport} to be gone`;
    await until(who, async () => heartbeats > GONE || (await members(transport)) === 0, 600_000);
    assert.equal(await members(transport), 0, `${transport} is there after ${heartbeats} heartbeats`);
    t.diagnostic(`${recipe.name}, ${transport}: gone by ${((Date.now() - began) / 1000).toFixed(1)} s`);
  }
}
