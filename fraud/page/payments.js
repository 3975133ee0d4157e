// The list of payments as they are decided.

import {count, el, euroCents, momentOf, say} from "/page/dom.js";
import {open} from "/page/payment.js";
import {Rows} from "/page/rows.js";
import {DONE, risk, verdict} from "/page/words.js";

let reasons = {}, demo = false, now = null;

const rows = new Rows({
  some: "stopped",
  keys: {
    action: (row) => Object.keys(DONE).indexOf(row.action), cents: (row) => row.cents, risk: (row) => row.probability ?? -1,
    why: (row) => row.reasons[0] ?? "", at: (row) => row.at, by: (row) => row.model ?? row.path,
  },
  line(row, fresh) {
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
  },
  empty: (only) => only === "some" ? "Nothing has been stopped yet."
    : demo ? "No payment yet: the bank opens when it has its first model."
    : "No payment yet: POST one to /v1/decisions, or run make demo-fraud.",
  sample({only, held, sorted, shown, lines}) {
    if (!now?.payments) return say("sample", "\u00a0");
    const {payments, actions} = now;
    say("sample", held ? `Held${sorted ? `: the latest ${count(shown)}, sorted` : ""}. New payments are counted, and not shown.`
      : only === "all" ? `The latest ${lines} of ${count(payments)}; at speed a sample that favours the stopped. Select one to see why.`
      : `The latest ${lines} of ${count(actions.review + actions.decline)} stopped. Select one to see why.`);
  },
});

/** All of it anew. */
export function start(given) {
  reasons = given.reasons;
  demo = given.told.demo;
  rows.start(given);
}

export const add = (given) => rows.add(given);

export function sample(given) {
  now = given;
  rows.sample();
}
