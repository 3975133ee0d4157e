// The page of fraud: payments as they are decided, and how the system is doing.

import {Charts} from "/page/chart.js";
import {ago, byId, count, dateOf, dayOf, decimal, el, euroCents, euros, millis, momentOf, percent, plural, say, table}
  from "/page/dom.js";
import {SignedOut, ask, follow} from "/page/live.js";
import * as operator from "/page/operator.js";
import {open, shape} from "/page/payment.js";
import {DONE, KINDS, feature, risk, verdict} from "/page/words.js";

const LINES = 16; // payments shown
const ENOUGH = 200; // payments that a share is taken of
const seen = {all: [], stopped: []};
let only = "all", held = false, told = null, state = null, series = null, reasons = {}, charts = null, history = null;

// --- payments -----------------------------------------------------------------------------------------

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

function rows({recent, stopped}) {
  const before = seen[only][0]?.number ?? 0;
  for (const [name, more] of [["all", together(recent, stopped)], ["stopped", stopped]]) {
    seen[name] = [...more].reverse().concat(seen[name]).slice(0, 4 * LINES);
  }
  if (!held && (seen[only][0]?.number ?? 0) !== before) show(before);
}

/** Rows are kept while they stand, so that a focus on one is not lost each half second. */
function show(before) {
  const body = byId("rows"), wanted = seen[only].slice(0, LINES);
  const known = new Map([...body.children].map((child) => [child.dataset.number, child]));
  const lines = wanted.map((row) => {
    const number = String(row.number), found = known.get(number) ?? line(row, row.number > before);
    found.dataset.number = number;
    return found;
  });
  lines.forEach((each, place) => { if (body.children[place] !== each) body.insertBefore(each, body.children[place] ?? null); });
  while (body.children.length > Math.max(1, lines.length)) body.lastChild.remove();
  if (!lines.length) body.replaceChildren(el("tr", {}, el("td", {colspan: "6", class: "quiet"}, only === "all"
    ? (told.demo ? "No payment yet: the bank opens when it has its first model."
      : "No payment yet: POST one to /v1/decisions, or run make demo-fraud.") : "Nothing has been stopped yet.")));
}

function choose(which) {
  only = which;
  byId("show-all").setAttribute("aria-pressed", String(which === "all"));
  byId("show-stopped").setAttribute("aria-pressed", String(which === "stopped"));
  show(Infinity);
  sample();
}

function hold() {
  held = !held;
  byId("hold").setAttribute("aria-pressed", String(held));
  if (!held) show(Infinity);
  sample();
}

function sample() {
  const {payments, actions} = state.now, stopped = actions.review + actions.decline;
  say("sample", !payments ? "\u00a0" : held ? "Held: new payments are counted, and not shown."
    : only === "all" ? `The latest ${Math.min(LINES, seen.all.length)} of ${count(payments)}; at speed a sample that favours the stopped. Select one to see why.`
    : `The latest ${Math.min(LINES, seen.stopped.length)} of ${count(stopped)} stopped. Select one to see why.`);
}

// --- how it is doing ----------------------------------------------------------------------------------

const figure = (value, show) => value === undefined ? "–" : show(value);
const fact = (name, ...words) => [el("dt", {}, name), el("dd", {}, ...words)];

function standing() {
  const {champion, alarms} = told;
  const since = champion ? alarms.filter((alarm) => alarm.at > champion.at) : alarms;
  if (state.trouble) return "Decisions cannot be read, so nothing new is known here.";
  if (state.now.unanswered_now) return `${plural(state.now.unanswered_now, "request")} of the last minute got no decision: the log does not take them, and the card network's own rules stand in.`;
  if (!champion) return "No model decides yet: the rules do, marked so.";
  const who = `Version ${champion.version} decides since ${dateOf(champion.at)}`;
  if (!state.deciders) return `${who}, but no worker runs beside this edge: the rules stand in.`;
  return since.length ? `${who}. ${KINDS[since[0].kind]} alarm: ${since[0].message}.` : `${who}, ${champion.action === "rollback" ? "rolled back to" : "promoted"} by ${champion.who}. No alarm since.`;
}

function notices() {
  const found = [];
  if (state.trouble) found.push(["bad", `The log, or the view of it, is away: ${state.trouble}. Payments get 503, and the card network's own stand-in rules apply. Last read ${ago(state.silent)} ago; it comes back by itself.`]);
  else if (state.catching_up && state.now.seconds > 3) found.push(["", "Still reading what was decided so far."]);
  return found;
}

let said = "";
function notice(found) {
  const words = JSON.stringify(found);
  if (words === said) return;
  said = words;
  byId("notices").replaceChildren(...found.map(([kind, text]) => el("p", {class: `notice ${kind}`}, text)));
}

function money() {
  const {money: sum, now} = state;
  say("saved", sum.payments ? euros(sum.expected) : "–");
  say("saved-band", sum.payments ? `95 % of outcomes: ${euros(sum.low)} to ${euros(sum.high)}` : "No payment has been decided by a model yet.");
  const back = Object.entries(sum.without);
  say("saved-covers", sum.payments || back.length ? [
    `${plural(sum.payments, "payment")} decided by a model since this service started; ${count(sum.differed)} otherwise than by the rules. By the model's own probabilities; the band covers chance, not wrong probabilities.`,
    ...back.map(([version, payments]) => `Without ${plural(payments, "payment")} of version ${version}, which was taken back.`),
  ].join(" ") : now.payments ? "The rules decide, so there is nothing to compare." : "");
  say("saved-labels", byLabels());
}

function byLabels() {
  const report = told.reports.find((each) => each.rules_cost_per_1000 !== null && each.rules_cost_per_1000 !== undefined);
  return !report ? "" : `By labels, week to ${dayOf(86400 * report.matured_day)}: a cost of ${euros(report.cost_per_1000)} per 1,000 payments; the rules alone, ${euros(report.rules_cost_per_1000)}.`;
}

function now() {
  const {now: moment} = state, {actions, payments} = moment;
  const share = (action) => payments ? `${count(actions[action])} (${percent(actions[action] / payments)})` : "0";
  byId("now").replaceChildren(
    ...fact("Decisions a second, last 5 s", count(moment.rate)),
    ...fact(`p50, last ${count(moment.requests)} requests`, millis(moment.p50)),
    ...fact("p99 of them", millis(moment.p99)),
    ...fact(verdict("approve"), share("approve")), ...fact(verdict("review"), share("review")),
    ...fact(verdict("decline"), share("decline")),
    ...fact("Without a decision", count(moment.unanswered)),
    ...fact("Test payments, apart", count(moment.tests)));
}

function model() {
  const {champion, alarms, ledger} = told, figures = champion?.figures ?? {};
  const gate = alarms.find((alarm) => alarm.kind === "gate" && (!champion || alarm.at >= champion.at));
  const planned = alarms.find((alarm) => alarm.retrain_on !== null && (!champion || alarm.at >= champion.at));
  byId("model").replaceChildren(...(champion ? [
    ...fact("Champion", `version ${champion.version}`),
    ...fact("Since", momentOf(champion.at)),
    ...fact("By", champion.who),
    ...fact("Average precision", figure(figures.average_precision, decimal)),
    ...fact("Cost per 1,000 payments", figure(figures.cost_per_1000, euros)),
    ...fact("The rules' cost", figure(figures.rules_cost_per_1000, euros)),
  ] : [...fact("Champion", "none: the rules decide")]),
  ...fact("Challenger", gate ? gate.message : planned ? `to be trained on ${dayOf(86400 * planned.retrain_on)}` : "none waits"),
  ...fact("Releases so far", count(ledger.length)));
}

function drift() {
  const report = told.reports[0];
  if (!report || !Object.keys(report.drift).length) {
    say("drift-said", told.champion ? "Not judged yet: it takes a closed day of payments." : "Without a model there is nothing to drift from.");
    return byId("drift").replaceChildren();
  }
  const on = dayOf(86400 * report.day), {limits} = told, least = (name) => limits[name] ?? 1;
  say("drift-said", report.drifted.length
    ? `${on}: ${plural(report.drifted.length, "feature")} beyond the limit two days running.`
    : `${on}: nothing beyond its limit two days running.`);
  const order = Object.entries(report.drift).sort(([a, x], [b, y]) => y / least(b) - x / least(a)).slice(0, 5);
  byId("drift").replaceChildren(...order.map(([name, distance]) => {
    const limit = limits[name], top = Math.max(distance, 2 * (limit ?? 0.1));
    const drawing = shape("svg", {viewBox: "0 0 1 8", preserveAspectRatio: "none", "aria-hidden": "true"});
    drawing.append(shape("rect", {class: "track", x: 0, y: 3, width: 1, height: 2}),
      shape("rect", {class: limit !== undefined && distance > limit ? "fill over" : "fill", x: 0, y: 1, width: distance / top, height: 6}));
    if (limit !== undefined) drawing.append(shape("line", {class: "limit", x1: limit / top, x2: limit / top, y1: 0, y2: 8, "vector-effect": "non-scaling-stroke"}));
    return el("div", {class: "bar-row", title: limit === undefined ? null : `limit ${decimal(limit, 3)}`}, el("span", {}, feature(name)), drawing, el("span", {}, decimal(distance, 3)));
  }));
}

function alarms() {
  const shown = told.alarms.slice(0, 4);
  byId("alarms").replaceChildren(...(shown.length ? shown.map((alarm) => el("li", {},
    el("strong", {}, `${KINDS[alarm.kind]}, ${momentOf(alarm.at)}`), el("br"), alarm.message,
    alarm.action ? el("span", {class: "quiet"}, `; ${alarm.action}`) : null))
    : [el("li", {class: "quiet"}, "None.")]));
}

// --- over time ----------------------------------------------------------------------------------------

/** The story's events, each a numbered line on the charts and a line of words below them. */
function marks() {
  const found = [
    ...told.scenes.filter((scene) => scene.marks && !scene.outcome).map((scene) => ({at: scene.at, text: scene.marks === "attack" ? "the attack begins" : scene.marks})),
    ...[...told.alarms].reverse().filter((alarm) => alarm.kind !== "command").map((alarm) => ({at: alarm.at, text: `${KINDS[alarm.kind].toLowerCase()} alarm`})),
    ...[...told.ledger].reverse().map((release) => ({at: release.at, text: release.action === "promote" ? `version ${release.version} released` : `rolled back to version ${release.version}`})),
  ].sort((a, b) => a.at - b.at);
  return found.filter((mark) => series.at.length && mark.at >= series.at[0] - series.width);
}

/** Per cent of the last ENOUGH payments or more: of a night's three payments every share would be a spike. */
function lately(part) {
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

function paint() {
  if (!charts) {
    charts = new Charts(byId("charts"), [
      {title: "Saved against rules only", unit: "EUR, expected, with 95 % of outcomes", show: euros, low: 0, least: 10,
        lines: [{key: "saved", colour: "accent", band: ["bottom", "top"]}]},
      {title: "Stopped", unit: `% of the last ${ENOUGH} payments or more`, show: (value) => `${value.toFixed(value < 10 ? 1 : 0)} %`, low: 0, least: 4,
        lines: [{key: "declined", name: "declined", colour: "no"}, {key: "reviewed", name: "reviewed", colour: "maybe", dash: [2, 3]}]},
      {title: "Throughput", unit: "decisions a second of real time", show: count, low: 0, least: 10, lines: [{key: "rate", colour: "accent"}]},
      {title: "Latency", unit: "ms, of requests over HTTP", show: (value) => value < 10 ? value.toFixed(1) : value.toFixed(0), low: 0, least: 10,
        lines: [{key: "median", name: "p50", colour: "accent"}, {key: "slow", name: "p99", colour: "quiet", dash: [6, 3]}]},
    ]);
  }
  const share = (part) => lately(series[part]);
  const ms = (values) => values.map((value) => value === null ? null : 1000 * value);
  const found = marks();
  charts.update({
    at: series.at, saved: series.saved,
    bottom: series.saved.map((value, place) => value - series.spread[place]),
    top: series.saved.map((value, place) => value + series.spread[place]),
    declined: share("decline"), reviewed: share("review"), rate: series.rate, median: ms(series.p50), slow: ms(series.p99),
  }, found);
  say("time-covers", series.at.length ? `Event time, one point every ${ago(series.width)}, from ${momentOf(series.at[0])} to ${momentOf(series.at.at(-1))}.` : "Nothing has been decided yet.");
  const words = found.map((mark) => `${dayOf(mark.at)} ${mark.text}`);
  const place = byId("marks");
  if (place.dataset.words !== words.join()) {
    place.dataset.words = words.join();
    place.replaceChildren(...words.map((word) => el("li", {}, word)));
  }
}

function join(tail) {
  const from = tail.at[0], keep = series.at.findIndex((at) => at >= from);
  const head = keep < 0 ? series.at.length : keep;
  for (const [name, values] of Object.entries(tail)) {
    series[name] = Array.isArray(values) ? series[name].slice(0, head).concat(values) : values;
  }
}

// --- releases -----------------------------------------------------------------------------------------

const FIGURES = [
  ["average_precision", "Avg. precision", (value) => decimal(value, 3)],
  ["cost_per_1000", "EUR per 1,000", (value) => decimal(value, 0)],
  ["recall", "Recall", (value) => percent(value, 0)],
  ["precision", "Precision", (value) => percent(value, 0)],
  ["reviews_a_day", "Reviews a day", (value) => decimal(value, 0)],
];

function releases() {
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
  return el("span", {}, show(value), moved === null ? null
    : el("span", {class: "change"}, Math.abs(moved) < 1e-9 ? "same" : `${moved > 0 ? "+" : ""}${show(moved)}`));
}

// --- the story ----------------------------------------------------------------------------------------

const ACTS = ["History", "Training", "Live", "Attack", "Retrain", "Bad release", "Books"];

function story() {
  const {scenes} = told;
  byId("story").hidden = !scenes.length;
  if (!scenes.length) return;
  const last = scenes.at(-1), acts = Math.max(ACTS.length, last.number);
  byId("acts").replaceChildren(...Array.from({length: acts}, (_, place) => {
    const number = place + 1, running = number === last.number && !last.outcome;
    const title = ACTS[place] ?? "After";
    return el("li", {class: running ? "runs" : number <= last.number ? "done" : null, "aria-current": running ? "step" : null}, el("span", {}, `${number} ${title}`));
  }));
  say("act", last.outcome ? `${last.title}. ${last.outcome}` : `${last.title} …`);
}

// --- together -----------------------------------------------------------------------------------------

function moment(given) {
  state = given;
  say("date", momentOf(state.at) + " UTC");
  say("standing", standing());
  document.body.classList.toggle("stale", Boolean(state.trouble));
  notice(notices());
  money();
  now();
  sample();
  operator.update(told);
}

function hear(given) {
  told = given;
  model(); drift(); alarms(); releases(); story();
  if (series) paint();
  if (state) { say("standing", standing()); money(); operator.update(told); }
}

function all(given) {
  byId("watching").hidden = false;
  byId("login").hidden = true;
  ({reasons, series, state} = given);
  if (!told) operator.build(byId("operator"), given.told);
  Object.assign(seen, {all: together(given.recent, given.stopped).reverse(), stopped: [...given.stopped].reverse()});
  hear(given.told);
  moment(given.state);
  show(Infinity);
}

function login() {
  byId("watching").hidden = true;
  byId("login").hidden = false;
  document.body.classList.remove("stale");
  notice([]);
}

function begin() {
  follow("/v1/stream", {
    heard: {all, told: hear, rows, state: moment, tail: (tail) => { if (tail.at.length) { join(tail); paint(); } }},
    lost: (seconds) => {
      document.body.classList.add("stale");
      notice([["bad", `The connection is lost: what you see is ${ago(seconds)} old. It comes back by itself.`]]);
    },
    back: () => document.body.classList.remove("stale"),
    signedOut: login,
  });
}

byId("show-all").addEventListener("click", () => choose("all"));
byId("show-stopped").addEventListener("click", () => choose("stopped"));
byId("hold").addEventListener("click", hold);
byId("payment").addEventListener("click", (event) => { if (event.target === event.currentTarget) event.currentTarget.close(); });
byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("/session", {key: byId("key").value});
    byId("key").value = "";
    say("key-said", "");
    await enter();
  } catch (error) {
    say("key-said", error.message);
  }
});

/** The page's first words come by an ordinary request, which can say that there is no session. */
async function enter() {
  try {
    if (!(await ask("/session")).open) return login();
    all(await ask("/v1/watch"));
    notice([]);
    begin();
  } catch (error) {
    if (error instanceof SignedOut) login();
    else {
      notice([["bad", `The service does not answer: ${error.message}. Trying again.`]]);
      setTimeout(enter, 2000);
    }
  }
}

enter();
