/** Asks the server, with a token that is renewed in time. */

import { CometError, NO_TOKEN, problemOf } from "./problem.js";
import { answerOf } from "./reading.js";
import { BLOCKED_MAX_MS, TIMER_MAX_MS, jittered, within } from "./words.js";

/** How long a plain request may take. */
export const ANSWER_MS = 15_000;
/** The first wait for the page's callback to give a token after all; it grows to `BLOCKED_MAX_MS`. */
const TOKEN_MS = 5_000;

/** The claims of a token, to be compared only: neither is its signature checked nor are its letters decoded. */
export function claims(token) {
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
export function makeDoor(url, source, renewed, emit) {
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
