#!/usr/bin/env node
// Makes the small files of clients/js from comet.js: the module without comments, and the same as a plain script.
//
// Users need neither this nor Node: the results are committed, and a test says if they are not what this makes. It takes
// the pinned terser of tests/browser (`npm ci --prefix tests/browser`).

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { minify } = createRequire(new URL("../tests/browser/package.json", import.meta.url))("terser");
const FOLDER = new URL("../clients/js/", import.meta.url);

/** File name to content, all made from comet.js. */
export async function build() {
  const source = await readFile(new URL("comet.js", FOLDER), "utf8");
  const { version } = JSON.parse(await readFile(new URL("package.json", FOLDER), "utf8"));
  const about = `/*! CometServer ${version}, clients/js/comet.js */\n`;
  const options = { ecma: 2022, compress: { passes: 3, unsafe_arrows: true, pure_getters: true }, mangle: true };
  const small = async (text, more) => `${about}${(await minify(text, { ...options, ...more })).code}\n`;
  const exported = [...source.matchAll(/^export class (\w+)/gm)].map(([, name]) => name);
  const plain = source.replace(/^export /gm, "");
  return {
    "comet.min.js": await small(source, { module: true }),
    "comet.global.js": await small(`(() => {\n${plain}\nObject.assign(window, { ${exported.join(", ")} });\n})();`),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, content] of Object.entries(await build())) await writeFile(new URL(name, FOLDER), content);
}
