/** Files in a folder of the web server that tell how far channels are: what they do not announce need not be asked for. */

import { within } from "./words.js";

/** Files are believed for so long without a word of the server: half of what it keeps a file that nobody asks about. */
const BELIEVED_MS = 300_000;
/** How long they may take together; then the server is asked, as where one is missing. */
export const FILES_MS = 4_000;
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
export function makeFiles(folder) {
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
