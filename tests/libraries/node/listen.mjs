// The package `eventsource` listens to the address given and prints what it hands out, a JSON object a line.

import { EventSource } from "eventsource";

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const handedOut = (e) => print({ event: e.type, data: e.data, id: e.lastEventId });

const source = new EventSource(process.argv[2]);
source.onmessage = handedOut;
source.addEventListener("cursor", handedOut);
source.onerror = (e) => {
  if (source.readyState === EventSource.CLOSED) print({ ended: String(e.code) });
};
