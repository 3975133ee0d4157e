// The charts: what the lists added, clicks, drift, and what nights left as it was, with the story's events.

import {byId, dayOf, decimal, euros, say} from "/page/dom.js";
import {Charts} from "/page/chart.js";
import {marks} from "/page/parts.js";
import {KINDS} from "/page/words.js";

const DAY = 86400;
let charts = null;
const HOT = ["drift", "clicks", "gate", "table"];

/** The story's events, each a numbered line on the charts and a line of words below them; not each quiet night. */
function events(told) {
  const found = [
    ...told.scenes.filter((scene) => scene.marks && !scene.outcome).map((scene) => ({at: scene.at, text: scene.marks})),
    ...told.alarms.filter((alarm) => HOT.includes(alarm.kind)).map((alarm) => ({at: alarm.at,
      text: alarm.kind === "gate" ? "table refused" : alarm.kind === "drift" ? "drift noticed" : `${KINDS[alarm.kind].toLowerCase()} alarm`})),
    ...told.ledger.filter((line) => line.subject === "recipe" && line.action === "promote").map((line) => ({at: line.at, text: `recipe ${line.version}`})),
    ...told.ledger.filter((line) => line.subject === "table" && line.action === "rollback").map((line) => ({at: line.at, text: `rolled back to ${line.version}`})),
    ...told.ledger.filter((line) => line.subject === "table" && line.action === "publish").slice(-1).map((line) => ({at: line.at, text: "first table published"})),
  ].sort((a, b) => a.at - b.at);
  return found.filter((mark) => told.series.at.length && mark.at >= told.series.at[0] - DAY);
}

function made(money) {
  const share = (value) => `${value.toFixed(0)} %`;
  const clicks = {title: "Clicks a list", unit: "by day, beside the same weekday's mean", show: decimal, low: 0, least: 0.5,
    lines: [{key: "clicks", name: "shown", colour: "accent"}, {key: "usual", name: "usual", colour: "quiet", dash: [6, 3]}]};
  const added = {title: "Margin added by the lists", unit: "EUR so far, with 95 % by days", show: euros, low: 0, least: 10,
    lines: [{key: "added", name: "lists", colour: "accent", band: ["low", "high"]}, {key: "popularity", name: "bestsellers", colour: "quiet", dash: [6, 3]}]};
  return new Charts(byId("charts"), [
    ...(money ? [added] : []), clicks,
    {title: "Drift of purchases", unit: "largest distance, % of its limit", show: share, low: 0, least: 120,
      lines: [{key: "drift", colour: "accent"}, {key: "limit", name: "limit", colour: "no", dash: [3, 3]}]},
    {title: "Left as it was", unit: "% of each first ten after the night", show: share, low: 0, least: 100, lines: [{key: "kept", colour: "accent"}]},
  ], {href: "/v1/watch", least: 7 * DAY});
}

export function paint(told) {
  const {series} = told, hundred = (values) => values.map((value) => value === null ? null : 100 * value);
  charts ??= made(told.demo || told.money);
  const found = events(told);
  charts.update({...series, drift: hundred(series.drift), kept: hundred(series.kept), limit: series.at.map(() => 100)}, found);
  say("time-covers", series.at.length ? `One point a day, at the midnight that ends it, from ${dayOf(series.at[0] - 1)} to ${dayOf(series.at.at(-1) - 1)}.` : "No day has been judged yet: that takes a night, and the day before it.");
  marks(found);
}
