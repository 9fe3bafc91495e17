// The setup page: asks setup.php for each step, and tries the ways to visitors from here, as theirs will be.

const PATIENCE_MS = 6_000; // a way that is slower than this is none
const icons = {
  good: '<path d="M4 10.5 8 14.5 16 5.5"/>',
  bad: '<path d="m5 5 10 10M15 5 5 15"/>',
  off: '<path d="M5 10h10"/>',
  busy: '<path d="M10 3a7 7 0 1 1-7 7"/>',
};
const $ = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((over) => setTimeout(over, ms));

/** Asks setup.php for a step. */
async function ask(step, fields = {}) {
  const answer = await fetch("setup.php", {
    method: "POST",
    headers: { "X-Comet-Setup": "1" },
    body: new URLSearchParams({ do: step, ...fields }),
  });
  const said = await answer.json().catch(() => ({ error: `The host answered ${answer.status} to ${step}.` }));
  if (said.error) throw new Error(said.error);
  return said;
}

// What is shown.

/** A line in a list of checks; call it again to change it. */
function line(list) {
  const item = list.appendChild(document.createElement("li"));
  item.innerHTML = '<span class="mark"></span><span class="name"></span><span class="text"></span>';
  const [mark, name, text] = item.children;
  return (state, title, detail = "", tag = "") => {
    item.className = state;
    mark.innerHTML = `<svg viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="2.25" stroke-linecap="round" stroke-linejoin="round" role="img" aria-label="${state}">${icons[state]}</svg>`;
    name.textContent = title;
    if (tag) name.appendChild(Object.assign(document.createElement("span"), { className: "tag", textContent: tag }));
    text.textContent = detail;
    text.hidden = !detail;
  };
}

function begin(id) {
  const card = $(id);
  card.classList.remove("waiting");
  card.querySelector("[data-before]").hidden = true;
  const list = card.querySelector("ul.checks");
  list?.replaceChildren();
  card.querySelectorAll(".alarm").forEach((alarm) => alarm.remove());
  return { card, list };
}

/** Says loudly what stands in the way, and offers to try again. */
function alarm(card, text, again, code = "") {
  const box = document.createElement("div");
  box.className = "alarm";
  box.setAttribute("role", "alert");
  box.append(Object.assign(document.createElement("strong"), { textContent: "This must be put right first. " }), text);
  card.append(box);
  if (code) {
    const pre = Object.assign(document.createElement("pre"), { textContent: code });
    card.append(pre);
  }
  const row = Object.assign(document.createElement("div"), { className: "row" });
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
  button.addEventListener("click", () => {
    row.remove();
    card.querySelectorAll("pre").forEach((pre) => pre.remove());
    again();
  });
  row.append(button);
  card.append(row);
}

document.addEventListener("click", async ({ target }) => {
  const from = target.dataset?.copy;
  if (!from) return;
  const text = $(from).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard: it is selected instead.
    getSelection().selectAllChildren($(from));
  }
  target.textContent = navigator.clipboard ? "Copied" : "Selected";
  await sleep(1_500);
  target.textContent = "Copy";
});

// Step 1: whose site is it?

$("claimed").addEventListener("click", async () => {
  $("claimed").disabled = true;
  $("claim-told").textContent = "";
  try {
    if ((await ask("claim")).claimed) {
      $("claim").hidden = true;
      await host();
    } else {
      $("claim-told").textContent = "It is not there yet. Beside setup.php, with exactly this name?";
    }
  } catch (error) {
    $("claim-told").textContent = error.message;
  }
  $("claimed").disabled = false;
});

// Step 2: this host.

/** Whether visitors can read a .htaccess, which then nobody else does. */
let rulesAreShown = false;

/** Whether a browser can read what nobody may: tried with a file that has no secret yet. If so nothing stays, and it is said. */
async function isShown({ url, word, isPhp }, card, list) {
  const closed = line(list);
  const what = isPhp ? `the folder ${url.split("/")[0]}` : "that folder";
  closed("busy", `Is ${what} closed to browsers? …`);
  const answer = await fetch(url, { cache: "no-store" });
  const text = answer.ok ? await answer.text() : "";
  // PHP that is run answers 200, with nothing.
  if (isPhp ? !text.includes(word) : !answer.ok) {
    closed("good", isPhp ? `No browser can read what is in ${what}` : "No browser can look into it", `Tried just now: answered ${answer.status}${answer.ok ? ", with nothing" : ""}.`);
    return false;
  }
  closed("bad", isPhp ? `What is in ${what} is open to everybody` : "The data folder is open to everybody", `${new URL(url, location.href)} answered ${answer.status}${text.includes(word) ? ", with its content" : ""}.`);
  await ask("exposed");
  alarm(card, isPhp
    ? `This web server shows PHP files of ${what} as text instead of running them, so no secret was put there. Let it run PHP in all of comet, or ask your host to honour .htaccess files.`
    : "This web server shows what its .htaccess closes, so no secret was put there, and the folder is gone. Let PHP write to your home folder, or to one above all that are public, or ask your host to honour .htaccess files.", host);
  return true;
}

async function host() {
  const { card, list } = begin("host");
  const working = line(list);
  working("busy", "Looking at this host …");
  try {
    const { checks, canaries } = await ask("prepare");
    working(checks[0].good ? "good" : "bad", checks[0].name, checks[0].text);
    for (const check of checks.slice(1)) line(list)(check.good ? "good" : "bad", check.name, check.text);
    for (const canary of canaries.filter((one) => !one.isRules)) if (await isShown(canary, card, list)) return;
    rulesAreShown = false;
    for (const { url, word } of canaries.filter((one) => one.isRules)) {
      const text = await fetch(url, { cache: "no-store" }).then((answer) => answer.text());
      rulesAreShown = text.includes(word);
    }
    const running = line(list);
    running("busy", "Starting the server …");
    const started = await ask("start");
    if (!started.running) {
      running("bad", "The server does not run yet", started.message);
      alarm(card, started.mayStart
        ? "It can be started by your host's cron instead: add this line there, wait a minute, and try again."
        : "PHP may start no program on this host. If the control panel offers cron, add this line there, wait a minute, and try again. Without cron CometServer cannot run on this host.", host, started.cron);
      return;
    }
    running("good", "The server runs", started.message);
  } catch (error) {
    working("bad", "Something is in the way", error.message);
    alarm(card, error.message, host);
    return;
  }
  await ways();
}

// Step 3: the way to visitors.

const TITLES = {
  proxy: "Straight through the web server",
  cgi: "Through a small program (CGI)",
  php: "Through PHP",
};

/** Does a plain request get through? Returns why not, or "". */
async function plain(base) {
  let answer;
  try {
    answer = await fetch(`${base}/v1/now`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    return "no answer in time";
  }
  const body = await answer.json().catch(() => undefined);
  if (answer.ok && body?.cursor) return "";
  return { status: answer.status, detail: body?.detail };
}

/** Do events arrive one by one? */
async function streams(base, channel) {
  const over = new AbortController();
  const late = setTimeout(() => over.abort(), PATIENCE_MS);
  try {
    const join = base.includes("?") ? "&" : "?";
    const answer = await fetch(`${base}/v1/sse${join}channel=${encodeURIComponent(channel)}`, { signal: over.signal, cache: "no-store" });
    if (!answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/event-stream")) return false;
    const reader = answer.body.getReader();
    const utf8 = new TextDecoder();
    let text = "";
    let sent = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return false;
      text += utf8.decode(value, { stream: true });
      if (!sent && /^id: /m.test(text)) {
        // What begins may still be kept back later: only a message shows it.
        sent = true;
        text = "";
        await ask("publish", { text: "Can you hear me?" });
      } else if (sent && text.includes("Can you hear me?")) {
        return true;
      }
    }
  } catch {
    return false;
  } finally {
    clearTimeout(late);
    over.abort();
  }
}

function opens(base, channel) {
  return new Promise((over) => {
    const url = new URL(`${base}/v1/ws?channel=${encodeURIComponent(channel)}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    const end = (result) => {
      clearTimeout(late);
      socket.close();
      over(result);
    };
    const late = setTimeout(() => end(false), PATIENCE_MS);
    socket.onmessage = () => end(true);
    socket.onerror = () => end(false);
    socket.onclose = () => end(false);
  });
}

/** Lets the bridge find out whether small pieces pass; it believes no one's word. */
async function bridgeStreams() {
  try {
    const answer = await fetch("php/bridge.php?probe=1", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    const reader = answer.body.getReader();
    const utf8 = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text.includes('"streams":true');
      text += utf8.decode(value, { stream: true });
      const probe = /"probe":"([0-9a-f]+)"/.exec(text);
      if (probe && !text.includes('"streams"')) fetch(`php/bridge.php?probe=${probe[1]}`, { method: "POST" });
    }
  } catch {
    return false;
  }
}

/** Why a way is closed, in words for who pays for the host. */
function why(name, fault) {
  const { status, detail } = typeof fault === "string" ? { detail: fault } : fault;
  if (detail) return detail[0].toUpperCase() + detail.slice(1) + ".";
  const known = {
    proxy: {
      403: "This host has no mod_proxy, or forbids it to sites.",
      404: "This web server reads no .htaccess, or has no mod_rewrite or mod_proxy.",
      500: "This host does not allow proxy rules in a .htaccess.",
      503: "The web server may not connect to the server's socket.",
    },
    cgi: {
      403: "This host runs no programs of sites here.",
      404: "This web server runs no programs of sites here.",
      500: "This host does not allow programs of sites here.",
      200: "This web server shows the program instead of running it.",
    },
    php: { 404: "The bridge is missing, or this web server passes nothing behind a file's name." },
  };
  return known[name][status] ?? `It answered ${status}.`;
}

let best;

async function ways() {
  const { card, list } = begin("ways");
  best = undefined;
  const tell = {};
  try {
    const found = await ask("ways", rulesAreShown ? { shown: 1 } : {});
    for (const way of found.ways) {
      tell[way.name] = line(list);
      tell[way.name]("busy", TITLES[way.name], "Trying …");
    }
    const results = [];
    for (const way of found.ways) results.push(await tried(way, found.channel, tell[way.name]));
    const open = results.filter((result) => result.rank);
    if (!open.length) {
      alarm(card, "No way to the server is open here. The lines above say why: your host can change that.", ways);
      return;
    }
    best = open.reduce((one, other) => (other.rank > one.rank ? other : one));
    tell[best.name]("good", TITLES[best.name], best.text, "taken");
  } catch (error) {
    alarm(card, error.message, ways);
    return;
  }
  await message();
}

async function tried(way, channel, tell) {
  let base = way.base;
  let fault = await plain(base);
  if (fault?.status === 503 && way.name === "proxy") {
    // The web server is another user: it may pass through the folder, and look at nothing.
    await ask("open");
    fault = await plain(base);
  }
  if (fault && way.other) {
    base = way.other;
    fault = await plain(base);
  }
  if (fault) {
    tell("off", TITLES[way.name], why(way.name, fault));
    return { rank: 0 };
  }
  const socket = way.name === "proxy" && (await opens(base, channel));
  const stream = way.name === "php" ? await bridgeStreams() : await streams(base, channel);
  const text = socket
    ? "WebSocket and streaming: messages arrive at once, thousands of visitors are no burden."
    : stream
      ? "Streaming: messages arrive at once."
      : "Long polls: messages arrive at once, a little more traffic. Streams are held back on the way.";
  const places = {
    cgi: " A few visitors wait at a time, the others ask every few seconds.",
    php: " Few PHP workers are lent to it: some visitors wait, the others ask every few seconds, and your pages stay fast.",
  };
  const full = text + (places[way.name] ?? "");
  tell("good", TITLES[way.name], full);
  const rank = { proxy: 30, cgi: 20, php: 10 }[way.name] + (socket ? 2 : 0) + (stream ? 1 : 0);
  return { name: way.name, base, rank, text: full };
}

// Step 4: a message.

let sends = 0;

async function message() {
  const { card } = begin("message");
  const inbox = card.querySelector(".inbox");
  const row = card.querySelector(".row");
  inbox.hidden = false;
  inbox.innerHTML = '<li class="none">Listening …</li>';
  const sent = new Map();
  const show = ({ text }) => {
    if (!sent.has(text)) return;
    inbox.querySelector(".none")?.remove();
    const item = document.createElement("li");
    item.append(text, Object.assign(document.createElement("time"), { textContent: `after ${Math.round(performance.now() - sent.get(text))} ms` }));
    inbox.append(item);
    sent.delete(text);
    row.hidden = false;
    card.querySelector("[data-finish]").hidden = false;
  };
  const send = async () => {
    const text = ["Hello from your own PHP.", "And another one.", "It works."][Math.min(sends++, 2)] + (sends > 3 ? ` (${sends})` : "");
    sent.set(text, performance.now());
    await ask("publish", { text });
  };
  listen(best.base, show);
  $("send").onclick = () => send().catch((error) => ($("message-told").textContent = error.message));
  try {
    await listening;
    await send();
  } catch (error) {
    alarm(card, error.message, message);
  }
}

let listening;

/** Listens in the plainest way there is, which every way above carries: long polls. */
function listen(base, show) {
  const join = base.includes("?") ? "&" : "?";
  const session = Math.random().toString(36).slice(2) + Math.random().toString(36).slice(2);
  let began;
  listening = new Promise((over) => (began = over));
  (async () => {
    let cursor = "now";
    let wait = 0;
    for (;;) {
      try {
        const query = new URLSearchParams({ channel: "public/hello", cursor, session, wait_ms: wait });
        const answer = await (await fetch(`${base}/v1/poll${join}${query}`, { cache: "no-store" })).json();
        for (const object of answer.publications) if (object.type === "publication") show(object.data);
        cursor = answer.cursor;
        wait = 10_000;
        began();
        await sleep(Math.min(answer.retry_ms ?? 0, 1_000));
      } catch {
        await sleep(1_000);
      }
    }
  })();
}

$("finish").addEventListener("click", async () => {
  $("finish").disabled = true;
  try {
    const { autoload } = await ask("finish", { way: best.name });
    const here = new URL(".", location.href).pathname;
    $("for-page").textContent = `<script type="module">
  import { Comet } from "${here}comet.js";

  const comet = new Comet("${here}${best.base}");
  comet.subscribe("public/hello", ({ data }) => {
    document.title = data.text;
  });
</script>`;
    $("for-php").textContent = `require "${autoload}";

$comet = new CometServer\\Client();
$comet->tryPublish("public/hello", ["text" => "Hello"]);`;
    for (const id of ["host", "ways", "message"]) $(id).querySelectorAll(".row, [data-finish]").forEach((over) => over.remove());
    $("done").hidden = false;
    $("done").scrollIntoView({ behavior: "smooth" });
  } catch (error) {
    $("message-told").textContent = error.message;
    $("finish").disabled = false;
  }
});

if (document.querySelector("main").dataset.stage === "work") host();
