// One recipe at work: the real server with the recipe's configuration, the front web server, an ordinary page beside it.

import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { chmod, copyFile, link, mkdir, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { at } from "./fronts.mjs";
import { ask, stream } from "./http.mjs";
import { Service, freePort } from "./processes.mjs";
import { copy, put } from "./placeholders.mjs";

export const BINARY = process.env.COMET_BINARY ?? fileURLToPath(new URL("../../../target/debug/comet", import.meta.url));

/** Times that a person would not want, but that a test would have to sit out. Nothing else of a recipe's is changed. */
const SHORTER = ["shutdown.spread=200ms", "held.retry=300ms"];

/** Room for all transports at once, which the few workers of a real PHP do not have. */
const ROOMIER = { settings: ["held.bridge.max=12", "held.cgi.max=12"], phpWorkers: 16 };

/** As Debian's PHP-FPM has it. */
const USUAL_PHP_WORKERS = 5;

/** Files and sockets are for other users than the one that runs the tests. */
const isRoot = process.getuid() === 0;

/** Removed at the very end: what a test ends after itself still needs them. */
const folders = [];
process.on("exit", () => folders.forEach((dir) => rmSync(dir, { recursive: true, force: true })));

/** A folder that other users may pass. Short: a Unix socket's path has to fit into 107 bytes. */
export async function folder() {
  const dir = await mkdtemp(join(tmpdir(), "comet-"));
  folders.push(dir);
  await chmod(dir, 0o711);
  return dir;
}

/** The server's program, below a folder where any user may run it. */
export async function programFor(dir) {
  const path = join(dir, "bin/comet");
  await mkdir(join(dir, "bin"), { mode: 0o755 });
  await link(BINARY, path).catch(() => copyFile(BINARY, path));
  await chmod(path, 0o755);
  return path;
}

export class Site {
  /** All that it has is in here. */
  dir;
  /** Where browsers come in: `{ port }`. */
  where;
  /** What stands before `/v1/`. */
  base;
  recipe;
  key = randomBytes(32).toString("hex");
  tokensKey = randomBytes(32).toString("hex");
  #settings;
  #comet;
  #front;

  /**
   * Everything a recipe needs, up and running; gone after the test. `asIs`: with the recipe's own times and bounds;
   * `settings`: more of the server's; `host`: another address than that of loopback for the front web server.
   */
  static async open(t, recipe, { asIs = false, settings = [], host } = {}) {
    const site = new Site();
    site.recipe = recipe;
    site.phpWorkers = asIs ? USUAL_PHP_WORKERS : ROOMIER.phpWorkers;
    site.#settings = [...(asIs ? [] : [...SHORTER, ...ROOMIER.settings]), ...settings];
    site.base = recipe.base ?? "/comet";
    site.dir = await folder();
    await mkdir(site.temp);
    await chmod(site.temp, 0o1777);
    await put(join(site.dir, "etc/site.key"), site.key, 0o640);
    await put(join(site.dir, "etc/tokens.key"), `${site.tokensKey}\n`);
    await put(join(site.www, "ordinary.html"), "<!doctype html><title>ordinary</title><p>an ordinary page");
    await site.#configure();
    await site.startComet();
    t.after(() => site.stopComet());
    site.where = { ...(host && { host }), port: await freePort() };
    site.#front = await recipe.front(t, site);
    t.after(() => site.stopFront());
    await site.startFront();
    return site;
  }

  get www() {
    return join(this.dir, "www");
  }

  /** Where any user may leave temporary files. */
  get temp() {
    return join(this.dir, "tmp");
  }

  get origin() {
    return `http://${at(this.where)}`;
  }

  /** What the files of deploy/ call by the names of a usual installation. */
  get placeholders() {
    return {
      "/var/lib/cometserver": join(this.dir, "data"),
      "/etc/cometserver": join(this.dir, "etc"),
      "/var/www/html": this.www,
    };
  }

  get #config() {
    return join(this.dir, "etc/comet.toml");
  }

  async #configure() {
    const { "/var/lib/cometserver": data, "/etc/cometserver": etc } = this.placeholders;
    const values = { "/var/lib/cometserver": data, "/etc/cometserver": etc };
    // Whoever is not root cannot give a socket to another group.
    if (!isRoot) values["www-data"] = String(process.getgid());
    await copy(this.recipe.config ?? "comet.toml", this.#config, values);
  }

  async startComet() {
    const args = ["serve", "--config", this.#config];
    for (const setting of this.#settings) args.push("--set", setting);
    this.#comet ??= new Service([BINARY, ...args], { where: { path: this.backend.socketPath } });
    await this.#comet.start();
  }

  async stopComet(signal) {
    await this.#comet.stop(signal);
  }

  async startFront() {
    await this.#front.start();
  }

  async stopFront() {
    await this.#front.stop();
  }

  get front() {
    return this.#front;
  }

  /** The door of the site's own code. */
  get backend() {
    return { socketPath: join(this.dir, "data/comet.sock") };
  }

  /** Publishes text; settles when subscribers can see it. */
  async publish(channel, text) {
    const query = new URLSearchParams({ channel });
    const headers = { "Content-Type": "text/plain;charset=utf-8" };
    const answer = await ask(this.backend, "POST", `/v1/publish?${query}`, { headers, body: text });
    assert.equal(answer.status, 200, answer.body);
  }

  /** The server's counters. */
  async stats() {
    return JSON.parse((await ask(this.backend, "GET", "/v1/stats")).body);
  }

  /** A visitor's token. */
  token(rights) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = { sub: "anna", exp: Math.floor(Date.now() / 1000) + 3600, comet: { actions: ["subscribe"], ...rights } };
    const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
    return `${text}.${createHmac("sha256", this.tokensKey).update(text).digest("base64url")}`;
  }

  /** What a visitor shows who has signed in. */
  async cookie() {
    const { headers } = await ask(this.where, "GET", this.recipe.signIn);
    return headers["set-cookie"][0].split(";")[0];
  }

  /** Asks through the front web server, below the server's own folder. */
  ask(method, path, options) {
    return ask(this.where, method, this.base + path, options);
  }

  /** Has the bridge find out whether small pieces arrive, as a page does: says the number that comes first back. All it said. */
  async probe() {
    const path = "/comet/bridge.php?probe=";
    let text = "";
    await new Promise((ended) => {
      let said = false;
      stream(this.where, `${path}1`, {}, {
        onData: (piece) => {
          text += piece;
          const number = /"probe":"([0-9a-f]+)"/.exec(text)?.[1];
          if (number && !said && !text.includes("streams")) ask(this.where, "POST", path + number, { body: "" }).catch(ended);
          said ||= number !== undefined;
        },
        onEnd: ended,
      });
    });
    return text;
  }

  /** An ordinary page of the same site. */
  async ordinaryPage(deadline) {
    const answer = await ask(this.where, "GET", this.recipe.page ?? "/ordinary.html", { deadline });
    assert.equal(answer.status, 200);
    assert.match(answer.body, /an ordinary page/);
  }
}
