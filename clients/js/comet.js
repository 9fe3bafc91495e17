/*! CometServer 0.1.0 */
// Made from clients/js/src by scripts/build-client.mjs: to change it, change that.

/** Reads what the server says, and steps over a publication that cannot be read: what comes after it can. */

/** Undefined, if it is no JSON. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {}
}

/** One object. Of one that cannot be read its head can be, before the payload, and the cursor behind that. */
const objectOf = (text) =>
  parsed(text) ?? {
    ...parsed(text.split(',"data":')[0] + "}"),
    type: "illegible",
    cursor: /"cursor":"([^"]*)"}$/.exec(text)?.[1],
  };

/** An answer; its list is read one by one, if it cannot be read as a whole. */
function answerOf(text) {
  const answer = parsed(text);
  if (answer) return answer;
  const start = text.indexOf("[") + 1;
  const end = text.lastIndexOf("],");
  const parts = text.slice(start, end).split(/,(?={"type":")/);
  const publications = [];
  while (parts[0]) {
    let one;
    let taken = 0;
    // A payload may have in it what parts two of them.
    while (!one && parts[taken]) one = parsed(parts.slice(0, ++taken).join());
    publications.push(one ?? objectOf(parts[0]));
    parts.splice(0, one ? taken : 1);
  }
  return { ...parsed(text.slice(0, start) + text.slice(end)), publications };
}

/** Small words that several parts use. */

/** The first wait after a loss and the longest one. The wait is any part of it (full jitter), and it doubles. */
const BACKOFF_MS = 500;
const BACKOFF_MAX_MS = 30_000;
/** The longest where something else than our server answers, which may last. */
const BLOCKED_MAX_MS = 300_000;
/** About the longest that a browser's timer can wait, which is 2^31 ms. */
const TIMER_MAX_MS = 2_000_000_000;

/** A name that nobody can guess. */
const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

const sleep = (ms) => new Promise((over) => setTimeout(over, ms));

/** A signal that aborts what is asked after this time; what has ended by then does not mind. */
function within(ms) {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), ms);
  return abort.signal;
}

/** How long to wait after so many losses. */
const jittered = (times, base = BACKOFF_MS, max = BACKOFF_MAX_MS) => Math.random() * Math.min(max, base * 2 ** times);

/** A storage may be full, forbidden or absent: then nothing is remembered. */
function stored(storage, key, value) {
  try {
    const store = window[storage];
    return value === undefined ? store[key] : value === null ? delete store[key] : (store[key] = value);
  } catch {
    // As if it were empty.
  }
}

/** What an answer that is not a success says: a problem document of our server, or a page of something in between. */

/** `code` of what the page's callback did instead of giving a token. */
const NO_TOKEN = "no_token";

/** Without `code` it is no word of our server. */
class CometError extends Error {
  constructor({ detail, message, ...more }) {
    super(detail ?? message);
    Object.assign(this, { name: "CometError" }, more);
  }
}

/** What a response with this text says. Many have a `code`; nobody else has a `type` made of it as our server has. */
function problemOf({ status, headers }, text, url) {
  const said = parsed(text);
  const isOurs = said?.type === "about:blank#" + said?.code;
  return new CometError({
    ...(isOurs ? said : { status, url, message: `${url}: ${status} of something else` }),
    retry_ms: Math.min(/^\d+/.exec(headers.get("Retry-After")) * 1000, BLOCKED_MAX_MS) || undefined,
  });
}

const isRefusal = ({ status }) => status < 500 && !/408|425|429/.test(status);

/** Something else than our server answered, as a firewall, a login page or a site that is being uploaded does. */
const isForeign = (problem) => !problem.code && isRefusal(problem);

/** Trying the same again later can help. */
const passes = (problem) => !problem.code || !isRefusal(problem);

/** Waits as long as the server says, or by itself longer and longer. */
const patiently = ({ retry_ms }, times) => sleep(retry_ms ?? jittered(times));

/** Asks the server, with a token that is renewed in time. */

/** How long a plain request may take. */
const ANSWER_MS = 15_000;
/** The first wait for the page's callback to give a token after all; it grows to `BLOCKED_MAX_MS`. */
const TOKEN_MS = 5_000;

/** The claims of a token, to be compared only: neither is its signature checked nor are its letters decoded. */
function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
}

/**
 * `source` is a token, or the page's callback that gives one; `renewed(token)` is called when it gave another than before,
 * `emit` with each event.
 *
 * As everywhere here, names that begin with `_` are those between the modules; the small files have shorter ones.
 */
function makeDoor(url, source, renewed, emit) {
  // `?` in it: the path goes where the address ends, for a script that takes it as a parameter.
  url = new URL(url, location.href).href.replace(/\/$/, "");
  let token = typeof source === "function" ? undefined : source;
  let asking;
  let renewAt = Infinity;
  let failures = 0;
  let timer;

  /** Headers that show a token, if there is one. */
  const bearer = (token) => (token ? { Authorization: `Bearer ${token}` } : {});
  const address = (path, query) => `${url}/v1/${path}` + (url.includes("?") ? "&" : "?") + new URLSearchParams(query);

  /** The token to show. One that was `refused`, or ends soon, is replaced by the page's callback, if it has one. */
  async function current(refused) {
    const isUsable = () => token !== undefined && token !== refused;
    if (typeof source === "function" && !(isUsable() && Date.now() < renewAt)) {
      asking ??= renew().finally(() => (asking = undefined));
      await asking.catch((error) => {
        // One that is about to end is better than none.
        if (!isUsable()) throw error;
      });
    }
    return token;
  }

  async function renew() {
    const old = token;
    try {
      // Undefined or null for a visitor without a token. Many an address answers with a page instead.
      const text = (await source())?.trim();
      // The letters of a JWT, or of the word "undefined".
      if (!/^[\w.-]+$/.test(text)) throw text.slice(0, 20);
      token = text ?? "";
      failures = 0;
    } catch (error) {
      const retry_ms = TOKEN_MS + jittered(failures++, TOKEN_MS, BLOCKED_MAX_MS);
      renewAt = Date.now() + retry_ms;
      const problem = new CometError({ code: NO_TOKEN, message: `no token: ${error}`, retry_ms });
      emit("error", problem);
      throw problem;
    }
    const { exp, iat = Date.now() / 1000 } = claims(token);
    // By the token's own length of life where it tells, since this clock may be wrong; then only a refusal renews it.
    const life = (exp - iat) * 1000;
    clearTimeout(timer);
    renewAt = Infinity;
    if (life > 0) {
      const wait = Math.min(life - Math.min(life / 4, 60_000), TIMER_MAX_MS);
      renewAt = Date.now() + wait;
      timer = setTimeout(() => {
        renewAt = 0;
        current().catch(() => {});
      }, wait);
    }
    if (old !== undefined && old !== token) renewed(token);
  }

  /** The response, if it is a success. A refused token is renewed once. Throws `CometError`, or what `fetch` throws. */
  async function ask(path, query, init = {}) {
    for (let refused; ; ) {
      const shown = await current(refused);
      const headers = { ...init.headers, ...bearer(shown) };
      const send = (redirect) => fetch(address(path, query), { cache: "no-store", redirect, ...init, headers });
      let response = await send("manual");
      // Of one to another site nothing can be read but that it is one.
      if (!response.status) response = await send("follow").catch(() => response);
      if (response.ok && (path !== "sse" || /event-stream/.test(response.headers.get("Content-Type")))) return response;
      const problem = problemOf(response, await response.text(), url);
      const isRenewable = problem.code && /40[13]/.test(problem.status) && !init.asIs;
      if (!isRenewable || refused !== undefined || (await current(shown)) === shown) throw problem;
      refused = shown;
    }
  }

  /** The answer of a plain request, which may not take for ever. */
  async function json(path, query, init) {
    const response = await ask(path, query, { signal: within(ANSWER_MS), ...init });
    const text = await response.text();
    const answer = answerOf(text);
    if (answer?.cursor || answer?.channels) return answer;
    throw problemOf(response, text, url);
  }

  /** Says something of a session: outlives the page, which may have no time to wait for an answer, nor for another token. */
  function tell(path, session, method) {
    fetch(address(path, { session }), { method, keepalive: true, headers: bearer(token) }).catch(() => {});
  }

  function close() {
    clearTimeout(timer);
    source = token;
  }

  return { _ask: ask, _address: address, _tell: tell, _json: json, _url: url, _close: close, _token: current };
}

/** What is listened to, as one string, a key: `c:` and a channel, or `p:` and a pattern. */

const keyOf = ({ channel, pattern }) => (pattern == null ? "c:" + channel : "p:" + pattern);

/** The target that a key stands for. */
const targetOf = (key) => ({ [key[0] === "c" ? "channel" : "pattern"]: key.slice(2) });

/** A cursor that no server knows: for whom the own one is none. A gap is told, and then what may be seen of the past. */
const NOWHERE = "AQAAAAAAAAAAAAA";

/** Query parameters that listen to all of a map from key to kind of presence, from a cursor on, and more of them. */
const listening = (wanted, cursor, retained, ...more) => [
  ...[...wanted].map(([key, presence]) => [key[0] === "p" ? "pattern" : presence || "channel", key.slice(2)]),
  ["cursor", cursor],
  ...(retained ? [] : [["retained", 0]]),
  ...more,
];

/** Adds to a map from key to kind of presence; `join` is more than `watch`, and that more than none. */
function addWant(wants, key, presence) {
  const known = wants.get(key) ?? "";
  wants.set(key, known === "join" ? known : presence || known);
}

/** A pattern as a regular expression: `*` any run without `/`, `**` any run, `\` takes the next character literally. */
function matcher(pattern) {
  const source = pattern.replace(/\\([^])|(\*\*+)|(\*)|[^]/g, (one, literal, any, segment) =>
    any ? "[^]*" : segment ? "[^/]*" : (literal ?? one).replace(/\W/, "\\$&"),
  );
  return new RegExp(`^${source}$`);
}

/** What one page listens to, how far it has seen it, and how it catches up with what the others have. */

/** So many publications are fetched at once. */
const LOT = 1_000;
/**
 * What is in several channels makes each page that listens to another one ask once more: within this time, not all in
 * the same moment, and once for all that comes meanwhile.
 */
const SPREAD_MS = 1_000;

/**
 * `own`: ids of publications that are not to be shown. `updated` is called when what is wanted has changed, `emit` with
 * each event, `moved` with the page's cursor where everything up to it was shown.
 */
function makePage(door, own, updated, emit, moved) {
  const subscribers = new Set();
  const known = new Set();
  let cursor;
  /** What the link listens to. */
  let live = new Set();

  function wants() {
    const wants = new Map();
    for (const { _key, _presence } of subscribers) addWant(wants, _key, _presence);
    return wants;
  }

  /** What the link brought, here or in the tab that leads. */
  function take(list, next) {
    for (const object of list) {
      for (const one of subscribers) {
        if (!one._matches(object)) {
          // It is in other channels too, perhaps in this one's: over a connection it comes under one of them only.
          if (object.several) fallBack(one, SPREAD_MS);
        } else if (!one._isReady && object.type === "publication") one._queue.push(object);
      }
      dispatch(object, [...subscribers].filter((one) => one._isReady));
    }
    if (next) cursor = next;
    persist();
    activate();
  }

  function dispatch(object, to) {
    const concerned = to.filter((one) => subscribers.has(one) && one._matches(object));
    if (!concerned.length) return;
    if (object.type === "illegible") {
      if (concerned.filter((one) => one._show(object)).length) {
        emit("error", new CometError({ ...object, code: object.type, message: "cannot be read" }));
      }
    } else if (object.type === "publication") {
      // What is in several channels may come once for each of them.
      if (object.several ? own.has(object.id) : own.delete(object.id)) return;
      for (const one of concerned) one._show(object);
    } else if (object.type === "gap") {
      for (const one of concerned) one._forget();
      emit("gap", object);
    } else if (concerned.some((one) => one._presence)) {
      emit("presence", object);
    }
  }

  function persist() {
    const all = [...subscribers];
    if (cursor && all.length && all.every((one) => one._isReady)) moved(cursor);
  }

  /**
   * Asks by itself, within so many milliseconds, from where the page stands; without a cursor yet, from where it began.
   * Who is asking already asks once more then: what is under way would else never end where such things keep coming.
   */
  function fallBack(one, within) {
    if (one._isReady && cursor) {
      one._start = cursor;
      one._retained = false;
    }
    one._isReady = false;
    // It has a hole here; what was in it is in the next answer.
    one._queue = [];
    one._again = within;
  }

  /** Whoever listens to what is live now fetches what came before. */
  function activate() {
    const late = [];
    for (const one of subscribers) {
      if (!live.has(one._key) || one._run) continue;
      if (one._isReady || (one._start === "now" && !one._retained)) ready(one);
      else late.push(one);
    }
    catchUpBy(late, (one) => one._start + one._retained);
  }

  /** Those that are alike in this catch up together. */
  function catchUpBy(list, trait) {
    for (const kind of new Set(list.map(trait))) catchUp(list.filter((one) => trait(one) === kind));
  }

  function ready(one) {
    one._isReady = true;
    one._run = undefined;
    for (const object of one._queue.splice(0)) dispatch(object, [one]);
    known.add(one._key);
    if (one._isAnnounced) return;
    one._isAnnounced = true;
    emit("subscribed", targetOf(one._key));
  }

  /** What waits for it was shown already: the answers have come to where that began. */
  const overlaps = ({ _queue, _isOld }) => _queue.some(_isOld);

  /** Fetches for subscribers that begin at the same place what came before the link listened for them. */
  async function catchUp(group) {
    const run = {};
    for (const one of group) one._run = run;
    const isThere = () => (group = group.filter((one) => one._run === run && subscribers.has(one))).length;
    const again = () => group.find((one) => one._again)?._again;
    for (let tries = 0; isThere(); ) {
      if (again()) {
        await sleep(Math.random() * again());
        for (const one of group) one._again = 0;
        continue;
      }
      const [{ _key: key, _start: start, _retained: retained }] = group;
      const keys = new Map(group.map((one) => [one._key, ""]));
      let answer;
      try {
        answer = await door._json("poll", listening(keys, start, retained, ["wait_ms", 0], ["limit", LOT]));
      } catch (problem) {
        if (problem.code === "bad_cursor" && start !== NOWHERE) {
          for (const one of group) one._start = NOWHERE;
        } else if (passes(problem)) {
          await patiently(problem, tries++);
        } else if (keys.size > 1) {
          return catchUpBy(group, (one) => one._key);
        } else if (isThere()) {
          return refuse(key, problem);
        }
        continue;
      }
      if (!isThere()) return;
      const { publications, cursor, retry_ms } = answer;
      // What is in several of the channels asked for came under one of them only: the others have to ask without that one.
      const hasSeveral = (one) => publications.some((object) => object.several && one._matches(object));
      if (keys.size > 1 && group.some(hasSeveral)) return catchUpBy(group, (one) => hasSeveral(one) && one._key);
      for (const object of publications) dispatch(object, group);
      for (const one of group) {
        one._start = cursor;
        one._retained = false;
      }
      if (retry_ms) await patiently(answer);
      else if (!again() && (!publications.length || group.some(overlaps))) break;
    }
    if (isThere()) for (const one of group) ready(one);
    persist();
  }

  /** Where a link begins, and whether with present values: where this page stands, else where all want to. Others catch up. */
  function begin() {
    if (cursor) return [cursor, false];
    const all = [...subscribers];
    const [first] = all;
    const isAlike = ({ _start, _retained }) => _start === first._start && _retained === first._retained;
    if (!first || !all.every(isAlike)) return ["now", false];
    for (const one of all) one._isReady = true;
    return [first._start, first._retained];
  }

  /** The server does not allow it: whoever wanted it is told, once. */
  function refuse(key, problem) {
    const refused = [...subscribers].filter((one) => one._key === key);
    for (const one of refused) subscribers.delete(one);
    updated();
    if (refused.length) emit("error", new CometError({ ...problem, ...targetOf(key) }));
  }

  return {
    _subscribers: subscribers,
    _known: known,
    _wants: wants,
    _take: take,
    _begin: begin,
    _refuse: refuse,
    /** The link has missed what this page had not seen. */
    _lag() {
      for (const one of subscribers) fallBack(one, 1);
      activate();
    },
    _activate: activate,
    _listen(keys) {
      live = new Set(keys);
      activate();
    },
    get _cursor() {
      return cursor;
    },
    set _cursor(next) {
      cursor = next;
    },
  };
}

/** One handler on one channel or pattern: what it is shown, it is shown once. */

/** Of how many channels of a pattern the newest offset is remembered. */
const SEEN = 1_000;

/**
 * `start`: where it begins, or has to go on: a cursor, `now` or `earliest`. `isReady`: it has everything up to where the
 * link stands; until then what the link brings waits in `queue`. `run`: the catch-up that is under way; `again`: it has to
 * ask once more, within so many milliseconds.
 */
function makeSubscriber(key, handler, start, retained, presence) {
  const pattern = key[0] === "p" ? matcher(key.slice(2)) : undefined;
  /** Channel to the newest offset and time that were shown. */
  const seen = new Map();

  /** A gap may be a pattern's own. */
  const matches = (object) => keyOf(object) === key || (object.channel && pattern?.test(object.channel));

  /** Was it shown, or one after it? A channel that was forgotten and made again counts from 1, but later. */
  function isOld({ channel, offset, time }) {
    const [newest, at] = seen.get(channel) ?? [];
    return offset <= newest && time <= at;
  }

  /**
   * Shows a publication, unless it was shown before: paths may overlap where one takes over from another. Is it new? One
   * that cannot be read only counts.
   */
  function show(publication) {
    if (isOld(publication)) return false;
    const { type, channel, offset, time } = publication;
    seen.delete(channel);
    seen.set(channel, [offset, time]);
    if (seen.size > SEEN) seen.delete(seen.keys().next().value);
    try {
      if (type === "publication") handler(publication);
    } catch (error) {
      // A fault of one handler is not the others'.
      setTimeout(() => {
        throw error;
      });
    }
    return true;
  }

  return {
    _key: key,
    _presence: presence,
    _start: start,
    _retained: retained,
    _queue: [],
    _matches: matches,
    _isOld: isOld,
    _show: show,
    /** What follows is another history. */
    _forget: () => seen.clear(),
  };
}

/** The ladder of transports: which one is used, what worked on this network, when a better one is tried again. */

/** When a better transport is tried again, doubling up to how long a network's transport is remembered. */
const CLIMB_MS = 300_000;
const REMEMBER_MS = 3_600_000;

/** `rungs`: the transports, best first; `climbed` is called when it is time for the best again. */
function makeLadder(url, rungs, climbed) {
  let rung;
  let climber;
  let wait = CLIMB_MS;

  const transport = () => rungs[rung];
  const stay = () => clearTimeout(climber);
  /** Where what is known of a network is kept. Browsers tell little of which network it is; some tell its kind. */
  const memory = () => `cometserver ${url} ${navigator.connection?.type}`;

  function climb() {
    stay();
    climber = setTimeout(() => {
      rung = 0;
      climbed();
    }, wait);
    wait = Math.min(wait * 2, REMEMBER_MS);
  }

  /** Begins with what worked last on this network. */
  function recall() {
    const [name, until] = (stored("localStorage", memory()) ?? "").split(" ");
    rung = Math.max(0, Date.now() < until ? rungs.indexOf(name) : 0);
    stay();
    if (rung) climb();
  }

  /** This one works. */
  function remember() {
    if (rungs.length < 2) return;
    if (!rung) wait = CLIMB_MS;
    stored("localStorage", memory(), rung ? `${transport()} ${Date.now() + REMEMBER_MS}` : null);
  }

  /** To the next one, if there is one. */
  function stepDown() {
    if (rung + 1 < rungs.length) {
      rung++;
      climb();
      return true;
    }
  }

  recall();
  return { _transport: transport, _recall: recall, _remember: remember, _stepDown: stepDown, _stay: stay };
}

/** Files in a folder of the web server that tell how far channels are: what they do not announce need not be asked for. */

/** Files are believed for so long without a word of the server: half of what it keeps a file that nobody asks about. */
const BELIEVED_MS = 300_000;
/** How long they may take together; then the server is asked, as where one is missing. */
const FILES_MS = 4_000;
/** Of so many channels the files are asked for; of more, the server, once for all. */
const MOST_FILES = 8;
/** After a file was missing, so many turns at most do without. */
const MOST_TURNS = 60;

/** What the files say, as one text; nothing where one of them is missing, or something has no file. */
async function read(folder, asked, signal) {
  const files = [...asked].map(async ([key, presence]) => {
    if (presence || key[0] === "p" || asked.size > MOST_FILES) throw key;
    // The bytes of its UTF-8, each as a character.
    const bytes = unescape(encodeURIComponent(key.slice(2)));
    const name = btoa(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
    // The browser asks with the `ETag` that it has.
    const response = await fetch(`${folder}${name}.comet.json`, { cache: "no-cache", signal });
    const text = await response.text();
    // A page that something else answers is no word of how far a channel is.
    if (!response.ok || !JSON.parse(text).epoch) throw text;
    return text;
  });
  return Promise.all(files).then(String, () => {});
}

/** `isQuiet` says that there is nothing new; else the server is to be asked, and `heard` told whether it had something. */
function makeFiles(folder) {
  let told;
  /** What the files said before the server had nothing more, until when that counts, and what proved to be untrue. */
  let known;
  let until;
  let wrong;
  let turns = 0;
  let missed = 0;

  async function isQuiet(asked) {
    told = undefined;
    if (folder === undefined || turns-- > 0) return false;
    told = await read(folder, asked, within(FILES_MS));
    turns = missed = told ? 0 : Math.min(missed * 2 + 1, MOST_TURNS);
    return told && told === known && told !== wrong && Date.now() < until;
  }

  function heard(hasNews) {
    // Who was told that there is nothing, and found something, does not believe that file again.
    if (hasNews && told === known) wrong = told;
    // An answer may hold a part of what there is: only an empty one is the end.
    known = hasNews ? undefined : told;
    until = Date.now() + BELIEVED_MS;
  }

  return { _isQuiet: isQuiet, _heard: heard };
}

/** The transports. Each settles when its connection has ended, or throws. `line` is what a link gives to each connection. */

/** A stream is asked for a second sign of life after this: a path may pass the first bytes with the head and keep the rest. */
const PREAMBLE_MS = 1_000;
/** How long a poll asks to be held: under the 30 s after which many proxies give up. */
const HOLD_MS = 25_000;
/** The pause between polls that are not held; shorter right after one that brought something. */
const INTERVAL_MS = 5_000;
const INTERVAL_BUSY_MS = 1_000;

async function websocket(line, signal) {
  const token = await line._door._token();
  if (signal.aborted) return;
  const query = line._query(...(token ? [["token", token]] : []));
  const socket = new WebSocket(line._door._address("ws", query).replace(/^http/, "ws"));
  line._say = (command) => socket.send(JSON.stringify(command));
  await new Promise((over) => {
    socket.onclose = over;
    socket.onmessage = ({ data }) => {
      const object = objectOf(data);
      // Who is only sent away has not been let in.
      if (object.type !== "reconnect") line._sign(1, object.heartbeat_ms);
      line._received(object, object.cursor);
    };
    signal.onabort = () => {
      over((socket.onmessage = null));
      socket.close();
    };
  });
}

async function sse(line, signal) {
  const response = await line._door._ask("sse", line._query(["preamble_ms", PREAMBLE_MS]), { signal });
  const reader = response.body.getReader();
  const utf8 = new TextDecoder();
  const last = {};
  let rest = "";
  let beat;
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    const lines = (rest + utf8.decode(value, { stream: true })).split(/\r?\n/);
    rest = lines.pop();
    let hasBlocks;
    for (const text of lines) {
      const [, field, value] = /^(\w*):? ?([^]*)/.exec(text);
      last[field] = value;
      if (field === "retry") line._retry = +value;
      // Ours are one line each.
      if (text || !last.data) continue;
      const object = objectOf(last.data);
      hasBlocks = true;
      beat ??= object.heartbeat_ms;
      line._received(object, last.id);
      if (signal.aborted) return;
      last.data = last.id = "";
    }
    if (hasBlocks) line._sign(2, beat);
  }
}

async function poll(line, signal) {
  // The first is not held: its answer shows that listening works.
  for (let wait = 0; !line._after; wait = HOLD_MS) {
    line._watch(wait + ANSWER_MS);
    line._after = (await line._turn(wait, signal)).retry_ms;
    if (wait) line._sign(1);
  }
}

async function interval(line, signal) {
  const { interval = INTERVAL_MS, files: folder } = line._options;
  const files = makeFiles(folder);
  signal.onabort = line._wake;
  while (!signal.aborted) {
    line._watch(FILES_MS + ANSWER_MS);
    let retry = 0;
    let pause = interval;
    if (!(await files._isQuiet(line._asked())) || signal.aborted) {
      const { retry_ms, publications } = await line._turn(0, signal);
      const { length } = publications;
      files._heard(length);
      if (length) pause = Math.min(interval, INTERVAL_BUSY_MS);
      retry = retry_ms ?? 0;
    }
    line._sign(1);
    line._watch();
    await line._rest(Math.max(retry, pause * (0.8 + Math.random() * 0.4)), retry > 0);
  }
}

/** One connection to the server at a time, and the cursor that outlives each of them. */

/** The transports, best first. */
const BY_NAME = { websocket, sse, poll, interval };
/** How long the first bytes of a stream may take; then a plain request tells a slow path from one that holds bytes back. */
const PATIENCE_MS = 4_000;
/** A connection that lived this long was healthy. */
const HEALTHY_MS = 10_000;
/** So many unhealthy ones in a row, and another transport may do better. */
const YOUNG_DEATHS = 3;
/** Without a byte for so long a connection is dead; or for so many of the server's heartbeats, where these come seldom. */
const SILENT_MS = 70_000;
const SILENT_BEATS = 3;
/** After a refusal, which a new try alone will hardly change. */
const REFUSED_MS = 60_000;
const REFUSED_MAX_MS = 600_000;
/** So many times in a row something else than our server answered, and the page is told that it is blocked. */
const BLOCKED_TIMES = 3;

/**
 * `hear` is told: `_objects(list, cursor)`, `_live()`, `_refused(key, problem)`, `_failed(problem)`, `_state(state)`.
 */
function makeLink(door, options, hear) {
  const session = random();
  const ladder = makeLadder(door._url, options.transports ?? Object.keys(BY_NAME), reopen);
  /** Where this link stands in all that it listens to; at first where it begins, with present values if it is `retained`. */
  let cursor;
  let retained = false;
  /** Key to kind of presence: what the page wants, what this connection asked for, and what it listens to by now. */
  let wanted = new Map();
  let asked = new Map();
  let live = new Map();
  let abort = new AbortController();
  let isRunning = false;
  let isClosed = false;
  let isReopening = false;
  let isImposed = false;
  let wakeUp = () => {};
  let watcher;
  let patience = PATIENCE_MS;
  const worked = new Set();
  let isDoubted = false;
  let losses = 0;
  let refusals = 0;
  let blocks = 0;
  let blocked;
  let deaths = 0;
  let turnedAway = 0;
  let silent = SILENT_MS;
  // Of the present connection:
  let signs;
  let lastSign = 0;
  let isOpened = false;
  let isProved;
  /**
   * What the transports need, and what they set: `_say(command)`; `_after`, when to come back; `_retry`, the time
   * between tries.
   */
  const line = {
    _door: door,
    _options: options,
    _asked: () => asked,
    _query: (...more) => query(asked, ...more),
    _wake: () => wakeUp(),
    _rest: rest,
    _watch: watch,
    _sign: sign,
    _received: received,
    _turn: turn,
  };

  /** Where it begins, before it wants anything. */
  function begin(at, isRetained) {
    cursor = at;
    retained = isRetained;
  }

  /** Listens to this from now on. */
  function want(next) {
    wanted = next;
    if (!isRunning) run();
    const differs = (one, other) => [...one].filter(([key, presence]) => other.get(key) !== presence);
    const added = differs(wanted, asked);
    const removed = differs(asked, wanted);
    if (!added.length && !removed.length) return;
    // Commands are for the plain case. Who comes or goes as a member does so with a new connection.
    if (!line._say || !isOpened || !wanted.size || added.some(([key, presence]) => presence || asked.has(key))) return reopen();
    asked = new Map(wanted);
    for (const [key] of removed) live.delete(key);
    const command = (type, list, more) => {
      const names = (kind) => list.filter(([key]) => key[0] === kind).map(([key]) => key.slice(2));
      if (list.length) line._say({ type, id: type, channels: names("c"), patterns: names("p"), ...more });
    };
    command("unsubscribe", removed);
    // What came before is fetched by whoever wants it: others have it already.
    command("subscribe", added, { since: "now", retained: false });
  }

  /** The network may be another one, or the page was asleep: what waits tries now, what may be dead is replaced. */
  function wake(isOnline) {
    if (isOnline) ladder._recall();
    if (isOnline || (isOpened && Date.now() - lastSign > silent)) reopen();
    else if (!isImposed) wakeUp();
  }

  /** There is another token. */
  function authorize(token) {
    if (line._say && isOpened) line._say({ type: "authorize", id: "authorize", token });
    else if (refusals) wakeUp();
  }

  function close() {
    isClosed = true;
    ladder._stay();
    abort.abort();
    wakeUp();
    // Some paths never tell the server that a silent request was given up.
    if (isOpened && !line._say) door._tell("release", session, "POST");
  }

  async function run() {
    isRunning = true;
    while (!isClosed) {
      isReopening = false;
      if (wanted.size) {
        const wait = await connect();
        if (!wait || isReopening || isClosed) continue;
        tell("waiting", { retry_ms: wait | 0 });
        await rest(wait, isImposed);
      } else {
        asked = new Map();
        tell("idle");
        await rest(TIMER_MAX_MS);
      }
    }
  }

  function tell(state, more) {
    hear._state({ state, transport: ladder._transport(), blocked, ...more });
  }

  /** Waits, if nothing wakes it; nothing but the end does where the wait is imposed. */
  async function rest(ms, imposed = false) {
    isImposed = imposed;
    await new Promise((over) => {
      const timer = setTimeout(over, ms);
      wakeUp = () => over(clearTimeout(timer));
    });
    isImposed = false;
  }

  function reopen() {
    // The server asked to be left alone: what is wanted then is asked for then.
    if (isImposed) return;
    isReopening = true;
    abort.abort();
    wakeUp();
  }

  /** Connects, stays as long as it lasts, and returns how long to wait before the next time. */
  async function connect() {
    const transport = ladder._transport();
    const began = Date.now();
    let problem = {};
    asked = new Map(wanted);
    live = new Map();
    isOpened = isProved = false;
    signs = 0;
    line._retry = line._after = undefined;
    abort = new AbortController();
    tell("connecting");
    try {
      watch(patience);
      await BY_NAME[transport](line, abort.signal);
    } catch (error) {
      problem = error;
    }
    watch();
    line._say = undefined;
    if (isClosed || isReopening) return 0;
    if (isForeign(problem)) return suspect(transport, undefined, problem);
    if (problem.status < 500 || problem.retry_ms) return judge(problem);

    const isOld = Date.now() - began > HEALTHY_MS;
    if (isOld && isProved) losses = deaths = 0;
    // A front server that answers for one that is away says no more than when to come back.
    const after = line._after ?? (isOpened ? undefined : line._retry);
    if (after !== undefined) {
      if (isOpened || !turnedAway++) return impose(after);
    } else if (isProved && (isOld || ++deaths < YOUNG_DEATHS)) return backOff();
    return suspect(transport, after);
  }

  /** Is it this transport, or the whole path? A plain request tells, and brings what is new. `problem`: what it had itself. */
  async function suspect(transport, after, problem = {}) {
    if (transport === "interval") return judge(problem);
    const began = Date.now();
    const before = blocks;
    try {
      watch(ANSWER_MS);
      const { retry_ms } = await turn(0, (abort = new AbortController()).signal);
      if (retry_ms) return impose(retry_ms);
    } catch (general) {
      return isClosed || isReopening ? 0 : judge(general);
    } finally {
      watch();
    }
    // Neither one that has no room nor one that never lasts gets another chance; what was too slow gets more time.
    if (after === undefined && !isProved) {
      if ((Date.now() - began) * 2 > patience && patience < BACKOFF_MAX_MS) {
        patience *= 2;
        return 0;
      }
      if (worked.has(transport) && !isDoubted) {
        isDoubted = true;
        return 0;
      }
    }
    deaths = turnedAway = 0;
    // That a plain request passes does not count for this transport.
    blocks = before;
    return stepDown() ? after && impose(after) : judge(problem);
  }

  /** How long to wait where there is no answer, or not the one that is wanted. */
  function judge(problem) {
    if (isForeign(problem)) return block(problem);
    // The page was told so, and may have one sooner.
    if (problem.code === NO_TOKEN) return problem.retry_ms;
    return problem.status ? refused(problem) : backOff();
  }

  /** Something else answers for our server: that says nothing of what is wanted, and may end at any time. */
  function block({ message, url, status }) {
    if (!blocks++) console.warn("CometServer:", message);
    if (blocks >= BLOCKED_TIMES) blocked = { url, status, message };
    return 1 + jittered(blocks, BACKOFF_MS, BLOCKED_MAX_MS);
  }

  function stepDown() {
    isDoubted = false;
    return ladder._stepDown();
  }

  function backOff() {
    return 1 + jittered(losses++, line._retry);
  }

  /** The server's own delay: nothing shortens it. */
  function impose(ms) {
    isImposed = true;
    return ms + 1;
  }

  /** The server said no. Waiting may help; one channel may be at fault; else it is a matter for the page. */
  async function refused(problem) {
    if (problem.code === "bad_cursor" && cursor !== NOWHERE) {
      cursor = NOWHERE;
      return 0;
    }
    if (/40[45]|501/.test(problem.status) && stepDown()) return 0;
    if (passes(problem)) return problem.retry_ms ? impose(problem.retry_ms) : backOff();
    // What is wrong with a token is wrong for all channels; without one some are public and some are not.
    const isGeneral = problem.status === 401 && (await door._token().catch(() => "none"));
    if (!isGeneral && (await dropRefused())) return 0;
    hear._failed(problem);
    return REFUSED_MS + jittered(refusals++, REFUSED_MS, REFUSED_MAX_MS);
  }

  /** Finds out which channels or patterns are refused, and goes on without them. */
  async function dropRefused() {
    const bad = [];
    for (const one of asked) {
      const only = query(new Map([one]), ["wait_ms", 0], ["limit", 1]);
      await door._json("poll", only, { asIs: true }).catch((own) => passes(own) || bad.push([one[0], own]));
    }
    for (const [key, own] of bad) {
      wanted.delete(key);
      hear._refused(key, own);
    }
    return bad.length;
  }

  function query(targets, ...more) {
    const { info } = options;
    if (info !== undefined) more.push(["info", JSON.stringify(info)]);
    return listening(targets, cursor, retained, ["session", session], ...more);
  }

  /** Gives up the connection if there is no sign of life within this time. */
  function watch(ms) {
    clearTimeout(watcher);
    if (ms) watcher = setTimeout(() => abort.abort(), ms);
  }

  /**
   * Something came over the connection. `enough` such signs prove that it passes things on as they come; every `beat`
   * milliseconds the next will come, where the server has said so.
   */
  function sign(enough, beat) {
    lastSign = Date.now();
    if (beat) silent = Math.max(SILENT_MS, beat * SILENT_BEATS);
    if (++signs < enough) return watch(PREAMBLE_MS + patience);
    if (!isProved) {
      isProved = true;
      worked.add(ladder._transport());
      isDoubted = false;
      turnedAway = refusals = 0;
      ladder._remember();
    }
    watch(silent);
  }

  /** Where it stands is known: what it asked for is live. */
  function open(at) {
    if (!at) return;
    cursor = at;
    if (isOpened) return;
    isOpened = true;
    blocks = 0;
    blocked = undefined;
    live = new Map(asked);
    hear._live();
    tell("live");
  }

  /** One object of a stream or WebSocket. */
  function received(object, at) {
    const { type, id } = object;
    if (type === "reconnect") {
      line._after = object.after_ms;
      if (at) cursor = at;
      abort.abort();
    } else if (type === "subscribed") {
      const key = keyOf(object);
      if (asked.has(key)) live.set(key, asked.get(key));
      open(at);
      hear._live();
    } else if (type === "error") {
      // A command was refused: a new connection finds out whose fault it is.
      if (id) reopen();
    } else {
      // Cursors, unsubscribed and authorized say nothing to subscribers.
      const isSilent = /^[uac]/.test(type);
      hear._objects(isSilent ? [] : [object], at);
      // Behind many a front server nothing else would tell the server when a stream's member is not there any more.
      if (isSilent && !line._say && /,join/.test([...asked])) door._tell("renew", session);
      open(at);
    }
  }

  /** One poll. */
  async function turn(wait, signal) {
    const answer = await door._json("poll", query(asked, ["wait_ms", wait]), { signal });
    if (signal.aborted) return answer;
    lastSign = Date.now();
    hear._objects(answer.publications, answer.cursor);
    open(answer.cursor);
    return answer;
  }

  return { _begin: begin, _want: want, _wake: wake, _authorize: authorize, _close: close, _live: () => live };
}

/** The tabs of a site share one link: one of them leads and has it, the others hear from the leader. */

/** How often a tab tells what it wants, after which silence it is forgotten, and how soon it wants an answer. */
const TAB_MS = 30_000;
const TAB_GONE_MS = 150_000;
const LEADER_MS = 5_000;
/** Without Web Locks: after such a silence a tab leads. */
const ELECTION_MS = 250;

/** `emit` is called with each event. */
function makeTabs(door, options, page, emit) {
  const tab = random();
  /** What other tabs want, and when they last said so. */
  const others = new Map();
  let name;
  let joining;
  let channel;
  let ticker;
  let leader;
  let silence;
  let link;
  let hasBegun = false;
  /** How many lots of objects the leader has passed on. */
  let lots = 0;
  let campaign;
  let release;
  let state = { state: "idle" };
  /** Ends the wait for a token. */
  let wakeUp;
  let isUpdating = false;

  const present = () => ({ ...state, leading: !!link });

  function setState(next) {
    const { blocked } = state;
    state = next;
    emit("state", present());
    if (next.blocked && !blocked) emit("blocked", next.blocked);
  }

  /** What is wanted has changed. All that changes in one turn of the page goes together. */
  function update() {
    if (isUpdating) return;
    isUpdating = true;
    queueMicrotask(() => {
      isUpdating = false;
      if (link) wantAll();
      else announce();
      page._activate();
    });
  }

  /** Tabs of one name share a connection: the same server, and the same rights of the same user. */
  async function shareName() {
    const { share = true } = options;
    if (!share || !window.BroadcastChannel) return undefined;
    const url = `cometserver ${door._url} `;
    if (typeof share === "string") return url + share;
    const token = await door._token();
    const { sub, comet } = claims(token);
    return token ? comet && url + JSON.stringify([sub, comet]) : url;
  }

  async function join() {
    const own = (joining = {});
    try {
      name = await shareName();
    } catch ({ retry_ms }) {
      if (joining !== own) return;
      setState({ state: "waiting", retry_ms });
      await new Promise((over) => setTimeout((wakeUp = over), retry_ms));
      return joining === own && join();
    }
    if (joining !== own) return;
    if (!name) return lead();
    channel = new BroadcastChannel(name);
    channel.onmessage = ({ data }) => heard(data);
    // What cannot be taken up here is fetched.
    channel.onmessageerror = page._lag;
    ticker = setInterval(tick, TAB_MS);
    run();
    announce();
  }

  function leave() {
    joining = undefined;
    post({ type: "bye" });
    channel?.close();
    clearInterval(ticker);
    clearTimeout(silence);
    channel = leader = undefined;
    others.clear();
    page._listen();
    unlead();
  }

  function post(message) {
    channel?.postMessage({ ...message, from: tab });
  }

  /** Stands for the lead: with Web Locks until it is free, or at once if who has it does not answer; else at once. */
  function run(isNow) {
    campaign?.abort();
    const { locks } = navigator;
    if (!locks) return isNow && lead();
    const { signal } = (campaign = new AbortController());
    const taken = () =>
      new Promise((over) => {
        if (signal.aborted) return over();
        release = over;
        lead();
      });
    // It fails when it is given up, and when another tab takes it away because this one did not answer.
    locks.request(name, isNow ? { steal: true } : { signal }, taken).catch((error) => {
      if (signal.aborted) return;
      // Frames without an origin of their own get no locks.
      if (error.name !== "AbortError") return lead();
      unlead();
      run();
      announce();
    });
  }

  function lead() {
    if (link) return;
    clearTimeout(silence);
    leader = tab;
    hasBegun = false;
    const told = (hear) => (...said) => link === own && hear(...said);
    const own = makeLink(door, options, {
      _objects: told((list, cursor) => {
        lots++;
        let isSent;
        try {
          post({ type: "objects", lots, list, cursor });
          isSent = true;
        } catch {
          // Too deep to be handed on: each tab fetches it by itself.
        }
        page._take(list, cursor);
        if (!isSent) report();
      }),
      _live: told(() => {
        report();
        page._listen(own._live().keys());
      }),
      _state: told((next) => {
        setState(next);
        report();
      }),
      _refused: told((key, problem) => {
        for (const { _wants } of others.values()) _wants.delete(key);
        // Of an error only what is listed gets there.
        post({ type: "refused", key, problem: { ...problem, message: problem.message } });
        page._refuse(key, problem);
      }),
      _failed: told((problem) => emit("error", problem)),
    });
    link = own;
    wantAll();
  }

  function unlead() {
    campaign?.abort();
    link?._close();
    release?.();
    link = release = undefined;
  }

  /** The leader listens to what any tab wants. */
  function wantAll() {
    const wanted = page._wants();
    for (const { _wants } of others.values()) for (const want of _wants) addWant(wanted, ...want);
    if (!wanted.size) {
      // Who comes later begins anew.
      hasBegun = false;
      page._cursor = undefined;
    } else if (!hasBegun) {
      hasBegun = true;
      link._begin(...page._begin());
    }
    link._want(wanted);
    report();
  }

  function report() {
    if (!link || !channel) return;
    post({ type: "report", lots, cursor: page._cursor, live: [...link._live().keys()], state });
  }

  /** Tells the leader what this tab wants, and expects to hear from it. */
  function announce() {
    if (!channel || link) return;
    post({ type: "want", wants: [...page._wants()] });
    expect(navigator.locks ? LEADER_MS : ELECTION_MS * (1 + Math.random()));
  }

  function expect(ms) {
    clearTimeout(silence);
    silence = setTimeout(() => run(true), ms);
  }

  function tick() {
    if (!link) return announce();
    for (const [other, { _heard }] of others) if (Date.now() - _heard > TAB_GONE_MS) others.delete(other);
    wantAll();
  }

  function heard(message) {
    const { type, from } = message;
    if (type === "want") {
      others.set(from, { _wants: new Map(message.wants), _heard: Date.now() });
      if (link) wantAll();
      return;
    }
    if (type === "bye") {
      others.delete(from);
      if (link) wantAll();
      else if (from === leader && !navigator.locks) expect(ELECTION_MS * Math.random());
      return;
    }
    if (link) {
      // Two lead, which only happens without Web Locks, or while a lock changes hands: one gives way.
      if (navigator.locks) return;
      if (from > tab) return report();
      unlead();
      leader = undefined;
    }
    clearTimeout(silence);
    if (type === "refused") return page._refuse(message.key, message.problem);
    follow(message);
  }

  /** What the leader has for this tab. */
  function follow({ type, from, lots: count, list, cursor, live, state: next }) {
    const isNew = from !== leader;
    if (type === "objects") {
      if (isNew || count !== lots + 1) page._lag();
      page._take(list, cursor);
    } else {
      const follows = !isNew && count === lots;
      if (!follows && (!cursor || cursor !== page._cursor)) page._lag();
      if (!follows) page._cursor = cursor;
      if (JSON.stringify(next) !== JSON.stringify(state)) setState(next);
    }
    leader = from;
    lots = count;
    if (isNew) announce();
    if (live) page._listen(live);
  }

  /** Another token may be another user's: then this page belongs to other tabs. */
  async function renewed(token) {
    link?._authorize(token);
    if ((await shareName()) === name || !joining) return;
    leave();
    join();
  }

  /** The page is shown again, or the network is there again. */
  function wake(isOnline) {
    if (link) link._wake(isOnline);
    else if (!isOnline) announce();
    wakeUp?.();
  }

  return { _update: update, _join: join, _leave: leave, _renewed: renewed, _wake: wake, _setState: setState, _state: present };
}

/**
 * CometServer in the browser: subscribe to channels over the best transport that the path to the server allows.
 *
 * In reading order: `comet` (what a page uses), `page` and `subscriber` (what it has seen, once and in order), `tabs` (who
 * has the connection), `link` and `ladder` (one connection, the best that works), `transports`, `files`, `door` (asks the
 * server), `problem`, `reading`, `target`, `words`. The wire is docs/protocol.md.
 */

/** How often a publication is tried, under one idempotency key. */
const PUBLISH_TRIES = 6;
/** So many reloads are remembered, and no more happen within a minute. */
const RELOADS = 3;
const RELOADS_MS = 60_000;

/** A server, as a page sees it. */
class Comet {
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

export { Comet, CometError };
