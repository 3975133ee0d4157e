// The nights: what came of each, what it changed; recipes and rollbacks between them.

import {byId, count, decimal, el, from, momentOf, percent, table} from "/page/dom.js";
import {change} from "/page/parts.js";

let history = null;

const FIGURES = [
  ["seconds", "Seconds", (value) => decimal(value, 1)],
  ["users", "Users", count],
  ["input", "Events in", count],
  ["fallbacks", "Filled up", percent],
  ["overlap", "First ten kept", (value) => percent(value, 0)],
  ["shift", "Scores moved", decimal],
  ["clicks", "Clicks a list", decimal],
];

export function nights(told) {
  const columns = [
    {name: "When", of: (row) => row.at, show: (row) => momentOf(row.at)},
    {name: "What", wrap: true, of: (row) => row.what, show: (row) => el("span", {class: row.refused ? "refused" : null},
      row.refused ? el("strong", {}, "Refused") : row.what, row.refused ? `: ${row.refused}` : row.why ? el("span", {class: "quiet"}, `; ${row.why}`) : null)},
    {name: "Recipe", of: (row) => row.recipe, show: (row) => row.recipe && row.recipe !== "none" ? from("/v1/table", row.recipe) : "–"},
    ...FIGURES.map(([key, name, show]) => ({name, number: true, of: (row) => row.figures[key] ?? -1, show: (row) => change(row, key, show, key === "clicks" ? "/v1/reports" : "/v1/nights")})),
  ];
  const rows = [...published(told), ...between(told)].sort((a, b) => b.at - a.at);
  if (history) history.fill(rows);
  else {
    history = table("Nights", columns, rows);
    byId("history").replaceChildren(history.element);
  }
}

function published({nights: given, reports}) {
  const made = given.map((night) => {
    const day = Date.parse(`${night.date}T00:00:00Z`) / 86400000, report = reports.find((each) => each.day === day && each.lists);
    return {at: night.at, what: night.version || "", why: "", refused: night.refused, recipe: night.recipe, figures: {
      ...night.figures, seconds: Object.values(night.seconds).reduce((sum, each) => sum + each, 0),
      clicks: report ? report.clicks / report.lists : undefined,
    }};
  });
  return made.map((row, place) => ({...row, before: made[place + 1]}));
}

function between({ledger}) {
  return ledger.filter((line) => line.subject === "recipe" || line.action === "rollback").map((line) => ({
    at: line.at, why: `${line.who}: ${line.why}`, refused: "", recipe: line.subject === "recipe" ? line.version : line.recipe, figures: {},
    what: line.subject === "table" ? `Rolled back to ${line.version}` : `${{rollback: "Back to recipe", withdraw: "Withdrawn: recipe"}[line.action] ?? "Recipe"} ${line.version}`,
  }));
}
