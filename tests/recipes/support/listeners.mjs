// Clients of the four transports as docs/protocol.md describes them: they resume from their cursor for as long as they are open.

import { ask, stream, webSocket } from "./http.mjs";
import { until } from "./processes.mjs";

/** When who was cut off without a word comes back. */
const AGAIN_MS = 100;
/** No poll is held so long: one that is not answered by then is lost in a web server on the way. */
const PATIENCE_MS = 30_000;
/** How often an interval poll asks. */
const INTERVAL_MS = 150;

/** What all have in common: what came, and where they stand. */
class Listener {
  /** The `data` of the publications that came, in order. */
  received = [];
  /** How often it was told of a gap. */
  gaps = 0;
  /** How often it had to begin anew. */
  returns = -1;
  /** It has come, and was not sent away yet. */
  isAsking = false;
  /** Why each connection ended. */
  ends = [];
  cursor = null;
  closed = false;
  /** As what the server counts it while it is held. */
  counted;
  /** Whoever finds no place polls before they wait for one, as our own client does. */
  stepsDown = false;
  #end = () => {};

  /** `site`: where; `query`: what to listen to, as URLSearchParams takes it; `headers`: what the visitor shows. */
  constructor(site, query, headers = {}) {
    this.site = site;
    this.query = query;
    this.headers = headers;
  }

  path(transport, more = {}) {
    return `${this.site.base}/v1/${transport}?${new URLSearchParams({ ...this.query, ...more })}`;
  }

  /** Starts, and settles when it knows where it stands. */
  async open() {
    this.run();
    await until(() => `a listener to open; ${this.ends.slice(-3)}`, () => this.cursor !== null);
    return this;
  }

  run() {
    if (this.closed) return;
    this.returns += 1;
    this.isAsking = true;
    this.#end = this.connect(async (why, after = AGAIN_MS) => {
      this.isAsking = false;
      this.ends.push(why);
      if (this.stepsDown && this.cursor !== null) await this.#poll();
      setTimeout(() => this.run(), after);
    });
  }

  /** What there is, without being held. */
  async #poll() {
    const path = this.path("poll", { cursor: this.cursor, wait_ms: "0" });
    const answer = await ask(this.site.where, "GET", path, { headers: this.headers }).catch(() => null);
    const said = answer?.status === 200 ? whole(answer.body) : null;
    for (const object of said?.publications ?? []) this.take(object, said.cursor);
  }

  take(object, cursor) {
    if (object.type === "publication") this.received.push(object.data);
    if (object.type === "gap") this.gaps += 1;
    if (cursor) this.cursor = cursor;
  }

  /** Settles when so many publications have come. */
  async has(count, deadline) {
    const came = () => `${count} publications; ${this.received} came; ${this.ends.slice(-5)}`;
    await until(came, () => this.received.length >= count, deadline);
    return this.received;
  }

  /** Where it stands, for whoever reads a failure. */
  state() {
    const { received, gaps, returns, ends, closed } = this;
    return { received: received.length, gaps, returns, closed, ends: ends.slice(-5) };
  }

  /** As a tab that is closed: without a word. */
  close() {
    this.closed = true;
    this.#end();
  }
}

class WebSocketListener extends Listener {
  counted = "websocket";
  connect(again) {
    const from = this.cursor === null ? {} : { cursor: this.cursor };
    let after;
    return webSocket(this.site.where, this.path("ws", from), this.headers, {
      onText: (text) => {
        const object = JSON.parse(text);
        this.take(object, object.cursor);
        if (object.type === "reconnect") after = object.after_ms;
      },
      onEnd: (why) => again(why, after),
    });
  }
}

class SseListener extends Listener {
  counted = "sse";
  #retry = AGAIN_MS;

  connect(again) {
    let text = "";
    const from = this.cursor === null ? {} : { "Last-Event-ID": this.cursor };
    return stream(this.site.where, this.path("sse"), { Accept: "text/event-stream", ...this.headers, ...from }, {
      onOpen: (response) => {
        // What an EventSource would do: give up for ever.
        if (response.statusCode !== 200) this.ends.push(`fatal: ${response.statusCode}`);
      },
      onData: (chunk) => {
        text += chunk;
        for (let at; (at = text.indexOf("\n\n")) >= 0; text = text.slice(at + 2)) this.#block(text.slice(0, at));
      },
      onEnd: (why) => again(why, this.#retry),
    });
  }

  #block(block) {
    const fields = block.split("\n").map((line) => line.split(/: ?(.*)/s));
    const of = (name) => fields.filter(([own]) => own === name).map(([, value]) => value);
    const id = of("id").at(-1);
    if (of("retry").length > 0) this.#retry = Number(of("retry").at(-1));
    const data = of("data");
    this.take(data.length > 0 ? JSON.parse(data.join("\n")) : { type: "cursor" }, id);
  }
}

/** What a whole answer says. */
function whole(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** A poll that is held; who finds no place asks at once and waits as long as it was told. */
class PollListener extends Listener {
  counted = "poll";
  #held = true;

  connect(again) {
    const at = this.cursor === null ? {} : { cursor: this.cursor };
    const wait = this.cursor === null || !this.#held ? { wait_ms: "0" } : {};
    let text = "";
    let status;
    const late = setTimeout(() => close("no answer"), PATIENCE_MS);
    const close = stream(this.site.where, this.path("poll", { ...at, ...wait }), this.headers, {
      onOpen: (response) => (status = response.statusCode),
      onData: (chunk) => (text += chunk),
      onEnd: (why) => {
        clearTimeout(late);
        if (status === 304) return again("nothing new", this.pause());
        if (status !== 200 || why !== "ended") return again(`${why} ${status}`);
        const answer = whole(text);
        // PHP's own server says no length: an answer that was cut looks like one that has ended.
        if (answer === null) return again("cut");
        for (const object of answer.publications) this.take(object);
        this.cursor = answer.cursor;
        this.#held = this.holds() && answer.retry_ms === undefined;
        // No place: what there is without one, then a pause.
        again("answered", answer.retry_ms !== undefined && wait.wait_ms ? answer.retry_ms : this.pause());
      },
    });
    return () => {
      clearTimeout(late);
      close();
    };
  }

  holds() {
    return true;
  }

  pause() {
    return 0;
  }
}

/** Asks now and then, and is answered at once. */
class IntervalListener extends PollListener {
  counted = null;
  holds() {
    return false;
  }

  pause() {
    return INTERVAL_MS;
  }
}

export const TRANSPORTS = {
  websocket: WebSocketListener,
  sse: SseListener,
  poll: PollListener,
  interval: IntervalListener,
};
