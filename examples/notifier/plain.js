import { Comet, inWords, server } from "../shared/comet.js";

/** The key of key.php by the name that `comet dump` prints, so that this page and the PHP pages show the same messages. */
const CHANNEL = "a%3A1%3A%7Bi%3A0%3Bs%3A18%3A%22anna%2540example.org%22%3B%7D";

const element = (id) => document.getElementById(id);
const say = (text) => (element("state").textContent = text);
const comet = new Comet(server);

// Without the value that is stored: what somebody has seen yesterday is no news.
comet.subscribe(CHANNEL, ({ data }) => globalThis.notify(typeof data === "string" ? data : JSON.stringify(data)), { retained: false });
comet.on("state", (state) => say(inWords(state)));
comet.on("gap", () => globalThis.notify("You were away for so long that some messages are no longer there."));
comet.on("error", ({ message }) => say(message));

/** Retained, so that PHP can read it and show it again. */
async function send(text, options) {
  try {
    await comet.publish(CHANNEL, text, { kind: "text", retain: true, ...options });
    say("Sent.");
  } catch ({ message }) {
    say(`Not sent: ${message}`);
  }
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send(element("comet-text").value);
});
element("refresh").addEventListener("click", async () => {
  try {
    const { publications: [last] } = await comet.history(CHANNEL, { limit: 1, reverse: true });
    if (last) await send(last.data, { event: "refresh", kind: last.kind ?? "json" });
    else say("There is no message yet.");
  } catch ({ message }) {
    say(`Not shown: ${message}`);
  }
});
