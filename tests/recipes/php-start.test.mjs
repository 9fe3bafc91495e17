// The bridge starts the server: what it inherits of PHP-FPM must not keep FPM from restarting.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, chown, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { phpByApache } from "./recipes.mjs";
import * as fronts from "./support/fronts.mjs";
import { ask } from "./support/http.mjs";
import { copy } from "./support/placeholders.mjs";
import { accepts, freePort } from "./support/processes.mjs";
import { BINARY, folder, programFor } from "./support/site.mjs";

const isRoot = process.getuid() === 0;

/** PHP's user and group, who own what PHP is to write. */
async function give(path) {
  if (!isRoot) return;
  const entry = /^www-data:[^:]*:(\d+):(\d+):/m.exec(await readFile("/etc/passwd", "utf8"));
  await chown(path, Number(entry[1]), Number(entry[2]));
}

test("FPM on a TCP pool restarts cleanly after the bridge has started the server", async (t) => {
  const dir = await folder();
  const site = { dir, www: join(dir, "www"), temp: join(dir, "tmp"), where: { port: await freePort() } };
  await mkdir(site.temp);
  await chmod(site.temp, 0o1777);
  const data = join(dir, "data");
  await mkdir(data, { mode: 0o711 });
  await give(data);

  await copy("comet.toml", join(dir, "comet.toml"), {
    "/var/lib/cometserver": data,
    'socket_group = "www-data"': "",
    'secret_file = "/etc/cometserver/site.key"': 'secret = "a-key-for-this-test-only"',
    'secret_file = "/etc/cometserver/tokens.key"': 'secret = "a-secret-for-this-test-only-of-32-bytes"',
  });
  await copy("apache-htaccess/comet/.htaccess", join(site.www, "comet/.htaccess"), { "/var/lib/cometserver": data });
  await copy("../clients/php/bridge.php", join(site.www, "comet/bridge.php"), {});
  await copy("../clients/php/start.php", join(site.www, "comet/start.php"), {});
  await copy("php/comet/comet-config.php", join(site.www, "comet/comet-config.php"), {
    "/var/lib/cometserver": data,
    "/etc/cometserver/comet.toml": join(dir, "comet.toml"),
    "/usr/local/bin/comet": await programFor(dir),
    "// 'start'": "'start'",
    "// 'binary'": "'binary'",
    "// 'config'": "'config'",
  });

  const listen = `127.0.0.1:${await freePort()}`;
  const pool = await fronts.fpm(site, { listen });
  await pool.start();
  t.after(() => pool.stop());
  const apache = await fronts.apache(site, { modules: ["proxy", "proxy_fcgi"], lines: phpByApache(pool) });
  await apache.start();
  t.after(() => apache.stop());
  t.after(() => promisify(execFile)(BINARY, ["stop", "--data-dir", data]).catch(() => {}));

  const poll = async () => {
    const { status, body } = await ask(site.where, "GET", "/comet/v1/poll?channel=public/news&wait_ms=0");
    assert.equal(status, 200, body);
    return JSON.parse(body);
  };
  assert.equal(await accepts({ path: join(data, "comet.sock") }), false);
  await poll();
  const pid = await readFile(join(data, "comet.pid"), "utf8");

  await pool.stop();
  const [host, port] = listen.split(":");
  assert.equal(await accepts({ host, port: Number(port) }), false, "somebody still listens at FPM's address");
  await pool.start();
  await poll();
  assert.equal(await readFile(join(data, "comet.pid"), "utf8"), pid, "the server did not survive FPM");
});
