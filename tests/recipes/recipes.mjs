// The recipes of deploy/, as data: how each is put together, and what is promised of it.

import { join } from "node:path";

import * as fronts from "./support/fronts.mjs";
import { copy, put } from "./support/placeholders.mjs";
import { freePort } from "./support/processes.mjs";

/**
 * name, config (its comet.toml in deploy/), front(t, site) -> a Service;
 * `closed`: within how many seconds everything of a closed tab is free at our server, by transport;
 * `crowd`: each who waits takes one of its few workers;
 * `signIn`: the page that gives a visitor a cookie, where that is shown in the place of a token; `nobody`: what it costs to
 * show nothing; `prefix`: where that visitor's channels are;
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
      await copy("nginx-php/authorize.php", script, only(site, "/etc/cometserver"));
      const file = join(site.dir, "etc/comet.conf");
      await copy("nginx-php/comet.conf", file, {
        ...only(site, "/var/lib/cometserver"),
        "/var/www/comet/authorize.php": script,
        "/run/php/php-fpm.sock": pool.listen,
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
    crowd: true,
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
    crowd: true,
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
      const apache = await fronts.apache(site, { ...(await sharedHost(t, site)), where });
      await apache.start();
      t.after(() => apache.stop());
      // What hosting panels write, no more.
      return fronts.nginx(site, `location / { proxy_pass http://127.0.0.1:${where.port}; proxy_set_header Host $http_host; }`);
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
        "bind :80": `bind 127.0.0.1:${site.where.port}`,
        "127.0.0.1:8080": `127.0.0.1:${await fronts.plainSite(t)}`,
      };
      await copy("haproxy/haproxy.cfg", file, values);
      return fronts.haproxy(site, file);
    },
  },
];

/** PHP-FPM, up and running, and pages for it. */
async function phpPool(t, site, listen) {
  await put(join(site.www, "ordinary.php"), "<title>ordinary</title><?php echo '<p>an ordinary page';");
  await put(join(site.www, "sign-in.php"), "<?php session_start(); $_SESSION['user'] = 'anna';");
  const pool = await fronts.fpm(site, listen);
  await pool.start();
  t.after(() => pool.stop());
  return pool;
}

/** What is uploaded where nothing else can be done. */
async function htaccess(site) {
  await copy("apache-htaccess/comet/.htaccess", join(site.www, "comet/.htaccess"), only(site, "/var/lib/cometserver"));
  await copy("apache-htaccess/comet/again.php", join(site.www, "comet/again.php"), {});
}

/** A shared host's Apache: PHP by FPM, and mod_proxy for a `.htaccess` to use. */
async function sharedHost(t, site) {
  const pool = await phpPool(t, site);
  return {
    modules: ["proxy", "proxy_http", "proxy_wstunnel", "proxy_fcgi"],
    lines: `<FilesMatch "\\.php$">\n  SetHandler "proxy:unix:${pool.listen}|fcgi://localhost"\n</FilesMatch>`,
  };
}

/** What every site with PHP behind nginx has. */
function phpByNginx(pool) {
  return `location ~ \\.php$ {
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
      fastcgi_pass unix:${pool.listen};
    }`;
}

/** Those placeholders that a file has. */
function only(site, ...names) {
  return Object.fromEntries(names.map((name) => [name, site.placeholders[name]]));
}
