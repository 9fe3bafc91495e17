// Listeners in a real browser, with the same face as those of listeners.mjs.

import { fileURLToPath } from "node:url";

import { newPage } from "../../browser/support/browser.mjs";
import { until } from "./processes.mjs";

const CLIENT = fileURLToPath(new URL("../../../clients/js/comet.global.js", import.meta.url));

/** A page of the site's own with nothing on it, in which listeners are started. */
export async function openPage(t, site) {
  const page = await newPage(t);
  if (site.recipe.signIn) await page.goto(site.origin + site.recipe.signIn);
  await page.goto(site.origin + (site.recipe.page ?? "/ordinary.html"));
  await page.addScriptTag({ path: CLIENT });
  await page.evaluate(() => (globalThis.listeners = {}));
  return page;
}

/** What is the same for all of them: `globalThis.listeners` in the page holds what has come. */
class InPage {
  received = [];
  gaps = 0;
  returns = -1;
  /** Since it came back last: a browser that was refused comes again. */
  isAsking = true;
  counted;
  page;
  name;
  #state;

  constructor(page, name, counted) {
    this.page = page;
    this.name = name;
    this.counted = counted;
  }

  async has(count) {
    await until(
      () => `${count} publications in the browser; ${JSON.stringify(this.#state)}`,
      async () => {
        await this.#look();
        if (this.#state.given) throw new Error(`it has given up; ${this.#state.received} came`);
        return this.#state.received.length >= count;
      },
    );
    ({ received: this.received, gaps: this.gaps } = this.#state);
    return this.received;
  }

  async #look() {
    this.#state = await this.page.evaluate((name) => {
      const { received, gaps, given, state, source } = globalThis.listeners[name];
      return { received, gaps, given, state, readyState: source?.readyState };
    }, this.name);
  }

  /** Where it stands, for whoever reads a failure. */
  async state() {
    if (this.page.isClosed()) return "its page is closed";
    await this.#look();
    const { received, ...state } = this.#state;
    return { received: received.length, returns: this.returns, ...state };
  }

  /** The tab is gone, and with it every other listener in it. */
  async close() {
    await this.page.close();
  }
}

/** The browser's own EventSource: whoever ends it for ever, by an answer that is no stream, has broken the recipe. */
export class EventSourceListener extends InPage {
  constructor(page, site, query) {
    super(page, `${site.base}/v1/sse?${new URLSearchParams(query)}`, "sse");
    page.on("request", (request) => {
      if (request.url() === site.origin + this.name) this.returns += 1;
    });
  }

  async open() {
    await this.page.evaluate((path) => {
      const state = (globalThis.listeners[path] = { received: [], gaps: 0, given: false });
      const source = (state.source = new EventSource(path));
      source.onmessage = (event) => {
        const object = JSON.parse(event.data);
        if (object.type === "publication") state.received.push(object.data);
        if (object.type === "gap") state.gaps += 1;
      };
      source.onerror = () => (state.given ||= source.readyState === EventSource.CLOSED);
      return new Promise((opened, failed) => {
        source.onopen = () => opened();
        source.addEventListener("error", () => failed(new Error("the EventSource does not open")));
      });
    }, this.name);
    return this;
  }
}

/** Our own client, with one transport or with all of them. */
export class ClientListener extends InPage {
  #site;
  #query;
  #transports;

  /** `transports`: which it may use; all, if not said, of which it is expected to take `counted`. */
  constructor(page, site, { channel, token }, counted, transports) {
    super(page, `client ${transports ?? "of its choice"}`, counted);
    this.#site = site;
    this.#query = { channel, token };
    this.#transports = transports;
    // It comes back when it thinks best: nobody waits for that.
    this.returns = Infinity;
  }

  async open() {
    await this.page.evaluate(
      ([name, base, { channel, token }, transports]) => {
        const state = (globalThis.listeners[name] = { received: [], gaps: 0, given: false });
        const client = (state.client = new Comet(base, { token, transports, share: false }));
        client.subscribe(channel, ({ data }) => state.received.push(data), { retained: false });
        client.on("gap", () => (state.gaps += 1));
        return new Promise((opened) =>
          client.on("state", (now) => {
            state.state = now;
            if (now.state === "live") opened();
          }),
        );
      },
      [this.name, this.#site.base, this.#query, this.#transports],
    );
    return this;
  }

  /** The transport that it has come to. */
  transport() {
    return this.page.evaluate((name) => globalThis.listeners[name].client.state.transport, this.name);
  }
}
