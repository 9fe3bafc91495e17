// Servers in the foreground: started, awaited, ended by pid; none of them outlives the tests.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";

/** A server on a busy machine; one that does not answer by then will not. Only a test that fails gets there. */
export const DEADLINE_MS = 30_000;

/** Below the range from which the system takes the ports of outgoing connections. */
const PORTS = { first: 20_000, count: 12_000 };

/** How often something is asked that cannot be awaited. */
const LOOK_MS = 25;

// Where servers are, which is not on everybody's path.
process.env.PATH += ":/usr/sbin:/sbin";

const running = new Set();
process.on("exit", () => running.forEach(killAll));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(1));

/** Ends a child with all that it has started and not led away. */
function killAll(child) {
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // Nobody is left.
  }
}

/** Settles with what `look` returns, once that is true. `what` is waited for: text, or what gives it when it was in vain. */
export async function until(what, look, deadline = DEADLINE_MS) {
  const late = Date.now() + deadline;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > late) throw new Error(`waited ${deadline} ms in vain for ${typeof what === "function" ? await what() : what}`);
    await new Promise((again) => setTimeout(again, LOOK_MS));
  }
}

let next = (process.pid * 37) % PORTS.count;

/** A loopback port that nobody listens on, and that nobody else is given. */
export async function freePort() {
  for (;;) {
    next = (next + 1) % PORTS.count;
    const port = PORTS.first + next;
    const server = createServer();
    server.listen(port, "127.0.0.1");
    const free = await Promise.race([once(server, "listening").then(() => true), once(server, "error").then(() => false)]);
    if (!free) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

/** Does somebody accept connections there? `where`: options of `net.connect`. */
export function accepts(where) {
  return new Promise((answer) => {
    const socket = connect(where);
    socket.on("connect", () => answer(true)).on("error", () => answer(false));
    socket.on("connect", () => socket.destroy());
  });
}

/** A command that runs until it is ended. */
export class Service {
  #child;
  #command;
  #options;
  #where;
  /** What it said, for whoever reads a failure. */
  said = "";

  /** `where` it accepts connections once it is up: options of `net.connect`. */
  constructor(command, { where, ...options }) {
    this.#command = command;
    this.#where = where;
    this.#options = options;
  }

  get pid() {
    return this.#child.pid;
  }

  async start() {
    const [program, ...args] = this.#command;
    // A group of its own: Apache's prefork ends the whole group that it is in, which would be ours.
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], detached: true, ...this.#options });
    this.#child = child;
    running.add(child);
    let ended = null;
    child.on("error", (error) => (ended = error.message));
    child.on("exit", (code, signal) => {
      running.delete(child);
      // The workers of PHP's own server stay behind.
      killAll(child);
      ended = `ended with ${signal ?? code}`;
    });
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (this.said += text));
    await until(`${program} to accept`, async () => {
      if (ended !== null) throw new Error(`${this.#command.join(" ")}: ${ended}; it said:\n${this.said}`);
      return accepts(this.#where);
    });
  }

  signal(name) {
    this.#child.kill(name);
  }

  /** Ends it, and waits until it is gone. */
  async stop(signal = "SIGTERM") {
    const child = this.#child;
    if (child === undefined || !running.has(child)) return;
    const gone = once(child, "exit");
    child.kill(signal);
    const late = setTimeout(() => child.kill("SIGKILL"), DEADLINE_MS);
    const [, by] = await gone;
    clearTimeout(late);
    if (by === "SIGKILL" && signal !== "SIGKILL") throw new Error(`${this.#command[0]} did not end on ${signal}`);
  }
}
