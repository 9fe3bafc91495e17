// A web site with a front web server: pages, the client's files, and everything under /v1/ passed on to the server, as
// well or as badly as the test wants.

import { createServer, request as send } from "node:http";
import { connect } from "node:net";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const CLIENT = fileURLToPath(new URL("../../../clients/js/", import.meta.url));
/** A test that waits longer than this has failed. */
const DEADLINE_MS = Number(process.env.COMET_TEST_DEADLINE_MS ?? 30_000);

export class Site {
  #server;
  #sockets = new Set();
  #waiting = [];
  /** Where our server is; a restarted one is elsewhere. */
  target;
  /** Where the site is, as a URL's origin. */
  origin;
  /** Every request that came for our server, as `GET /v1/…`, oldest first. */
  requests = [];
  /** The headers of each of them. */
  heads = [];
  /** Path to `{type, headers, body}` or `(request, response) => …`, besides the client's files. */
  pages = new Map([["/", { type: "text/html; charset=utf-8", body: "<!doctype html><title>test</title><link rel=icon href=data:,>" }]]);
  /** Whether WebSockets pass: `pass`, or `refuse` (as a proxy that knows nothing of them), or `swallow` (an answer never comes). */
  websockets = "pass";
  /** How streams pass: `pass`; `hold` (nothing until they end); `opening` (the first bytes, the rest when they end). */
  streams = "pass";
  /** What answers in place of our server, to everything under /v1/: `{status, headers, body}`; undefined: nobody. */
  foreign;
  /** What becomes of the server's bytes on their way to a page, as latin1 text of the same length. */
  spoil = (text) => text;
  /** Milliseconds after which an answer that has not begun is cut off, as impatient proxies do; 0: never. */
  impatience = 0;
  /** Requests that match wait until `go`. */
  #stopped = /^$/;
  #parked = [];
  /** How many pieces of streams were passed on. */
  streamed = 0;
  #down = false;

  static async before(t, origin) {
    const site = new Site();
    site.target = origin;
    site.#server = createServer((request, response) => site.#answer(request, response));
    site.#server.on("upgrade", (request, socket, head) => site.#upgrade(request, socket, head));
    site.#server.on("connection", (socket) => {
      site.#sockets.add(socket);
      socket.on("close", () => site.#sockets.delete(socket));
      socket.on("error", () => socket.destroy());
      if (site.#down) {
        socket.destroy();
        site.#tell();
      }
    });
    site.#server.listen(0, "127.0.0.1");
    await once(site.#server, "listening");
    site.origin = `http://127.0.0.1:${site.#server.address().port}`;
    t.after(() => {
      site.#server.close();
      site.#cutAll();
    });
    return site;
  }

  /** Ends every connection, in the middle of whatever; `down`: and every new one, until `up`. */
  cut({ down = false } = {}) {
    this.#down = down;
    this.#cutAll();
  }

  up() {
    this.#down = false;
  }

  /** From now on requests that match wait, and count as asked. */
  stop(pattern) {
    this.#stopped = pattern;
  }

  go() {
    this.#stopped = /^$/;
    for (const pass of this.#parked.splice(0)) pass();
  }

  /** Settles with the first request that matches, when there were `count` of them in all. */
  async asked(pattern, count = 1) {
    const matching = () => this.requests.filter((request) => pattern.test(request));
    await this.until(() => matching().length >= count, `requests for ${pattern}`);
    return matching()[0];
  }

  async until(isSo, what) {
    while (!isSo()) {
      await new Promise((came, failed) => {
        const late = setTimeout(() => failed(new Error(`waited in vain for ${what}`)), DEADLINE_MS);
        this.#waiting.push(() => {
          clearTimeout(late);
          came();
        });
      });
    }
  }

  /** A page of a test has news for those who wait with `until`. */
  cameTo() {
    this.#tell();
  }

  #tell() {
    for (const told of this.#waiting.splice(0)) told();
  }

  #cutAll() {
    for (const socket of this.#sockets) socket.destroy();
  }

  async #answer(request, response) {
    const path = request.url.split("?")[0];
    const page = this.pages.get(path);
    if (typeof page === "function") {
      page(request, response);
      return this.#tell();
    }
    if (page) {
      response.writeHead(200, { "Content-Type": page.type, "Cache-Control": "no-store", ...page.headers });
      return response.end(page.body);
    }
    if (/^\/[\w.-]+\.js$/.test(path) && !path.startsWith("/client")) {
      const body = await readFile(CLIENT + path).catch(() => undefined);
      response.writeHead(body ? 200 : 404, { "Content-Type": "text/javascript; charset=utf-8", "Cache-Control": "no-store" });
      return response.end(body);
    }
    this.#pass(request, response);
  }

  #came(request) {
    this.requests.push(`${request.method} ${request.url}`);
    this.heads.push(request.headers);
    this.#tell();
  }

  #pass(request, response) {
    this.#came(request);
    if (this.#stopped.test(request.url)) this.#parked.push(() => this.#passOn(request, response));
    else this.#passOn(request, response);
  }

  #passOn(request, response) {
    if (this.foreign) {
      const { status = 200, headers, body } = this.foreign;
      return response.writeHead(status, headers).end(body);
    }
    const { hostname, port } = new URL(this.target);
    const on = send({ hostname, port, path: request.url, method: request.method, headers: request.headers });
    on.on("error", () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
    const impatient = this.impatience && setTimeout(() => response.destroy(), this.impatience);
    on.on("response", (answer) => {
      clearTimeout(impatient);
      const isStream = /event-stream|ndjson/.test(answer.headers["content-type"]);
      const held = [];
      let passed = !isStream || this.streams === "pass" ? Infinity : this.streams === "opening" ? 1 : 0;
      const begin = () => response.headersSent || response.writeHead(answer.statusCode, answer.headers);
      if (passed) begin();
      answer.on("data", (sent) => {
        const bytes = this.#spoiled(sent);
        if (passed-- <= 0) return held.push(bytes);
        response.write(bytes);
        if (isStream) this.streamed++;
        this.#tell();
      });
      answer.on("end", () => {
        begin();
        response.end(Buffer.concat(held));
      });
      answer.on("error", () => response.destroy());
    });
    response.on("close", () => {
      clearTimeout(impatient);
      on.destroy();
    });
    request.pipe(on);
  }

  #spoiled(bytes) {
    return Buffer.from(this.spoil(bytes.toString("latin1")), "latin1");
  }

  #upgrade(request, socket, head) {
    this.#came(request);
    if (this.foreign) {
      const { status = 200, headers = {}, body = "" } = this.foreign;
      const lines = Object.entries({ ...headers, "Content-Length": Buffer.byteLength(body), Connection: "close" });
      return socket.end([`HTTP/1.1 ${status} Foreign`, ...lines.map((line) => line.join(": ")), "", body].join("\r\n"));
    }
    if (this.websockets === "swallow") return;
    if (this.websockets === "refuse") return socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    const { hostname, port } = new URL(this.target);
    const server = connect(port, hostname);
    const lines = [`GET ${request.url} HTTP/1.1`];
    for (let at = 0; at < request.rawHeaders.length; at += 2) lines.push(request.rawHeaders.slice(at, at + 2).join(": "));
    server.write(lines.join("\r\n") + "\r\n\r\n");
    server.write(head);
    server.on("data", (bytes) => socket.write(this.#spoiled(bytes)));
    server.on("end", () => socket.end());
    socket.pipe(server);
    for (const [one, other] of [[server, socket], [socket, server]]) {
      one.on("error", () => one.destroy());
      one.on("close", () => other.destroy());
    }
  }
}
