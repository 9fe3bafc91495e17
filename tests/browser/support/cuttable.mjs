// A TCP relay in front of the server that can cut every connection, as a restart or a lost network does.

import { createServer, connect } from "node:net";
import { once } from "node:events";

/** A test that waits longer than this has failed. */
const DEADLINE_MS = 30_000;

/** Bytes go through unchanged, so that the page's origin is the relay's address and stays the same across cuts. */
export class Cuttable {
  #target;
  #server;
  #sockets = new Set();
  #cut = false;
  #parked = [];
  #waiting = [];
  #answers = "";
  #reading = [];
  /** The heads of the requests that came, oldest first. */
  requests = [];
  /** Where it listens, as a URL's origin. */
  origin;

  /** Starts relaying to `origin`; closed after the test. */
  static async before(t, origin) {
    const relay = new Cuttable();
    relay.#target = new URL(origin);
    relay.#server = createServer((client) => relay.#accept(client));
    relay.#server.listen(0, "127.0.0.1");
    await once(relay.#server, "listening");
    relay.origin = `http://127.0.0.1:${relay.#server.address().port}`;
    t.after(() => relay.#close());
    return relay;
  }

  /** Settles when the server's answers so far, through this relay, match the pattern. */
  async answered(pattern) {
    while (!pattern.test(this.#answers)) await next(this.#reading, `an answer that matches ${pattern}`);
  }

  /**
   * Ends every connection in the middle of its answer. Until `mend`, new ones are accepted and get no answer.
   *
   * What has passed still arrives: a reset could take it back, and nobody could say what the browser has seen.
   */
  cut() {
    this.#cut = true;
    for (const socket of this.#sockets) socket.end();
  }

  /** Settles when somebody has come back while it is cut. */
  async somebodyCameBack() {
    if (this.#parked.length === 0) await next(this.#waiting, "a connection after the cut");
  }

  /** Relays again, those who wait first. */
  mend() {
    this.#cut = false;
    for (const client of this.#parked.splice(0)) this.#relay(client);
  }

  #accept(client) {
    this.#keep(client);
    if (!this.#cut) return this.#relay(client);
    this.#parked.push(client);
    client.on("close", () => (this.#parked = this.#parked.filter((other) => other !== client)));
    for (const arrived of this.#waiting.splice(0)) arrived();
  }

  #relay(client) {
    const server = this.#keep(connect(this.#target.port, this.#target.hostname));
    client.on("data", (bytes) => {
      const text = bytes.toString("latin1");
      if (/^[A-Z]+ \S+ HTTP\/1\.1\r\n/.test(text)) this.requests.push(text);
    });
    client.pipe(server).pipe(client);
    server.on("data", (bytes) => {
      this.#answers += bytes.toString("latin1");
      for (const more of this.#reading.splice(0)) more();
    });
    client.on("close", () => server.destroy());
    server.on("close", () => client.destroy());
  }

  /** A browser may reset what it has been cut off from: that is no error of the test. */
  #keep(socket) {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#sockets.delete(socket));
    return socket;
  }

  #close() {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Settles when somebody calls what it puts on the list. */
function next(list, awaited) {
  return new Promise((came, failed) => {
    const late = setTimeout(() => failed(new Error(`waited in vain for ${awaited}`)), DEADLINE_MS);
    list.push(() => {
      clearTimeout(late);
      came();
    });
  });
}
