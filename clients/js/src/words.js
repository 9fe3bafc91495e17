/** Small words that several parts use. */

/** The first wait after a loss and the longest one. The wait is any part of it (full jitter), and it doubles. */
export const BACKOFF_MS = 500;
export const BACKOFF_MAX_MS = 30_000;
/** The longest where something else than our server answers, which may last. */
export const BLOCKED_MAX_MS = 300_000;
/** About the longest that a browser's timer can wait, which is 2^31 ms. */
export const TIMER_MAX_MS = 2_000_000_000;

/** A name that nobody can guess. */
export const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

export const sleep = (ms) => new Promise((over) => setTimeout(over, ms));

/** A signal that aborts what is asked after this time; what has ended by then does not mind. */
export function within(ms) {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), ms);
  return abort.signal;
}

/** How long to wait after so many losses. */
export const jittered = (times, base = BACKOFF_MS, max = BACKOFF_MAX_MS) => Math.random() * Math.min(max, base * 2 ** times);

/** A storage may be full, forbidden or absent: then nothing is remembered. */
export function stored(storage, key, value) {
  try {
    const store = window[storage];
    return value === undefined ? store[key] : value === null ? delete store[key] : (store[key] = value);
  } catch {
    // As if it were empty.
  }
}
