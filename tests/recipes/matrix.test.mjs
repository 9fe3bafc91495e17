// Every recipe of deploy/ with every transport, through the real front web server. RECIPES=nginx,caddy: only those.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { test } from "node:test";

import { recipes } from "./recipes.mjs";
import { ClientListener, EventSourceListener, openPage } from "./support/chromium.mjs";
import { ask, webSocket } from "./support/http.mjs";
import { TRANSPORTS } from "./support/listeners.mjs";
import { until } from "./support/processes.mjs";
import { BINARY, Site } from "./support/site.mjs";

/** A name that every careless front server breaks. */
const CHANNEL = "a/b?c d&e%é";

/** Recipes at a time: they wait more than they work. */
const AT_A_TIME = 6;

/** What a busy machine may add to a limit. */
const SLACK_MS = 4_000;

/** The longest that our client waits before it tries again. */
const BACK_OFF_MS = 30_000;

/** Does history survive a restart, as the recipes leave it? */
const DURABLE = !/^durability = "memory"/m.test(execFileSync(BINARY, ["config", "default"], { encoding: "utf8" }));

const chosen = process.env.RECIPES?.split(",");
const selected = recipes.filter((recipe) => chosen === undefined || chosen.includes(recipe.name));

test("recipes", { concurrency: AT_A_TIME }, async (t) => {
  await Promise.all(selected.map((recipe) => t.test(recipe.name, (t) => matrix(t, recipe))));
});

async function matrix(t, recipe) {
  const site = await Site.open(t, recipe);
  if (recipe.streams !== undefined) {
    await t.test(`the bridge finds that small pieces ${recipe.streams ? "arrive" : "do not arrive"}`, async () => {
      const said = await site.probe();
      assert.equal(/"streams":(true|false)/.exec(said)?.[1], String(recipe.streams), said);
    });
  }
  const isRefused = (name) => recipe.refused?.[name] !== undefined || (name === "sse" && recipe.streams === false);
  const names = Object.keys(TRANSPORTS).filter((name) => !isRefused(name));
  const channel = (recipe.prefix ?? "") + CHANNEL;
  const token = site.token({ channels: [channel] });
  // Nothing is published yet: from here on there is all of it, also for whoever may not ask for history.
  const { cursor } = JSON.parse((await ask(site.backend, "GET", "/v1/now")).body);
  // What a visitor shows: a token in the query, which every transport can, or a cookie where PHP looks at that.
  const headers = recipe.signIn ? { Cookie: await site.cookie() } : {};
  const query = { channel, ...(recipe.signIn ? {} : { token }) };
  const listeners = new Map(names.map((name) => [name, new TRANSPORTS[name](site, query, headers)]));
  t.after(() => listeners.forEach((listener) => listener.close()));
  const page = await openPage(t, site);
  if (!isRefused("sse")) listeners.set("Chromium's EventSource", new EventSourceListener(page, site, query));
  const best = ["websocket", "sse", "poll"].filter((name) => !isRefused(name));
  for (const name of best) listeners.set(`our client by ${name}`, new ClientListener(page, site, query, name, [name]));
  const ownClient = new ClientListener(page, site, query, best[0]);
  listeners.set("our client by its own choice", ownClient);
  const told = [];
  const publish = async (...texts) => {
    for (const text of texts) {
      await site.publish(channel, text);
      told.push(text);
    }
  };
  /** All of them have everything, once and in order; the newest message proves that nothing came twice. */
  const all = (t, name, check = () => {}) =>
    t.test(name, async (t) => {
      for (const [transport, listener] of listeners) {
        await t.test(transport, async () => {
          await listener.has(told.length);
          assert.deepEqual(listener.received, told);
          check(listener);
        });
      }
    });

  for (const listener of listeners.values()) await listener.open();
  await publish("1", "2", "3");
  await all(t, "delivers", (listener) => assert.equal(listener.gaps, 0));

  await shut(listeners, () => site.stopFront());
  await publish("4", "5");
  await site.startFront();
  await publish("6");
  await all(t, "resumes after the front server restarts", (listener) => assert.equal(listener.gaps, 0));

  await shut(listeners, () => site.stopComet());
  await site.startComet();
  await publish("7", "8");
  // What was in memory only may be gone, and that is told.
  await all(t, "resumes after our server restarts", (listener) => assert.equal(listener.gaps > 0, !DURABLE));

  // Nobody can be told before the front server is back, and by then the server is another one.
  await t.test("nothing is lost when both restart", { skip: !DURABLE && "history is kept in memory" }, async (t) => {
    await site.stopFront();
    await publish("9", "10");
    await site.stopComet();
    await site.startComet();
    await site.startFront();
    await publish("11");
    await all(t, "resumes", (listener) => assert.equal(listener.gaps, 0));
  });

  await t.test(`our client finds that ${best[0]} is best`, async () => assert.equal(await ownClient.transport(), best[0]));

  await t.test("a closed tab frees everything within its limit", { concurrency: true }, async (t) => {
    const transports = Object.keys(recipe.closed);
    await allHeld(site, transports, listeners);
    await Promise.all([...listeners.values()].map((listener) => listener.close()));
    await Promise.all(transports.map((transport) => t.test(transport, () => isFreed(site, transport))));
  });

  await t.test("curl is enough", () => curl(site, { ...query, cursor }, headers, isRefused("sse") ? ["poll"] : ["poll", "sse"]));
  await t.test("nothing is allowed without authorization", () => authorization(site, channel, token));
  for (const [name, status] of Object.entries(recipe.refused ?? {})) {
    await t.test(`${name} is refused, so that a client knows to step down`, () => refused(site, name, status, { channel, token }));
  }
  if (recipe.client !== false) {
    await t.test("our client can be fetched from the server", async () => {
      const { status, headers } = await site.ask("GET", "/client.js");
      assert.equal(status, 200);
      assert.match(headers["content-type"], /^text\/javascript/);
    });
  }
  await t.test("an ordinary page answers", () => site.ordinaryPage());
}

/**
 * Shuts a door, and settles when everybody has come to it. Who came back while it was being shut and has no answer yet waits
 * before it: a front server may let them wait for as long as it takes, or refuse them in the end.
 */
async function shut(listeners, close) {
  const returns = () => new Map([...listeners].map(([name, listener]) => [name, listener.returns]));
  const before = returns();
  await close();
  const shutAt = returns();
  const hasCome = ([name, { returns, isAsking }]) =>
    returns === Infinity || returns > shutAt.get(name) || (isAsking && returns > before.get(name));
  const missing = () => [...listeners].filter((one) => !hasCome(one)).map(([name]) => name);
  await until(() => `${missing()} to come back`, () => missing().length === 0);
}

/**
 * Settles when the server has each of them, and nobody else.
 *
 * Who has got everything need not be there: our client asks once, without being held, whether it is the path that is at fault,
 * and then waits before it comes back. What somebody who came back left behind is free within the recipe's limit. All transports
 * at one look and before anybody is closed, since those in the browser share a page: with one of them all are gone.
 */
async function allHeld(site, transports, listeners) {
  const all = [...listeners];
  const wanted = transports.map((transport) => [transport, all.filter(([, { counted }]) => counted === transport).length]);
  let there;
  const missed = async () => {
    const states = await Promise.all(all.map(async ([name, listener]) => `  ${name}: ${JSON.stringify(await listener.state())}`));
    const text = wanted.map(([transport, count]) => `${count} ${transport}`);
    return [`${text} to be at the server, which has ${JSON.stringify(there)}:`, ...states].join("\n");
  };
  const look = async () => {
    there = (await site.stats()).connections;
    return wanted.every(([transport, count]) => there[transport] === count);
  };
  await until(missed, look, BACK_OFF_MS + SLACK_MS);
}

/** They went without a word, as tabs that are closed: the server is rid of all of their kind. */
async function isFreed(site, transport) {
  const limit = site.recipe.closed[transport] * 1000 + SLACK_MS;
  let left;
  await until(
    () => `the ${transport} to be free; ${left} left`,
    async () => (left = (await site.stats()).connections[transport]) === 0,
    limit,
  );
}

/** As a person would ask: the first piece that has something in it is waited for. */
async function curl(site, query, headers, calls) {
  const args = Object.entries(query).flatMap(([name, value]) => ["--data-urlencode", `${name}=${value}`]);
  for (const [name, value] of Object.entries(headers)) args.push("-H", `${name}: ${value}`);
  for (const call of calls) {
    const child = spawn("curl", ["-sSN", "-m", "30", "-G", ...args, `${site.origin}${site.base}/v1/${call}`]);
    let said = "";
    child.stderr.on("data", (text) => (said += text));
    for await (const text of child.stdout) {
      said += text;
      if (said.includes('"publication"')) break;
    }
    child.kill();
    assert.match(said, /"type":"publication"/);
  }
}

/** Through the front server nobody may do what their token does not say; nor is it silently done. */
async function authorization(site, channel, token) {
  const name = new URLSearchParams({ channel });
  const { nobody = 401, absent, streams } = site.recipe;
  const bearer = (credential) => ({ Authorization: `Bearer ${credential}` });
  const body = "nobody may say this";
  const cases = [
    [401, "POST", `/v1/publish?${name}`, { body }],
    [403, "POST", `/v1/publish?${name}`, { body, headers: bearer(token) }],
    [401, "POST", `/v1/publish?${name}`, { body, headers: bearer("a-key-that-nobody-has") }],
    [200, "POST", `/v1/publish?${new URLSearchParams({ channel: "elsewhere" })}`, { body, headers: bearer(site.key) }],
    [absent ?? 401, "POST", "/v1/admin/stop", {}],
    [absent ?? 403, "POST", "/v1/admin/stop", { headers: bearer(token) }],
    [absent ?? 403, "POST", "/v1/admin/stop", { headers: bearer(site.key) }],
    [401, "GET", `/v1/history?${name}`, {}],
    [403, "GET", `/v1/history?${name}`, { headers: bearer(token) }],
    [nobody, "GET", `/v1/poll?${name}&wait_ms=0`, {}],
    [streams === false ? 501 : nobody, "GET", `/v1/sse?${name}`, {}],
    [absent ?? 401, "GET", "/v1/stats", {}],
  ];
  for (const [status, method, path, options] of cases) {
    const answer = await site.ask(method, path, options);
    assert.equal(answer.status, status, `${method} ${path} ${JSON.stringify(options.headers ?? {})}: ${answer.body}`);
  }
  const kept = await ask(site.backend, "GET", `/v1/history?${name}&since=earliest`);
  assert.ok(!kept.body.includes(body), "what was refused was published all the same");
}

async function refused(site, transport, status, query) {
  assert.equal(transport, "websocket", "only of WebSocket is it known that a front server drops it");
  const path = `${site.base}/v1/ws?${new URLSearchParams(query)}`;
  const seen = await new Promise((answer) => webSocket(site.where, path, {}, { onText() {}, onEnd() {}, onRefused: answer }));
  assert.equal(seen, status);
}
