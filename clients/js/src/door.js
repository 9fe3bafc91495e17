/** Asks the server, with a token that is renewed in time. */

import { problemOf } from "./problem.js";
import { TIMER_MAX_MS, within } from "./words.js";

/** How long a plain request may take. */
export const ANSWER_MS = 15_000;

/** The claims of a token, to be compared only: neither is its signature checked nor are its letters decoded. */
export function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
}

/**
 * `source` is a token, or the page's callback that gives one; `renewed(token)` is called when it gave another than before.
 *
 * As everywhere here, names that begin with `_` are those between the modules; the small files have shorter ones.
 */
export function makeDoor(url, source, renewed) {
  // `?` in it: the path goes where the address ends, for a script that takes it as a parameter.
  url = new URL(url, location.href).href.replace(/\/$/, "");
  let token = typeof source === "function" ? undefined : source;
  let asking;
  let renewAt = Infinity;
  let timer;

  /** Headers that show a token, if there is one. */
  const bearer = (token) => (token ? { Authorization: `Bearer ${token}` } : {});
  const address = (path, query) => `${url}/v1/${path}${url.includes("?") ? "&" : "?"}${new URLSearchParams(query)}`;

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
    token = (await source()) ?? "";
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
      const response = await fetch(address(path, query), { cache: "no-store", ...init, headers });
      if (response.ok) return response;
      const problem = await problemOf(response);
      const isRenewable = (problem.status === 401 || problem.status === 403) && !init.asIs;
      if (!isRenewable || refused !== undefined || (await current(shown)) === shown) throw problem;
      refused = shown;
    }
  }

  /** The answer of a plain request, which may not take for ever. */
  const json = async (path, query, init) => (await ask(path, query, { signal: within(ANSWER_MS), ...init })).json();

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
