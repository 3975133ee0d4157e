// The charts: money, what was stopped, throughput and latency on one axis, with the story's events.

import {ago, byId, count, euros, momentOf, say} from "/page/dom.js";
import {Charts} from "/page/chart.js";
import {marks} from "/page/parts.js";
import {KINDS} from "/page/words.js";

const ENOUGH = 200; // payments that a share is taken of
let charts = null;

/** The story's events, each a numbered line on the charts and a line of words below them. */
function events(told, series) {
  const found = [
    ...told.scenes.filter((scene) => scene.marks && !scene.outcome).map((scene) => ({at: scene.at, text: scene.marks === "attack" ? "the attack begins" : scene.marks})),
    ...[...told.alarms].reverse().filter((alarm) => alarm.kind !== "command").map((alarm) => ({at: alarm.at, text: `${KINDS[alarm.kind].toLowerCase()} alarm`})),
    ...[...told.ledger].reverse().map((release) => ({at: release.at, text: release.action === "promote" ? `version ${release.version} released` : `rolled back to version ${release.version}`})),
  ].sort((a, b) => a.at - b.at);
  return found.filter((mark) => series.at.length && mark.at >= series.at[0] - series.width);
}

/** Per cent of the last ENOUGH payments or more: of a night's three payments every share would be a spike. */
function lately(series, part) {
  const totals = series.at.map((_, place) => series.approve[place] + series.review[place] + series.decline[place]);
  let first = 0, payments = 0, counted = 0;
  return part.map((value, place) => {
    payments += totals[place];
    counted += value;
    while (payments - totals[first] >= ENOUGH) {
      payments -= totals[first];
      counted -= part[first++];
    }
    return payments ? 100 * counted / payments : null;
  });
}

export function paint(told, series) {
  if (!charts) {
    charts = new Charts(byId("charts"), [
      {title: "Saved against rules only", unit: "EUR, expected, with 95 % of outcomes", show: euros, low: 0, least: 10,
        lines: [{key: "saved", colour: "accent", band: ["bottom", "top"]}]},
      {title: "Stopped", unit: `% of the last ${ENOUGH} payments or more`, show: (value) => `${value.toFixed(value < 10 ? 1 : 0)} %`, low: 0, least: 4,
        lines: [{key: "declined", name: "declined", colour: "no"}, {key: "reviewed", name: "reviewed", colour: "maybe", dash: [2, 3]}]},
      {title: "Throughput", unit: "decisions a second of real time", show: count, low: 0, least: 10, lines: [{key: "rate", colour: "accent"}]},
      {title: "Latency", unit: "ms, of requests over HTTP", show: (value) => value && value < 10 ? value.toFixed(1) : value.toFixed(0), low: 0, least: 10,
        lines: [{key: "median", name: "p50", colour: "accent"}, {key: "slow", name: "p99", colour: "quiet", dash: [6, 3]}]},
    ], {href: "/v1/watch"});
  }
  const share = (part) => lately(series, series[part]);
  const ms = (values) => values.map((value) => value === null ? null : 1000 * value);
  const found = events(told, series);
  charts.update({
    at: series.at, saved: series.saved,
    bottom: series.saved.map((value, place) => value - series.spread[place]),
    top: series.saved.map((value, place) => value + series.spread[place]),
    declined: share("decline"), reviewed: share("review"), rate: series.rate, median: ms(series.p50), slow: ms(series.p99),
  }, found);
  say("time-covers", series.at.length ? `Event time, one point every ${ago(series.width)}, from ${momentOf(series.at[0])} to ${momentOf(series.at.at(-1))}.` : "Nothing has been decided yet.");
  marks(found);
}

/** The newest buckets take the place of those that were not yet full. */
export function join(series, tail) {
  const from = tail.at[0], keep = series.at.findIndex((at) => at >= from);
  const head = keep < 0 ? series.at.length : keep;
  for (const [name, values] of Object.entries(tail)) {
    series[name] = Array.isArray(values) ? series[name].slice(0, head).concat(values) : values;
  }
}
