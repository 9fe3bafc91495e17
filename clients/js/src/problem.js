/** What an answer that is not a success says: a problem document of our server, or a page of something in between. */

import { parsed } from "./reading.js";
import { BLOCKED_MAX_MS, jittered, sleep } from "./words.js";

/** `code` of what the page's callback did instead of giving a token. */
export const NO_TOKEN = "no_token";

/** Without `code` it is no word of our server. */
export class CometError extends Error {
  constructor({ detail, message, ...more }) {
    super(detail ?? message);
    Object.assign(this, { name: "CometError" }, more);
  }
}

/** What a response with this text says. Many have a `code`; nobody else has a `type` made of it as our server has. */
export function problemOf({ status, headers }, text, url) {
  const said = parsed(text);
  const isOurs = said?.type === "about:blank#" + said?.code;
  return new CometError({
    ...(isOurs ? said : { status, url, message: `${url}: ${status} of something else` }),
    retry_ms: Math.min(/^\d+/.exec(headers.get("Retry-After")) * 1000, BLOCKED_MAX_MS) || undefined,
  });
}

const isRefusal = ({ status }) => status < 500 && !/408|425|429/.test(status);

/** Something else than our server answered, as a firewall, a login page or a site that is being uploaded does. */
export const isForeign = (problem) => !problem.code && isRefusal(problem);

/** Trying the same again later can help. */
export const passes = (problem) => !problem.code || !isRefusal(problem);

/** Waits as long as the server says, or by itself longer and longer. */
export const patiently = ({ retry_ms }, times) => sleep(retry_ms ?? jittered(times));
