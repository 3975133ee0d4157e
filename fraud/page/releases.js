// The ledger: every release, and what it changed.

import {byId, decimal, el, momentOf, percent, table} from "/page/dom.js";
import {change} from "/page/parts.js";

const ACTIONS = {promote: "promote", rollback: "roll back to", withdraw: "withdraw"};
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
