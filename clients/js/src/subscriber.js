/** One handler on one channel or pattern: what it is shown, it is shown once. */

import { keyOf, matcher } from "./target.js";

/** Of how many channels of a pattern the newest offset is remembered. */
const SEEN = 1_000;

/**
 * `start`: where it begins, or has to go on: a cursor, `now` or `earliest`. `isReady`: it has everything up to where the
 * link stands; until then what the link brings waits in `queue`. `run`: the catch-up that is under way; `again`: it has to
 * ask once more, within so many milliseconds.
 */
export function makeSubscriber(key, handler, start, retained, presence) {
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
