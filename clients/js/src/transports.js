/** The transports. Each settles when its connection has ended, or throws. `line` is what a link gives to each connection. */

import { ANSWER_MS } from "./door.js";
import { FILES_MS, makeFiles } from "./files.js";
import { objectOf } from "./reading.js";

/** A stream is asked for a second sign of life after this: a path may pass the first bytes with the head and keep the rest. */
export const PREAMBLE_MS = 1_000;
/** How long a poll asks to be held: under the 30 s after which many proxies give up. */
const HOLD_MS = 25_000;
/** The pause between polls that are not held; shorter right after one that brought something. */
const INTERVAL_MS = 5_000;
const INTERVAL_BUSY_MS = 1_000;

export async function websocket(line, signal) {
  const token = await line._door._token();
  if (signal.aborted) return;
  const query = line._query(...(token ? [["token", token]] : []));
  const socket = new WebSocket(line._door._address("ws", query).replace(/^http/, "ws"));
  line._say = (command) => socket.send(JSON.stringify(command));
  await new Promise((over) => {
    socket.onclose = over;
    socket.onmessage = ({ data }) => {
      const object = objectOf(data);
      // Who is only sent away has not been let in.
      if (object.type !== "reconnect") line._sign(1, object.heartbeat_ms);
      line._received(object, object.cursor);
    };
    signal.onabort = () => {
      over((socket.onmessage = null));
      socket.close();
    };
  });
}

export async function sse(line, signal) {
  const response = await line._door._ask("sse", line._query(["preamble_ms", PREAMBLE_MS]), { signal });
  const reader = response.body.getReader();
  const utf8 = new TextDecoder();
  const last = {};
  let rest = "";
  let beat;
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    const lines = (rest + utf8.decode(value, { stream: true })).split(/\r?\n/);
    rest = lines.pop();
    let hasBlocks;
    for (const text of lines) {
      const [, field, value] = /^(\w*):? ?([^]*)/.exec(text);
      last[field] = value;
      if (field === "retry") line._retry = +value;
      // Ours are one line each.
      if (text || !last.data) continue;
      const object = objectOf(last.data);
      hasBlocks = true;
      beat ??= object.heartbeat_ms;
      line._received(object, last.id);
      if (signal.aborted) return;
      last.data = last.id = "";
    }
    if (hasBlocks) line._sign(2, beat);
  }
}

export async function poll(line, signal) {
  // The first is not held: its answer shows that listening works.
  for (let wait = 0; !line._after; wait = HOLD_MS) {
    line._watch(wait + ANSWER_MS);
    line._after = (await line._turn(wait, signal)).retry_ms;
    if (wait) line._sign(1);
  }
}

export async function interval(line, signal) {
  const { interval = INTERVAL_MS, files: folder } = line._options;
  const files = makeFiles(folder);
  signal.onabort = line._wake;
  while (!signal.aborted) {
    line._watch(FILES_MS + ANSWER_MS);
    let retry = 0;
    let pause = interval;
    if (!(await files._isQuiet(line._asked())) || signal.aborted) {
      const { retry_ms, publications } = await line._turn(0, signal);
      const { length } = publications;
      files._heard(length);
      if (length) pause = Math.min(interval, INTERVAL_BUSY_MS);
      retry = retry_ms ?? 0;
    }
    line._sign(1);
    line._watch();
    await line._rest(Math.max(retry, pause * (0.8 + Math.random() * 0.4)), retry > 0);
  }
}
