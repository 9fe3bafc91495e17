// The units of deploy/systemd: as systemd reads them, and with their sockets held by somebody else across restarts.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { ask } from "./support/http.mjs";
import { TRANSPORTS } from "./support/listeners.mjs";
import { copy } from "./support/placeholders.mjs";
import { until } from "./support/processes.mjs";
import { BINARY, folder } from "./support/site.mjs";

const UNITS = fileURLToPath(new URL("../../deploy/systemd/", import.meta.url));
const LAUNCHER = fileURLToPath(new URL("support/launcher.pl", import.meta.url));

/** Copies the units of a kind into a folder, with paths of ours. */
async function units(dir, kind, values) {
  const target = join(dir, kind);
  for (const name of await readdir(join(UNITS, kind))) {
    const text = await readFile(join(UNITS, kind, name), "utf8");
    const own = Object.entries(values).filter(([placeholder]) => text.includes(placeholder));
    await copy(`systemd/${kind}/${name}`, join(target, name), Object.fromEntries(own));
  }
  return target;
}

/** The value of a key in a unit. */
async function setting(file, key) {
  const found = new RegExp(`^${key}=(.*)$`, "m").exec(await readFile(file, "utf8"));
  assert.ok(found, `${file} has no ${key}`);
  return found[1];
}

for (const kind of ["system", "user"]) {
  test(`systemd has nothing to say against the ${kind} units`, async (t) => {
    const dir = await folder();
    const target = await units(dir, kind, { "/usr/local/bin/comet": BINARY, "%h/.local/bin/comet": BINARY });
    const files = (await readdir(target)).map((name) => join(target, name));
    const env = { ...process.env, XDG_RUNTIME_DIR: dir };
    try {
      const { stderr } = await promisify(execFile)("systemd-analyze", [`--${kind}`, "verify", "--man=no", ...files], { env });
      assert.equal(stderr, "");
    } catch (error) {
      if (error.code === "ENOENT") return t.skip("systemd-analyze is not installed");
      throw error;
    }
  });

  test(`with the ${kind} units nobody is refused while the server restarts`, async (t) => {
    const dir = await folder();
    const state = join(dir, "state");
    await mkdir(join(state, "cometserver/public"), { recursive: true, mode: 0o711 });
    await chmod(join(state, "cometserver"), 0o711);
    await copy("comet.toml", join(dir, "comet.toml"), {
      "/var/lib/cometserver": join(state, "cometserver"),
      'socket_group = "www-data"': "",
      'secret_file = "/etc/cometserver/site.key"': 'secret = "a-key-for-this-test-only"',
      'secret_file = "/etc/cometserver/tokens.key"': 'secret = "a-secret-for-this-test-only-of-32-bytes"',
    });
    const target = await units(dir, kind, {
      "/usr/local/bin/comet": BINARY,
      "%h/.local/bin/comet": BINARY,
      "/var/lib/cometserver": join(state, "cometserver"),
      "%S/cometserver": join(state, "cometserver"),
      "/etc/cometserver": dir,
    });
    const sockets = [];
    for (const name of ["backend", "public"]) {
      const file = join(target, `cometserver-${name}.socket`);
      for (const key of ["FileDescriptorName", "SocketMode", "ListenStream"]) sockets.push(await setting(file, key));
    }
    const command = (await setting(join(target, "cometserver.service"), "ExecStart")).split(" ");
    const own = ["--set", "shutdown.spread=100ms", "--set", "held.retry=100ms", "--set", "namespace_default.public=true"];
    const systemd = await launch(t, [...sockets, "--", ...command, ...own]);

    const [backend, open] = [sockets[2], sockets[5]];
    const site = { where: { socketPath: open }, base: "" };
    const listeners = Object.values(TRANSPORTS).map((Listener) => new Listener(site, { channel: "news" }));
    t.after(() => listeners.forEach((listener) => listener.close()));
    const publish = async (text) => {
      const headers = { "Content-Type": "text/plain" };
      const { status } = await ask({ socketPath: backend }, "POST", "/v1/publish?channel=news", { body: text, headers });
      assert.equal(status, 200);
    };
    const inodes = async () => [(await stat(backend)).ino, (await stat(open)).ino];

    await systemd("start");
    for (const listener of listeners) await listener.open();
    await publish("1");
    for (const listener of listeners) assert.deepEqual(await listener.has(1), ["1"]);
    const before = await inodes();
    const knocked = listeners.map((listener) => listener.returns);

    await systemd("stop");
    // Nobody is there to answer, and still the door is open: who knocks now waits.
    const waiting = publish("2");
    await until("all to knock", () => listeners.every((listener, i) => listener.returns > knocked[i]));
    await systemd("start");
    await waiting;
    await publish("3");
    for (const listener of listeners) {
      await listener.has(3);
      assert.deepEqual(listener.received, ["1", "2", "3"]);
      assert.ok(!listener.ends.some((why) => /ECONN|ENOENT/.test(why)), `refused: ${listener.ends}`);
    }
    assert.deepEqual(await inodes(), before, "the sockets were made anew");
  });
}

/** Returns a function that says "start" or "stop" to the launcher, and waits until that is done. */
async function launch(t, args) {
  const child = spawn("perl", [LAUNCHER, ...args], { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text) => (said += text));
  const lines = createInterface({ input: child.stdout });
  const line = async () => {
    const ended = once(child, "exit").then(() => assert.fail(`the launcher has ended: ${said}`));
    await Promise.race([once(lines, "line"), ended]);
  };
  await line();
  t.after(async () => {
    const gone = once(child, "exit");
    child.stdin.end();
    await gone;
  });
  return async (word) => {
    const done = line();
    child.stdin.write(`${word}\n`);
    await done;
  };
}
