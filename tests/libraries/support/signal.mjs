// Waiting for what others do, under a deadline.

/** A test that waits longer than this has failed. */
export const DEADLINE_MS = Number(process.env.COMET_TEST_DEADLINE_MS ?? 60_000);

/** Wakes all who wait to look again. */
export class Signal {
  #waiting = [];

  tell() {
    for (const look of this.#waiting.splice(0)) look();
  }

  /** Settles once it is so. `what` is waited for: text, or what gives it when it was in vain. */
  async until(isSo, what, deadline = DEADLINE_MS) {
    const end = Date.now() + deadline;
    while (!isSo()) {
      await new Promise((look, failed) => {
        const why = () => failed(new Error(`waited in vain for ${typeof what === "function" ? what() : what}`));
        // Whoever lost a race against another wait holds nobody up: the server under test keeps this process alive.
        const late = setTimeout(why, Math.max(0, end - Date.now())).unref();
        this.#waiting.push(() => {
          clearTimeout(late);
          look();
        });
      });
    }
  }
}
