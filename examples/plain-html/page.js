// Where the server is: this page's own origin, or `?server=https://push.example.org`.
const server = new URL(new URLSearchParams(location.search).get("server") ?? "/", location.href).href;
const { Comet } = await import(new URL("client.js", server).href);

const CHANNEL = "messages";
const element = (id) => document.getElementById(id);
const comet = new Comet(server);

comet.subscribe(CHANNEL, ({ data, time }) => {
  const item = document.createElement("li");
  const when = document.createElement("time");
  when.dateTime = new Date(time).toISOString();
  when.textContent = new Date(time).toLocaleTimeString();
  // As text: what others write is never HTML.
  item.append(when, " ", typeof data === "string" ? data : JSON.stringify(data));
  element("messages").prepend(item);
}, { since: "earliest" });

const NAMES = { websocket: "WebSocket", sse: "SSE", stream: "HTTP stream", poll: "long poll", interval: "polls" };
comet.on("state", ({ state, transport, retry_ms }) => {
  const waiting = () => `Connection lost, trying again in ${Math.ceil(retry_ms / 1000)} s`;
  element("state").textContent = state === "live" ? `Live over ${NAMES[transport] ?? transport}` : state === "waiting" ? waiting() : "Connecting …";
  element("state").dataset.state = state;
});
comet.on("gap", () => element("messages").replaceChildren());
comet.on("error", ({ message }) => (element("state").textContent = message));

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { value } = element("text");
  element("text").value = "";
  try {
    await comet.publish(CHANNEL, value);
  } catch ({ message }) {
    element("state").textContent = `Not sent: ${message}`;
    element("text").value ||= value;
  }
});
