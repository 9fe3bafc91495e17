// The ways to run a library: a program that prints JSON lines, or a page in Chromium.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { newPage } from "../../browser/support/browser.mjs";

/** Whatever happens, none of them outlives this process. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(1));

/** How a program listens: `command`, with the address as its last argument. */
export function program(...command) {
  return async (_, url, handOut) => {
    const child = spawn(command[0], [...command.slice(1), url], { stdio: ["ignore", "pipe", "pipe"] });
    running.add(child);
    let said = "";
    let closed = false;
    child.stderr.setEncoding("utf8").on("data", (text) => (said += text));
    createInterface({ input: child.stdout }).on("line", (line) => handOut(JSON.parse(line)));
    const gone = once(child, "close").then(([code, signal]) => {
      running.delete(child);
      if (!closed) handOut({ ended: `${command.join(" ")} ended with ${signal ?? code}: ${said}` });
    });
    return async () => {
      closed = true;
      child.kill("SIGKILL");
      await gone;
    };
  };
}

/** How a page listens: by its own EventSource, or by that of a script that is loaded first. */
export function page(script) {
  return async (t, url, handOut) => {
    const page = await newPage(t);
    await page.exposeFunction("handOut", handOut);
    await page.goto(new URL("/health/live", url).href);
    if (script) await page.addScriptTag({ path: script });
    await page.evaluate(
      ([url, isOwn]) => {
        const { EventSource, EventSourcePolyfill, handOut } = globalThis;
        const source = isOwn ? new EventSource(url) : new EventSourcePolyfill(url);
        const handedOut = (e) => handOut({ event: e.type, data: e.data, id: e.lastEventId });
        source.onmessage = handedOut;
        source.addEventListener("cursor", handedOut);
        source.onerror = () => source.readyState === 2 && handOut({ ended: "closed" });
      },
      [url, script === undefined],
    );
    return () => page.close();
  };
}
