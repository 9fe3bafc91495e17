// The front web servers, each with the least configuration of its own around the files of deploy/.

import { createServer } from "node:http";
import { once } from "node:events";
import { chmod, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";

import { put } from "./placeholders.mjs";
import { Service } from "./processes.mjs";

const isRoot = process.getuid() === 0;

/** What a master that is root hands its work to, as on a real host. */
const AS_WEB_USER = isRoot ? "www-data" : "";

/** PHP takes its folder for temporary files from here. */
const environment = (site) => ({ ...process.env, TMPDIR: site.temp });

/** An address to listen on: on loopback, unless it says another. */
export const at = ({ host = "127.0.0.1", port }) => `${host}:${port}`;

/** nginx with these lines in its `server { … }`; without any, `http` holds one of its own. */
export async function nginx(site, lines, { http = "" } = {}) {
  const { where } = site;
  const dir = join(site.dir, "nginx");
  await mkdir(dir, { mode: 0o755 });
  await put(join(dir, "fastcgi_params"), "include /etc/nginx/fastcgi_params;\n");
  const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((kind) => `${kind}_temp_path ${dir}/${kind};`);
  await put(
    join(dir, "nginx.conf"),
    `${AS_WEB_USER && `user ${AS_WEB_USER};`}
worker_processes 1;
pid ${dir}/nginx.pid;
error_log stderr warn;
daemon off;
events { worker_connections 1024; }
http {
  access_log off;
  types { text/html html; }
  ${temp.join("\n  ")}
  ${lines ? `server { listen ${at(where)}; root ${site.www}; ${lines} }` : http}
}
`,
  );
  return new Service(["nginx", "-p", dir, "-c", join(dir, "nginx.conf"), "-e", "stderr"], { where });
}

const APACHE_MODULES = "/usr/lib/apache2/modules";

/** Debian's own figures for a multi-processing module. */
const mpm = (kind) => `LoadModule mpm_${kind}_module ${APACHE_MODULES}/mod_mpm_${kind}.so
Include /etc/apache2/mods-available/mpm_${kind}.conf`;

const MODULES = "authz_core authz_host mime dir env headers setenvif alias rewrite reqtimeout deflate filter".split(" ");

/**
 * Apache as Debian has it, with these modules besides the usual ones and these lines in its virtual host. A `.htaccess`
 * may do what a shared host allows.
 */
export async function apache(site, { modules = [], lines = "", kind = "event", where = site.where } = {}) {
  const dir = join(site.dir, "apache");
  await mkdir(dir, { mode: 0o755 });
  const load = [...MODULES, ...modules].map((name) => `LoadModule ${name}_module ${APACHE_MODULES}/mod_${name}.so`);
  await put(
    join(dir, "apache.conf"),
    `ServerRoot ${dir}
ServerName 127.0.0.1
Listen ${at(where)}
PidFile ${dir}/apache.pid
DefaultRuntimeDir ${dir}
ErrorLog ${dir}/error.log
LogLevel warn
${isRoot ? `User ${AS_WEB_USER}\nGroup ${AS_WEB_USER}` : ""}
${mpm(kind)}
${load.join("\n")}
TypesConfig /etc/mime.types
Include /etc/apache2/mods-available/deflate.conf
Include /etc/apache2/mods-available/reqtimeout.conf
DirectoryIndex index.php index.html
DocumentRoot ${site.www}
<Directory />
  AllowOverride None
  Require all denied
</Directory>
<Directory ${site.www}>
  AllowOverride FileInfo AuthConfig Limit Indexes Options=ExecCGI
  Require all granted
</Directory>
${lines}
`,
  );
  return new Service(["apache2", "-f", join(dir, "apache.conf"), "-D", "FOREGROUND"], { where, env: environment(site) });
}

/** PHP inside Apache's processes, which are then one for each visitor. */
export async function modPhp() {
  const file = (await readdir(APACHE_MODULES)).filter((name) => /^libphp.*\.so$/.test(name)).sort().at(-1);
  return {
    kind: "prefork",
    lines: `LoadModule php_module ${APACHE_MODULES}/${file}
<FilesMatch "\\.php$">
  SetHandler application/x-httpd-php
</FilesMatch>`,
  };
}

/**
 * PHP by mod_fcgid, with the few processes that hosting panels give a site.
 *
 * Apache ends them all with each graceful restart, and mod_fcgid starts new ones ever more slowly: that would be
 * measured, whoever the visitors were. So it may start them at once.
 */
export async function fcgid(site) {
  const dir = join(site.dir, "fcgid");
  await mkdir(dir);
  await chmod(dir, 0o1777);
  return {
    modules: ["fcgid"],
    lines: `FcgidIPCDir ${dir}
FcgidProcessTableFile ${dir}/table
FcgidMaxRequestLen 4194304
FcgidMaxProcessesPerClass ${site.phpWorkers ?? 5}
FcgidSpawnScoreUpLimit 1000
<Directory ${site.www}>
  Options +ExecCGI
  AddHandler fcgid-script .php
  FcgidWrapper /usr/bin/php-cgi .php
</Directory>`,
  };
}

/** PHP's own server, with so many visitors at a time. */
export function phpServer(site, workers) {
  const env = { ...environment(site), PHP_CLI_SERVER_WORKERS: String(workers) };
  return new Service(["php", "-S", at(site.where), "-t", site.www], { where: site.where, env });
}

/** PHP-FPM as Debian has it, with a pool of so many; `listen`: a path or an address. */
export async function fpm(site, { children = 5, listen = join(site.dir, "fpm/php.sock") } = {}) {
  const dir = join(site.dir, "fpm");
  await mkdir(dir, { mode: 0o755 });
  const user = isRoot ? `user = www-data\ngroup = www-data\nlisten.owner = www-data\nlisten.group = www-data` : "";
  await put(
    join(dir, "fpm.conf"),
    `[global]
pid = ${dir}/fpm.pid
error_log = ${dir}/error.log
daemonize = no
[www]
${user}
listen = ${listen}
pm = dynamic
pm.max_children = ${children}
pm.start_servers = 2
pm.min_spare_servers = 1
pm.max_spare_servers = 3
php_admin_value[session.save_path] = ${site.temp}
env[TMPDIR] = ${site.temp}
`,
  );
  const [host, port] = listen.split(":");
  const where = port === undefined ? { path: listen } : { host, port: Number(port) };
  const service = new Service([await phpFpm(), "-y", join(dir, "fpm.conf"), "-F"], { where, env: environment(site) });
  // As nginx and as Apache call it.
  service.listen = port === undefined ? `unix:${listen}` : listen;
  service.handler = port === undefined ? `unix:${listen}|fcgi://localhost` : `fcgi://${listen}`;
  return service;
}

async function phpFpm() {
  const found = (await readdir("/usr/sbin")).filter((name) => name.startsWith("php-fpm")).sort();
  return join("/usr/sbin", found.at(-1) ?? "php-fpm");
}

export async function caddy(site, file) {
  const dir = join(site.dir, "caddy");
  await mkdir(dir, { mode: 0o755 });
  const env = { ...environment(site), HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir };
  return new Service(["caddy", "run", "--config", file, "--adapter", "caddyfile"], { where: site.where, env });
}

export function haproxy(site, file) {
  return new Service(["haproxy", "-db", "-f", file], { where: site.where });
}

/** The site itself, where the front server has no files of its own. Returns its port. */
export async function plainSite(t) {
  const server = createServer((_, response) => response.end("<title>ordinary</title><p>an ordinary page"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections?.();
  });
  return server.address().port;
}
