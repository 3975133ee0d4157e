// The list of payments: the newest on top, held or sorted when somebody wants to read.

import {byId, count, el, euroCents, momentOf, say} from "/page/dom.js";
import {open} from "/page/payment.js";
import {DONE, risk, verdict} from "/page/words.js";

const LINES = 18; // payments shown
const KEPT = 4 * LINES; // and kept, to be sorted
const KEYS = { // what a column sorts by
  action: (row) => Object.keys(DONE).indexOf(row.action), cents: (row) => row.cents, risk: (row) => row.probability ?? -1,
  why: (row) => row.reasons[0] ?? "", at: (row) => row.at, by: (row) => row.model ?? row.path,
};
const seen = {all: [], stopped: []};
let only = "all", held = null, sorted = null, reasons = {}, demo = false, now = null; // held: what was seen then
const shown = () => (held ?? seen)[only];

function line(row, fresh) {
  const why = row.reasons.length ? reasons[row.reasons[0]] ?? row.reasons[0] : "";
  const by = row.model ? `v${row.model}` : row.path;
  const pressed = () => open(row.identity, reasons);
  return el("tr", {class: fresh ? "fresh" : null, click: pressed},
    el("td", {}, el("button", {type: "button", "aria-haspopup": "dialog",
      "aria-label": `${DONE[row.action]}, ${euroCents(row.cents / 100)}, ${momentOf(row.at)}: show why`}, verdict(row.action))),
    el("td", {class: "number"}, euroCents(row.cents / 100)),
    el("td", {class: "number"}, risk(row.probability)),
    el("td", {class: "quiet why", title: why || null}, why),
    el("td", {class: "quiet when"}, momentOf(row.at)),
    el("td", {class: "quiet by"}, by));
}

/** At speed the newest would all be approvals: those stopped stand among them, each once, in the order of the log. */
function together(recent, stopped) {
  const known = new Set(recent.map((row) => row.number));
  return [...recent, ...stopped.filter((row) => !known.has(row.number))].sort((a, b) => a.number - b.number);
}

/** All of it anew. */
export function start({recent, stopped, reasons: words, told}) {
  reasons = words;
  demo = told.demo;
  Object.assign(seen, {all: together(recent, stopped).reverse(), stopped: [...stopped].reverse()});
  show(Infinity);
}

export function add({recent, stopped}) {
  const before = seen[only][0]?.number ?? 0;
  for (const [name, more] of [["all", together(recent, stopped)], ["stopped", stopped]]) {
    seen[name] = [...more].reverse().concat(seen[name]).slice(0, KEPT);
  }
  if (!held && (seen[only][0]?.number ?? 0) !== before) show(before);
}

/** Rows are kept while they stand, so that a focus on one is not lost each half second. */
function show(before) {
  const body = byId("rows"), wanted = inOrder(shown()).slice(0, LINES);
  const known = new Map([...body.children].map((child) => [child.dataset.number, child]));
  const lines = wanted.map((row) => {
    const number = String(row.number), found = known.get(number) ?? line(row, row.number > before);
    found.dataset.number = number;
    return found;
  });
  lines.forEach((each, place) => { if (body.children[place] !== each) body.insertBefore(each, body.children[place] ?? null); });
  while (body.children.length > Math.max(1, lines.length)) body.lastChild.remove();
  if (!lines.length) body.replaceChildren(el("tr", {}, el("td", {colspan: "6", class: "quiet"}, only === "all"
    ? (demo ? "No payment yet: the bank opens when it has its first model."
      : "No payment yet: POST one to /v1/decisions, or run make demo-fraud.") : "Nothing has been stopped yet.")));
}

function inOrder(rows) {
  if (!sorted) return rows;
  const key = KEYS[sorted.name], way = sorted.down ? -1 : 1;
  return [...rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * way);
}

function choose(which) {
  only = which;
  byId("show-all").setAttribute("aria-pressed", String(which === "all"));
  byId("show-stopped").setAttribute("aria-pressed", String(which === "stopped"));
  show(Infinity);
  sample(now);
}

/** Who sorts wants to read, so the list is held; letting it go brings the newest on top again. */
function hold(wish, order = null) {
  held = wish ? held ?? {...seen} : null;
  sorted = order;
  byId("hold").setAttribute("aria-pressed", String(wish));
  for (const head of heads) {
    if (head.dataset.sort !== sorted?.name) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
  }
  show(Infinity);
  sample(now);
}

export function sample(given) {
  now = given;
  if (!now?.payments) return say("sample", "\u00a0");
  const {payments, actions} = now, stopped = actions.review + actions.decline, lines = Math.min(LINES, shown().length);
  say("sample", held ? `Held${sorted ? `: the latest ${count(shown().length)}, sorted` : ""}. New payments are counted, and not shown.`
    : only === "all" ? `The latest ${lines} of ${count(payments)}; at speed a sample that favours the stopped. Select one to see why.`
    : `The latest ${lines} of ${count(stopped)} stopped. Select one to see why.`);
}

const heads = [...document.querySelectorAll("#lines th")];
for (const head of heads) {
  const name = head.dataset.sort, first = head.classList.contains("number") || name === "at"; // the largest on top
  head.firstChild.addEventListener("click", () => hold(true, {name, down: sorted?.name === name ? !sorted.down : first}));
}
byId("show-all").addEventListener("click", () => choose("all"));
byId("show-stopped").addEventListener("click", () => choose("stopped"));
byId("hold").addEventListener("click", () => hold(!held));
