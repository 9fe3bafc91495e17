/** One connection to the server at a time, and the cursor that outlives each of them. */

import { ANSWER_MS } from "./door.js";
import { makeLadder } from "./ladder.js";
import { NO_TOKEN, isForeign, passes } from "./problem.js";
import { NOWHERE, keyOf, listening } from "./target.js";
import { PREAMBLE_MS, interval, poll, sse, websocket } from "./transports.js";
import { BACKOFF_MAX_MS, BACKOFF_MS, BLOCKED_MAX_MS, TIMER_MAX_MS, jittered, random } from "./words.js";

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
export function makeLink(door, options, hear) {
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
