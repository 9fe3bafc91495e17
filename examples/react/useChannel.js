// React hooks over the CometServer client. Copy this file; it needs nothing but React 18 or later.

import { createContext, useContext, useEffect, useRef, useSyncExternalStore } from "react";

/** Give it one `Comet` for the whole application: `<CometContext.Provider value={comet}>`. */
export const CometContext = createContext(null);

/**
 * Calls `handler(publication)` for each publication of a channel (or `{ pattern }`) while the component is there.
 *
 * The handler may be another function on every render: the newest is called, and the subscription stays.
 */
export function useChannel(target, handler, { since, retained, presence } = {}) {
  const comet = useContext(CometContext);
  const newest = useRef(handler);
  useEffect(() => {
    newest.current = handler;
  });
  const [kind, name] = typeof target === "string" ? ["channel", target] : Object.entries(target)[0];
  useEffect(() => {
    if (!comet) return undefined;
    const subscription = comet.subscribe({ [kind]: name }, (publication) => newest.current(publication), { since, retained, presence });
    return () => subscription.unsubscribe();
  }, [comet, kind, name, since, retained, presence]);
}

/** Calls `handler(detail)` for each event of the client: `gap`, `presence`, `error`, `subscribed`. */
export function useCometEvent(type, handler) {
  const comet = useContext(CometContext);
  const newest = useRef(handler);
  useEffect(() => {
    newest.current = handler;
  });
  useEffect(() => comet?.on(type, (detail) => newest.current(detail)), [comet, type]);
}

/** The state of the connection: `connecting`, `live`, `waiting`, `idle`, `closed`. */
export function useCometState() {
  const comet = useContext(CometContext);
  return useSyncExternalStore(
    (changed) => comet?.on("state", changed) ?? (() => {}),
    () => comet?.state.state ?? "idle",
    () => "idle",
  );
}
