// PHP's own web server, on a free loopback port, with the source tree as its site, or another folder.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
/** A busy machine; a server that has not said its address by then will not. */
const START_DEADLINE_MS = 30_000;
/** Each page that waits at PHP has one, and a page that was closed for a while more. */
const WORKERS = 20;

/** Whatever it takes, none outlives this process. The workers are a process group. */
const running = new Set();
const end = (child) => {
  if (running.delete(child)) process.kill(-child.pid, "SIGKILL");
};
process.on("exit", () => running.forEach(end));

/** The origin of `php -S`, which has these variables and this document root, and is ended after the test. */
export async function servePhp(t, variables, root = ROOT) {
  const env = { ...process.env, PHP_CLI_SERVER_WORKERS: WORKERS, ...variables };
  const options = ["-d", "display_errors=1", "-d", "error_reporting=-1", "-S", "127.0.0.1:0", "-t", root];
  const child = spawn("php", options, { env, detached: true, stdio: ["ignore", "ignore", "pipe"] });
  await once(child, "spawn");
  running.add(child);
  t.after(() => end(child));
  let said = "";
  return new Promise((found, failed) => {
    const fail = (why) => failed(new Error(`php -S ${why}; it said:\n${said}`));
    child.stderr.setEncoding("utf8").on("data", (chunk) => {
      said += chunk;
      const match = /\((http:\/\/127\.0\.0\.1:[1-9]\d*)\) started/.exec(said);
      if (match) found(match[1]);
    });
    child.on("exit", (code, signal) => fail(`ended with ${signal ?? code}`));
    setTimeout(fail, START_DEADLINE_MS, "did not say its address").unref();
  });
}
