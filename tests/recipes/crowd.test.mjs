// Visitors waiting through Apache by the hundred, whose workers are few: the site's other pages must not notice.

import assert from "node:assert/strict";
import { test } from "node:test";

import { recipes } from "./recipes.mjs";
import { TRANSPORTS } from "./support/listeners.mjs";
import { until } from "./support/processes.mjs";
import { Site } from "./support/site.mjs";

/** Crowds at a time: each is busy for a moment, and then waits for Apache, which restarts once a second. */
const AT_A_TIME = 3;

const RESTARTS = 20;
/**
 * How long a page is waited for before it is loaded anew, and how often that is. An Apache that starves never answers;
 * mod_fcgid now and then loses a request to a restart.
 */
const PAGE_DEADLINE_MS = 20_000;
const PAGE_TRIES = 3;
/** Twice what a poll may take that got lost in a restart. */
const CROWD_DEADLINE_MS = 60_000;

/** What a busy machine may add to a limit. */
const SLACK_MS = 10_000;

const chosen = process.env.RECIPES?.split(",");
const crowded = recipes.filter((recipe) => recipe.crowd && (chosen === undefined || chosen.includes(recipe.name)));

test("crowds", { concurrency: AT_A_TIME }, async (t) => {
  await Promise.all(crowded.map((recipe) => t.test(recipe.name, (t) => crowd(t, recipe))));
});

async function crowd(t, recipe) {
  const site = await Site.open(t, recipe, { asIs: true });
  const channel = "public/crowd";
  // Where nobody has looked yet whether streams arrive, the bridge has none.
  const refused = { ...recipe.refused, ...(recipe.streams !== undefined && { sse: 501 }) };
  const kinds = ["websocket", "sse", "poll"].filter((name) => refused[name] === undefined);
  const visitors = Array.from({ length: recipe.crowd }, (_, i) => new TRANSPORTS[kinds[i % kinds.length]](site, { channel }));
  t.after(() => visitors.forEach((visitor) => visitor.close()));
  for (const visitor of visitors) visitor.stepsDown = true;
  await Promise.all(visitors.map((visitor) => visitor.open()));

  let slowest = 0;
  const page = async () => {
    const began = performance.now();
    for (let tries = 1; ; tries += 1) {
      const answered = site.ordinaryPage(PAGE_DEADLINE_MS);
      if (tries === PAGE_TRIES) await answered;
      if (await answered.then(() => true, () => false)) break;
    }
    slowest = Math.max(slowest, performance.now() - began);
  };
  const told = [];
  const publish = async (text) => {
    await site.publish(channel, text);
    told.push(text);
  };
  const all = async () => {
    await Promise.all(visitors.map((visitor) => visitor.has(told.length, CROWD_DEADLINE_MS)));
    for (const visitor of visitors) assert.deepEqual(visitor.received, told);
  };

  await t.test(`an ordinary page answers beside ${recipe.crowd} who wait`, async (t) => {
    for (let i = 0; i < 10; i += 1) await page();
    t.diagnostic(`the slowest of 10 took ${slowest.toFixed()} ms; held: ${JSON.stringify((await site.stats()).holds)}`);
  });
  await t.test("all of them get what is published", async () => {
    await publish("to all");
    await all();
  });
  await t.test(`an ordinary page answers across ${RESTARTS} graceful restarts`, async (t) => {
    slowest = 0;
    for (let i = 1; i <= RESTARTS; i += 1) {
      site.front.signal("SIGUSR1");
      await page();
      await publish(`after restart ${i}`);
    }
    t.diagnostic(`the slowest took ${slowest.toFixed()} ms`);
  });
  await t.test("and all of them get everything, once and in order", all);
  for (const visitor of visitors) visitor.close();
  await t.test("the server is rid of all of them", async () => {
    const limit = Math.max(...Object.values(recipe.closed)) * 1000 + SLACK_MS;
    await until("the last to be free", async () => (await site.stats()).holds === 0, limit);
    await page();
  });
}
