"use strict";
// Shows what comes after the cursor that the page was rendered with. A browser that loses its connection comes back with the
// id of the last event by itself, also when the server was restarted meanwhile.
const lines = document.getElementById("lines");
const query = new URLSearchParams({ channel: lines.dataset.channel, cursor: lines.dataset.cursor });
const events = new EventSource(document.currentScript.dataset.comet + "/v1/sse?" + query);

const say = (text) => (document.getElementById("state").textContent = text);
events.onopen = () => say("Live over SSE");
events.onerror = () =>
  say(events.readyState === EventSource.CLOSED ? "The server refuses this page." : "The server does not answer, trying again …");

/** A page that comes from a cache has its cursor of long ago again, and loading it anew would never end: once for each cursor,
 * and three times a minute if several caches have several. */
function reloadOnce() {
  const { cursor } = lines.dataset;
  try {
    const past = JSON.parse(sessionStorage.getItem("reloads") || "[]");
    const recent = past.filter(({ at }) => at > Date.now() - 60_000);
    if (recent.length >= 3 || past.some((one) => one.cursor === cursor)) return;
    sessionStorage.setItem("reloads", JSON.stringify([...past, { cursor, at: Date.now() }].slice(-20)));
  } catch {
    return; // What cannot be remembered would be done again and again.
  }
  location.reload();
}

events.onmessage = (event) => {
  const message = JSON.parse(event.data);
  if (message.type === "gap") {
    // The server no longer has everything since then: what the page shows has to be rendered anew.
    reloadOnce();
    return;
  }
  if (message.type !== "publication") return;
  // Published between the cursor and the history: the page shows it already.
  if (lines.lastElementChild && message.offset <= lines.lastElementChild.value) return;
  const line = document.createElement("li");
  line.value = message.offset;
  line.textContent = message.data;
  lines.append(line);
};
