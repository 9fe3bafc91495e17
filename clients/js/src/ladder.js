/** The ladder of transports: which one is used, what worked on this network, when a better one is tried again. */

import { stored } from "./words.js";

/** When a better transport is tried again, doubling up to how long a network's transport is remembered. */
const CLIMB_MS = 300_000;
const REMEMBER_MS = 3_600_000;

/** `rungs`: the transports, best first; `climbed` is called when it is time for the best again. */
export function makeLadder(url, rungs, climbed) {
  let rung;
  let climber;
  let wait = CLIMB_MS;

  const transport = () => rungs[rung];
  const stay = () => clearTimeout(climber);
  /** Where what is known of a network is kept. Browsers tell little of which network it is; some tell its kind. */
  const memory = () => `cometserver ${url} ${navigator.connection?.type}`;

  function climb() {
    stay();
    climber = setTimeout(() => {
      rung = 0;
      climbed();
    }, wait);
    wait = Math.min(wait * 2, REMEMBER_MS);
  }

  /** Begins with what worked last on this network. */
  function recall() {
    const [name, until] = (stored("localStorage", memory()) ?? "").split(" ");
    rung = Math.max(0, Date.now() < until ? rungs.indexOf(name) : 0);
    stay();
    if (rung) climb();
  }

  /** This one works. */
  function remember() {
    if (rungs.length < 2) return;
    if (!rung) wait = CLIMB_MS;
    stored("localStorage", memory(), rung ? `${transport()} ${Date.now() + REMEMBER_MS}` : null);
  }

  /** To the next one, if there is one. */
  function stepDown() {
    if (rung + 1 < rungs.length) {
      rung++;
      climb();
      return true;
    }
  }

  recall();
  return { _transport: transport, _recall: recall, _remember: remember, _stepDown: stepDown, _stay: stay };
}
