// A real WordPress as Debian has it, with a database of its own, in the document root of a site.

import { execFile } from "node:child_process";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { put } from "./placeholders.mjs";
import { Service } from "./processes.mjs";

const run = promisify(execFile);

/** Where Debian's package has it. Parts of it are links to other packages, and to what a site adds. */
const INSTALLED = "/usr/share/wordpress";

/** Nothing in it outlives the test, and it holds little. */
const SMALL = ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M"];

const isRoot = process.getuid() === 0;

/** A database server in the folder of a site, on a Unix socket only. */
export async function database(t, site) {
  const dir = join(site.dir, "db");
  const data = join(dir, "data");
  const socket = join(dir, "db.sock");
  const user = isRoot ? ["--user=root"] : [];
  await mkdir(dir, { mode: 0o711 });
  const tables = ["--no-defaults", `--datadir=${data}`, "--auth-root-authentication-method=normal", "--skip-test-db"];
  await run("mariadb-install-db", [...tables, ...SMALL, ...user]);
  await put(join(dir, "first.sql"), "CREATE DATABASE wordpress CHARACTER SET utf8mb4;\n");
  const settings = {
    datadir: data,
    socket,
    "pid-file": join(dir, "db.pid"),
    "init-file": join(dir, "first.sql"),
    tmpdir: dir,
    "innodb-flush-log-at-trx-commit": "0",
  };
  const set = Object.entries(settings).map(([name, value]) => `--${name}=${value}`);
  const args = ["--no-defaults", "--skip-networking", ...SMALL, ...user, ...set];
  const service = new Service(["mariadbd", ...args], { where: { path: socket } });
  await service.start();
  t.after(() => service.stop());
  return socket;
}

export class WordPress {
  user = "anna";
  password = "only-for-this-test";
  #site;
  #socket;

  constructor(site, socket) {
    this.#site = site;
    this.#socket = socket;
  }

  /** Its files in the document root, not yet installed; `defines`: lines of PHP for its settings. */
  async put(defines) {
    const { www, dir, where } = this.#site;
    await run("cp", ["-rL", `${INSTALLED}/.`, www]);
    await put(this.#starts, "", 0o666);
    await put(
      join(www, "wp-config.php"),
      `<?php
// Every start of WordPress, whatever for.
file_put_contents('${this.#starts}', ($_SERVER['REQUEST_URI'] ?? 'a script') . "\\n", FILE_APPEND);
define('DB_NAME', 'wordpress');
define('DB_USER', 'root');
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:${this.#socket}');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
$table_prefix = 'wp_';
// nginx as Debian has it leaves the port out.
$_SERVER['HTTP_HOST'] = '127.0.0.1:${where.port}';
// Nothing goes out, nothing happens by itself, and what is wrong is written down.
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DISABLE_WP_CRON', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('WP_DEBUG', true);
define('WP_DEBUG_DISPLAY', false);
define('WP_DEBUG_LOG', '${join(dir, "tmp/debug.log")}');
define('FS_METHOD', 'direct');
${defines}
defined('ABSPATH') || define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
`,
    );
  }

  /** Hands a file or folder to the user that PHP runs as, who is then able to delete it. */
  async give(path) {
    if (isRoot) await run("chown", ["-R", "www-data:www-data", join(this.#site.www, path)]);
  }

  get #starts() {
    return join(this.#site.temp, "starts");
  }

  /** For what it was started, each time. */
  async starts() {
    return (await readFile(this.#starts, "utf8")).split("\n").slice(0, -1);
  }

  /** What was wrong with the plug-in so far: WordPress itself is older than this PHP, and finds no WordPress.org. */
  async complaints() {
    const log = await readFile(join(this.#site.temp, "debug.log"), "utf8").catch(() => "");
    return log.split("\n").filter((line) => line.includes("/plugins/cometserver/"));
  }

  /** What PHP prints that has loaded it. */
  async script(code) {
    const { stdout } = await run("php", ["-d", "display_errors=stderr", "-r", `require '${this.#site.www}/wp-load.php'; ${code}`]);
    return stdout;
  }

  /** The rows of a query, each a line. */
  async rows(query) {
    const { stdout } = await run("mariadb", ["--no-defaults", "-u", "root", `--socket=${this.#socket}`, "-N", "wordpress", "-e", query]);
    return stdout.split("\n").slice(0, -1);
  }
}
