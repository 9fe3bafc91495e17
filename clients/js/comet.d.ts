/** What a publication is, as docs/protocol.md has it. */
export interface Publication<T = unknown> {
  type: "publication";
  channel: string;
  /** Counts within the channel from 1, without holes. */
  offset: number;
  /** Milliseconds since 1970. */
  time: number;
  data: T;
  /** It is in other channels too. */
  several?: true;
  /** Absent for JSON; `binary`: `data` is base64. */
  kind?: "text" | "binary";
  event?: string;
  id?: string;
  user?: string;
  tags?: Record<string, string>;
}

/** A channel by name, or a pattern: `*` is any run without `/`, `**` any run, `\` takes the next character literally. */
export type Target = string | { channel: string } | { pattern: string };

export type Transport = "websocket" | "sse" | "poll" | "interval";

export interface Options {
  /**
   * A token (JWT), or what gives one: asked at the beginning, before it ends, and once when the server refuses it. No token
   * is `undefined` or `null`; anything else that is none is an `error` event of code `no_token`.
   */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** Where first subscriptions begin: the cursor that the page was made with, `now` (default) or `earliest`. */
  cursor?: string;
  /** Keep the cursor in this storage, and go on there on the next page, if `cursor` does not say where. */
  persist?: "session" | "local";
  /**
   * One connection for all tabs (default): those with the same server, user and rights. A name of yours instead: those
   * with the same name. `false`: this tab has its own.
   */
  share?: boolean | string;
  /** The transports that may be used, best first. Default: all. */
  transports?: Transport[];
  /** Milliseconds between polls that are not held. Default: 5000. */
  interval?: number;
  /**
   * The folder, as the web server serves it, in which the server keeps a file for each followed channel (`static.dir`), with
   * `/` at its end. Polls that are not held then begin with the file, and reach the server only if it has changed.
   */
  files?: string;
  /** JSON shown to others where this page is a member, up to 1 KiB. */
  info?: unknown;
}

export interface SubscribeOptions {
  /**
   * Where to begin: a cursor, `now` or `earliest`. Default: the first subscription to something begins at the `cursor`
   * of the options, another one at `now`. It may begin a little earlier than that, never later.
   */
  since?: string;
  /** `false`: do not begin with the channel's retained value. */
  retained?: boolean;
  /** Channels only. `join`: be a member, and see others come and go; `watch`: only see them. */
  presence?: "join" | "watch";
}

export interface Subscription {
  readonly channel?: string;
  readonly pattern?: string;
  unsubscribe(): void;
}

export interface State {
  state: "idle" | "connecting" | "live" | "waiting" | "closed";
  transport?: Transport;
  /** This tab has the connection. */
  leading: boolean;
  /** While waiting: for how long. */
  retry_ms?: number;
  /** Since the third time in a row, until it is live: what answers for the server. */
  blocked?: Blocked;
}

/** Something else than the server answers: a firewall, a login page, a web server whose files are being uploaded. */
export interface Blocked {
  /** The server's address, as the page gave it. */
  url: string;
  status: number;
  message: string;
}

/** Publications after the cursor are gone: what is still kept follows. Fetch your own state again if it matters. */
export interface Gap {
  type: "gap";
  channel?: string;
  pattern?: string;
  /** Only joins and leaves are gone: ask who is there. */
  presence?: true;
}

export type Presence =
  | { type: "join"; channel: string; user: string; info?: unknown }
  | { type: "leave"; channel: string; user: string }
  | { type: "members"; channel: string; count: number };

export interface Events {
  state: State;
  gap: Gap;
  presence: Presence;
  /** It has everything from where it began, and what comes from now on. */
  subscribed: { channel?: string; pattern?: string };
  /**
   * With `offset` and the code `illegible`: that publication cannot be read and was stepped over. Else with `channel` or
   * `pattern`: that one is refused and has been dropped. Without: all wait; it is tried again later.
   */
  error: CometError & { channel?: string; pattern?: string; offset?: number };
  /** For the third time in a row something else answered for the server. It is tried again all the same. */
  blocked: Blocked;
}

export interface PublishOptions {
  event?: string;
  id?: string;
  /** Make it the channel's retained value. */
  retain?: boolean;
  /** Made up if it is missing: a publication that is tried again is published once. */
  idempotency_key?: string;
  tags?: Record<string, string>;
  kind?: "json" | "text" | "binary";
  /** `false`: this page does not get it back (other tabs do). Gives it an `id`, if it has none. */
  echo?: boolean;
}

export interface Published {
  channels: { channel: string; offset?: number; epoch?: string }[];
  cursor?: string;
  duplicate?: true;
}

export interface History<T = unknown> {
  channel: string;
  epoch: string;
  offset: number;
  gap: boolean;
  publications: Publication<T>[];
  cursor: string;
}

export interface Members {
  channel: string;
  count: number;
  members: { user: string; connections: number; info?: unknown }[];
  cursor: string;
  truncated?: true;
}

/** An answer that is no success. Without `status` there was no answer, without `code` it was not the server's. */
export class CometError extends Error {
  readonly status?: number;
  readonly code?: string;
  /** The server's address, where something else answered. */
  readonly url?: string;
  readonly retry_ms?: number;
}

export class Comet {
  /** `url`: where the server is, without `/v1/`. If it has a `?`, the path is added at its end: `/comet/bridge.php?call=`. */
  constructor(url: string | URL, options?: Options);
  readonly state: State;
  /** Where this page stands; opaque. */
  readonly cursor: string | undefined;
  /** Returns what takes the listener away again. */
  on<K extends keyof Events>(type: K, listener: (detail: Events[K]) => void): () => void;
  subscribe<T = unknown>(
    target: Target,
    handler: (publication: Publication<T>) => void,
    options?: SubscribeOptions,
  ): Subscription;
  /** Tried again while that can help. Throws `CometError` if the server refuses, or what `fetch` throws. */
  publish(channel: string | string[], data: unknown, options?: PublishOptions): Promise<Published>;
  history<T = unknown>(
    channel: string,
    options?: { since?: string; limit?: number; reverse?: boolean },
  ): Promise<History<T>>;
  presence(channel: string, options?: { limit?: number }): Promise<Members>;
  /**
   * Loads the page anew: for a gap. Not twice for the cursor that the page was made with, not more than three times a
   * minute, and not where the browser cannot remember that: then it returns `false`, and the page shows what there is.
   */
  reload(): boolean;
  /** Ends everything. A page that is left need not call it. */
  close(): void;
}
