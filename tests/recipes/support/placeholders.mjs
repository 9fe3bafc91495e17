// The files of deploy/ as a person would copy them: only what they mark as yours to change is changed.

import assert from "node:assert/strict";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

/** Copies `deploy/<name>` to `target`, replacing each key of `values`, all of which must be in it. */
export async function copy(name, target, values) {
  let text = await readFile(fileURLToPath(new URL(`../../../deploy/${name}`, import.meta.url)), "utf8");
  for (const [placeholder, value] of Object.entries(values)) {
    assert.ok(text.includes(placeholder), `deploy/${name} does not hold ${placeholder}`);
    text = text.replaceAll(placeholder, value);
  }
  await put(target, text);
}

/** Writes a file that any user may read, with its folders. */
export async function put(target, text, mode = 0o644) {
  await mkdir(dirname(target), { recursive: true, mode: 0o755 });
  await writeFile(target, text);
  await chmod(target, mode);
}
