/** The tabs of a site share one link: one of them leads and has it, the others hear from the leader. */

import { claims } from "./door.js";
import { makeLink } from "./link.js";
import { addWant } from "./target.js";
import { random } from "./words.js";

/** How often a tab tells what it wants, after which silence it is forgotten, and how soon it wants an answer. */
const TAB_MS = 30_000;
const TAB_GONE_MS = 150_000;
const LEADER_MS = 5_000;
/** Without Web Locks: after such a silence a tab leads. */
const ELECTION_MS = 250;

/** `emit` is called with each event. */
export function makeTabs(door, options, page, emit) {
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
