/** What is listened to, as one string, a key: `c:` and a channel, or `p:` and a pattern. */

export const keyOf = ({ channel, pattern }) => (pattern == null ? "c:" + channel : "p:" + pattern);

/** The target that a key stands for. */
export const targetOf = (key) => ({ [key[0] === "c" ? "channel" : "pattern"]: key.slice(2) });

/** A cursor that no server knows: for whom the own one is none. A gap is told, and then what may be seen of the past. */
export const NOWHERE = "AQAAAAAAAAAAAAA";

/** Query parameters that listen to all of a map from key to kind of presence, from a cursor on, and more of them. */
export const listening = (wanted, cursor, retained, ...more) => [
  ...[...wanted].map(([key, presence]) => [key[0] === "p" ? "pattern" : presence || "channel", key.slice(2)]),
  ["cursor", cursor],
  ...(retained ? [] : [["retained", 0]]),
  ...more,
];

/** Adds to a map from key to kind of presence; `join` is more than `watch`, and that more than none. */
export function addWant(wants, key, presence) {
  const known = wants.get(key) ?? "";
  wants.set(key, known === "join" ? known : presence || known);
}

/** A pattern as a regular expression: `*` any run without `/`, `**` any run, `\` takes the next character literally. */
export function matcher(pattern) {
  const source = pattern.replace(/\\([^])|(\*\*+)|(\*)|[^]/g, (one, literal, any, segment) =>
    any ? "[^]*" : segment ? "[^/]*" : (literal ?? one).replace(/\W/, "\\$&"),
  );
  return new RegExp(`^${source}$`);
}
