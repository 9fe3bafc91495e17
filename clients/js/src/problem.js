/** What an answer that is not a success says: a problem document, or only a status from something in between. */

import { jittered, sleep } from "./words.js";

export class CometError extends Error {
  constructor({ status, code, detail, message, retry_ms }) {
    super(detail ?? message ?? `status ${status}`);
    Object.assign(this, { name: "CometError", status, code, retry_ms });
  }
}

export async function problemOf(response) {
  const said = await response.json().catch(() => ({}));
  const after = parseFloat(response.headers.get("Retry-After"));
  return new CometError({ ...said, status: response.status, retry_ms: after >= 0 ? after * 1000 : undefined });
}

/** Trying the same again later can help. */
export const passes = ({ status }) => !(status < 500) || [408, 425, 429].includes(status);

/** Waits as long as the server says, or by itself longer and longer. */
export const patiently = ({ retry_ms }, times) => sleep(retry_ms ?? jittered(times));
