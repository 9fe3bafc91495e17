// An HTTP relay in front of the server that cuts an answer off at a byte, as a lost network or a proxy's restart does.

import { createServer, request as send } from "node:http";
import { once } from "node:events";
import { Signal } from "./signal.mjs";

/** Bodies go through as they come; what frames them is the relay's own, so that an answer can also be ended in good order. */
export class Relay {
  #server;
  #port;
  #cut;
  #parked = [];
  #open = new Set();
  #refusals = 0;
  #changed = new Signal();
  /** What was asked for event streams, path and query, oldest first. */
  requests = [];
  /** What the server has answered to all of them, as text. */
  answers = "";
  /** Where it listens, as a URL's origin. */
  origin;
  /** What the server is asked instead of this path and query of a stream. */
  rewrite = (url) => url;

  /** Starts relaying to `origin`; closed after the test. */
  static async before(t, origin) {
    const relay = new Relay();
    relay.#port = new URL(origin).port;
    relay.#server = createServer((request, response) => relay.#accept(request, response));
    relay.#server.listen(0, "127.0.0.1");
    await once(relay.#server, "listening");
    relay.origin = `http://127.0.0.1:${relay.#server.address().port}`;
    t.after(() => {
      relay.#server.close();
      relay.#server.closeAllConnections();
    });
    return relay;
  }

  /**
   * Cuts off whatever answer is the first to match, behind the match: `breaks` closes the connection, `ends` ends the
   * answer in good order. Settles when that is done. Until `mend`, streams are asked for in vain.
   */
  async cutBehind(pattern, how) {
    const cut = { pattern, how, done: false };
    this.#cut = cut;
    await this.#changed.until(() => cut.done, `an answer that matches ${pattern}`);
  }

  /** The same at once, for all that listen. */
  cut(how) {
    this.#cut = { how, done: true };
    for (const end of this.#open) end(how);
    this.#open.clear();
  }

  /** Settles when somebody has come back while it is cut. */
  somebodyCameBack() {
    return this.#changed.until(() => this.#parked.length > 0, "somebody to come back");
  }

  /** Passes everything on again, those who wait first. */
  mend() {
    this.#cut = undefined;
    for (const pass of this.#parked.splice(0)) pass();
  }

  /** The next so many streams are answered 502, as a front web server does while the one behind it restarts. */
  refuse(count) {
    this.#refusals = count;
  }

  /** Settles when the server's answers match the pattern so often. */
  answered(pattern, count = 1) {
    const all = new RegExp(pattern, "gm");
    return this.#changed.until(() => (this.answers.match(all) ?? []).length >= count, `${count} answers that match ${pattern}`);
  }

  /** Settles when so many streams were asked for. */
  asked(count) {
    return this.#changed.until(() => this.requests.length >= count, `${count} requests`);
  }

  #accept(request, response) {
    response.on("error", () => {});
    if (!request.url.startsWith("/v1/sse")) return this.#pass(request, response);
    this.requests.push(request.url);
    const answer = () => this.#answer(request, response);
    if (this.#cut?.done) {
      this.#parked.push(answer);
      response.on("close", () => (this.#parked = this.#parked.filter((other) => other !== answer)));
    } else {
      answer();
    }
    this.#changed.tell();
  }

  #answer(request, response) {
    if (this.#refusals === 0) return this.#pass(request, response, { isStream: true });
    this.#refusals -= 1;
    response.writeHead(502, { "Content-Type": "text/html" }).end("<h1>502 Bad Gateway</h1>");
  }

  #pass({ url, method, headers }, response, { isStream } = {}) {
    const path = isStream ? this.rewrite(url) : url;
    const upstream = send({ host: "127.0.0.1", port: this.#port, path, method, headers, agent: false }, (answer) => {
      const { connection, "transfer-encoding": _, ...kept } = answer.headers;
      response.writeHead(answer.statusCode, kept).flushHeaders();
      const seen = { text: "" };
      // What has passed still arrives: after a reset nobody could say what the client has seen.
      const end = (how) => {
        if (how === "ends") response.end();
        else response.socket?.end();
        upstream.destroy();
      };
      if (isStream) this.#open.add(end);
      response.on("close", () => this.#open.delete(end));
      answer.on("data", (piece) => (isStream ? this.#relay(piece, seen, response, end) : response.write(piece)));
      answer.on("end", () => response.end());
      answer.on("error", () => response.socket?.end());
      this.#changed.tell();
    });
    upstream.on("error", () => response.socket?.destroy());
    response.on("close", () => upstream.destroy());
    upstream.end();
  }

  /** `seen.text` is what of this answer has passed, a character a byte. */
  #relay(piece, seen, response, end) {
    if (!this.#open.has(end)) return;
    const text = piece.toString("latin1");
    this.answers += text;
    const cut = this.#cut;
    const match = cut && !cut.done ? cut.pattern.exec(seen.text + text) : undefined;
    if (match) {
      response.write(piece.subarray(0, match.index + match[0].length - seen.text.length));
      cut.done = true;
      end(cut.how);
      this.#open.delete(end);
    } else {
      seen.text += text;
      response.write(piece);
    }
    this.#changed.tell();
  }
}
