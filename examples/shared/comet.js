// Where the examples find the client and the server. Whoever takes an example elsewhere changes these lines.

export { Comet } from "../../clients/js/comet.js";

/** Where `comet demo` listens; `?server=https://push.example.org` names another one. On a real site it is "/". */
export const server = new URL(new URLSearchParams(location.search).get("server") ?? "http://127.0.0.1:8080/", location.href).href;

const NAMES = { websocket: "WebSocket", sse: "SSE", stream: "HTTP stream", poll: "long poll", interval: "polls" };

/** What a person reads about the connection. */
export function inWords({ state, transport, retry_ms }) {
  if (state === "live") return `Live over ${NAMES[transport] ?? transport}`;
  if (state === "waiting") return `No connection. Is the server running, and may this page ask it (public.origins)? Trying again in ${Math.ceil(retry_ms / 1000)} s`;
  return "Connecting …";
}
