// The recipes of deploy/, as data: how each is put together, and what is promised of it.

import { join } from "node:path";

import * as fronts from "./support/fronts.mjs";
import { copy } from "./support/placeholders.mjs";
import { freePort } from "./support/processes.mjs";

/**
 * name, config (its comet.toml in deploy/), front(t, site) -> a Service;
 * `closed`: within how many seconds everything of a closed tab is free at our server, by transport;
 * `refused`: transports that do not get through, with the status they are refused with.
 */
export const recipes = [
  {
    name: "nginx",
    closed: { websocket: 1, sse: 1, poll: 1, interval: 1 },
    async front(_, site) {
      const file = join(site.dir, "etc/comet.conf");
      await copy("nginx/comet.conf", file, only(site, "/var/lib/cometserver"));
      return fronts.nginx(site, `include ${file};`);
    },
  },
  {
    name: "apache-htaccess",
    config: "apache-htaccess/comet.toml",
    closed: { websocket: 1, sse: 6, poll: 11, interval: 1 },
    async front(_, site) {
      await copy("apache-htaccess/comet/.htaccess", join(site.www, "comet/.htaccess"), only(site, "/var/lib/cometserver"));
      return fronts.apache(site, { modules: ["proxy", "proxy_http", "proxy_wstunnel"] });
    },
  },
  {
    name: "apache-vhost",
    config: "apache-vhost/comet.toml",
    closed: { websocket: 1, sse: 6, poll: 11, interval: 1 },
    async front(_, site) {
      const file = join(site.dir, "etc/comet.conf");
      await copy("apache-vhost/comet.conf", file, only(site, "/var/lib/cometserver"));
      return fronts.apache(site, { modules: ["proxy", "proxy_http", "proxy_wstunnel"], lines: `Include ${file}` });
    },
  },
  {
    name: "nginx-before-apache",
    config: "apache-htaccess/comet.toml",
    closed: { sse: 6, poll: 11, interval: 1 },
    refused: { websocket: 400 },
    async front(t, site) {
      await copy("apache-htaccess/comet/.htaccess", join(site.www, "comet/.htaccess"), only(site, "/var/lib/cometserver"));
      const where = { port: await freePort() };
      const apache = await fronts.apache(site, { modules: ["proxy", "proxy_http", "proxy_wstunnel"], where });
      await apache.start();
      t.after(() => apache.stop());
      // What hosting panels write, no more.
      return fronts.nginx(site, `location / { proxy_pass http://127.0.0.1:${where.port}; proxy_set_header Host $http_host; }`);
    },
  },
  {
    name: "caddy",
    closed: { websocket: 1, sse: 1, poll: 1, interval: 1 },
    async front(_, site) {
      const file = join(site.dir, "etc/Caddyfile");
      const values = { ...only(site, "/var/lib/cometserver", "/var/www/html"), "example.org {": `${site.origin} {` };
      await copy("caddy/Caddyfile", file, values);
      return fronts.caddy(site, file);
    },
  },
  {
    name: "haproxy",
    closed: { websocket: 1, sse: 1, poll: 1, interval: 1 },
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

/** Those placeholders that a file has. */
function only(site, ...names) {
  return Object.fromEntries(names.map((name) => [name, site.placeholders[name]]));
}
