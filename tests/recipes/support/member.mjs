// A member of a channel until it is ended: our client, in a process of its own. MEMBER: its address, transport and so on.

import { webSocket } from "./http.mjs";

const { url, where, path, channel, transport, token, headers } = JSON.parse(process.env.MEMBER);

if (transport === "websocket") {
  // This Node has none of its own.
  webSocket(where, path, headers, { onText() {}, onEnd: (why) => console.log(`ended: ${why}`) });
} else {
  globalThis.location = new URL(url);
  globalThis.window = globalThis.document = globalThis;
  globalThis.addEventListener = () => {};
  globalThis.navigator ??= {};
  const { fetch } = globalThis;
  globalThis.fetch = (address, init) => fetch(address, { ...init, headers: { ...init?.headers, ...headers } });
  const { Comet } = await import(new URL("../../../clients/js/comet.js", import.meta.url));
  const comet = new Comet(url, { transports: [transport], ...(token && { token }) });
  comet.subscribe(channel, () => {}, { presence: "join" });
}
