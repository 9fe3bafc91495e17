// Tokens as a site's own code makes them.

import { createHmac } from "node:crypto";
import { SECRET } from "./client.mjs";

const part = (json) => Buffer.from(JSON.stringify(json)).toString("base64url");

/** A token with these claims; whole seconds are made of its times. */
export function token(claims) {
  const whole = Object.fromEntries(Object.entries(claims).map(([name, value]) => [name, typeof value === "number" ? Math.floor(value) : value]));
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(whole)}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}
