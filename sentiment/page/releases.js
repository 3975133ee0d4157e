// The ledger: every release, and what it changed.

import {byId, decimal, el, momentOf, percent, table} from "/page/dom.js";
import {change} from "/page/parts.js";

const ACTIONS = {promote: "promote", rollback: "roll back to", withdraw: "withdraw"};
let history = null;

const FIGURES = [
  ["macro_recall", "Macro-recall", (value) => decimal(value, 3)],
  ["linear_macro_recall", "Linear model's", (value) => decimal(value, 3)],
  ["bias_flips", "Names change", (value) => percent(value)],
  ["bias_noise", "Within a group", (value) => percent(value)],
];

export function releases(told) {
  const columns = [
    {name: "When", of: (row) => row.at, show: (row) => momentOf(row.at)},
    {name: "Release", of: (row) => row.version, show: (row) => `${ACTIONS[row.action] ?? row.action} version ${row.version}`},
    {name: "Who, why", wrap: true, of: (row) => row.who, show: (row) => el("span", {}, el("strong", {}, row.who), `: ${row.why}`)},
    ...FIGURES.map(([key, name, show]) => ({name, number: true, of: (row) => row.figures[key] ?? -1, show: (row) => change(row, key, show, "/v1/model")})),
  ];
  const rows = told.ledger.map((row, place) => ({...row, before: told.ledger[place + 1]}));
  if (history) history.fill(rows);
  else {
    history = table("Releases", columns, rows);
    byId("history").replaceChildren(history.element);
  }
}
