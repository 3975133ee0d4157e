// How the system is doing: its state in a sentence, the money, the counts, model, drift and alarms.

import {ago, byId, count, dateOf, dayOf, decimal, el, euros, millis, momentOf, percent, plural, say} from "/page/dom.js";
import * as parts from "/page/parts.js";
import {fact, figure} from "/page/parts.js";
import {KINDS, feature, verdict} from "/page/words.js";

const SILENT = 20; // seconds after which the monitor is said to be silent; its heart beats every five

export function sentence(told, state) {
  const {champion, alarms} = told;
  const since = champion ? alarms.filter((alarm) => alarm.at > champion.at) : alarms;
  if (state.trouble) return "Decisions cannot be read, so nothing new is known here.";
  if (state.now.unanswered_now) return `${plural(state.now.unanswered_now, "request")} of the last minute got no decision: the log does not take them, and the card network's own rules stand in.`;
  const withdrawn = told.ledger[0]?.action === "withdraw" && told.ledger[0];
  if (withdrawn) return `${withdrawn.who} withdrew version ${withdrawn.version}: the rules decide, marked so.`;
  if (!champion) return "No model decides yet: the rules do, marked so.";
  const who = `Version ${champion.version} decides since ${dateOf(champion.at)}`;
  if (!state.deciders) return `${who}, but no worker runs beside this edge: the rules stand in.`;
  return since.length ? `${who}. ${KINDS[since[0].kind] ?? since[0].kind} alarm: ${since[0].message}.` : `${who}; ${champion.who} ${champion.action === "rollback" ? "rolled back to it" : "promoted it"}. No alarm since.`;
}

export function notices(state) {
  const found = [];
  if (state.trouble) found.push(["bad", `The log, or the view of it, is away: ${state.trouble}. Payments get 503, and the card network's own stand-in rules apply. Last read ${ago(state.silent)} ago; it comes back by itself.`]);
  else if (state.catching_up && state.now.seconds > 3) found.push(["", "Still reading what was decided so far."]);
  for (const warning of state.warnings) found.push(["", warning]);
  return found;
}

export function money(told, state) {
  const {money: sum, now} = state;
  say("saved", sum.payments ? euros(sum.expected) : "–");
  say("saved-band", sum.payments ? `95 % of outcomes: ${euros(sum.low)} to ${euros(sum.high)}` : "No payment has been decided by a model yet.");
  const back = Object.entries(sum.without);
  say("saved-covers", sum.payments || back.length ? [
    `By the model's own probabilities, of ${plural(sum.payments, "payment")} decided by a model since this service started, ${count(sum.differed)} of them otherwise than by the rules; the band covers chance, not wrong probabilities.`,
    ...back.map(([version, payments]) => `Without ${count(payments)} by version ${version}, taken back.`),
  ].join(" ") : now.payments ? "The rules decide, so there is nothing to compare." : "");
  say("saved-labels", byLabels(told));
}

function byLabels(told) {
  const report = told.reports.find((each) => each.rules_cost_per_1000 !== null && each.rules_cost_per_1000 !== undefined);
  return !report ? "" : `By labels, week to ${dayOf(86400 * report.matured_day)}: a cost of ${euros(report.cost_per_1000)} per 1,000 payments; the rules alone, ${euros(report.rules_cost_per_1000)}.`;
}

export function now(moment) {
  const {actions, payments} = moment, line = fact("/v1/watch");
  const share = (action) => payments ? `${count(actions[action])} (${percent(actions[action] / payments)})` : "0";
  byId("now").replaceChildren(
    ...line("Decisions a second, last 5 s", count(moment.rate)),
    ...line(`p50, last ${count(moment.requests)} requests`, millis(moment.p50)),
    ...line("p99 of them", millis(moment.p99)),
    ...line(verdict("approve"), share("approve")), ...line(verdict("review"), share("review")),
    ...line(verdict("decline"), share("decline")),
    ...line("Without a decision", count(moment.unanswered)),
    ...line("Test payments, apart", count(moment.tests)));
}

/** What the monitor does, by its heartbeat. */
function watchman(monitor) {
  if (!monitor) return "not heard yet";
  if (monitor.silent > SILENT) return `not heard for ${ago(monitor.silent)}`;
  return monitor.doing ? `${monitor.doing} for ${ago(monitor.since)}` : "watches";
}

export function model({champion, challenger, alarms, ledger}, {trouble, monitor}) {
  const figures = champion?.figures ?? {}, line = fact("/v1/model");
  const planned = alarms.find((alarm) => alarm.retrain_on !== null && (!champion || alarm.at >= champion.at));
  byId("model").replaceChildren(...(champion ? [
    ...line("Champion", `version ${champion.version}`),
    ...line("Since", momentOf(champion.at)),
    ...line("By", champion.who),
    ...line("Average precision", figure(figures.average_precision, decimal)),
    ...line("Cost per 1,000 payments", figure(figures.cost_per_1000, euros)),
    ...line("The rules' cost", figure(figures.rules_cost_per_1000, euros)),
  ] : [...line("Champion", trouble ? "not known while the log is away" : "none: the rules decide")]),
  ...against(challenger, planned, line),
  ...line("Releases so far", count(ledger.length)),
  ...line("Monitor", watchman(monitor)));
}

/** Who the gate refused, beside the champion on the same payments. */
function against(challenger, planned, line) {
  if (!challenger) return line("Challenger", planned ? `to come on ${dayOf(86400 * planned.retrain_on)}` : "none waits");
  const {version, message, figures: own} = challenger, both = (key, show) =>
    `${figure(own[key], show)}, champion ${figure(own[`champion_${key}`], show)}`;
  return [
    ...line("Challenger", `version ${version}`),
    ...line("its average precision", both("average_precision", (value) => decimal(value, 3))),
    ...line("its cost per 1,000", both("cost_per_1000", euros)),
    el("dd", {class: "whole small quiet"}, `${message}. Both on the same payments.`),
  ];
}

export function drift(told, {trouble}) {
  const report = told.reports[0];
  if (!report || !Object.keys(report.drift).length) {
    say("drift-said", told.champion ? "Not judged yet: it takes a closed day of payments." : trouble ? "Not known while the log is away." : "Without a model there is nothing to drift from.");
    return byId("drift").replaceChildren();
  }
  const on = dayOf(86400 * report.day);
  say("drift-said", report.drifted.length
    ? `${on}: ${plural(report.drifted.length, "feature")} beyond the limit two days running.`
    : `${on}: nothing beyond its limit two days running.`);
  parts.drift(report.drift, told.limits, feature);
}

export const alarms = (told) => parts.alarms(told.alarms, KINDS);
