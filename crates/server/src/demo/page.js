// The demo page: listens to one channel over the native protocol (docs/protocol.md), and publishes to it.
//
// In reading order: the transports, which only turn bytes into objects; the connection, which owns the cursor and
// decides when to come back; the screen. Text from the network reaches the page as text, never as HTML.

/** First wait after a loss, and the longest one; between them it doubles, and the wait is any part of it (full jitter). */
const BACKOFF_FIRST_MS = 500;
const BACKOFF_LONGEST_MS = 30_000;
/** A connection that lived this long was healthy: the next loss begins again with the shortest wait. */
const HEALTHY_AFTER_MS = 5_000;
/** How long a poll asks to be held: under the 30 s after which many proxies give up. */
const POLL_HOLD_MS = 25_000;
/** Rows kept on the page; older ones are dropped so that a busy channel does not fill the tab's memory. */
const ROWS_KEPT = 200;
/** Bytes of a binary payload that are shown: four lines of a hex dump. */
const HEX_SHOWN = 64;
/** Joins and leaves within this time cause one question to the server. */
const PRESENCE_PAUSE_MS = 300;

const NAMES = { websocket: "WebSocket", sse: "SSE", stream: "HTTP stream", poll: "long poll" };
const here = new URL(location.href);
const channel = here.searchParams.get("channel") || "demo";
const randomWord = () => Math.random().toString(36).slice(2);
/** This window, whatever transport it takes: to the others it stays one member. */
const session = randomWord();
const element = (id) => document.getElementById(id);

// --- Transports. Each takes a link, reports to it, and returns the function that closes it. ---

const transports = {
  websocket(link) {
    const address = link.address("ws");
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    let greeted = false;
    socket.onmessage = (e) => {
      if (!greeted) link.opened();
      greeted = true;
      link.received(JSON.parse(e.data));
    };
    // A browser does not say why an upgrade was refused, so the link has to ask.
    socket.onclose = () => (greeted ? link.lost() : link.failed());
    return () => socket.close(1000);
  },

  sse(link) {
    const source = new EventSource(link.address("sse"));
    source.onopen = () => link.opened();
    source.onmessage = (e) => link.received({ ...JSON.parse(e.data), cursor: e.lastEventId });
    // After a loss the browser comes back by itself, at the server's `retry:` and with the newest id; CLOSED is for ever.
    source.onerror = () => (source.readyState === EventSource.CLOSED ? link.failed() : link.interrupted());
    return () => source.close();
  },

  stream(link) {
    return fetching(link, async (get) => {
      const reader = (await get("stream")).body.getReader();
      link.opened();
      const utf8 = new TextDecoder();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return link.lost();
        const lines = (rest + utf8.decode(value, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) if (line) link.received(JSON.parse(line));
      }
    });
  },

  poll(link) {
    return fetching(link, async (get) => {
      // The first poll is not held: its answer shows that listening works.
      for (let wait_ms = 0; ; wait_ms = POLL_HOLD_MS) {
        const answer = await (await get("poll", { wait_ms })).json();
        link.opened();
        link.received({ type: "cursor", cursor: answer.cursor });
        answer.publications.forEach(link.received);
        if (answer.retry_ms) return link.lost(answer.retry_ms);
      }
    });
  },
};

/** Runs a fetch-based transport; an answer that is no success is a refusal, whatever else breaks it is a loss. */
function fetching(link, run) {
  const abort = new AbortController();
  const get = async (path, more) => {
    const response = await fetch(link.address(path, more), { signal: abort.signal, cache: "no-store" });
    if (!response.ok) throw await problem(response);
    return response;
  };
  run(get).catch((why) => (why.status ? link.refused(why) : link.lost()));
  return () => abort.abort();
}

/** Asks for the reason where a transport cannot say why it failed: a poll that is not held gets it as a problem. */
function probe(link) {
  return fetching(link, async (get) => {
    await get("poll", { wait_ms: 0, limit: 1 });
    link.lost();
  });
}

/** What an answer that is not a success says: a problem document (RFC 9457), or only a status from something in between. */
async function problem(response) {
  const said = await response.json().catch(() => ({}));
  return {
    status: response.status,
    code: said.code,
    detail: said.detail ?? `the server answered ${response.status}`,
    retryMs: Number(response.headers.get("Retry-After")) * 1000 || undefined,
  };
}

// --- The connection. ---

/** One way to the server at a time, and the cursor that outlives each of them. Tells `screen` what happens. */
class Connection {
  #transport = "websocket";
  /** From the oldest publication kept, so that a page that opens late shows what is there. */
  #cursor = "earliest";
  #close = () => {};
  #timer = 0;
  #losses = 0;
  #openedAt = 0;
  #broken = false;

  /** Goes on from the same cursor, now, because the reader asked for it; with another transport if one is named. */
  use(transport = this.#transport) {
    this.#transport = transport;
    this.#losses = 0;
    this.#open();
  }

  #open() {
    screen.state("connecting", `Connecting with ${NAMES[this.#transport]} …`);
    this.#start(transports[this.#transport]);
  }

  /** Gives a transport its link. What it reports once it is closed is not heard, or a message could come twice. */
  #start(transport) {
    this.#end();
    let closed = false;
    const heard = (listen) => (said) => closed || listen(said);
    const stop = transport({
      address: (path, more) => {
        const query = new URLSearchParams({ channel, cursor: this.#cursor, presence: "join", session, ...more });
        return new URL(`/v1/${path}?${query}`, location.origin);
      },
      opened: heard(() => this.#opened()),
      received: heard((object) => this.#received(object)),
      interrupted: heard(() => this.#interrupted()),
      lost: heard((afterMs) => this.#lost(afterMs)),
      refused: heard((problem) => this.#refused(problem)),
      failed: heard(() => this.#start(probe)),
    });
    this.#close = () => {
      closed = true;
      stop();
    };
  }

  #opened() {
    if (this.#openedAt) return;
    this.#openedAt = Date.now();
    if (this.#broken) count("reconnects");
    this.#broken = false;
    screen.state("live", `Live over ${NAMES[this.#transport]}`);
  }

  #received(object) {
    if (object.cursor) this.#cursor = object.cursor;
    if (object.type === "reconnect") this.#lost(object.after_ms);
    else screen.show(object);
  }

  /** The browser is already coming back by itself. */
  #interrupted() {
    this.#over();
    this.#broken = true;
    screen.state("waiting", "Connection lost, coming back …");
  }

  /** Comes back after the time the server asked for, else after a random part of a wait that doubles. */
  #lost(afterMs) {
    this.#end();
    this.#broken = true;
    const wait = afterMs ?? Math.random() * Math.min(BACKOFF_LONGEST_MS, BACKOFF_FIRST_MS * 2 ** this.#losses++);
    const why = afterMs === undefined ? "Connection lost" : "The server asked for a pause";
    screen.state("waiting", `${why}, trying again in ${Math.ceil(wait / 1000)} s`);
    this.#timer = setTimeout(() => this.#open(), wait);
  }

  /** Tries again where waiting can help; where it cannot, says why and leaves it to the reader. */
  #refused({ status, code, detail, retryMs }) {
    if (code === "bad_cursor") {
      this.#cursor = "earliest";
      screen.show({ type: "gap" });
    } else if (status >= 400 && status < 500 && ![408, 425, 429].includes(status)) {
      this.#end();
      this.#broken = true;
      return screen.state("refused", `Refused: ${detail}`);
    }
    this.#lost(retryMs);
  }

  #over() {
    if (this.#openedAt && Date.now() - this.#openedAt > HEALTHY_AFTER_MS) this.#losses = 0;
    this.#openedAt = 0;
  }

  #end() {
    this.#over();
    clearTimeout(this.#timer);
    this.#close();
    this.#close = () => {};
  }
}

// --- The screen. ---

const counts = { messages: 0, reconnects: 0, gaps: 0 };
const sentFromHere = new Set();
let presenceTimer = 0;

const screen = {
  state(state, text) {
    element("state").dataset.state = state;
    element("state-text").textContent = text;
    element("retry").hidden = state === "live" || state === "connecting";
    if (state === "live") askWhoIsHere();
  },

  show(object) {
    const type = object.type;
    if (type === "publication") addRow(publicationRow(object), "messages");
    if (type === "gap") showGap(object);
    if (type === "error") addRow(make("li", "notice bad", `${object.code}: ${object.message}`));
    if (type === "join" || type === "leave") askWhoIsHere();
    if (type === "members") showWhoIsHere(object.count);
  },
};

/** Without joins and leaves the page only has to ask who is there; without messages it has to say so. */
function showGap({ presence }) {
  if (presence) return askWhoIsHere();
  addRow(make("li", "notice", "Gap: the server no longer has some earlier messages."), "gaps");
}

function count(what) {
  element(`count-${what}`).textContent = (++counts[what]).toLocaleString();
}

/** Newest first; a reader who has scrolled down keeps the place, by the browser's scroll anchoring. */
function addRow(row, counted) {
  if (counted) count(counted);
  const list = element("messages");
  list.prepend(row);
  if (list.children.length <= ROWS_KEPT) return;
  list.lastElementChild.remove();
  element("only-latest").hidden = false;
}

function clearRows() {
  element("messages").replaceChildren();
  element("only-latest").hidden = true;
  element("messages-title").focus();
}

/** An element with a class and children; strings become text. */
function make(name, className, ...children) {
  const made = Object.assign(document.createElement(name), { className });
  made.append(...children);
  return made;
}

function publicationRow({ offset, time, kind = "json", event, id, user, data }) {
  const clock = make("time", "", new Date(time).toLocaleTimeString());
  clock.dateTime = new Date(time).toISOString();
  const { box, words } = payload(kind, data);
  const meta = make("div", "meta", clock);
  if (event) meta.append(make("span", "badge event", event));
  meta.append(make("span", "badge", words));
  if (user) meta.append(make("span", "badge", user));
  if (sentFromHere.delete(id)) meta.append(make("span", "badge", "from this window"));
  meta.append(make("span", "offset", `#${offset}`));
  return make("li", "", meta, box);
}

/** The payload as a reader can take it in, and the words that say what it is. */
function payload(kind, data) {
  const box = make("pre", kind === "text" ? "payload" : "payload code");
  box.dir = "auto";
  if (kind === "binary") {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    box.textContent = hexDump(bytes);
    return { box, words: `binary, ${bytes.length.toLocaleString()} ${bytes.length === 1 ? "byte" : "bytes"}` };
  }
  box.textContent = kind === "text" ? data : JSON.stringify(data, null, 2);
  return { box, words: kind === "text" ? "text" : "JSON" };
}

/** Sixteen bytes a line on a desk, eight on a phone, as hex. */
function hexDump(bytes) {
  const perLine = matchMedia("(max-width: 30rem)").matches ? 8 : 16;
  const hex = Array.from(bytes.subarray(0, HEX_SHOWN), (b) => b.toString(16).padStart(2, "0"));
  const lines = [];
  while (hex.length) lines.push(hex.splice(0, perLine).join(" "));
  return lines.join("\n") + (bytes.length > HEX_SHOWN ? "\n…" : "");
}

function askWhoIsHere() {
  presenceTimer ||= setTimeout(async () => {
    presenceTimer = 0;
    const response = await fetch(`/v1/presence?${new URLSearchParams({ channel })}`).catch(() => null);
    if (!response?.ok) return showWhoIsHere(0);
    const { count, members = [] } = await response.json();
    // Who has no connection left has gone, or reloaded the page: here are the others, of whom this window is one.
    const gone = members.filter((member) => member.connections === 0).length;
    showWhoIsHere(Math.max(1, count - gone));
  }, PRESENCE_PAUSE_MS);
}

function showWhoIsHere(number) {
  element("presence").hidden = number === 0;
  element("count-here").textContent = number.toLocaleString();
}

// --- Sending, and the things to try. ---

async function send(text, kind, event) {
  const id = randomWord();
  sentFromHere.add(id);
  const query = new URLSearchParams({ channel, kind, id, ...(event && { event }) });
  const type = kind === "json" ? "application/json" : "text/plain;charset=utf-8";
  const response = await fetch(`/v1/publish?${query}`, { method: "POST", headers: { "Content-Type": type }, body: text });
  if (!response.ok) throw new Error((await problem(response)).detail);
  return (await response.json()).channels[0].offset;
}

function answer(text, bad = false) {
  element("answer").textContent = text;
  element("answer").classList.toggle("bad", bad);
}

async function submit(e) {
  e.preventDefault();
  const box = element("text");
  const text = box.value;
  const kind = element("kind").value;
  box.value = "";
  box.focus();
  try {
    if (kind === "json") JSON.parse(text);
    answer(`Sent as #${await send(text, kind, element("event").value.trim())}.`);
  } catch (error) {
    box.value ||= text;
    answer(`Not sent: ${error.message}`, true);
  }
}

async function copy(button) {
  const source = element(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    element("copied").textContent = button.textContent = "Copied";
    setTimeout(() => (element("copied").textContent = "", button.textContent = "Copy"), 2000);
  } catch {
    getSelection().selectAllChildren(source); // no clipboard outside a secure context: the reader's own Ctrl+C works
  }
}

/** A word as a POSIX shell reads it. */
const quoted = (word) => (/^[\w./:-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function fillPage() {
  const query = new URLSearchParams({ channel });
  document.title = `${channel} · CometServer`;
  element("channel").value = channel;
  element("second").href = element("try-page").textContent = `${location.origin}/?${query}`;
  // The breaks are only places where a narrow screen may wrap the line.
  const curl = [`curl -d 'Hello from curl' '${location.origin}`, "/v1/publish", `?${query}'`];
  element("try-curl").replaceChildren(...curl.flatMap((part) => [document.createElement("wbr"), part]));
  // The server says what it was started as, and where its socket is.
  const { program = "comet", folder } = document.documentElement.dataset;
  const where = folder ? ` --data-dir ${quoted(folder)}` : "";
  element("try-write").textContent = `${quoted(program)} write ${quoted(channel)} "Hello"${where}`;
}

fillPage();
const connection = new Connection();
const picker = element("picker");
for (const radio of picker.querySelectorAll("input")) radio.checked ||= radio.value === here.searchParams.get("transport");
picker.addEventListener("change", (e) => {
  here.searchParams.set("transport", e.target.value);
  history.replaceState(null, "", here);
  connection.use(e.target.value);
});
element("retry").addEventListener("click", () => connection.use());
element("clear").addEventListener("click", clearRows);
element("send").addEventListener("submit", submit);
element("text").addEventListener("keydown", (e) => {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  element("send").requestSubmit();
});
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
connection.use(picker.querySelector("input:checked").value);
