/**
 * CometServer in the browser: subscribe to channels over the best transport that the path to the server allows.
 *
 * In reading order: `comet` (what a page uses), `page` and `subscriber` (what it has seen, once and in order), `tabs` (who
 * has the connection), `link` and `ladder` (one connection, the best that works), `transports`, `files`, `door` (asks the
 * server), `problem`, `reading`, `target`, `words`. The wire is docs/protocol.md.
 */

import { makeDoor } from "./door.js";
import { makePage } from "./page.js";
import { CometError, passes, patiently } from "./problem.js";
import { makeSubscriber } from "./subscriber.js";
import { makeTabs } from "./tabs.js";
import { keyOf, targetOf } from "./target.js";
import { random, stored } from "./words.js";

/** How often a publication is tried, under one idempotency key. */
const PUBLISH_TRIES = 6;
/** So many reloads are remembered, and no more happen within a minute. */
const RELOADS = 3;
const RELOADS_MS = 60_000;

/** A server, as a page sees it. */
export class Comet {
  #bus = new EventTarget();
  #ended = new AbortController();
  /** Ids of what this page published and does not want back. */
  #own = new Set();
  /** Where a first subscription to something begins. */
  #first;
  #door;
  #page;
  #tabs;

  constructor(url, options = {}) {
    const { token, cursor, persist } = options;
    const emit = (type, detail) => {
      if (type === "error") console.warn("CometServer:", detail);
      // As with every event, what a listener throws is reported, and harms nobody else.
      this.#bus.dispatchEvent(new CustomEvent(type, { detail }));
    };
    const door = (this.#door = makeDoor(url, token, (token) => this.#tabs._renewed(token), emit));
    const storage = `${persist}Storage`;
    const memory = `cometserver ${door._url} cursor`;
    this.#first = cursor || (persist && stored(storage, memory)) || "now";
    const updated = () => this.#tabs._update();
    const moved = (cursor) => persist && stored(storage, memory, cursor);
    this.#page = makePage(door, this.#own, updated, emit, moved);
    const tabs = (this.#tabs = makeTabs(door, options, this.#page, emit));
    const on = (target, type, listen) => target.addEventListener(type, listen, { signal: this.#ended.signal });
    on(window, "pagehide", tabs._leave);
    on(window, "pageshow", ({ persisted }) => (persisted ? tabs._join() : tabs._wake()));
    on(window, "online", () => tabs._wake(true));
    on(document, "resume", () => tabs._wake());
    on(document, "visibilitychange", () => document.hidden || tabs._wake());
    tabs._join();
  }

  /** `{state, transport, leading, retry_ms}`. */
  get state() {
    return this.#tabs._state();
  }

  /** Where this page stands; opaque. */
  get cursor() {
    return this.#page._cursor;
  }

  on(type, listener) {
    const hear = ({ detail }) => listener(detail);
    this.#bus.addEventListener(type, hear);
    return () => this.#bus.removeEventListener(type, hear);
  }

  subscribe(target, handler, { since, retained = true, presence = "" } = {}) {
    const { _subscribers, _known } = this.#page;
    const key = keyOf(typeof target === "string" ? { channel: target } : target);
    const start = since ?? (_known.has(key) ? "now" : this.#first);
    const subscriber = makeSubscriber(key, handler, start, retained, presence);
    _subscribers.add(subscriber);
    this.#tabs._update();
    const unsubscribe = () => {
      _subscribers.delete(subscriber);
      this.#tabs._update();
    };
    return { ...targetOf(key), unsubscribe };
  }

  async publish(channel, data, { echo, ...fields } = {}) {
    const to = { [Array.isArray(channel) ? "channels" : "channel"]: channel };
    const message = { ...to, data, idempotency_key: random(), ...fields };
    if (echo === false) this.#own.add((message.id ??= random()));
    const headers = { "Content-Type": "application/json" };
    for (let tries = 1; ; tries++) {
      try {
        return await this.#door._json("publish", [], { method: "POST", body: JSON.stringify(message), headers });
      } catch (problem) {
        // What is too large for something in between stays so.
        if (tries >= PUBLISH_TRIES || !passes(problem) || problem.status === 413) throw problem;
        await patiently(problem, tries);
      }
    }
  }

  history(channel, options) {
    return this.#get("history", channel, options);
  }

  presence(channel, options) {
    return this.#get("presence", channel, options);
  }

  /**
   * Loads the page anew, which has lost something; does it? Not again with the same cursor, as a page from a cache has it:
   * then what there is has to do.
   */
  reload() {
    const memory = "cometserver reloads";
    const now = Date.now();
    const cursor = this.#first === "now" ? now : this.#first;
    // Times and cursors, the newest first.
    const done = (stored("sessionStorage", memory) ?? "").split(" ");
    const isDone = done.includes(cursor) || now - done[2 * RELOADS - 2] < RELOADS_MS;
    // Who cannot remember it would do it for ever.
    if (isDone || !stored("sessionStorage", memory, [now, cursor, ...done].slice(0, 2 * RELOADS).join(" "))) return false;
    location.reload();
    return true;
  }

  close() {
    if (this.#ended.signal.aborted) return;
    this.#page._subscribers.clear();
    this.#tabs._leave();
    this.#ended.abort();
    this.#door._close();
    this.#tabs._setState({ state: "closed" });
  }

  #get(path, channel, options = {}) {
    const query = Object.entries(options).map(([name, value]) => [name, value === true ? 1 : value]);
    return this.#door._json(path, [["channel", channel], ...query]);
  }
}

export { CometError };
