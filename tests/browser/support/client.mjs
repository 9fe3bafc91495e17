// Pages that use our client, and what they have received.

import assert from "node:assert/strict";
import { newPage } from "./browser.mjs";
import { Comet } from "./comet.mjs";
import { Site } from "./site.mjs";

const DEADLINE_MS = Number(process.env.COMET_TEST_DEADLINE_MS ?? 30_000);

export const CHANNEL = "a/b?c d&e%é";

/** A server where everybody may do everything in every channel but those under `private/`. */
export const OPEN = `
[public]
listen = ["127.0.0.1:0"]
ops = true

[namespace_default]
public = true
anonymous_publish = true
presence = true
anonymous_presence = true

[[namespaces]]
match = "private/**"
presence = true

[[namespaces]]
match = "plain/**"
public = true
anonymous_publish = true

[[tokens]]
name = "test"
secret = "${"s".repeat(32)}"

[[keys]]
name = "site"
secret = "${"k".repeat(32)}"
actions = ["publish"]
`;
export const SECRET = "s".repeat(32);
export const KEY = "k".repeat(32);

/** A server behind a site, and a page of the site, `options` as for `newPage`. */
export async function openSite(t, { configuration = OPEN, path = "/", ...options } = {}) {
  const comet = await Comet.serve(t, configuration);
  const site = await Site.before(t, comet.origin);
  const page = await newPage(t, options);
  await page.goto(site.origin + path);
  return { comet, site, page };
}

/** Another tab of the same browser profile. */
export async function openTab(page, url = page.url()) {
  const tab = await page.context().newPage();
  await tab.goto(url);
  return tab;
}

/**
 * Makes a `Comet` in the page, with everything it says in `events`, and subscribes: to a channel, or a list of
 * `[target, options]`. What comes is in `received`. Does not wait. `options.url`: where the server is, if not at the site's root.
 */
export function listen(page, subscriptions = CHANNEL, options = {}) {
  const list = Array.isArray(subscriptions) ? subscriptions : [[subscriptions]];
  return page.evaluate(
    async ([list, options]) => {
      const { Comet } = await import("/comet.js");
      globalThis.received = [];
      globalThis.events = [];
      if (options.token === "callback") options.token = () => globalThis.giveToken();
      globalThis.comet = new Comet(options.url ?? location.origin, options);
      for (const type of ["state", "gap", "error", "presence", "subscribed", "blocked"]) {
        globalThis.comet.on(type, (detail) => {
          const { status, code, channel, pattern, offset, message } = detail;
          globalThis.events.push(type === "error" ? { on: type, status, code, channel, pattern, offset, message } : { ...detail, on: type });
        });
      }
      globalThis.subscriptions = list.map(([target, options]) =>
        globalThis.comet.subscribe(target, ({ data }) => globalThis.received.push(data), options),
      );
    },
    [list, options],
  );
}

/** Waits until the page's subscriptions are live, by this transport if one is named. */
export async function live(page, transport) {
  await page.waitForFunction(
    ([transport]) =>
      globalThis.events.filter((event) => event.on === "subscribed").length >= globalThis.subscriptions.length &&
      globalThis.comet.state.state === "live" &&
      (!transport || globalThis.comet.state.transport === transport),
    [transport],
  );
}

/** Waits until so many messages came, and returns all, oldest first. */
export async function received(page, count) {
  await page.waitForFunction((count) => globalThis.received.length >= count, count);
  return page.evaluate(() => globalThis.received);
}

/** Waits until as many came as are expected, and one more at the end proves that none came twice. */
export async function receivedAll(comet, channel, pages, expected) {
  await comet.publish(channel, "the end");
  for (const page of [pages].flat()) {
    await page.waitForFunction(() => globalThis.received.includes("the end"));
    assert.deepEqual(await page.evaluate(() => globalThis.received), [...expected, "the end"]);
  }
}

/** What the page was told of this type. */
export async function events(page, type, count = 0) {
  const of = (type) => globalThis.events.filter((event) => event.on === type);
  if (count) {
    await page.waitForFunction(
      ([type, count]) => globalThis.events.filter((event) => event.on === type).length >= count,
      [type, count],
    );
  }
  return page.evaluate(of, type);
}

/** Asks again and again until the answer is so. */
export async function until(isSo, what) {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await isSo())) assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
}

/** How many connections of each transport the server counts, those between two requests left out. */
export async function held(comet) {
  const text = await (await fetch(`${comet.origin}/metrics`)).text();
  const counted = {};
  for (const [, transport, count] of text.matchAll(/^cometserver_connections\{transport="(\w+)"\} (\d+)$/gm)) {
    if (transport !== "http" && +count) counted[transport] = +count;
  }
  return counted;
}
