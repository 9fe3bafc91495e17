/** What one page listens to, how far it has seen it, and how it catches up with what the others have. */

import { CometError, passes, patiently } from "./problem.js";
import { addWant, listening, targetOf } from "./target.js";

/** So many publications are fetched at once. */
const LOT = 1_000;

/**
 * `updated` is called when what is wanted has changed, `emit` with each event, `moved` with the page's cursor where
 * everything up to it was shown. `own`: ids of publications that are not to be shown.
 */
export function makePage(door, own, { updated, emit, moved }) {
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
    let hasFallen = false;
    for (const object of list) {
      for (const one of subscribers) {
        if (!one._matches(object)) {
          // It is in other channels too, perhaps in this one's: over a connection it comes under one of them only.
          if (object.several) fallBack(one);
          hasFallen ||= object.several;
        } else if (!one._isReady && object.type === "publication") one._queue.push(object);
      }
      dispatch(object, [...subscribers].filter((one) => one._isReady));
    }
    if (next) cursor = next;
    persist();
    if (hasFallen) activate();
  }

  function dispatch(object, to) {
    const concerned = to.filter((one) => subscribers.has(one) && one._matches(object));
    if (!concerned.length) return;
    if (object.type === "publication") {
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

  /** Goes on from where the page stands, by itself. */
  function fallBack(one) {
    if (one._isReady && cursor) {
      one._start = cursor;
      one._retained = one._isReady = false;
    }
    one._queue = [];
    one._run = undefined;
  }

  /** Whoever listens to what is live now fetches what came before. */
  function activate() {
    const groups = new Map();
    for (const one of subscribers) {
      if (!live.has(one._key) || one._run) continue;
      if (one._isReady || (one._start === "now" && !one._retained)) {
        ready(one);
        continue;
      }
      const group = one._start + one._retained;
      groups.set(group, [...(groups.get(group) ?? []), one]);
    }
    for (const group of groups.values()) catchUp(group);
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

  /** Fetches for subscribers that begin at the same place what came before the link listened for them. */
  async function catchUp(group) {
    const run = {};
    for (const one of group) one._run = run;
    const isThere = () => (group = group.filter((one) => one._run === run && subscribers.has(one))).length;
    for (let tries = 0; isThere(); ) {
      const [{ _key: key, _start: start, _retained: retained }] = group;
      const keys = new Map(group.map((one) => [one._key, ""]));
      const query = listening(keys, start, retained, ["wait_ms", 0], ["limit", LOT]);
      let answer;
      try {
        answer = await door._json("poll", query);
      } catch (problem) {
        if (problem.code === "bad_cursor" && start !== "earliest") {
          for (const one of group) one._start = "earliest";
          for (const [key] of keys) dispatch({ type: "gap", ...targetOf(key) }, group);
        } else if (passes(problem)) {
          await patiently(problem, tries++);
        } else if (keys.size > 1) {
          for (const [key] of keys) catchUp(group.filter((one) => one._key === key));
          return;
        } else if (isThere()) {
          return refuse(key, problem);
        }
        continue;
      }
      if (!isThere()) return;
      const { publications, cursor, retry_ms } = answer;
      const placeOf = ({ channel, offset, time }) => [offset, time, channel].join();
      const queued = new Set(group.flatMap(({ _queue }) => _queue.map(placeOf)));
      const overlaps = publications.some((one) => queued.has(placeOf(one)));
      for (const object of publications) dispatch(object, group);
      for (const one of group) {
        one._start = cursor;
        one._retained = false;
      }
      if (retry_ms) await patiently(answer);
      else if (overlaps || !publications.length) break;
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
    if (refused.length) emit("error", Object.assign(new CometError(problem), targetOf(key)));
  }

  return {
    _subscribers: subscribers,
    _known: known,
    _wants: wants,
    _take: take,
    _begin: begin,
    _refuse: refuse,
    /** The link has missed what this page had not seen. */
    _lag: () => subscribers.forEach(fallBack),
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
