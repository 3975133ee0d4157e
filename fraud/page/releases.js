// The ledger: every release, and what it changed.

import {byId, decimal, el, from, momentOf, percent, table} from "/page/dom.js";

let history = null;

const FIGURES = [
  ["average_precision", "Avg. precision", (value) => decimal(value, 3)],
  ["cost_per_1000", "EUR per 1,000", (value) => decimal(value, 0)],
  ["recall", "Recall", (value) => percent(value, 0)],
  ["precision", "Precision", (value) => percent(value, 0)],
  ["reviews_a_day", "Reviews a day", (value) => decimal(value, 0)],
];

export function releases(told) {
  const columns = [
    {name: "When", of: (row) => row.at, show: (row) => momentOf(row.at)},
    {name: "Release", of: (row) => row.version, show: (row) => `${row.action === "promote" ? "promote" : "roll back to"} version ${row.version}`},
    {name: "Who, why", wrap: true, of: (row) => row.who, show: (row) => el("span", {}, el("strong", {}, row.who), `: ${row.why}`)},
    ...FIGURES.map(([key, name, show]) => ({name, number: true, of: (row) => row.figures[key] ?? -1, show: (row) => change(row, key, show)})),
  ];
  const rows = told.ledger.map((row, place) => ({...row, before: told.ledger[place + 1]}));
  if (history) history.fill(rows);
  else {
    history = table("Releases", columns, rows);
    byId("history").replaceChildren(history.element);
  }
}

function change(row, key, show) {
  const [value, before] = [row.figures[key], row.before?.figures[key]];
  if (value === undefined) return "–";
  const moved = before === undefined ? null : value - before;
  return el("span", {}, from("/v1/model", show(value)), moved === null ? null
    : el("span", {class: "change"}, Math.abs(moved) < 1e-9 ? "same" : `${moved > 0 ? "+" : ""}${show(moved)}`));
}
