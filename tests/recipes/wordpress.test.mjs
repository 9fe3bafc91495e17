// The plug-in in a real WordPress, on a host that has PHP and nothing else: visitors are connected by the bridge.

import assert from "node:assert/strict";
import { cp, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { newPage } from "../browser/support/browser.mjs";
import { bridge, phpByNginx, phpPool } from "./recipes.mjs";
import * as fronts from "./support/fronts.mjs";
import { ask } from "./support/http.mjs";
import { put } from "./support/placeholders.mjs";
import { until } from "./support/processes.mjs";
import { Site } from "./support/site.mjs";
import { WordPress, database } from "./support/wordpress.mjs";

const ours = (path) => fileURLToPath(new URL(`../../clients/${path}`, import.meta.url));

/** The plug-in as its README says to put it there, from the document root. */
const FOLDER = "wp-content/plugins/cometserver";

/** As the README has it: where browsers go, and how PHP reaches the server. */
const settings = (site) => `define('COMET_URL', '/comet/bridge.php?call=');
define('COMET_DATA_DIR', '${site.placeholders["/var/lib/cometserver"]}');
define('COMET_TOKEN_SECRET_FILE', '${site.placeholders["/etc/cometserver"]}/tokens.key');
isset($_GET['short']) && define('COMET_TOKEN_LIFETIME', 2);
isset($_GET['brief']) && define('COMET_PAGE_LIFETIME', 3);
isset($_GET['closed']) || define('COMET_TOKEN_PATTERNS', ['news', 'Q&A', 'secret', 'room/*', 'team/**', 'star\\*', 'bad\\\\']);
`;

/** The README's examples of publishing and of users' own channels, as a theme has them. */
const OWN_CODE = `<?php
add_action('transition_post_status', function ($new, $old, $post) {
    if ($new === 'publish' && $old !== 'publish' && $post->post_type === 'post') {
        do_action('comet_publish', 'news', ['text' => "New: $post->post_title"]);
    }
}, 10, 3);
add_filter('comet_token_patterns', function ($patterns, $user) {
    return $user->ID === 0 ? $patterns : array_merge($patterns, ["user/$user->ID", "user/$user->ID/**"]);
}, 10, 2);
// Names of other machines in every page, which a browser looks up.
remove_action('wp_head', 'wp_resource_hints', 2);
`;

test("WordPress", async (t) => {
  const { site, wordpress } = await open(t);
  await install(site, wordpress);
  // Else the bridge gives no streams.
  assert.match(await site.probe(), /"streams":true/);
  const before = await traces(wordpress);
  const admin = await browser(t);
  await logIn(admin, site, wordpress);
  const rest = (path, body) => admin.evaluate(askAsUser, [path, body]);
  const make = async (status, content) => (await rest("/wp/v2/pages", { status, title: "A page", content })).id;

  await t.test("the administration activates the plug-in", () => inPlugins(admin, site, "activate"));
  // Its own pages ask WordPress now and then, which is counted below.
  await admin.goto(`${site.origin}/ordinary.html`);

  // As the editor saves what was typed: it writes & and quotes as HTML has them.
  const content = `<!-- wp:paragraph --><p>[comet channel="news, Q&amp;A" class="board"]Nothing yet[/comet]</p><!-- /wp:paragraph -->`;
  const board = `/?page_id=${await make("publish", content)}`;
  const visit = async (t, path = board, prepare = () => {}) => {
    const page = await browser(t);
    await prepare(page);
    await page.goto(site.origin + path);
    return page;
  };

  await t.test("an open page shows what the site's own code publishes", async (t) => {
    const page = await visit(t);
    assert.equal(await page.locator(".board").textContent(), "Nothing yet");
    const answer = await page.reload();
    assert.match(await answer.text(), /data-comet-cursor="[^"]+"/);
    assert.match(answer.headers()["cache-control"], /no-store/);
    await rest("/wp/v2/posts", { status: "publish", title: "Ümläut & more", content: "x" });
    await shows(page, ["New: Ümläut & more"]);
    await site.publish("Q&A", "<b>text</b>");
    await shows(page, ["<b>text</b>", "New: Ümläut & more"]);
    assert.deepEqual(page.complaints.filter((text) => !/v1\/(ws|sse)|WebSocket/.test(text)), []);
  });

  await t.test("what is published between the page and its script is shown", async (t) => {
    const page = await visit(t, board, (page) =>
      page.route("**/comet.js*", async (route) => {
        await site.publish("news", "meanwhile");
        await route.continue();
      }),
    );
    await shows(page, ["meanwhile"]);
  });

  for (const transport of ["sse", "poll"]) {
    await t.test(`no message starts WordPress, by ${transport}`, (t) => costsNothing(t, site, wordpress, visit, transport));
  }

  await t.test("a visitor gets what the page is for, and nothing else", (t) => rights(t, site, visit, make));
  await t.test("a token is made anew for whom the page was made", (t) => renewal(t, site, wordpress, board));
  await t.test("a contributor gets no token for what is not listed, and is told why", (t) =>
    contribution(t, site, wordpress, rest, visit, make));
  await t.test("there are tokens for what is listed, and for nothing beyond", () => coverage(wordpress));
  await t.test("what is taken off the list has no token any more", (t) => unlisting(t, site, visit));
  await t.test("a public channel needs no token", (t) => withoutToken(t, site, visit, make));
  await t.test("tokens end with the time of their page, which says so", (t) => ending(t, site, board));
  await t.test("themes and scripts publish, and hear whether they did", () => publishing(site, wordpress));

  await t.test("without the server a page is a page", (t) => alone(t, site, wordpress, visit));
  await t.test("nothing is left of it once it is deleted", async () => {
    await inPlugins(admin, site, "deactivate");
    await inPlugins(admin, site, "delete");
    assert.deepEqual(await traces(wordpress), before);
    assert.deepEqual((await readdir(join(site.www, "wp-content/plugins"))).filter((name) => /comet/.test(name)), []);
  });
  assert.deepEqual(await wordpress.complaints(), []);
});

/** A site with WordPress in its document root and the bridge in a folder below, and the plug-in's files where they belong. */
async function open(t) {
  let wordpress;
  const recipe = {
    name: "wordpress",
    config: "apache-htaccess/comet.toml",
    base: "/comet/bridge.php",
    async front(t, site) {
      wordpress = new WordPress(site, await database(t, site));
      await mkdir(site.www, { recursive: true });
      await wordpress.put(settings(site));
      await bridge(site);
      await mkdir(join(site.www, FOLDER));
      await cp(ours("wordpress/cometserver.php"), join(site.www, FOLDER, "cometserver.php"));
      await cp(ours("js/comet.js"), join(site.www, FOLDER, "comet.js"));
      await wordpress.give("wp-content/plugins");
      await put(join(site.www, "wp-content/mu-plugins/own.php"), OWN_CODE);
      const pool = await phpPool(t, site);
      return fronts.nginx(site, `include /etc/nginx/mime.types; index index.php; ${phpByNginx(pool)}`);
    },
  };
  const site = await Site.open(t, recipe, { asIs: true });
  return { site, wordpress };
}

/** As a person does who has just uploaded it. */
async function install(site, { user, password }) {
  const form = {
    weblog_title: "A site",
    user_name: user,
    admin_password: password,
    admin_password2: password,
    pw_weak: "on",
    admin_email: "anna@example.org",
    blog_public: "0",
  };
  const answer = await ask(site.where, "POST", "/wp-admin/install.php?step=2", {
    headers: { "Content-Type": "application/x-www-form-urlencoded" },
    body: String(new URLSearchParams(form)),
  });
  assert.match(answer.body, /<h1>Success!<\/h1>/);
}

/** A page in which nothing leaves this machine. */
async function browser(t) {
  const page = await newPage(t);
  await page.route((url) => url.hostname !== "127.0.0.1", (route) => route.abort());
  return page;
}

async function logIn(page, site, { user, password }) {
  await page.goto(`${site.origin}/wp-login.php`);
  // Its script moves there by itself, a moment late, and selects what is there: a password begun by then would go into the name.
  await page.waitForFunction(() => document.activeElement?.id === "user_login");
  await page.fill("#user_login", user);
  await page.fill("#user_pass", password);
  await page.click("#wp-submit");
  await page.waitForURL("**/wp-admin/**");
}

/** What the administration's own scripts do: a request to WordPress as who is signed in. */
async function askAsUser([path, body]) {
  const nonce = await (await fetch("/wp-admin/admin-ajax.php?action=rest-nonce")).text();
  const headers = { "X-WP-Nonce": nonce, "Content-Type": "application/json" };
  const answer = await fetch(`/index.php?rest_route=${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

/** Clicks on one of the plug-in's links in the list of plug-ins. */
async function inPlugins(page, site, link) {
  await page.goto(`${site.origin}/wp-admin/plugins.php`);
  const row = page.locator('tr[data-plugin="cometserver/cometserver.php"]');
  if (link === "delete") page.once("dialog", (dialog) => dialog.accept());
  await row.locator(`.${link} a`).click();
  if (link === "delete") await page.locator("tr.deleted", { hasText: "CometServer" }).waitFor();
  else await page.locator("#message.updated").waitFor();
}

/** What WordPress keeps that a plug-in could have left there; what WordPress notes down for itself is not the plug-in's. */
async function traces(wordpress) {
  const tables = await wordpress.rows("SHOW TABLES");
  const kept = "option_name NOT LIKE '%transient%' AND option_name <> 'recently_activated'";
  const options = await wordpress.rows(`SELECT option_name FROM wp_options WHERE ${kept} AND CONCAT(option_name, option_value) LIKE '%comet%'`);
  const users = await wordpress.rows("SELECT meta_key FROM wp_usermeta WHERE CONCAT(meta_key, meta_value) LIKE '%comet%'");
  return { tables, options, users };
}

/** Settles when the element shows these messages and nothing else, newest first. */
async function shows(page, texts) {
  let seen;
  await until(
    () => `${JSON.stringify(texts)} to be shown; ${JSON.stringify(seen)} is`,
    async () => {
      seen = await page.locator(".board > p").allTextContents();
      return JSON.stringify(seen) === JSON.stringify(texts);
    },
  );
}

/** Messages come by the bridge: PHP, but not WordPress. */
async function costsNothing(t, site, wordpress, visit, transport) {
  const asked = [];
  const page = await visit(t, undefined, async (page) => {
    page.on("request", (request) => asked.push(request.url()));
    if (transport === "poll") await page.route(/v1\/sse/, (route) => route.fulfill({ status: 501 }));
  });
  await site.publish("news", "first");
  await shows(page, ["first"]);
  const held = () => site.stats().then(({ connections }) => connections[transport] === 1);
  await until(`the page to be held by ${transport}`, held);
  const before = await wordpress.starts();
  asked.length = 0;
  const shown = ["first"];
  for (const text of ["1", "2", "3"]) {
    await site.publish("news", text);
    shown.unshift(text);
    await shows(page, shown);
    await until(`the page to be held by ${transport} again`, held);
  }
  assert.deepEqual(await wordpress.starts(), before);
  if (transport === "poll") assert.ok(asked.length >= 3, `it polled: ${asked}`);
  assert.deepEqual(asked.filter((url) => !url.includes("/comet/bridge.php?")), []);
}

/** What the element in a page was given. */
const given = (page) => page.locator(".comet").first().evaluate((element) => ({ ...element.dataset }));

async function rights(t, site, visit, make) {
  const { cometToken, cometRenew } = await given(await visit(t));
  const poll = async (channel, token) => {
    const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    const query = new URLSearchParams({ channel, wait_ms: "0" });
    return (await ask(site.where, "GET", `/comet/bridge.php?call=/v1/poll&${query}`, { headers })).status;
  };
  assert.equal(await poll("news", cometToken), 200);
  assert.equal(await poll("secret", cometToken), 403);
  assert.equal(await poll("news"), 401);

  const renew = async (change) => {
    const url = new URL(cometRenew);
    change(url.searchParams);
    return (await ask(site.where, "GET", url.pathname + url.search)).status;
  };
  const grant = btoa(JSON.stringify({ channels: ["secret"], patterns: [], user: 0, until: 1e10 }));
  assert.equal(await renew(() => {}), 200);
  assert.equal(await renew((query) => query.set("grant", grant)), 403);
  assert.equal(await renew((query) => query.delete("sign")), 403);
  assert.equal(await renew((query) => query.set("sign[]", query.get("sign")) ?? query.delete("sign")), 403);

  const hidden = await visit(t, `/?page_id=${await make("private", '[comet channel="secret"]hidden[/comet]')}`);
  assert.doesNotMatch(await hidden.content(), /data-comet|hidden\[|>hidden</);
}

const claims = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
/** Who a token is for. */
const subject = (token) => claims(token).sub;
/** When it ends, in seconds since 1970. */
const expiry = (token) => claims(token).exp;

async function renewal(t, site, wordpress, board) {
  /** Opens the page with a token that soon ends, and gives the answer with the next. */
  const renewed = async (page) => {
    const answer = page.waitForResponse((response) => decodeURIComponent(response.url()).includes("comet/v1/token"));
    await page.goto(`${site.origin}${board}&short=1`);
    return answer;
  };
  const stranger = await browser(t);
  const first = await renewed(stranger);
  assert.equal(subject((await first.json()).token), undefined);
  assert.match(await first.headerValue("cache-control"), /no-store/);
  await site.publish("news", "with the new token");
  await shows(stranger, ["with the new token"]);

  const user = await browser(t);
  await logIn(user, site, wordpress);
  assert.equal(subject((await (await renewed(user)).json()).token), wordpress.user);
  const { cometRenew } = await given(user);
  const status = (page) => page.evaluate(async (url) => (await fetch(url)).status, cometRenew);
  assert.equal(await status(user), 200);
  assert.equal(await status(stranger), 403, "another than whom the page was made for");
  await user.context().clearCookies();
  assert.equal(await status(user), 403, "signed out");
}

/** Who writes drafts and publishes nothing, and whoever runs the site and does not know the list by heart. */
async function contribution(t, site, wordpress, rest, visit, make) {
  const shortcode = '<!-- wp:shortcode -->[comet pattern="**" class="all"]every channel[/comet]<!-- /wp:shortcode -->';
  const contributor = { user: "bert", password: "only-for-this-test-too" };
  await rest("/wp/v2/users", { username: contributor.user, password: contributor.password, email: "bert@example.org", roles: ["contributor"] });
  const page = await browser(t);
  await logIn(page, site, contributor);
  const { id } = await page.evaluate(askAsUser, ["/wp/v2/posts", { status: "draft", title: "A draft", content: shortcode }]);
  await page.goto(`${site.origin}/?p=${id}&preview=true`);
  assert.match(await page.locator(".comet-hint").textContent(), /no token for: \*\*\. .*COMET_TOKEN_PATTERNS .*comet_token_patterns/);
  assert.doesNotMatch(await page.content(), /data-comet|every channel/);

  const published = await visit(t, `/?page_id=${await make("publish", shortcode)}`);
  assert.doesNotMatch(await published.content(), /data-comet|comet-hint|every channel|\[comet/);
}

/** The list of this file's settings against shortcodes: what they name, whether it has a token, and for whom. */
async function coverage(wordpress) {
  const table = [
    ["channel", "news", true],
    ["channel", "news2", false],
    ["channel", "NEWS", false],
    ["channel", "news, Q&A", true],
    ["channel", "news, other", false],
    ["channel", "room/1", true],
    ["channel", "room/1/2", false],
    ["channel", "room/*", true],
    ["channel", "team/1/2", true],
    ["channel", "star*", true],
    ["channel", "stars", false],
    ["channel", "bad", false],
    ["channel", "bad\\", false],
    ["pattern", "news", true],
    ["pattern", "room/*", true],
    ["pattern", "room/a*", true],
    ["pattern", "room/**", false],
    ["pattern", "room*", false],
    ["pattern", "*", false],
    ["pattern", "**", false],
    ["pattern", "team/*", true],
    ["pattern", "team/*/chat/**", true],
    ["pattern", "team/***", true],
    ["pattern", "team**", false],
    ["pattern", "star\\*", true],
    ["pattern", "star*", false],
    ["pattern", "star\\\\*", false],
    ["pattern", "room/1\\", false],
    ["channel", "user/1", true, 1],
    ["channel", "user/1", false],
    ["channel", "user/12", false, 1],
    ["pattern", "user/1/*", true, 1],
    ["pattern", "user/*", false, 1],
  ];
  const said = await wordpress.script(`
    foreach (json_decode('${JSON.stringify(table).replace(/[\\']/g, "\\$&")}') as $row) {
        wp_set_current_user($row[3] ?? 0);
        $html = CometServerPlugin::shortcode([$row[0] => $row[1]], 'inside');
        echo json_encode([$row[0], $row[1], strpos($html, 'data-comet-token="') !== false, strpos($html, 'inside') !== false]), "\n";
    }
  `);
  const rows = said.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(rows, table.map(([kind, name, isListed]) => [kind, name, isListed, isListed]));
}

async function unlisting(t, site, visit) {
  const { cometRenew } = await given(await visit(t));
  const { pathname, search } = new URL(cometRenew);
  assert.equal((await ask(site.where, "GET", pathname + search)).status, 200);
  const answer = await ask(site.where, "GET", `${pathname}${search}&closed=1`);
  assert.equal(answer.status, 403);
  assert.equal(JSON.parse(answer.body).code, "comet_list");
}

async function withoutToken(t, site, visit, make) {
  const page = await visit(t, `/?page_id=${await make("publish", '[comet channel="public/board, other" token="no" class="board"][/comet]')}`);
  const { cometToken, cometRenew } = await given(page);
  assert.deepEqual([cometToken, cometRenew], [undefined, undefined]);
  await site.publish("other", "not for everybody");
  await site.publish("public/board", "for everybody");
  await shows(page, ["for everybody"]);
}

/** The page holds for three seconds. */
async function ending(t, site, board) {
  const page = await browser(t);
  await page.addInitScript(() => {
    window.reloads = [];
    addEventListener("comet", ({ target, detail }) => detail.type === "reload" && window.reloads.push(target.className));
  });
  const tokens = [];
  page.on("response", async (response) => {
    if (!decodeURIComponent(response.url()).includes("comet/v1/token")) return;
    if (response.ok()) tokens.push((await response.json()).token);
  });
  const dropped = ["news", "Q&A"].map((channel) =>
    page.waitForEvent("console", async (message) => {
      const [, error] = message.type() === "warning" ? message.args() : [];
      return (await error?.evaluate((error) => error.channel)) === channel;
    }),
  );
  await page.goto(`${site.origin}${board}&brief=1`);
  const { cometToken, cometRenew } = await given(page);
  const { until: end } = JSON.parse(Buffer.from(new URL(cometRenew).searchParams.get("grant"), "base64"));
  await Promise.all(dropped);
  assert.deepEqual(await page.evaluate(() => window.reloads), ["comet board"]);
  assert.deepEqual([cometToken, ...tokens].map(expiry), [cometToken, ...tokens].map(() => end));

  const { pathname, search } = new URL(cometRenew);
  assert.equal(JSON.parse((await ask(site.where, "GET", pathname + search)).body).code, "comet_end");
}

async function publishing(site, wordpress) {
  const { cursor } = JSON.parse((await ask(site.backend, "GET", "/v1/now")).body);
  const said = await wordpress.script(`
    do_action('comet_publish', ['news', 'more'], ['title' => 'é'], ['event' => 'post', 'retain' => true]);
    do_action('comet_publish', 'news', 'x');
    var_dump(comet_publish('news', 1), comet_publish('', 1), comet_publish('news', "\\xFF"));
  `);
  assert.equal(said, "bool(true)\nbool(false)\nbool(false)\n");
  const query = new URLSearchParams({ channel: "news", cursor, wait_ms: "0" });
  const { publications } = JSON.parse((await ask(site.backend, "GET", `/v1/poll?${query}`)).body);
  assert.deepEqual(publications.map(({ data, event }) => [data, event]), [[{ title: "é" }, "post"], ["x", undefined], [1, undefined]]);
}

async function alone(t, site, wordpress, visit) {
  await site.stopComet();
  const page = await visit(t);
  assert.equal(await page.locator(".board").textContent(), "Nothing yet");
  assert.equal(await wordpress.script("var_dump(comet_publish('news', 1));"), "bool(false)\n");
  await site.startComet();
  await until("the page to be connected", async () => (await site.stats()).holds > 0);
  await site.publish("news", "back again");
  // A page that knows of no moment to begin with begins with what is retained.
  await shows(page, ["back again", '{"title":"é"}']);
}
