/** What one page listens to, how far it has seen it, and how it catches up with what the others have. */

import { CometError, passes, patiently } from "./problem.js";
import { NOWHERE, addWant, listening, targetOf } from "./target.js";
import { sleep } from "./words.js";

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
export function makePage(door, own, updated, emit, moved) {
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
