import { Comet, inWords, server } from "../shared/comet.js";

const CHANNEL = "progress/export";
/** A job that says nothing for so long may be gone without a word. */
const SILENCE_MS = 30_000;
const NEWS = { running: "The job is running.", done: "Done.", failed: "The job has failed.", silent: "The job has not been heard of for a while." };

const element = (id) => document.getElementById(id);
const title = document.title;
const comet = new Comet(server);
let silence;
let isLive = false;

/** Screen readers are told what happens, not every step. */
function enter(state, why = "") {
  if (document.body.dataset.job === state && !why) return;
  document.body.dataset.job = state;
  element("news").textContent = why || NEWS[state];
  element("start").disabled = state === "running";
}

// The page begins with the retained value: what the job said last, before the page was there.
comet.subscribe(CHANNEL, ({ data: { state, done, total }, time }) => {
  const percent = `${Math.floor((100 * done) / total)} %`;
  element("bar").max = total;
  element("bar").value = done;
  element("percent").textContent = percent;
  element("steps").textContent = `${done} of ${total} steps, ${new Date(time).toLocaleTimeString()}`;
  document.title = state === "running" ? `${percent} – ${title}` : title;
  enter(state);
  clearTimeout(silence);
  if (state === "running") silence = setTimeout(enter, Math.max(0, time + SILENCE_MS - Date.now()), "silent");
});
comet.on("state", (state) => {
  isLive = state.state === "live";
  element("state").textContent = inWords(state);
  // Before that nobody knows.
  if (isLive && !document.body.dataset.job) element("steps").textContent = "No job has run yet.";
});
comet.on("error", ({ message }) => (element("state").textContent = message));

element("start").addEventListener("click", async () => {
  element("start").disabled = true;
  try {
    // The job tells by itself how it goes on; this answer comes when it ends, or when it was not begun.
    const answer = await fetch("job.php", { method: "POST", headers: { "X-Start-Job": "1" } });
    if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
    if (!isLive) enter("silent", "The job was started, but its news cannot arrive: there is no connection to the server.");
  } catch ({ message }) {
    enter("failed", `Not started: ${message}`);
  } finally {
    element("start").disabled = document.body.dataset.job === "running";
  }
});
