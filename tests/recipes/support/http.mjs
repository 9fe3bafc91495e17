// The smallest HTTP and WebSocket clients that show everything: no pool, no redirects, nothing retried.

import { randomBytes } from "node:crypto";
import { request } from "node:http";

import { DEADLINE_MS } from "./processes.mjs";

/**
 * Sends a request and returns the answer with its whole body as `body`. `where`: `{ port }` or `{ socketPath }`.
 */
export function ask(where, method, path, { headers = {}, body, deadline = DEADLINE_MS } = {}) {
  return new Promise((answer, failed) => {
    const asking = request({ host: "127.0.0.1", ...where, method, path, headers, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => (text += chunk));
      response.on("error", failed);
      response.on("end", () => {
        clearTimeout(late);
        answer({ status: response.statusCode, headers: response.headers, body: text });
      });
    });
    const late = setTimeout(() => asking.destroy(new Error(`no answer in ${deadline} ms: ${method} ${path}`)), deadline);
    asking.on("error", (error) => {
      clearTimeout(late);
      failed(error);
    });
    asking.end(body);
  });
}

/**
 * Opens a stream: `onData(text)` as it comes, then `onEnd(why)` once. Returns what ends it, as a closed tab would: without
 * a word, or, if it is told why, with it to `onEnd`.
 */
export function stream(where, path, headers, { onOpen, onData, onEnd }) {
  let over = false;
  const end = (why) => {
    if (!over) onEnd(why);
    over = true;
  };
  const asking = request({ host: "127.0.0.1", ...where, path, headers, agent: false }, (response) => {
    onOpen?.(response);
    response.setEncoding("utf8");
    response.on("data", (text) => !over && onData(text));
    response.on("error", () => {});
    response.on("close", () => end(response.complete ? "ended" : "cut"));
  });
  asking.on("error", (error) => end(error.message));
  asking.end();
  return (why) => {
    if (why !== undefined) end(why);
    over = true;
    asking.destroy();
  };
}

/** Opens a WebSocket: `onText(text)` for each text frame. Pings are answered. Returns what ends it. */
export function webSocket(where, path, more, { onText, onEnd, onRefused }) {
  let over = false;
  let socket;
  const end = (why) => {
    if (!over) onEnd(why);
    over = true;
  };
  const headers = {
    ...more,
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
  };
  const asking = request({ host: "127.0.0.1", ...where, path, headers, agent: false });
  asking.on("upgrade", (_, upgraded, head) => {
    socket = upgraded;
    let input = Buffer.alloc(0);
    const read = (bytes) => {
      input = Buffer.concat([input, bytes]);
      for (let frame; !over && (frame = takeFrame(input)); ) {
        input = frame.rest;
        if (frame.opcode === 1) onText(frame.payload.toString("utf8"));
        if (frame.opcode === 8) {
          socket.end(masked(8, frame.payload));
          end(`closed with ${frame.payload.length >= 2 ? frame.payload.readUInt16BE(0) : "no code"}`);
        }
        if (frame.opcode === 9) socket.write(masked(10, frame.payload));
      }
    };
    socket.on("data", read);
    socket.on("error", () => {});
    socket.on("close", () => end("cut"));
    if (head.length > 0) read(head);
  });
  asking.on("response", (response) => {
    response.resume();
    onRefused?.(response.statusCode);
    end(`refused with ${response.statusCode}`);
  });
  asking.on("error", (error) => end(error.message));
  asking.end();
  return () => {
    over = true;
    asking.destroy();
    socket?.destroy();
  };
}

/** The first whole frame, or nothing yet. The server's frames are not masked, and never in pieces. */
function takeFrame(input) {
  if (input.length < 2) return null;
  let length = input[1] & 127;
  let at = 2;
  if (length === 126) {
    if (input.length < 4) return null;
    length = input.readUInt16BE(2);
    at = 4;
  } else if (length === 127) {
    if (input.length < 10) return null;
    length = Number(input.readBigUInt64BE(2));
    at = 10;
  }
  if (input.length < at + length) return null;
  return { opcode: input[0] & 15, payload: input.subarray(at, at + length), rest: input.subarray(at + length) };
}

function masked(opcode, payload) {
  const mask = randomBytes(4);
  const frame = Buffer.alloc(6 + payload.length);
  frame[0] = 128 | opcode;
  frame[1] = 128 | payload.length;
  mask.copy(frame, 2);
  for (let i = 0; i < payload.length; i += 1) frame[6 + i] = payload[i] ^ mask[i % 4];
  return frame;
}
