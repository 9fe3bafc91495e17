// Listeners in a real browser, with the same face as those of listeners.mjs.

import { newPage } from "../../browser/support/browser.mjs";
import { until } from "./processes.mjs";

/** A page of the site's own with nothing on it, in which listeners are started. */
export async function openPage(t, site) {
  const page = await newPage(t);
  if (site.recipe.signIn) await page.goto(site.origin + site.recipe.signIn);
  await page.goto(site.origin + (site.recipe.page ?? "/ordinary.html"));
  await page.evaluate(() => (globalThis.listeners = {}));
  return page;
}

/** The browser's own EventSource: whoever ends it for ever, by an answer that is no stream, has broken the recipe. */
export class EventSourceListener {
  received = [];
  gaps = 0;
  returns = -1;
  counted = "sse";
  #page;
  #path;
  #state = { received: [], gaps: 0, opened: 0, fatal: false };

  constructor(page, site, query) {
    this.#page = page;
    this.#path = `${site.base}/v1/sse?${new URLSearchParams(query)}`;
    page.on("request", (request) => {
      if (request.url() === site.origin + this.#path) this.returns += 1;
    });
  }

  async open() {
    await this.#page.evaluate((path) => {
      const state = (globalThis.listeners[path] = { received: [], gaps: 0, fatal: false });
      state.source = new EventSource(path);
      state.source.onmessage = (event) => {
        const object = JSON.parse(event.data);
        if (object.type === "publication") state.received.push(object.data);
        if (object.type === "gap") state.gaps += 1;
      };
      state.source.onerror = () => (state.fatal ||= state.source.readyState === EventSource.CLOSED);
      return new Promise((opened, failed) => {
        state.source.onopen = () => opened();
        state.source.addEventListener("error", () => failed(new Error("the EventSource does not open")));
      });
    }, this.#path);
    return this;
  }

  async has(count) {
    await until(
      () => `${count} publications in the browser; ${JSON.stringify(this.#state)}`,
      async () => {
        this.#state = await this.#page.evaluate((path) => {
          const { received, gaps, fatal } = globalThis.listeners[path];
          return { received, gaps, fatal };
        }, this.#path);
        if (this.#state.fatal) throw new Error(`the EventSource has given up; ${this.#state.received} came`);
        return this.#state.received.length >= count;
      },
    );
    ({ received: this.received, gaps: this.gaps } = this.#state);
    return this.received;
  }

  /** The tab is gone. */
  async close() {
    await this.#page.close();
  }
}
