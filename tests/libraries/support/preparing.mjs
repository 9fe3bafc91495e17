// Fetching and building a library's program, once.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";

const execute = promisify(execFile);
/** Downloads and builds from nothing on a busy machine. */
const DEADLINE_MS = 600_000;

/** Runs a command to its end; fails with what it said. */
export async function run(command, args) {
  try {
    await execute(command, args, { timeout: DEADLINE_MS, maxBuffer: 1 << 26 });
  } catch (error) {
    throw new Error(`${command} ${args.join(" ")}: ${error.code ?? error.signal}\n${error.stdout}${error.stderr}`);
  }
}

/** Is there such a command, and does it run? */
export async function isFound(command, args = ["--version"]) {
  try {
    await execute(command, args, { timeout: DEADLINE_MS });
    return true;
  } catch {
    return false;
  }
}

/**
 * `make`, done once however many ask; with `kept` not even that if the files `of` which it is made are the same as last
 * time, of which that file tells.
 */
export function once(make, { kept, of } = {}) {
  let made;
  return () => (made ??= kept ? makeUnlessKept(make, kept, of) : make());
}

async function makeUnlessKept(make, kept, of) {
  const hash = createHash("sha256");
  for (const file of of) hash.update(await readFile(file));
  const now = hash.digest("hex");
  if ((await readFile(kept, "utf8").catch(() => undefined)) === now) return;
  await rm(kept, { force: true });
  await make();
  await mkdir(dirname(kept), { recursive: true });
  await writeFile(kept, now);
}

/** Fails unless the folder holds exactly the files that `sums`, as `sha256sum` prints them, names. */
export async function checkSums(folder, sums) {
  const found = [];
  for (const file of (await readdir(folder)).sort()) {
    const hash = createHash("sha256").update(await readFile(`${folder}/${file}`));
    found.push(`${hash.digest("hex")}  ${file}\n`);
  }
  const expected = sums.split(/(?<=\n)/).sort((a, b) => a.slice(66).localeCompare(b.slice(66)));
  found.sort((a, b) => a.slice(66).localeCompare(b.slice(66)));
  if (found.join("") !== expected.join("")) throw new Error(`${folder} holds\n${found.join("")}expected\n${expected.join("")}`);
}
