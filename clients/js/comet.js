/**
 * CometServer in the browser: subscribe to channels over the best transport that the path to the server allows.
 *
 * Nothing to install, nothing to build. In reading order: times, small words, `Door` (asks the server), `Link` (one
 * connection and its ladder of transports), `Subscription`, `Comet` (what a page uses; shares one link between tabs).
 * The wire is docs/protocol.md.
 */

/** The transports, best first. */
const LADDER = ["websocket", "sse", "poll", "interval"];
/** How long the first bytes of a stream may take; then a plain request tells a slow path from one that holds bytes back. */
const PATIENCE_MS = 4_000;
/** A stream is asked for a second sign of life after this: a path may pass the first bytes with the head and keep the rest. */
const PREAMBLE_MS = 1_000;
/** A connection that lived this long was healthy. */
const HEALTHY_MS = 10_000;
/** So many unhealthy ones in a row, and another transport may do better. */
const YOUNG_DEATHS = 3;
/** Without a byte for so long (the server's heartbeat comes every 25 s) a connection is dead. */
const SILENT_MS = 70_000;
/** How long a poll asks to be held: under the 30 s after which many proxies give up. */
const HOLD_MS = 25_000;
/** How long a plain request may take. */
const ANSWER_MS = 15_000;
/** The pause between polls that are not held; shorter right after one that brought something. */
const INTERVAL_MS = 5_000;
const INTERVAL_BUSY_MS = 1_000;
/** The first wait after a loss and the longest one. The wait is any part of it (full jitter), and it doubles. */
const BACKOFF_MS = 500;
const BACKOFF_MAX_MS = 30_000;
/** After a refusal, which a new try alone will hardly change. */
const REFUSED_MS = 60_000;
const REFUSED_MAX_MS = 600_000;
/** When a better transport is tried again, doubling up to how long a network's transport is remembered. */
const CLIMB_MS = 300_000;
const REMEMBER_MS = 3_600_000;
/** How often a publication is tried, under one idempotency key. */
const PUBLISH_TRIES = 6;
/** How often a tab tells what it wants, after which silence it is forgotten, and how soon it wants an answer. */
const TAB_MS = 30_000;
const TAB_GONE_MS = 150_000;
const LEADER_MS = 5_000;
/** Without Web Locks: after such a silence a tab leads. */
const ELECTION_MS = 250;
/** Of how many channels of a pattern the newest offset is remembered. */
const SEEN = 1_000;
/** The longest that a browser's timer can wait. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** A name that nobody can guess. */
const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
const sleep = (ms) => new Promise((over) => setTimeout(over, ms));
const jittered = (base, max, times) => Math.random() * Math.min(max, base * 2 ** times);

/** What an answer that is not a success says: a problem document, or only a status from something in between. */
export class CometError extends Error {
  constructor({ status, code, detail, message, retry_ms }) {
    super(detail ?? message ?? `the server answered ${status}`);
    this.name = "CometError";
    this.status = status;
    this.code = code;
    this.retry_ms = retry_ms;
  }

  static async of(response) {
    const said = await response.json().catch(() => ({}));
    const after = parseFloat(response.headers.get("Retry-After"));
    return new CometError({ ...said, status: response.status, retry_ms: after >= 0 ? after * 1000 : undefined });
  }
}

/** Trying the same again later can help. */
const passes = ({ status }) => !(status < 500) || [408, 425, 429].includes(status);

/** The claims of a token, to be compared only: neither is its signature checked nor are its letters decoded. */
function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
}

/** A storage may be full, forbidden or absent: then nothing is remembered. */
function stored(storage, key, value) {
  try {
    if (value === undefined) return window[storage].getItem(key);
    if (value === null) window[storage].removeItem(key);
    else window[storage].setItem(key, value);
  } catch {
    // As if it were empty.
  }
  return null;
}

/** A pattern as a regular expression: `*` any run without `/`, `**` any run, `\` takes the next character literally. */
function matcher(pattern) {
  const source = pattern.replace(/\\([^])|(\*\*+)|(\*)|[^]/g, (one, literal, any, segment) =>
    any ? "[^]*" : segment ? "[^/]*" : (literal ?? one).replace(/[^\w]/, "\\$&"),
  );
  return new RegExp(`^${source}$`);
}

/** What is listened to, as one string: `c:` and a channel, or `p:` and a pattern. */
const keyOf = ({ channel, pattern }) => (pattern === undefined ? "c:" + channel : "p:" + pattern);
const targetOf = (key) => ({ [key[0] === "c" ? "channel" : "pattern"]: key.slice(2) });
/** Query parameters that listen to all of a map from key to kind of presence. */
const listening = (wanted) =>
  [...wanted].map(([key, presence]) => [key[0] === "p" ? "pattern" : presence || "channel", key.slice(2)]);

/** Asks the server, with a token that is renewed in time. */
class Door {
  #url;
  #source;
  #token;
  #asking;
  #renewAt = Infinity;
  #timer;
  #renewed;

  /** `renewed(token)` is called when the page's callback gave another token than before. */
  constructor(url, source, renewed) {
    // `?` in it: the path goes where the address ends, for a script that takes it as a parameter.
    this.#url = new URL(url, location.href).href.replace(/\/$/, "");
    this.#source = source;
    this.#renewed = renewed;
  }

  get url() {
    return this.#url;
  }

  address(path, query) {
    return `${this.#url}/v1/${path}${this.#url.includes("?") ? "&" : "?"}${new URLSearchParams(query)}`;
  }

  /** The token to show. One that was `refused`, or ends soon, is replaced by the page's callback, if it has one. */
  async token(refused) {
    if (typeof this.#source !== "function") return this.#source;
    if (this.#token === undefined || this.#token === refused || Date.now() >= this.#renewAt) {
      this.#asking ??= this.#renew().finally(() => (this.#asking = undefined));
      await this.#asking.catch((error) => {
        // One that is about to end is better than none.
        if (this.#token === undefined || this.#token === refused) throw error;
      });
    }
    return this.#token;
  }

  async #renew() {
    const old = this.#token;
    this.#token = (await this.#source()) ?? "";
    const { exp, iat = Date.now() / 1000 } = claims(this.#token);
    // By the token's own length of life where it tells, since this clock may be wrong; then only a refusal renews it.
    const life = (exp - iat) * 1000;
    clearTimeout(this.#timer);
    this.#renewAt = Infinity;
    if (life > 0) {
      const wait = Math.min(life - Math.min(life / 4, 60_000), TIMER_MAX_MS);
      this.#renewAt = Date.now() + wait;
      this.#timer = setTimeout(() => {
        this.#renewAt = 0;
        this.token().catch(() => {});
      }, wait);
    }
    if (old !== undefined && old !== this.#token) this.#renewed(this.#token);
  }

  /** The response, if it is a success. A refused token is renewed once. Throws `CometError`, or what `fetch` throws. */
  async ask(path, query, init = {}) {
    for (let refused; ; ) {
      const token = await this.token(refused);
      const headers = { ...init.headers, ...(token && { Authorization: `Bearer ${token}` }) };
      const response = await fetch(this.address(path, query), { cache: "no-store", ...init, headers });
      if (response.ok) return response;
      const problem = await CometError.of(response);
      const renewable = (problem.status === 401 || problem.status === 403) && !init.asIs;
      if (!renewable || refused !== undefined || (await this.token(token)) === token) throw problem;
      refused = token;
    }
  }

  /** The answer of a plain request, which may not take for ever. */
  async json(path, query, init) {
    const abort = new AbortController();
    const late = setTimeout(() => abort.abort(), ANSWER_MS);
    try {
      return await (await this.ask(path, query, { signal: abort.signal, ...init })).json();
    } finally {
      clearTimeout(late);
    }
  }

  close() {
    clearTimeout(this.#timer);
    this.#source = this.#token;
  }
}

/**
 * One way to the server at a time, and the cursor that outlives each of them.
 *
 * `hear` is told: `objects(list, cursor)`, `live()`, `refused(key, problem)`, `failed(problem)`, `state(state, more)`.
 */
class Link {
  /** Where this link stands in all that it listens to; at first where it begins. */
  cursor;
  /** What the connection listens to now: key to kind of presence. */
  live = new Map();
  session = random();
  #door;
  #options;
  #hear;
  #ladder;
  #rung;
  #retained = false;
  #wanted = new Map();
  #asked = new Map();
  #abort = new AbortController();
  #running = false;
  #closed = false;
  #reopening = false;
  #wakeUp = () => {};
  #imposed = false;
  #watcher;
  #climber;
  #climbMs = CLIMB_MS;
  #patience = PATIENCE_MS;
  #worked = new Set();
  #doubted = false;
  #losses = 0;
  #refusals = 0;
  #deaths = 0;
  #turnedAway = 0;
  // Of the present connection:
  #say;
  #signs = 0;
  #lastSign = 0;
  #opened = false;
  #proved = false;
  #after;
  #retry;

  constructor(door, options, hear) {
    this.#door = door;
    this.#options = options;
    this.#hear = hear;
    this.#ladder = options.transports ?? LADDER;
    this.#recall();
  }

  get transport() {
    return this.#ladder[this.#rung];
  }

  /** Where it begins, before it wants anything. */
  begin(cursor, retained) {
    this.cursor = cursor;
    this.#retained = retained;
  }

  /** Listens to this from now on: a map from key to kind of presence. */
  want(wanted) {
    this.#wanted = wanted;
    if (!this.#running) this.#run();
    const differs = (one, other) => [...one].filter(([key, presence]) => other.get(key) !== presence);
    const added = differs(wanted, this.#asked);
    const removed = differs(this.#asked, wanted);
    if (!added.length && !removed.length) return;
    // Commands are for the plain case. Who comes or goes as a member does so with a new connection.
    const isPlain = added.every(([key, presence]) => !presence && !this.#asked.has(key));
    if (!this.#say || !this.#opened || !wanted.size || !isPlain) return this.#reopen();
    this.#asked = new Map(wanted);
    for (const [key] of removed) this.live.delete(key);
    const command = (type, list, more) => {
      const names = (kind) => list.filter(([key]) => key[0] === kind).map(([key]) => key.slice(2));
      if (list.length) this.#say({ type, id: type, channels: names("c"), patterns: names("p"), ...more });
    };
    command("unsubscribe", removed);
    // What came before is fetched by whoever wants it: others have it already.
    command("subscribe", added, { since: "now", retained: false });
  }

  /** The network may be another one, or the page was asleep: what waits tries now, what may be dead is replaced. */
  wake(online) {
    if (online) this.#recall();
    if (online || (this.#opened && Date.now() - this.#lastSign > HOLD_MS * 2)) this.#reopen();
    else if (!this.#imposed) this.#wakeUp();
  }

  /** There is another token. */
  authorize(token) {
    if (this.#say && this.#opened) this.#say({ type: "authorize", id: "authorize", token });
    else if (this.#refusals) this.#wakeUp();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#climber);
    this.#abort.abort();
    this.#wakeUp();
    // Some paths never tell the server that a silent poll was given up: the next of its session ends it.
    if (this.#opened && this.transport === "poll") {
      const query = this.#query(this.#asked, [["wait_ms", 0], ["limit", 1]]);
      this.#door.ask("poll", query, { keepalive: true, asIs: true }).catch(() => {});
    }
  }

  async #run() {
    this.#running = true;
    while (!this.#closed) {
      this.#reopening = false;
      if (this.#wanted.size) {
        const wait = await this.#connect();
        if (!wait || this.#reopening || this.#closed) continue;
        this.#tell("waiting", { retry_ms: Math.round(wait) });
        await this.#rest(wait);
      } else {
        this.#asked = new Map();
        this.#tell("idle");
        await this.#rest(TIMER_MAX_MS);
      }
      this.#imposed = false;
    }
  }

  #tell(state, more) {
    this.#hear.state({ state, transport: this.transport, ...more });
  }

  #rest(ms) {
    return new Promise((over) => {
      const timer = setTimeout(over, ms);
      this.#wakeUp = () => {
        clearTimeout(timer);
        over();
      };
    });
  }

  #reopen() {
    // The server asked to be left alone: what is wanted then is asked for then.
    if (this.#imposed) return;
    this.#reopening = true;
    this.#abort.abort();
    this.#wakeUp();
  }

  /** Connects, stays as long as it lasts, and returns how long to wait before the next time. */
  async #connect() {
    const transport = this.transport;
    const began = Date.now();
    let problem = {};
    this.#asked = new Map(this.#wanted);
    this.live = new Map();
    this.#opened = this.#proved = false;
    this.#signs = 0;
    this.#after = this.#retry = undefined;
    this.#abort = new AbortController();
    this.#tell("connecting");
    try {
      this.#watch(this.#patience);
      await this[transport](this.#abort.signal);
    } catch (error) {
      problem = error;
    }
    this.#watch();
    this.#say = undefined;
    if (this.#closed || this.#reopening) return 0;
    if (problem.status && (problem.status < 500 || problem.retry_ms !== undefined)) return this.#refused(problem);

    const old = Date.now() - began > HEALTHY_MS;
    if (old && this.#proved) this.#losses = this.#deaths = 0;
    // A front server that answers for one that is away says no more than when to come back.
    if (!this.#opened) this.#after ??= this.#retry;
    if (this.#after !== undefined && (this.#opened || !this.#turnedAway++)) return this.#impose(this.#after);
    if (this.#after === undefined && this.#proved && (old || ++this.#deaths < YOUNG_DEATHS)) return this.#backOff();
    return this.#suspect(transport, this.#proved, this.#after);
  }

  /** Is it this transport, or the whole path? A plain request tells, and brings what is new. */
  async #suspect(transport, proved, after) {
    if (transport === "interval") return this.#backOff();
    const asked = Date.now();
    try {
      this.#watch(ANSWER_MS);
      const { retry_ms } = await this.#turn(0, (this.#abort = new AbortController()).signal);
      if (retry_ms) return this.#impose(retry_ms);
    } catch (problem) {
      if (this.#closed || this.#reopening) return 0;
      return problem.status ? this.#refused(problem) : this.#backOff();
    } finally {
      this.#watch();
    }
    const slow = (Date.now() - asked) * 2 > this.#patience && this.#patience < BACKOFF_MAX_MS;
    // Neither one that has no room nor one that never lasts gets another chance; what was too slow gets more time.
    if (after === undefined && !proved) {
      if (slow) {
        this.#patience *= 2;
        return 0;
      }
      if (this.#worked.has(transport) && !this.#doubted) {
        this.#doubted = true;
        return 0;
      }
    }
    this.#deaths = this.#turnedAway = 0;
    return this.#stepDown() ? after && this.#impose(after) : this.#backOff();
  }

  #stepDown() {
    this.#doubted = false;
    if (this.#rung + 1 >= this.#ladder.length) return false;
    this.#rung++;
    this.#climb();
    return true;
  }

  #climb() {
    clearTimeout(this.#climber);
    this.#climber = setTimeout(() => {
      this.#rung = 0;
      this.#reopen();
    }, this.#climbMs);
    this.#climbMs = Math.min(this.#climbMs * 2, REMEMBER_MS);
  }

  /** Where what is known of a network is kept. Browsers tell little of which network it is; some tell its kind. */
  get #memory() {
    return `cometserver ${this.#door.url} ${navigator.connection?.type ?? ""}`;
  }

  #recall() {
    const [transport, until] = (stored("localStorage", this.#memory) ?? "").split(" ");
    this.#rung = Math.max(0, Date.now() < until ? this.#ladder.indexOf(transport) : 0);
    clearTimeout(this.#climber);
    if (this.#rung) this.#climb();
  }

  #remember() {
    if (this.#ladder.length < 2) return;
    if (!this.#rung) this.#climbMs = CLIMB_MS;
    stored("localStorage", this.#memory, this.#rung ? `${this.transport} ${Date.now() + REMEMBER_MS}` : null);
  }

  #backOff() {
    return 1 + jittered(this.#retry ?? BACKOFF_MS, BACKOFF_MAX_MS, this.#losses++);
  }

  /** The server's own delay: nothing shortens it. */
  #impose(ms) {
    this.#imposed = true;
    return ms + 1;
  }

  /** The server said no. Waiting may help; one channel may be at fault; else it is a matter for the page. */
  async #refused(problem) {
    if (problem.code === "bad_cursor" && this.cursor !== "earliest") {
      this.cursor = "earliest";
      this.#hear.objects([...this.#asked.keys()].map((key) => ({ type: "gap", ...targetOf(key) })));
      return 0;
    }
    if ([404, 405, 501].includes(problem.status) && this.#stepDown()) return 0;
    if (passes(problem)) return problem.retry_ms === undefined ? this.#backOff() : this.#impose(problem.retry_ms);
    // What is wrong with a token is wrong for all channels; without one some are public and some are not.
    const isGeneral = problem.status === 401 && (await this.#door.token().catch(() => "none"));
    if (!isGeneral && (await this.#dropRefused())) return 0;
    this.#hear.failed(problem);
    return REFUSED_MS + jittered(REFUSED_MS, REFUSED_MAX_MS, this.#refusals++);
  }

  /** Finds out which channels or patterns are refused, and goes on without them. */
  async #dropRefused() {
    const bad = [];
    for (const one of this.#asked) {
      const query = this.#query(new Map([one]), [["wait_ms", 0], ["limit", 1]]);
      await this.#door.json("poll", query, { asIs: true }).catch((own) => passes(own) || bad.push([one[0], own]));
    }
    for (const [key, own] of bad) {
      this.#wanted.delete(key);
      this.#hear.refused(key, own);
    }
    return bad.length;
  }

  #query(asked, more = []) {
    const { info } = this.#options;
    const query = [...listening(asked), ["session", this.session], ["cursor", this.cursor], ...more];
    if (!this.#retained) query.push(["retained", 0]);
    if (info !== undefined) query.push(["info", JSON.stringify(info)]);
    return query;
  }

  /** Gives up the connection if there is no sign of life within this time. */
  #watch(ms) {
    clearTimeout(this.#watcher);
    if (ms) this.#watcher = setTimeout(() => this.#abort.abort(), ms);
  }

  /** Something came over the connection. `enough` such signs prove that it passes things on as they come. */
  #sign(enough) {
    this.#lastSign = Date.now();
    if (++this.#signs >= enough) {
      if (!this.#proved) {
        this.#proved = true;
        this.#worked.add(this.transport);
        this.#doubted = false;
        this.#turnedAway = this.#refusals = 0;
        this.#remember();
      }
      this.#watch(SILENT_MS);
    } else this.#watch(PREAMBLE_MS + this.#patience);
  }

  /** Where it stands is known: what it asked for is live. */
  #open(cursor) {
    if (cursor) this.cursor = cursor;
    if (this.#opened || !cursor) return;
    this.#opened = true;
    this.live = new Map(this.#asked);
    this.#hear.live();
    this.#tell("live");
  }

  /** One object of a stream or WebSocket. */
  #received(object, cursor) {
    const { type, id } = object;
    if (type === "reconnect") {
      this.#after = object.after_ms;
      if (cursor) this.cursor = cursor;
      this.#abort.abort();
    } else if (type === "subscribed") {
      const key = keyOf(object);
      if (this.#asked.has(key)) this.live.set(key, this.#asked.get(key));
      this.#open(cursor);
      this.#hear.live();
    } else if (type === "error") {
      // A command was refused: a new connection finds out whose fault it is.
      if (id) this.#reopen();
    } else if (!["unsubscribed", "authorized", "pong"].includes(type)) {
      this.#hear.objects(type === "cursor" ? [] : [object], cursor);
      this.#open(cursor);
    }
  }

  // The transports. Each settles when its connection has ended, or throws.

  async websocket(signal) {
    const token = await this.#door.token();
    if (signal.aborted) return;
    const query = this.#query(this.#asked, token ? [["token", token]] : []);
    const socket = new WebSocket(this.#door.address("ws", query).replace(/^http/, "ws"));
    this.#say = (command) => socket.send(JSON.stringify(command));
    await new Promise((over) => {
      socket.onclose = over;
      socket.onmessage = ({ data }) => {
        const object = JSON.parse(data);
        // Who is only sent away has not been let in.
        if (object.type !== "reconnect") this.#sign(1);
        this.#received(object, object.cursor);
      };
      signal.onabort = () => {
        socket.onmessage = null;
        socket.close();
        over();
      };
    });
  }

  async sse(signal) {
    const query = this.#query(this.#asked, [["preamble_ms", PREAMBLE_MS]]);
    const response = await this.#door.ask("sse", query, { signal });
    const reader = response.body.getReader();
    const utf8 = new TextDecoder();
    let [rest, data, id] = ["", "", ""];
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      const lines = (rest + utf8.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      let blocks = 0;
      for (const line of lines) {
        const [, field, text] = /^(\w*):? ?([^]*)/.exec(line);
        if (field === "data") data += text;
        if (field === "id") id = text;
        if (field === "retry") this.#retry = +text;
        if (line) continue;
        if (data || id) {
          blocks++;
          this.#received(data ? JSON.parse(data) : { type: "cursor" }, id);
          if (signal.aborted) return;
        }
        data = id = "";
      }
      if (blocks) this.#sign(2);
    }
  }

  async poll(signal) {
    // The first is not held: its answer shows that listening works.
    for (let wait = 0; ; wait = HOLD_MS) {
      this.#watch(wait + ANSWER_MS);
      const { retry_ms } = await this.#turn(wait, signal);
      if (wait) this.#sign(1);
      if (retry_ms) {
        this.#after = retry_ms;
        return;
      }
    }
  }

  async interval(signal) {
    const { interval = INTERVAL_MS } = this.#options;
    signal.onabort = () => this.#wakeUp();
    for (;;) {
      this.#watch(ANSWER_MS);
      const { retry_ms = 0, publications } = await this.#turn(0, signal);
      this.#sign(1);
      this.#watch();
      const pause = publications.length ? Math.min(interval, INTERVAL_BUSY_MS) : interval;
      this.#imposed = retry_ms > 0;
      await this.#rest(Math.max(retry_ms, pause * (0.8 + Math.random() * 0.4)));
      this.#imposed = false;
      if (signal.aborted) return;
    }
  }

  /** One poll. */
  async #turn(wait, signal) {
    const query = this.#query(this.#asked, [["wait_ms", wait]]);
    const answer = await (await this.#door.ask("poll", query, { signal })).json();
    if (signal.aborted) return answer;
    this.#lastSign = Date.now();
    this.#hear.objects(answer.publications, answer.cursor);
    this.#open(answer.cursor);
    return answer;
  }
}

/** One handler on one channel or pattern. */
class Subscriber {
  key;
  presence;
  /** Where it begins, or has to go on: a cursor, `now` or `earliest`. */
  start;
  retained;
  /** It has everything up to where the link stands. Until then what the link brings waits in `queue`. */
  ready = false;
  queue = [];
  /** The catch-up that is under way. */
  run;
  announced = false;
  #handler;
  #matcher;
  /** Channel to the newest offset and time that were shown. */
  #seen = new Map();

  constructor(key, handler, start, retained, presence) {
    this.key = key;
    this.start = start;
    this.retained = retained;
    this.presence = presence;
    this.#handler = handler;
    if (key[0] === "p") this.#matcher = matcher(key.slice(2));
  }

  matches(object) {
    if (object.type === "gap") return keyOf(object) === this.key || (this.#matcher?.test(object.channel) ?? false);
    return this.#matcher ? this.#matcher.test(object.channel) : "c:" + object.channel === this.key;
  }

  /** Shows a publication, unless it was shown before: paths may overlap where one takes over from another. */
  show(publication) {
    const { channel, offset, time } = publication;
    const [newest, at] = this.#seen.get(channel) ?? [0, 0];
    // A channel that was forgotten and made again counts from 1, but later.
    if (offset <= newest && time <= at) return;
    this.#seen.delete(channel);
    this.#seen.set(channel, [offset, time]);
    if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.keys().next().value);
    try {
      this.#handler(publication);
    } catch (error) {
      // A fault of one handler is not the others'.
      setTimeout(() => {
        throw error;
      });
    }
  }

  /** What follows is another history. */
  forget() {
    this.#seen.clear();
  }
}

/** Adds to a map from key to kind of presence; `join` is more than `watch`, and that more than none. */
function addWant(wants, key, presence) {
  const known = wants.get(key) ?? "";
  wants.set(key, known === "join" ? known : presence || known);
}

/** A server, as a page sees it. */
export class Comet {
  #door;
  #options;
  #bus = new EventTarget();
  #subscribers = new Set();
  /** Where a first subscription to something begins. */
  #first;
  #known = new Set();
  /** Ids of what this page published and does not want back. */
  #own = new Set();
  #cursor;
  #state = { state: "idle" };
  #updating = false;
  #ended = new AbortController();
  // Among the tabs: one of them leads, and has the link.
  #tab = random();
  #name;
  #joining;
  #channel;
  #link;
  #begun = false;
  #leader;
  /** How many lots of objects the leader has passed on, and what its connection listens to. */
  #lots = 0;
  #live = new Set();
  /** What other tabs want, and when they last said so. */
  #others = new Map();
  #campaign;
  #release;
  #silence;
  #ticker;

  constructor(url, options = {}) {
    this.#options = options;
    this.#door = new Door(url, options.token, (token) => this.#renewed(token));
    this.#first = options.cursor || (options.persist && stored(this.#storage, this.#memory)) || "now";
    const on = (target, type, listen) => target.addEventListener(type, listen, { signal: this.#ended.signal });
    const awake = () => (this.#link ? this.#link.wake() : this.#announce());
    on(window, "pagehide", () => this.#leave());
    on(window, "pageshow", ({ persisted }) => (persisted ? this.#join() : awake()));
    on(window, "online", () => this.#link?.wake(true));
    on(document, "resume", awake);
    on(document, "visibilitychange", () => document.visibilityState === "visible" && awake());
    this.#join();
  }

  /** `{state, transport, leading, retry_ms}`. */
  get state() {
    return { ...this.#state, leading: !!this.#link };
  }

  /** Where this page stands; opaque. */
  get cursor() {
    return this.#cursor;
  }

  on(type, listener) {
    const hear = ({ detail }) => listener(detail);
    this.#bus.addEventListener(type, hear);
    return () => this.#bus.removeEventListener(type, hear);
  }

  subscribe(target, handler, { since, retained = true, presence = "" } = {}) {
    const key = keyOf(typeof target === "string" ? { channel: target } : target);
    const start = since ?? (this.#known.has(key) ? "now" : this.#first);
    const subscriber = new Subscriber(key, handler, start, retained, presence);
    this.#subscribers.add(subscriber);
    this.#update();
    const unsubscribe = () => {
      this.#subscribers.delete(subscriber);
      this.#update();
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
        return await this.#door.json("publish", [], { method: "POST", body: JSON.stringify(message), headers });
      } catch (problem) {
        if (tries >= PUBLISH_TRIES || !passes(problem)) throw problem;
        await sleep(problem.retry_ms ?? jittered(BACKOFF_MS, BACKOFF_MAX_MS, tries));
      }
    }
  }

  history(channel, options) {
    return this.#get("history", channel, options);
  }

  presence(channel, options) {
    return this.#get("presence", channel, options);
  }

  close() {
    if (this.#ended.signal.aborted) return;
    this.#subscribers.clear();
    this.#leave();
    this.#ended.abort();
    this.#door.close();
    this.#setState({ state: "closed" });
  }

  #get(path, channel, options = {}) {
    const query = Object.entries(options).map(([name, value]) => [name, value === true ? 1 : value]);
    return this.#door.json(path, [["channel", channel], ...query]);
  }

  #emit(type, detail) {
    if (type === "error") console.warn("CometServer:", detail);
    // As with every event, what a listener throws is reported, and harms nobody else.
    this.#bus.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #setState(state) {
    this.#state = state;
    this.#emit("state", this.state);
  }

  get #storage() {
    return this.#options.persist === "local" ? "localStorage" : "sessionStorage";
  }

  get #memory() {
    return `cometserver ${this.#door.url} cursor`;
  }

  // What this page has and lacks.

  #wants() {
    const wants = new Map();
    for (const { key, presence } of this.#subscribers) addWant(wants, key, presence);
    return wants;
  }

  /** What is wanted has changed. All that changes in one turn of the page goes together. */
  #update() {
    if (this.#updating) return;
    this.#updating = true;
    queueMicrotask(() => {
      this.#updating = false;
      if (this.#link) this.#wantAll();
      else this.#announce();
      this.#activate();
    });
  }

  /** What the link brought, here or in the tab that leads. */
  #take(list, cursor) {
    const ready = [...this.#subscribers].filter((one) => one.ready);
    const waiting = [...this.#subscribers].filter((one) => !one.ready);
    for (const object of list) {
      for (const one of waiting) if (object.type === "publication" && one.matches(object)) one.queue.push(object);
      this.#dispatch(object, ready);
    }
    if (!cursor) return;
    this.#cursor = cursor;
    this.#persist();
  }

  #dispatch(object, subscribers) {
    const concerned = subscribers.filter((one) => this.#subscribers.has(one) && one.matches(object));
    if (!concerned.length) return;
    if (object.type === "publication") {
      if (!this.#own.delete(object.id)) for (const one of concerned) one.show(object);
    } else if (object.type === "gap") {
      for (const one of concerned) one.forget();
      this.#emit("gap", object);
    } else if (concerned.some((one) => one.presence)) {
      this.#emit("presence", object);
    }
  }

  #persist() {
    const all = [...this.#subscribers];
    if (!this.#options.persist || !all.length || !all.every((one) => one.ready)) return;
    stored(this.#storage, this.#memory, this.#cursor);
  }

  /** The link has missed what this page had not seen: everybody here goes on from where the page stands, by itself. */
  #lag() {
    for (const one of this.#subscribers) {
      if (one.ready && this.#cursor) {
        one.start = this.#cursor;
        one.retained = one.ready = false;
      }
      one.queue = [];
      one.run = undefined;
    }
  }

  /** Whoever listens to what is live now fetches what came before. */
  #activate() {
    const groups = new Map();
    for (const one of this.#subscribers) {
      if (!this.#live.has(one.key) || one.run) continue;
      if (one.ready || (one.start === "now" && !one.retained)) {
        this.#ready(one);
        continue;
      }
      const group = one.start + one.retained;
      groups.set(group, [...(groups.get(group) ?? []), one]);
    }
    for (const group of groups.values()) this.#catchUp(group);
  }

  #ready(one) {
    one.ready = true;
    one.run = undefined;
    for (const object of one.queue.splice(0)) this.#dispatch(object, [one]);
    this.#known.add(one.key);
    if (one.announced) return;
    one.announced = true;
    this.#emit("subscribed", targetOf(one.key));
  }

  /** Fetches for subscribers that begin at the same place what came before the link listened for them. */
  async #catchUp(group) {
    const run = {};
    for (const one of group) one.run = run;
    const present = () => (group = group.filter((one) => one.run === run && this.#subscribers.has(one))).length;
    for (let tries = 0; present(); ) {
      const [{ key, start, retained }] = group;
      const keys = new Map(group.map((one) => [one.key, ""]));
      const query = [...listening(keys), ["cursor", start], ["wait_ms", 0], ["limit", SEEN]];
      if (!retained) query.push(["retained", 0]);
      let answer;
      try {
        answer = await this.#door.json("poll", query);
      } catch (problem) {
        if (problem.code === "bad_cursor" && start !== "earliest") {
          for (const one of group) one.start = "earliest";
          for (const [key] of keys) this.#dispatch({ type: "gap", ...targetOf(key) }, group);
        } else if (passes(problem)) {
          await sleep(problem.retry_ms ?? jittered(BACKOFF_MS, BACKOFF_MAX_MS, tries++));
        } else if (keys.size > 1) {
          for (const [key] of keys) this.#catchUp(group.filter((one) => one.key === key));
          return;
        } else if (present()) {
          this.#refused(key, problem);
          return;
        }
        continue;
      }
      if (!present()) return;
      const { publications, cursor, retry_ms } = answer;
      const placeOf = ({ channel, offset, time }) => [offset, time, channel].join();
      const queued = new Set(group.flatMap(({ queue }) => queue.map(placeOf)));
      const overlaps = publications.some((one) => queued.has(placeOf(one)));
      for (const object of publications) this.#dispatch(object, group);
      for (const one of group) {
        one.start = cursor;
        one.retained = false;
      }
      if (retry_ms) await sleep(retry_ms);
      else if (overlaps || !publications.length) break;
    }
    if (present()) for (const one of group) this.#ready(one);
    this.#persist();
  }

  /** The server does not allow it: whoever wanted it is told, once. */
  #refused(key, problem) {
    const refused = [...this.#subscribers].filter((one) => one.key === key);
    for (const one of refused) this.#subscribers.delete(one);
    this.#update();
    if (refused.length) this.#emit("error", Object.assign(new CometError(problem), targetOf(key)));
  }

  // Among the tabs.

  /** Tabs of one name share a connection: the same server, and the same rights of the same user. */
  async #shareName() {
    const { share = true } = this.#options;
    if (!share || !window.BroadcastChannel) return undefined;
    const url = `cometserver ${this.#door.url} `;
    if (typeof share === "string") return url + share;
    const token = await this.#door.token();
    const { sub, comet } = claims(token);
    return !token ? url : comet && url + JSON.stringify([sub, comet]);
  }

  async #join() {
    const joining = (this.#joining = {});
    let name;
    for (let tries = 0; ; tries++) {
      try {
        name = await this.#shareName();
        break;
      } catch (problem) {
        this.#emit("error", problem);
        await sleep(jittered(BACKOFF_MS, BACKOFF_MAX_MS, tries) + BACKOFF_MS);
        if (this.#joining !== joining) return;
      }
    }
    if (this.#joining !== joining) return;
    this.#name = name;
    if (!name) return this.#lead();
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    this.#ticker = setInterval(() => this.#tick(), TAB_MS);
    this.#run();
    this.#announce();
  }

  #leave() {
    this.#joining = undefined;
    this.#post({ type: "bye" });
    this.#channel?.close();
    clearInterval(this.#ticker);
    clearTimeout(this.#silence);
    this.#channel = this.#leader = undefined;
    this.#others.clear();
    this.#live.clear();
    this.#unlead();
  }

  #post(message) {
    this.#channel?.postMessage({ ...message, from: this.#tab });
  }

  /** Stands for the lead: with Web Locks until it is free, or at once if who has it does not answer; else at once. */
  #run(now) {
    this.#campaign?.abort();
    const { locks } = navigator;
    if (!locks) return now && this.#lead();
    const { signal } = (this.#campaign = new AbortController());
    const lead = () =>
      new Promise((release) => {
        if (signal.aborted) return release();
        this.#release = release;
        this.#lead();
      });
    // It fails when it is given up, and when another tab takes it away because this one did not answer.
    locks.request(this.#name, now ? { steal: true } : { signal }, lead).catch(({ name }) => {
      if (signal.aborted) return;
      // Frames without an origin of their own get no locks.
      if (name !== "AbortError") return this.#lead();
      this.#unlead();
      this.#run();
      this.#announce();
    });
  }

  #lead() {
    if (this.#link) return;
    clearTimeout(this.#silence);
    this.#leader = this.#tab;
    this.#begun = false;
    const told = (hear) => (...said) => this.#link === link && hear(...said);
    const link = new Link(this.#door, this.#options, {
      objects: told((list, cursor) => {
        this.#lots++;
        this.#post({ type: "objects", lots: this.#lots, list, cursor });
        this.#take(list, cursor);
      }),
      live: told(() => {
        this.#live = new Set(link.live.keys());
        this.#report();
        this.#activate();
      }),
      state: told((state) => {
        this.#setState(state);
        this.#report();
      }),
      refused: told((key, problem) => {
        for (const { wants } of this.#others.values()) wants.delete(key);
        // Of an error only what is listed gets there.
        this.#post({ type: "refused", key, problem: { ...problem, message: problem.message } });
        this.#refused(key, problem);
      }),
      failed: told((problem) => this.#emit("error", problem)),
    });
    this.#link = link;
    this.#wantAll();
  }

  #unlead() {
    this.#campaign?.abort();
    this.#link?.close();
    this.#release?.();
    this.#link = this.#release = undefined;
  }

  /** The leader listens to what any tab wants. */
  #wantAll() {
    const wanted = this.#wants();
    for (const { wants } of this.#others.values()) for (const want of wants) addWant(wanted, ...want);
    if (!wanted.size) {
      // Who comes later begins anew.
      this.#begun = false;
      this.#cursor = undefined;
    } else if (!this.#begun) {
      this.#begin();
    }
    this.#link.want(wanted);
    this.#report();
  }

  /** Where the link begins: where this page stands, else where all its subscribers want to. Others catch up by themselves. */
  #begin() {
    this.#begun = true;
    const all = [...this.#subscribers];
    const [first] = all;
    const alike = first && all.every(({ start, retained }) => start === first.start && retained === first.retained);
    if (this.#cursor) return this.#link.begin(this.#cursor, false);
    if (!alike) return this.#link.begin("now", false);
    for (const one of all) one.ready = true;
    this.#link.begin(first.start, first.retained);
  }

  #report() {
    if (!this.#link || !this.#channel) return;
    const { state, transport, retry_ms } = this.#state;
    this.#post({
      type: "report",
      lots: this.#lots,
      cursor: this.#cursor,
      live: [...this.#link.live.keys()],
      state: { state, transport, retry_ms },
    });
  }

  /** Tells the leader what this tab wants, and expects to hear from it. */
  #announce() {
    if (!this.#channel || this.#link) return;
    this.#post({ type: "want", wants: [...this.#wants()] });
    this.#expect(navigator.locks ? LEADER_MS : ELECTION_MS * (1 + Math.random()));
  }

  #expect(ms) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#run(true), ms);
  }

  #tick() {
    if (!this.#link) return this.#announce();
    for (const [tab, { heard }] of this.#others) if (Date.now() - heard > TAB_GONE_MS) this.#others.delete(tab);
    this.#wantAll();
  }

  #heard(message) {
    const { type, from } = message;
    if (type === "want") {
      this.#others.set(from, { wants: new Map(message.wants), heard: Date.now() });
      if (this.#link) this.#wantAll();
      return;
    }
    if (type === "bye") {
      this.#others.delete(from);
      if (this.#link) this.#wantAll();
      else if (from === this.#leader && !navigator.locks) this.#expect(ELECTION_MS * Math.random());
      return;
    }
    if (this.#link) {
      // Two lead, which only happens without Web Locks, or while a lock changes hands: one gives way.
      if (navigator.locks) return;
      if (from > this.#tab) return this.#report();
      this.#unlead();
      this.#leader = undefined;
    }
    clearTimeout(this.#silence);
    if (type === "refused") return this.#refused(message.key, message.problem);
    const isNew = from !== this.#leader;
    const { lots, cursor } = message;
    if (type === "objects") {
      if (isNew || lots !== this.#lots + 1) this.#lag();
      this.#take(message.list, cursor);
    } else {
      const follows = !isNew && lots === this.#lots;
      if (!follows && (!cursor || cursor !== this.#cursor)) this.#lag();
      if (!follows) this.#cursor = cursor;
      this.#live = new Set(message.live);
      if (JSON.stringify(message.state) !== JSON.stringify(this.#state)) this.#setState(message.state);
    }
    this.#leader = from;
    this.#lots = lots;
    if (isNew) this.#announce();
    this.#activate();
  }

  /** Another token may be another user's: then this page belongs to other tabs. */
  async #renewed(token) {
    this.#link?.authorize(token);
    const name = await this.#shareName();
    if (name === this.#name || this.#ended.signal.aborted || !this.#joining) return;
    this.#leave();
    this.#join();
  }
}
