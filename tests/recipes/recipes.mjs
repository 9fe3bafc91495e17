// The recipes of deploy/, as data: how each is put together, and what is promised of it.

import { chmod } from "node:fs/promises";
import { join } from "node:path";

import * as fronts from "./support/fronts.mjs";
import { copy, put } from "./support/placeholders.mjs";
import { freePort } from "./support/processes.mjs";
import { programFor } from "./support/site.mjs";

/** What all have in common by which PHP connects browsers with the server. */
const BRIDGE = {
  config: "apache-htaccess/comet.toml",
  page: "/ordinary.php",
  crowd: 300,
  refused: { websocket: 404 },
  // What is not for visitors is not passed on at all.
  absent: 404,
  client: false,
};

/**
 * name, config (its comet.toml in deploy/), front(t, site) -> a Service;
 * `closed`: within how many seconds everything of a closed tab is free at our server, by transport;
 * `crowd`: with so many who wait, each of whom would take one of its few workers, pages answer;
 * `signIn`: the page that gives a visitor a cookie, where that is shown in the place of a token; `nobody`: what it costs to
 * show nothing; `prefix`: where that visitor's channels are;
 * `streams`: whether the bridge finds that small pieces arrive; `absent`: what is answered where administration is not
 * passed on at all;
 * `client`: whether the server's own `/client.js` comes through;
 * `refused`: transports that do not get through, with the status they are refused with.
 */
export const recipes = [
  {
    name: "nginx",
    closed: { websocket: 1, sse: 1, poll: 1 },
    async front(_, site) {
      const file = join(site.dir, "etc/comet.conf");
      await copy("nginx/comet.conf", file, only(site, "/var/lib/cometserver"));
      return fronts.nginx(site, `include ${file};`);
    },
  },
  {
    name: "nginx-php",
    closed: { websocket: 1, sse: 1, poll: 1 },
    page: "/ordinary.php",
    async front(t, site) {
      const pool = await phpPool(t, site);
      const script = join(site.dir, "etc/authorize.php");
      const rights = { "['subscribe']": "['subscribe', 'presence']" };
      await copy("nginx-php/authorize.php", script, { ...only(site, "/etc/cometserver"), ...rights });
      const file = join(site.dir, "etc/comet.conf");
      await copy("nginx-php/comet.conf", file, {
        ...only(site, "/var/lib/cometserver"),
        "/var/www/comet/authorize.php": script,
        "unix:/run/php/php-fpm.sock": pool.listen,
      });
      return fronts.nginx(site, `include ${file}; ${phpByNginx(pool)}`);
    },
    // Here everybody has a token, if only for what is public.
    nobody: 403,
    prefix: "user/anna/",
    // What they may listen to is PHP's to say.
    signIn: "/sign-in.php",
  },
  {
    name: "apache-htaccess",
    config: "apache-htaccess/comet.toml",
    crowd: 300,
    closed: { websocket: 1, sse: 9, poll: 11 },
    page: "/ordinary.php",
    async front(t, site) {
      await htaccess(site);
      return fronts.apache(site, await sharedHost(t, site));
    },
  },
  {
    name: "apache-vhost",
    config: "apache-vhost/comet.toml",
    crowd: 300,
    closed: { websocket: 1, sse: 9, poll: 11 },
    async front(_, site) {
      const folder = join(site.dir, "apache-comet");
      const values = { ...only(site, "/var/lib/cometserver"), "/etc/apache2/comet": folder };
      await copy("apache-vhost/comet.conf", join(folder, "comet.conf"), values);
      await copy("apache-vhost/again.asis", join(folder, "again.asis"), {});
      const modules = ["proxy", "proxy_http", "proxy_wstunnel", "asis"];
      return fronts.apache(site, { modules, lines: `Include ${folder}/comet.conf` });
    },
  },
  {
    name: "nginx-before-apache",
    config: "apache-htaccess/comet.toml",
    closed: { sse: 9, poll: 11 },
    refused: { websocket: 400 },
    async front(t, site) {
      await htaccess(site);
      const where = { port: await freePort() };
      const host = await sharedHost(t, site);
      // What hosting panels write on both sides, no more.
      const modules = [...host.modules, "remoteip"];
      const lines = `RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1\n${host.lines}`;
      const apache = await fronts.apache(site, { modules, lines, where });
      await apache.start();
      t.after(() => apache.stop());
      const headers = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
      return fronts.nginx(site, `location / { proxy_pass http://127.0.0.1:${where.port}; ${headers} }`);
    },
  },
  {
    name: "apache-cgi",
    config: "apache-htaccess/comet.toml",
    crowd: 300,
    closed: { sse: 11, poll: 11 },
    refused: { websocket: 501 },
    client: false,
    async front(_, site) {
      const values = { ...only(site, "/var/lib/cometserver"), "/usr/local/bin/comet": await programFor(site.dir) };
      await copy("apache-cgi/comet/.htaccess", join(site.www, "comet/.htaccess"), {});
      await copy("apache-cgi/comet/push.cgi", join(site.www, "comet/push.cgi"), values);
      await chmod(join(site.www, "comet/push.cgi"), 0o755);
      return fronts.apache(site, { modules: ["cgid"], lines: `ScriptSock ${site.dir}/apache/cgid.sock` });
    },
  },
  {
    name: "php-mod_php",
    ...BRIDGE,
    streams: true,
    closed: { sse: 5, poll: 5 },
    async front(_, site) {
      await bridge(site);
      return fronts.apache(site, await fronts.modPhp());
    },
  },
  {
    name: "php-fpm",
    ...BRIDGE,
    streams: false,
    closed: { poll: 11 },
    async front(t, site) {
      await bridge(site);
      const pool = await phpPool(t, site);
      return fronts.apache(site, { modules: ["proxy", "proxy_fcgi"], lines: phpByApache(pool) });
    },
  },
  {
    name: "php-fcgid",
    ...BRIDGE,
    // More requests than its processes can answer hang in Apache's workers, and a graceful restart makes that last.
    crowd: 30,
    streams: false,
    closed: { poll: 11 },
    async front(_, site) {
      await bridge(site);
      return fronts.apache(site, await fronts.fcgid(site));
    },
  },
  {
    name: "php-nginx-fpm",
    ...BRIDGE,
    base: "/comet/bridge.php",
    crowd: 0,
    streams: true,
    closed: { sse: 5, poll: 5 },
    async front(t, site) {
      await bridge(site);
      const pool = await phpPool(t, site);
      return fronts.nginx(site, phpByNginx(pool));
    },
  },
  {
    name: "php-S",
    ...BRIDGE,
    base: "/comet/bridge.php",
    crowd: 0,
    streams: true,
    closed: { sse: 5, poll: 5 },
    async front(_, site) {
      await bridge(site);
      return fronts.phpServer(site, site.phpWorkers);
    },
  },
  {
    name: "caddy",
    closed: { websocket: 1, sse: 1, poll: 1 },
    async front(_, site) {
      const file = join(site.dir, "etc/Caddyfile");
      const values = {
        ...only(site, "/var/lib/cometserver", "/var/www/html"),
        "example.org {": `${site.origin} {`,
        // Its administration would take a port of its own, and certificates are not to be had here.
        "grace_period 1s": "grace_period 1s\n\tadmin off\n\tauto_https off",
      };
      await copy("caddy/Caddyfile", file, values);
      return fronts.caddy(site, file);
    },
  },
  {
    name: "haproxy",
    closed: { websocket: 1, sse: 1, poll: 1 },
    async front(t, site) {
      const file = join(site.dir, "etc/haproxy.cfg");
      const values = {
        ...only(site, "/var/lib/cometserver"),
        "bind :80": `bind ${fronts.at(site.where)}`,
        "127.0.0.1:8080": `127.0.0.1:${await fronts.plainSite(t)}`,
      };
      await copy("haproxy/haproxy.cfg", file, values);
      return fronts.haproxy(site, file);
    },
  },
];

/** PHP-FPM, up and running, and pages for it. */
export async function phpPool(t, site) {
  await phpPages(site);
  const pool = await fronts.fpm(site, { children: site.phpWorkers });
  await pool.start();
  t.after(() => pool.stop());
  return pool;
}

async function phpPages(site) {
  await put(join(site.www, "ordinary.php"), "<title>ordinary</title><?php echo '<p>an ordinary page';");
  await put(join(site.www, "sign-in.php"), "<?php session_start(); $_SESSION['user'] = 'anna';");
}

/** The folder with the bridge: that of `.htaccess`, which falls back to it where there is no mod_proxy_http. */
export async function bridge(site) {
  await phpPages(site);
  await htaccess(site);
  const values = only(site, "/var/lib/cometserver", "/etc/cometserver");
  await copy("php/comet/comet-config.php", join(site.www, "comet/comet-config.php"), values);
}

/** What is uploaded where nothing else can be done. */
async function htaccess(site) {
  await copy("apache-htaccess/comet/.htaccess", join(site.www, "comet/.htaccess"), only(site, "/var/lib/cometserver"));
  await copy("apache-htaccess/comet/again.php", join(site.www, "comet/again.php"), {});
  await copy("../clients/php/bridge.php", join(site.www, "comet/bridge.php"), {});
  await copy("../clients/php/start.php", join(site.www, "comet/start.php"), {});
}

/** A shared host's Apache: PHP by FPM, and mod_proxy for a `.htaccess` to use. */
async function sharedHost(t, site) {
  const pool = await phpPool(t, site);
  return {
    modules: ["proxy", "proxy_http", "proxy_wstunnel", "proxy_fcgi"],
    lines: phpByApache(pool),
  };
}

/** What every site with PHP-FPM behind Apache has. */
export function phpByApache(pool) {
  return `<FilesMatch "\\.php$">\n  SetHandler "proxy:${pool.handler}"\n</FilesMatch>`;
}

/** What every site with PHP behind nginx has. */
export function phpByNginx(pool) {
  return `location ~ \\.php(?:/|$) {
      fastcgi_split_path_info ^(.+\\.php)(/.*)$;
      include fastcgi_params;
      fastcgi_param PATH_INFO $fastcgi_path_info;
      fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
      fastcgi_pass ${pool.listen};
    }`;
}

/** Those placeholders that a file has. */
function only(site, ...names) {
  return Object.fromEntries(names.map((name) => [name, site.placeholders[name]]));
}
