// What somebody does who has nothing but FTP and PHP: unzip into a document root, open the page, click through.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { account, isThere } from "./support/apache.mjs";
import { newPage } from "./support/browser.mjs";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
const BINARY = process.env.COMET_BINARY ?? join(REPOSITORY, "target/debug/comet");
/** A folder to leave pictures in, to be looked at by a person. */
const PICTURES = process.env.SETUP_PICTURES;

const options = { skip: !isThere && "Apache with PHP is not installed" };
let unzipped;

before(() => {
  if (!isThere) return;
  unzipped = mkdtempSync(join(tmpdir(), "dist-"));
  const made = execFileSync(join(REPOSITORY, "scripts/dist"), [unzipped], { env: { ...process.env, PROGRAM: BINARY } });
  execFileSync("unzip", ["-q", String(made).trim(), "-d", unzipped]);
});

after(() => unzipped && rmSync(unzipped, { recursive: true, force: true }));

/** Puts the zip's content into the document root as an FTP program does: nothing is executable any more. */
function upload({ root, isRoot }) {
  cpSync(join(unzipped, "comet"), join(root, "comet"), { recursive: true });
  const all = [".", ...readdirSync(join(root, "comet"), { recursive: true })].map((name) => join(root, "comet", name));
  const owner = statSync(root);
  for (const path of all) {
    chmodSync(path, statSync(path).isDirectory() ? 0o755 : 0o644);
    if (isRoot) chownSync(path, owner.uid, owner.gid);
  }
  return join(root, "comet");
}

async function claimed(t, host, context) {
  const folder = upload(host);
  const page = await newPage(t, context);
  await page.goto(`${host.origin}/comet/setup.php`);
  await page.click("#claimed");
  await page.getByText("It is not there yet").waitFor();
  const name = await page.textContent("#claim-file");
  if (PICTURES) await page.screenshot({ path: join(PICTURES, `claim-${page.viewportSize().width}.png`), fullPage: true });
  writeFileSync(join(folder, name), "");
  await page.click("#claimed");
  return { page, folder };
}

/** Which way was taken, once a message has come through it. */
async function arrived(page) {
  await page.locator(".inbox time").first().waitFor();
  assert.match(await page.textContent(".inbox"), /Hello from your own PHP\./);
  return page.locator("#ways li", { has: page.locator(".tag") }).textContent();
}

test("what makes the zip says what is missing, and leaves nothing behind", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "dist-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const tools = join(folder, "tools");
  mkdirSync(tools);
  for (const tool of ["dirname", "sed", "head", "rm"]) symlinkSync(join("/usr/bin", tool), join(tools, tool));
  const dist = (variables) => {
    const env = { ...process.env, PROGRAM: "", ...variables };
    return spawnSync("/bin/sh", [join(REPOSITORY, "scripts/dist"), join(folder, "out")], { env, encoding: "utf8" });
  };
  for (const [variables, said] of [
    [{ PATH: tools }, /zip is missing: apt install zip/],
    [{ TARGET: "none-unknown-linux-musl" }, /rustup target add none-unknown-linux-musl/],
    [{ PROGRAM: "/nonexistent/comet" }, /nonexistent/],
  ]) {
    const { status, stderr } = dist(variables);
    assert.notEqual(status, 0);
    assert.match(stderr, said);
    assert.ok(!existsSync(join(folder, "out/stage")), String(said));
  }
});

const picture = async (page, name) => PICTURES && page.screenshot({ path: join(PICTURES, `${name}.png`), fullPage: true });

test("after an upload a message arrives, and the page locks itself", options, async (t) => {
  const host = await account(t);
  const { page, folder } = await claimed(t, host);
  assert.match(await arrived(page), /Straight through the web server.*WebSocket/);
  await picture(page, "proxy-desktop");
  await page.click("#finish");
  await page.getByText("Done. Paste this").waitFor();
  await picture(page, "done-desktop");
  const snippet = await page.textContent("#for-page");
  assert.match(snippet, /new Comet\("\/comet\/live"\)/);
  assert.deepEqual(page.visited, new Set([host.origin]), "nothing from outside");

  await page.reload();
  await page.getByText("This site is set up").waitFor();
  await picture(page, "locked-desktop");
  const again = await page.evaluate(() =>
    fetch("setup.php", { method: "POST", headers: { "X-Comet-Setup": "1" }, body: new URLSearchParams({ do: "publish" }) }).then((a) => a.status),
  );
  assert.equal(again, 403);

  const data = readdirSync(host.home).find((name) => name.startsWith("comet-data"));
  const mode = (path) => (statSync(path).mode & 0o777).toString(8);
  for (const name of ["tokens.key", "site.key", "comet.toml"]) assert.equal(mode(join(host.home, data, name)), "600", name);
  assert.equal(mode(join(host.home, data)), "700");
  // What a visitor may try.
  const status = async (path) => (await fetch(`${host.origin}/comet/${path}`)).status;
  for (const path of ["bin/comet", "bin/comet-data.php", "php/comet-config.php", "php/start.php", "setup/page.php"]) {
    assert.ok([403, 404].includes(await status(path)), path);
  }
  assert.equal(await fetch(`${host.origin}/comet/setup-state.php`).then((a) => a.text()), "");
  assert.equal(await fetch(`${host.origin}/comet/live/v1/admin/stop`, { method: "POST" }).then((a) => a.status), 401);
  // The lines for PHP work as they stand.
  const php = `<?php error_reporting(E_ALL); ini_set("display_errors", "1");
    require "${folder}/php/autoload.php";
    $comet = new CometServer\\Client();
    echo json_encode($comet->publish("public/hello", ["text" => "from a page"]));`;
  writeFileSync(join(host.root, "say.php"), php);
  const visitor = await newPage(t);
  writeFileSync(join(host.root, "page.html"), `<!doctype html><title>waiting</title>${snippet}`);
  await visitor.goto(`${host.origin}/page.html`);
  // Said again and again, since nobody is told when the page has begun to listen.
  const heard = () => {
    fetch("/say.php");
    return document.title === "from a page";
  };
  await visitor.waitForFunction(heard, undefined, { polling: 200 });
  const said = await fetch(`${host.origin}/say.php`).then((a) => a.text());
  assert.match(said, /"cursor"/, said);
});

test("on a phone, in the dark, it fits", options, async (t) => {
  const host = await account(t, { modules: ["cgi"] });
  const { page } = await claimed(t, host, { viewport: { width: 390, height: 844 }, colorScheme: "dark", deviceScaleFactor: 2 });
  assert.match(await arrived(page), /Through a small program \(CGI\).*Streaming/);
  await picture(page, "cgi-phone-dark");
  await page.click("#finish");
  await page.getByText("Done. Paste this").waitFor();
  await picture(page, "done-phone-dark");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${overflow} pixels too wide`);
  assert.match(await page.textContent("#for-page"), /"\/comet\/cgi\/push\.cgi"/);
});

test("where nothing but PHP runs, PHP carries it", options, async (t) => {
  const host = await account(t, { modules: [] });
  const { page } = await claimed(t, host);
  assert.match(await arrived(page), /Through PHP/);
  await picture(page, "php-desktop");
  await page.click("#finish");
  await page.getByText("Done. Paste this").waitFor();
  assert.match(await page.textContent("#for-page"), /"\/comet\/php\/bridge\.php"/);
});

test("a data folder inside the document root is closed, and seen to be", options, async (t) => {
  const host = await account(t, { closedHome: true });
  if (!host.isRoot) return t.skip("needs to make a folder of another user");
  const { page, folder } = await claimed(t, host);
  await page.getByText("No browser can look into it").waitFor();
  await arrived(page);
  const data = readdirSync(folder).find((name) => name.startsWith("data-"));
  for (const name of ["", "comet.toml", "tokens.key", "comet.log", "canary.txt"]) {
    const { status } = await fetch(`${host.origin}/comet/${data}/${name}`);
    assert.ok([403, 404].includes(status), `${name}: ${status}`);
  }
});

test("where a web server would show the data, nothing is put there, and it is said loudly", options, async (t) => {
  const host = await account(t, { closedHome: true, override: "None" });
  if (!host.isRoot) return t.skip("needs to make a folder of another user");
  const { page, folder } = await claimed(t, host);
  await page.getByRole("alert").waitFor();
  assert.match(await page.textContent("#host"), /open to everybody.*answered 200/);
  await picture(page, "exposed-desktop");
  assert.equal(readdirSync(folder).find((name) => name.startsWith("data-")), undefined);
  assert.ok(!existsSync(join(folder, "php/comet-config.php")));
});

test("a stranger who finds the page can do nothing", options, async (t) => {
  const host = await account(t);
  const { page, folder } = await claimed(t, host);
  await arrived(page);
  const stranger = await newPage(t);
  await stranger.goto(`${host.origin}/comet/setup.php`);
  await stranger.getByText("Another browser is setting up").waitFor();
  const post = (headers, fields) =>
    stranger.evaluate(
      ([sent, body]) => fetch("setup.php", { method: "POST", headers: sent, body: new URLSearchParams(body) }).then((a) => a.status),
      [headers, fields],
    );
  for (const step of ["claim", "prepare", "start", "ways", "publish", "finish", "exposed", "main", "state", "answer"]) {
    assert.equal(await post({ "X-Comet-Setup": "1" }, { do: step }), 403, step);
  }
  // Not even with the owner's cookie, from a form of another site.
  const { cookies } = await page.context().storageState();
  assert.deepEqual(cookies.map(({ httpOnly, sameSite }) => [httpOnly, sameSite]), [[true, "Strict"]]);
  const form = await fetch(`${host.origin}/comet/setup.php`, {
    method: "POST",
    headers: { Cookie: `${cookies[0].name}=${cookies[0].value}` },
    body: new URLSearchParams({ do: "exposed" }),
  });
  assert.equal(form.status, 403);
  assert.ok(existsSync(join(folder, "php/comet-config.php")));
});

test("where no .htaccess is read, nothing in it names the data folder to a visitor", options, async (t) => {
  const host = await account(t, { override: "None", modules: [] });
  const { page, folder } = await claimed(t, host);
  // What an older version left.
  writeFileSync(join(folder, "bin/comet-data"), "/home/anna/data\n");
  if (host.isRoot) chownSync(join(folder, "bin/comet-data"), statSync(host.root).uid, statSync(host.root).gid);
  await arrived(page);
  const data = readdirSync(host.home).find((name) => name.startsWith("comet-data"));
  assert.ok(readFileSync(join(folder, "bin/comet-data.php"), "utf8").includes(data));
  for (const name of readdirSync(folder, { recursive: true })) {
    if (!statSync(join(folder, name)).isFile() || name === "bin/comet") continue;
    const text = await fetch(`${host.origin}/comet/${name}`).then((answer) => answer.text());
    assert.ok(!text.includes(data), name);
  }
  assert.ok(!existsSync(join(folder, "bin/comet-data")) && !existsSync(join(folder, "bin/canary.php")));
});

test("where PHP is not run in all folders, no secret is put there, and it is said loudly", options, async (t) => {
  for (const name of ["bin", "php"]) {
    const host = await account(t);
    const folder = upload(host);
    writeFileSync(join(folder, name, ".htaccess"), "php_flag engine off\nRequire all granted\n");
    const page = await newPage(t);
    await page.goto(`${host.origin}/comet/setup.php`);
    writeFileSync(join(folder, await page.textContent("#claim-file")), "");
    await page.click("#claimed");
    await page.getByRole("alert").waitFor();
    assert.match(await page.textContent("#host"), new RegExp(`the folder ${name} is open to everybody.*with its content`));
    for (const path of ["php/comet-config.php", "bin/comet-data.php", "bin/canary.php", "php/canary.php"]) {
      assert.ok(!existsSync(join(folder, path)), path);
    }
    assert.equal(readdirSync(host.home).find((name) => name.startsWith("comet-data")), undefined);
  }
});
