// A network of its own with a link that can go down: nobody there can say goodbye then.

import { execFileSync, spawn } from "node:child_process";

let next = 0;

const ip = (text) => execFileSync("ip", text.split(" "), { stdio: "pipe" });

export class Link {
  /** Of those that are for trying out networks (RFC 2544). */
  host;
  #name;

  /** Makes one, gone after the test; throws where that is not allowed. */
  constructor(t) {
    const number = next++;
    this.#name = `comet-${process.pid}-${number}`;
    const address = (end) => `198.19.${process.pid & 255}.${number * 4 + end}`;
    this.host = address(1);
    const near = `c${process.pid}n${number}`;
    ip(`netns add ${this.#name}`);
    t.after(() => ip(`netns delete ${this.#name}`));
    ip(`link add ${near} type veth peer name far netns ${this.#name}`);
    ip(`address add ${this.host}/30 dev ${near}`);
    ip(`link set ${near} up`);
    ip(`-n ${this.#name} address add ${address(2)}/30 dev far`);
    ip(`-n ${this.#name} link set far up`);
  }

  /** May one be made here? If not, why. */
  static refused(t) {
    try {
      new Link(t);
      return undefined;
    } catch (error) {
      return `no network of its own can be made here (root may): ${error.stderr ?? error.message}`;
    }
  }

  /** Starts a command at the far end. */
  run(t, command, env) {
    const child = spawn("ip", ["netns", "exec", this.#name, ...command], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    t.after(() => child.kill("SIGKILL"));
    child.said = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (child.said += text));
    return child;
  }

  /** From now on nothing arrives, in neither direction. */
  down() {
    ip(`-n ${this.#name} link set far down`);
  }
}
