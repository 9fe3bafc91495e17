// The libraries as data: what runs them, how they are built, and what is known of them.

import { copyFile, mkdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { page, program } from "./support/programs.mjs";
import { checkSums, isFound, once, run } from "./support/preparing.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
/** Outside the sources, and kept: a second run fetches and builds nothing. */
const built = (path) => here(`../../target/libraries/${path}`);

const node = once(async () => {
  const into = built("node");
  await mkdir(into, { recursive: true });
  for (const file of ["package.json", "package-lock.json", "listen.mjs"]) await copyFile(here(`node/${file}`), `${into}/${file}`);
  await run("npm", ["ci", "--prefix", into, "--ignore-scripts", "--no-audit", "--no-fund"]);
}, { kept: built("node/.made-of"), of: ["node/package-lock.json", "node/listen.mjs"].map(here) });

const python = once(async () => {
  await run("python3", ["-m", "venv", "--clear", built("python")]);
  await run(built("python/bin/pip"), ["install", "--quiet", "--no-deps", "--requirement", here("python/requirements.txt")]);
}, { kept: built("python/.made-of"), of: [here("python/requirements.txt")] });

const go = once(() => run("go", ["build", "-C", here("go"), "-mod=readonly", "-buildvcs=false", "-o", built("go/"), "."]));

const java = once(async () => {
  const jars = built("java/jars");
  await run("mvn", [
    ...["--quiet", "--batch-mode", "--file", here("java/pom.xml"), `-DoutputDirectory=${jars}`],
    "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies",
  ]);
  await checkSums(jars, await readFile(here("java/jars.sha256"), "utf8"));
  await run("javac", ["-cp", `${jars}/*`, "-d", built("java/classes"), here("java/Listen.java")]);
}, { kept: built("java/.made-of"), of: ["java/pom.xml", "java/jars.sha256", "java/Listen.java"].map(here) });

const rust = once(() =>
  run("cargo", ["build", "--quiet", "--locked", "--manifest-path", here("rust/Cargo.toml"), "--target-dir", built("rust")]),
);

/** Python can make a folder of its own for packages, which Debian has as a package apart. */
const venv = () => isFound("python3", ["-c", "import ensurepip, venv"]);

/**
 * Each with its `name`; what it `needs` as text, and `isThere`, whether that is on this machine; `prepare`, which fetches
 * and builds it; and `open`, which listens. `handsOutPieces`: what has come of a message when it is cut off, it hands out
 * as one; programs have to pass over what is not JSON, and over offsets that they have had. `givesUpAt502`: for ever.
 */
export const libraries = [
  {
    name: "EventSource in Chromium",
    needs: "chromium",
    isThere: () => isFound(process.env.CHROMIUM ?? "chromium"),
    open: page(),
    givesUpAt502: true,
  },
  {
    name: "event-source-polyfill in Chromium",
    needs: "chromium, node and npm",
    isThere: async () => (await isFound(process.env.CHROMIUM ?? "chromium")) && isFound("npm"),
    prepare: node,
    open: page(built("node/node_modules/event-source-polyfill/src/eventsource.js")),
    givesUpAt502: true,
  },
  {
    name: "eventsource in Node",
    needs: "node and npm",
    isThere: () => isFound("npm"),
    prepare: node,
    open: program("node", built("node/listen.mjs")),
    givesUpAt502: true,
  },
  {
    name: "sseclient-py in Python",
    needs: "python3 with venv",
    isThere: venv,
    prepare: python,
    open: program(built("python/bin/python"), here("python/listen_sseclient.py")),
    handsOutPieces: true,
  },
  {
    name: "httpx-sse in Python",
    needs: "python3 with venv",
    isThere: venv,
    prepare: python,
    open: program(built("python/bin/python"), here("python/listen_httpx.py")),
  },
  {
    name: "r3labs/sse in Go",
    needs: "go",
    isThere: () => isFound("go", ["version"]),
    prepare: go,
    open: program(built("go/libraries")),
    handsOutPieces: true,
  },
  {
    name: "okhttp-eventsource in Java",
    needs: "javac and mvn",
    isThere: async () => (await isFound("javac", ["-version"])) && isFound("mvn"),
    prepare: java,
    open: program("java", "-XX:TieredStopAtLevel=1", "-cp", `${built("java/classes")}:${built("java/jars")}/*`, "Listen"),
  },
  {
    name: "reqwest-eventsource in Rust",
    needs: "cargo",
    isThere: () => isFound("cargo"),
    prepare: rust,
    open: program(built("rust/debug/listen")),
    givesUpAt502: true,
  },
];
