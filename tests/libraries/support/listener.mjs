// One library that listens, and all that it has handed out.

import assert from "node:assert/strict";
import { inspect } from "node:util";
import { Signal } from "./signal.mjs";

export class Listener {
  #library;
  #url;
  #close;
  #changed = new Signal();
  /** What it has handed out, oldest first: `event`, `data`, `id`. */
  handed = [];
  /** Why it has given up, in its own words. */
  ended;

  /** Listens to this address by `library`; closed after the test. */
  static async open(t, library, url) {
    const listener = new Listener();
    listener.#library = library;
    listener.#url = new URL(url);
    t.after(() => listener.#close?.());
    await listener.#open(t);
    return listener;
  }

  async #open(t) {
    this.ended = undefined;
    this.#close = await this.#library.open(t, this.#url.href, (line) => {
      if (line.ended === undefined) this.handed.push(line);
      else this.ended = line.ended;
      this.#changed.tell();
    });
  }

  /** Listens again, from the last id that the library has handed out, as a program does that was started anew. */
  async openAgain(t) {
    await this.#close();
    this.#url.searchParams.set("cursor", this.handed.findLast(({ id }) => id).id);
    await this.#open(t);
  }

  /** Settles when it has seen the opening: before that, it does not know where to go on if it is cut off. */
  opened() {
    return this.#changed.until(() => this.handed.length > 0, `${this.#library.name} to hand out the opening`);
  }

  /** Settles when it has given up. */
  gaveUp(deadline) {
    return this.#changed.until(() => this.ended !== undefined, `${this.#library.name} to give up`, deadline);
  }

  /** The objects that it was sent as messages. Fails if it has handed out what nobody has sent. */
  objects() {
    const objects = [];
    for (const { event, data } of this.handed) {
      const isMessage = event === "message" || event === "" || event === undefined;
      assert.notEqual(data, "", `${this.#library.name} handed out an empty ${event || "message"}`);
      assert.ok(isMessage || event === "cursor", `${this.#library.name} handed out ${event}: ${data}`);
      const object = whole(data);
      if (object === undefined) {
        assert.ok(this.#library.handsOutPieces, `${this.#library.name} handed out a piece: ${data.slice(-80)}`);
      } else if (isMessage) {
        assert.notEqual(object.type, "cursor");
        objects.push(object);
      } else {
        assert.equal(object.type, "cursor");
      }
    }
    return objects;
  }

  /**
   * The data of the publications that it was sent. Where a library hands out pieces, the last may have been whole but for
   * its id, and comes again: as a program has to, this passes over offsets that it has had.
   */
  published() {
    const publications = this.objects().filter(({ type }) => type === "publication");
    const isNew = ({ offset }, at) => publications.findIndex((other) => other.offset === offset) === at;
    return (this.#library.handsOutPieces ? publications.filter(isNew) : publications).map(({ data }) => data);
  }

  /** Settles when it has so many publications; gives their data. */
  async received(count) {
    await this.#changed.until(
      () => this.ended !== undefined || this.published().length >= count,
      () => `${count} publications; ${this.#library.name} handed out ${inspect(this.handed, { maxStringLength: 120 })}`,
    );
    assert.equal(this.ended, undefined, `${this.#library.name} gave up`);
    return this.published();
  }
}

/** What the text says, or nothing if it is not JSON. */
function whole(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
