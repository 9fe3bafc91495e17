// Chromium, one for each test file, and what its pages complain about.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { after } from "node:test";
import { chromium } from "playwright-core";

/** How long a page may take to show what is expected; generous, since it is only reached by a test that fails. */
const DEADLINE_MS = Number(process.env.COMET_TEST_DEADLINE_MS ?? 30_000);

/** The path of a command, as a shell finds it. */
function found(command) {
  if (command.includes("/")) return command;
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    const path = join(folder, command);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next folder may have it.
    }
  }
  throw new Error(`${command} is not on the PATH; CHROMIUM names another browser of its family`);
}

let launched;

/** The browser of this test file, started with the first page and closed after the last test. */
function browser() {
  launched ??= chromium.launch({
    executablePath: found(process.env.CHROMIUM ?? "chromium"),
    args: [
      "--no-sandbox", // tests run as root in containers; they open nothing but our own pages
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  return launched;
}

after(async () => (await launched)?.close());

/**
 * A new page with a profile of its own, closed after the test. `options` are those of Playwright's `newContext`.
 *
 * `page.complaints` collects what a developer would see in red: console errors, uncaught exceptions, failed answers.
 * `page.visited` collects the origins it asked anything of.
 */
export async function newPage(t, options = {}) {
  const context = await (await browser()).newContext({ viewport: { width: 1280, height: 800 }, ...options });
  t.after(() => context.close());
  context.setDefaultTimeout(DEADLINE_MS);
  const page = await context.newPage();
  page.complaints = [];
  page.visited = new Set();
  page.on("console", (message) => {
    if (message.type() === "error") page.complaints.push(`${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("request", (request) => page.visited.add(new URL(request.url()).origin));
  page.on("response", (response) => {
    if (response.status() >= 400) page.complaints.push(`${response.status()} ${response.url()}`);
  });
  return page;
}
