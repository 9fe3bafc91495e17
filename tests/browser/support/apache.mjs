// A real Apache with PHP, as shared hosts run it: a document root to upload into, on a free loopback port, ended by its pid.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MODULES = "/usr/lib/apache2/modules";
const PROGRAM = "/usr/sbin/apache2";
const START_DEADLINE_MS = 30_000;
const WEB_USER = "www-data";

/** Is what the tests need installed? */
export const isThere = existsSync(PROGRAM) && existsSync(join(MODULES, "libphp8.2.so"));

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((listening) => server.once("listening", listening));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

/** Ends what was started in an account, by the pids in the locks of data folders. */
function endServers(home) {
  const locks = readdirSync(home, { recursive: true }).filter((name) => name.endsWith("comet.lock"));
  for (const lock of locks) {
    try {
      process.kill(JSON.parse(readFileSync(join(home, lock), "utf8")).pid, "SIGKILL");
    } catch {
      // It has ended already.
    }
  }
}

/**
 * An account on a shared host: `home` with `public_html` in it, served. Everything ends with the test, also what was
 * started in it.
 *
 * `run` has its `access.log`: a line `STATUS METHOD PATH` for each request.
 *
 * `modules`: besides PHP, which of `proxy`, `cgi`. `override`: what a .htaccess may say. `closedHome`: PHP may write
 * to the document root only.
 */
export async function account(t, { modules = ["proxy", "cgi"], override = "All", closedHome = false } = {}) {
  const home = await mkdtemp(join(tmpdir(), "host-"));
  const root = join(home, "public_html");
  const run = join(home, "run");
  await mkdir(root);
  await mkdir(run);
  await chmod(home, 0o755);
  const isRoot = process.getuid() === 0;
  if (isRoot) {
    const id = (flag) => Number(execFileSync("id", [flag, WEB_USER]));
    for (const path of closedHome ? [root] : [home, root]) await chown(path, id("-u"), id("-g"));
  }
  const load = (name, file = `mod_${name}.so`) => `LoadModule ${name}_module ${MODULES}/${file}`;
  const names = ["authz_core", "alias", "mime", "dir", "rewrite", "setenvif", "env"];
  if (modules.includes("proxy")) names.push("proxy", "proxy_http", "proxy_wstunnel");
  if (modules.includes("cgi")) names.push("cgi");
  const port = await freePort();
  const configuration = `
    ServerRoot ${home}
    ServerName localhost
    Listen 127.0.0.1:${port}
    PidFile ${run}/apache.pid
    ErrorLog ${run}/error.log
    CustomLog ${run}/access.log "%>s %m %U"
    ${isRoot ? `User ${WEB_USER}\nGroup ${WEB_USER}` : ""}
    ${load("mpm_prefork")}
    ${names.map((name) => load(name)).join("\n")}
    LoadModule php_module ${MODULES}/libphp8.2.so
    StartServers 4
    MinSpareServers 2
    MaxRequestWorkers 20
    TypesConfig /etc/mime.types
    DocumentRoot ${root}
    <Directory ${root}>
      AllowOverride ${override}
      Require all granted
      Options FollowSymLinks
    </Directory>
    <FilesMatch "\\.php$">
      SetHandler application/x-httpd-php
    </FilesMatch>
    php_admin_value error_log ${run}/php.log
    php_admin_flag log_errors on
  `;
  const file = join(run, "apache.conf");
  await writeFile(file, configuration);
  const child = spawn(PROGRAM, ["-DFOREGROUND", "-f", file], {
    stdio: ["ignore", "inherit", "inherit"],
    env: { PATH: process.env.PATH, HOME: home },
    detached: true, // it ends its whole process group, which must not be ours
  });
  const ended = new Promise((over) => child.once("exit", over));
  t.after(async () => {
    child.kill("SIGTERM");
    await ended;
    endServers(home);
    await rm(home, { recursive: true, force: true });
  });
  const origin = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + START_DEADLINE_MS;
  for (;;) {
    const answered = await fetch(origin).then(() => true, () => false);
    if (answered) return { home, root, run, origin, isRoot };
    if (Date.now() > deadline || child.exitCode !== null) throw new Error("Apache did not start");
    await new Promise((over) => setTimeout(over, 50));
  }
}
