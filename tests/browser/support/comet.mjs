// The real server: started on a free loopback port with a folder of its own, ended by its pid.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const BINARY = process.env.COMET_BINARY ?? fileURLToPath(new URL("../../../target/debug/comet", import.meta.url));
/** A debug build on a busy machine; a server that has not said its address by then will not. */
const START_DEADLINE_MS = 30_000;
/** More than the server takes to drain; after it, it is killed. */
const STOP_DEADLINE_MS = 15_000;

/** Pids that must not outlive this process, however it ends. */
const running = new Set();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** An empty folder that is removed after the test. Short: a Unix socket's path has to fit into 107 bytes. */
export async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), "comet-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A running `comet`. */
export class Comet {
  #args;
  #child;
  #said = "";
  /** Where it listens, as a URL's origin. */
  origin;

  /** `comet demo`: everything is public, no configuration. Stopped after the test. */
  static demo(t) {
    return Comet.#start(t, async (data) => ["demo", "--data-dir", data, "--listen", "127.0.0.1:0"]);
  }

  /** `comet serve` with this configuration file (TOML); it has to name a TCP listener. Stopped after the test. */
  static serve(t, configuration) {
    return Comet.#start(t, async (data) => {
      const file = join(data, "test.toml");
      await writeFile(file, configuration, { mode: 0o600 });
      return ["serve", "--data-dir", data, "--config", file];
    });
  }

  static async #start(t, args) {
    const comet = new Comet();
    // Before its folder is removed, which it would go on writing to.
    t.after(() => comet.stop());
    comet.#args = await args(await folder(t));
    await comet.start();
    return comet;
  }

  /** Starts it, again too: in the same folder, with the same configuration. A port that it chose itself is another one then. */
  async start() {
    const args = this.#args;
    const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    this.#said = "";
    running.add(child);

    const address = new Promise((found, failed) => {
      const fail = (why) => failed(new Error(`comet ${args.join(" ")}: ${why}; it said:\n${this.#said}`));
      const listen = (chunk) => {
        this.#said += chunk;
        // With the character that follows, so that a port that came in two pieces is not taken for a shorter one.
        const match = /(?:http:\/\/|"tcp":"\[)(127\.0\.0\.1:[1-9][0-9]*)(?=[^0-9])/.exec(this.#said);
        if (match) found(`http://${match[1]}`);
      };
      child.stdout.setEncoding("utf8").on("data", listen);
      child.stderr.setEncoding("utf8").on("data", listen);
      child.on("error", (error) => {
        running.delete(child);
        fail(error.message);
      });
      child.on("exit", (code, signal) => {
        running.delete(child);
        fail(`ended with ${signal ?? code} before it said its address`);
      });
      setTimeout(fail, START_DEADLINE_MS, "did not say its address").unref();
    });
    this.origin = await address;
  }

  /** Publishes text; settles when subscribers can see it. */
  async publish(channel, text, contentType = "text/plain;charset=utf-8") {
    const query = new URLSearchParams({ channel });
    const response = await fetch(`${this.origin}/v1/publish?${query}`, {
      method: "POST",
      headers: { "Content-Type": contentType },
      body: text,
    });
    assert.equal(response.status, 200, await response.clone().text());
    return response.json();
  }

  /** The kept publications of a channel, oldest first. */
  async history(channel) {
    const query = new URLSearchParams({ channel, since: "earliest" });
    const response = await fetch(`${this.origin}/v1/history?${query}`);
    assert.equal(response.status, 200, await response.clone().text());
    return (await response.json()).publications;
  }

  /** Ends it as an init system would, and waits until it is gone. */
  async stop() {
    const child = this.#child;
    if (!running.has(child)) return;
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), STOP_DEADLINE_MS);
    const [, signal] = await gone;
    clearTimeout(late);
    assert.notEqual(signal, "SIGKILL", `comet did not end within ${STOP_DEADLINE_MS} ms of SIGTERM`);
  }
  /** Ends it as a power failure does, and waits until it is gone. */
  async kill() {
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await gone;
  }
}
