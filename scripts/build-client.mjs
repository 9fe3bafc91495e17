#!/usr/bin/env node
// Makes the files of clients/js that people use from the modules in clients/js/src: the client as one module to read, the
// same without comments and with short names, and that as a plain script.
//
// Users need neither this nor Node: the results are committed, and a test says if they are not what this makes. It takes
// the pinned terser of tests/browser (`npm ci --prefix tests/browser`).

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { minify } = createRequire(new URL("../tests/browser/package.json", import.meta.url))("terser");
const FOLDER = new URL("../clients/js/", import.meta.url);
const FIRST = "comet.js";

/**
 * The names between the modules, which begin with `_`, by the kind of object that has them: within a kind each gets a letter of its own, and
 * kinds share letters, which makes the files much smaller. A name that is missing here gets one that nothing else has.
 */
const KINDS = [
  "_ask _address _tell _json _url _close _token", // door
  "_subscribers _known _wants _take _begin _refuse _lag _activate _listen _cursor", // page
  "_key _presence _start _retained _isReady _queue _matches _isOld _show _forget _again _run _isAnnounced", // subscriber
  "_update _join _leave _renewed _wake _setState _state", // tabs
  "_wants _heard", // what tabs know of another tab
  "_begin _want _wake _authorize _close _live", // link
  "_objects _live _refused _failed _state", // what a link tells
  "_door _options _asked _query _wake _rest _watch _sign _received _turn _say _after _retry", // what a link gives to a transport
  "_transport _recall _remember _stepDown _stay", // ladder
  "_isQuiet _heard", // files
].map((names) => names.split(" "));
/** The letters, in the order that makes the files smallest. */
const LETTERS = "toiheu_anmCfDRlspcSwdyTv";

/** What terser calls a name cache: the short name of each that is in `KINDS`, those that are used most first. */
function shortNames(code) {
  const count = (name) => code.split(name).length;
  const short = {};
  for (const name of [...new Set(KINDS.flat())].sort((one, other) => count(other) - count(one))) {
    const taken = KINDS.filter((kind) => kind.includes(name)).flatMap((kind) => kind.map((other) => short[`$${other}`]));
    short[`$${name}`] = [...LETTERS].find((letter) => !taken.includes(letter));
  }
  return { props: { props: short } };
}

const SMALL = {
  ecma: 2022,
  // What makes the files smaller after gzip, which is not always what makes them shorter.
  compress: { passes: 3, unsafe_arrows: true, unsafe_methods: true, pure_getters: true, reduce_funcs: false, conditionals: false },
  mangle: { properties: { regex: /^_/ } },
};

/** Name to text of the modules, each behind those that it imports. */
async function modules(name = FIRST, read = new Map()) {
  const text = await readFile(new URL(`src/${name}`, FOLDER), "utf8");
  for (const [, other] of text.matchAll(/^import .* from "\.\/(.+)";$/gm)) if (!read.has(other)) await modules(other, read);
  return read.set(name, text);
}

/**
 * All modules as one: what they import is above already. Each is known to the others by its own names only, so no two may
 * use the same at their top level, which terser would say.
 */
async function join() {
  const exported = [];
  const parts = [];
  for (const [name, text] of await modules()) {
    const own = text.replace(/^import .*;\n/gm, "").replace(/^export \{ (.*) \};\n/gm, (_, names) => (exported.push(names), ""));
    if (name === FIRST) exported.push(...[...own.matchAll(/^export class (\w+)/gm)].map(([, name]) => name));
    parts.push(own.replace(/^export /gm, "").replace(/\n{3,}/g, "\n\n").trim());
  }
  return { code: parts.join("\n\n"), exported: exported.sort().join(", ") };
}

/** File name to content, all made from src/comet.js and what it imports. */
export async function build() {
  const { version } = JSON.parse(await readFile(new URL("package.json", FOLDER), "utf8"));
  const { code, exported } = await join();
  const about = `/*! CometServer ${version} */\n`;
  const module = `${code}\n\nexport { ${exported} };\n`;
  const plain = `(() => {\n${code}\nObject.assign(window, { ${exported} });\n})();`;
  // One word for what is declared, where nobody reads it.
  const small = async (text, more) =>
    `${about}${(await minify(text.replace(/\bconst (?=[\w{[])/g, "let "), { ...SMALL, nameCache: shortNames(text), ...more })).code}\n`;
  return {
    "comet.js": `${about}// Made from clients/js/src by scripts/build-client.mjs: to change it, change that.\n\n${module}`,
    "comet.min.js": await small(module, { module: true }),
    "comet.global.js": await small(plain),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, content] of Object.entries(await build())) await writeFile(new URL(name, FOLDER), content);
}
