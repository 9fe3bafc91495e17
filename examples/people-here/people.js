import { Comet, inWords, server } from "../shared/comet.js";

const CHANNEL = "people/lobby";
/** So many are named; the others are counted. */
const NAMED = 50;
const MEMORY = "people-here name";

const element = (id) => document.getElementById(id);
let comet;
/** Those who are named, by user; how many there are in all. */
let people = new Map();
let count = 0;
/** Counts joins and leaves, so that a list which was asked for before them is not shown after them. */
let changes = 0;

function show() {
  element("count").textContent = count === 1 ? "1 person is here" : `${count} people are here`;
  const names = [...people.values()].map((name) => Object.assign(document.createElement("li"), { textContent: name }));
  if (count > people.size) names.push(Object.assign(document.createElement("li"), { textContent: `and ${count - people.size} more` }));
  element("people").replaceChildren(...names);
}

/** What others say about themselves may be anything. */
const nameOf = (info) => (typeof info?.name === "string" && info.name.slice(0, 40)) || "somebody";

async function lookAround() {
  const own = comet;
  for (let before; before !== changes; ) {
    before = changes;
    const { members, count: all } = await own.presence(CHANNEL, { limit: NAMED });
    if (own !== comet) return;
    people = new Map(members.map(({ user, info }) => [user, nameOf(info)]));
    count = all;
  }
  show();
}

function hear({ type, user, info, count: all }) {
  changes++;
  // In a crowd only the number is told.
  if (type === "members") {
    count = all;
    if (count < people.size) people.clear();
  } else if (type === "join") {
    if (!people.has(user)) count++;
    if (people.has(user) || people.size < NAMED) people.set(user, nameOf(info));
  } else {
    people.delete(user);
    count--;
  }
  show();
}

function enter() {
  comet?.close();
  const name = localStorage.getItem(MEMORY) ?? "";
  // Tabs with one name share one connection, and are one person.
  comet = new Comet(server, { info: { name }, share: `people ${name}` });
  const trouble = ({ message }) => (element("state").textContent = message);
  comet.on("state", (state) => {
    document.body.toggleAttribute("data-live", state.state === "live");
    element("state").textContent = inWords(state);
  });
  comet.on("presence", hear);
  comet.on("subscribed", () => lookAround().catch(trouble));
  comet.on("gap", () => lookAround().catch(trouble));
  comet.on("error", trouble);
  comet.subscribe(CHANNEL, () => {}, { presence: "join" });
}

element("name").value = localStorage.getItem(MEMORY) ?? "";
document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  localStorage.setItem(MEMORY, element("name").value.trim());
  enter();
});
// Said in another tab.
addEventListener("storage", ({ key, newValue }) => {
  if (key !== MEMORY) return;
  element("name").value = newValue ?? "";
  enter();
});
enter();
