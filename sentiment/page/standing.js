// How the system is doing: its state in a sentence, what is counted, the model, drift and alarms.

import {ago, byId, count, dateOf, dayOf, decimal, el, momentOf, percent, plural, say} from "/page/dom.js";
import * as parts from "/page/parts.js";
import {fact, figure} from "/page/parts.js";
import {KINDS, column, opinion} from "/page/words.js";

const SILENT = 30; // seconds without a heartbeat

/** The newest day of which enough posts of the champion were audited. */
const audited = ({champion, reports}) => champion && reports.find((report) => report.version === champion.version && report.macro_recall !== null);

export function sentence(told, state) {
  const {champion, alarms} = told;
  if (state.trouble) return "What is counted cannot be read, so nothing new is known here.";
  if (!champion) return "No model is in force: posts are kept and counted as raw, and get their opinion when there is one.";
  const who = `Version ${champion.version} scores since ${dateOf(champion.at)}`;
  if (!state.workers) return `${who}, but no worker runs beside this edge: only what is published moves on.`;
  const told_ = audited(told), quality = told_ ? `; by ${count(told_.audits)} audits its macro-recall is ${decimal(told_.macro_recall)}` : "; no day of it is audited yet";
  const since = alarms.filter((alarm) => alarm.at > champion.at);
  return `${who}${quality}. ${since.length ? `${KINDS[since[0].kind] ?? since[0].kind}: ${since[0].message}.` : "No alarm since."}`;
}

export function notices(state) {
  if (state.trouble) return [["bad", `The log or the batch view is away: ${state.trouble}. Posts are not lost, they wait in the log. Last read ${ago(state.silent)} ago; it comes back by itself.`]];
  return state.catching_up && state.now.seconds > 3 ? [["", "Still reading what was counted so far."]] : [];
}

export function now({now: moment, lag, audits, seam, published, expired}) {
  const line = fact("/v1/watch"), {posts, labels, dropped} = moment;
  const share = (number) => posts ? `${count(number)} (${percent(number / posts, 0)})` : "0";
  byId("now").replaceChildren(
    ...line("Posts a second, last 5 s", count(moment.rate)),
    ...line("Waiting to be read", lag === null ? "–" : count(lag)),
    ...["negative", "neutral", "positive"].flatMap((label) => line(opinion(label), share(labels[label]))),
    ...Object.entries(dropped).flatMap(([why, number]) => line(opinion(null, why), share(number))),
    ...line("Shed to the linear model", moment.lately ? `${count(moment.shed_lately)} of the last ${count(moment.lately)}` : "–"),
    ...line("Hours that batch has", count(published)),
    ...line("The seam", seam === null ? "–" : momentOf(seam)),
    ...line("Came too late for any hour", count(expired)),
    ...fact("/v1/audits")("Wait for an audit", count(audits)));
}

/** What a process does, by its heartbeat, which tells the time of day and comes every five seconds. */
function busy({doing, since, at}) {
  const now = Date.now() / 1000;
  if (now - at > SILENT) return `not heard of for ${ago(now - at)}`;
  return doing ? `${doing} for ${ago(Math.max(0, now - since))}` : "waits for work";
}

export function model(told, {trouble, heartbeats}) {
  const {champion, ledger} = told, figures = champion?.figures ?? {}, line = fact("/v1/model"), judged = audited(told);
  const score = (value) => decimal(value);
  byId("model").replaceChildren(...(champion ? [
    ...line("Champion", `version ${champion.version}`),
    ...line("Since", momentOf(champion.at)),
    ...line("By", champion.who),
    ...line("Macro-recall at the gate", figure(figures.macro_recall, score)),
    ...(figures.linear_macro_recall === undefined ? [] : line("The linear model's", figure(figures.linear_macro_recall, score))),
    ...fact("/v1/reports")(judged ? `By ${count(judged.audits)} audits, to ${dayOf(86400 * judged.day)}` : "By audits", judged ? decimal(judged.macro_recall) : "too few yet"),
    ...line("Labels that names change", figure(figures.bias_flips, percent)),
  ] : [...line("Champion", trouble ? "not known while the log is away" : "none")]),
  ...heartbeats.flatMap((beat) => line(beat.process === "monitor" ? "Monitor" : beat.process, busy(beat))),
  ...line("Releases so far", count(ledger.length)));
}

export function drift(told, {trouble}) {
  const report = told.reports[0];
  if (!report || !Object.keys(report.drift).length) {
    say("drift-said", told.champion ? "Not judged yet: it takes a closed day of posts." : trouble ? "Not known while the log is away." : "Without a model there is nothing to drift from.");
    return byId("drift").replaceChildren();
  }
  const on = dayOf(86400 * report.day);
  say("drift-said", report.drifted.length
    ? `${on}: ${plural(report.drifted.length, "column")} beyond the limit two days running.`
    : `${on}: nothing beyond its limit two days running.`);
  parts.drift(report.drift, told.limits, column);
}

export const alarms = (told) => parts.alarms(told.alarms, KINDS);
