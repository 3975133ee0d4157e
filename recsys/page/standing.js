// How the system is doing: its state in a sentence, what the lists are worth, counts, table, recipe, drift, alarms.

import {ago, byId, count, dateOf, dayOf, decimal, euros, millis, momentOf, percent, plural, say} from "/page/dom.js";
import * as parts from "/page/parts.js";
import {fact, figure} from "/page/parts.js";
import {KINDS, PATHS, column, source} from "/page/words.js";

const DAY = 86400;
const weekday = new Intl.DateTimeFormat("en-GB", {weekday: "long", timeZone: "UTC"});
const ranker = (row) => row?.recipe && row.recipe !== "none" ? row.recipe : "";
const judged = (told) => told.reports.find((report) => report.lists);

export function sentence(told, state) {
  const {table, nights, alarms} = told, last = nights[0];
  if (state.trouble) return "The log cannot be read, so nothing new is known here; lists are shown as before.";
  if (!state.version) return last?.refused ? `No table yet: the gate refused the first one, ${last.refused}.` : told.demo ? "No table has been published yet: shoppers get 503 until the first night is over." : "No table has been published yet, so shoppers get 503: press Run tonight below, or run python -m recsys night.";
  const since = table ? `since ${momentOf(table.at)}` : "";
  const from = table?.action === "rollback" ? `; ${table.who} rolled back to it: ${table.why}` : "";
  const shown = `Table ${state.version} is shown ${since}${ranker(table) ? `, by recipe ${ranker(table)}` : ", by a hand blend"}${from}.`;
  if (last?.refused && (!table || last.at >= table.at)) return `${shown} Tonight's was refused: ${last.refused}. Yesterday's stays.`;
  const alarm = alarms.find((each) => each.kind !== "command");
  if (alarm && table && alarm.at >= table.at) return `${shown} ${KINDS[alarm.kind] ?? alarm.kind} alarm: ${alarm.message}.`;
  const report = judged(told);
  return report ? `${shown} ${clicks(report)}` : shown;
}

function clicks(report) {
  const rate = report.clicks / report.lists, day = weekday.format(new Date(1000 * DAY * report.day));
  return `${decimal(rate)} clicks a list on ${day}, ${dayOf(DAY * report.day)}${report.usual_clicks ? `; ${decimal(report.usual_clicks)} are usual then` : ""}.`;
}

export function notices(state) {
  const found = [];
  if (state.trouble) found.push(["bad", `The log is away: ${state.trouble}. Lists are shown from the last table, unlogged; clicks and purchases are refused. Last read ${ago(state.silent)} ago; it comes back by itself.`]);
  else if (state.catching_up && state.now.seconds > 3) found.push(["", "Still reading what happened since the table was made."]);
  if (state.refused) found.push(["bad", `A newer table does not prove itself, so the old one is shown: ${state.refused}.`]);
  if (state.doing) found.push(["", `The monitor is busy: ${state.doing}.`]);
  if (state.age > 36 * 3600) found.push(["", `The table is ${ago(state.age)} old: after 72 hours all shoppers are shown what is popular.`]);
  return found;
}

/** The one number: what the lists added, where a demo knows it; else clicks against the usual. */
export function worth(told) {
  const sum = told.money, report = judged(told);
  if (sum || told.demo) {
    say("worth-name", "Margin added by the lists");
    say("worth-kind", ", net of returns");
    if (!sum) {
      say("worth", "–");
      say("worth-band", "No day has been lived with lists yet.");
      return say("worth-covers", "Each day of a demo is lived again by the same shoppers with the same luck and no list, so it can tell what the lists added.");
    }
    say("worth", euros(sum.sum));
    say("worth-band", `95 % by days: ${euros(sum.low)} to ${euros(sum.high)}`);
    say("worth-covers", `Of ${plural(sum.days, "day")}, each lived again by the same shoppers with the same luck and no list: a demo can know that. ` +
      `Bestsellers for all would have added ${euros(sum.popularity)}, an oracle ${euros(sum.oracle)}.`);
    return say("worth-clicks", "");
  }
  say("worth-name", "Clicks a list");
  say("worth-kind", report ? `, ${dayOf(DAY * report.day)}` : "");
  if (!report) {
    say("worth", "–");
    say("worth-band", "No day with lists has been judged yet: that takes the night after it.");
    say("worth-covers", "");
    return say("worth-clicks", "");
  }
  const rate = report.clicks / report.lists, spread = 1.96 * Math.sqrt(report.clicks) / report.lists;
  say("worth", decimal(rate));
  say("worth-band", `95 % of outcomes at this rate: ${decimal(Math.max(0, rate - spread))} to ${decimal(rate + spread)}`);
  say("worth-covers", `${count(report.clicks)} clicks on ${plural(report.lists, "list")}. ` + (report.usual_clicks
    ? `Usual on a ${weekday.format(new Date(1000 * DAY * report.day))}: ${decimal(report.usual_clicks)}, mean of the last four.` : "What is usual on that weekday is not known yet."));
  say("worth-clicks", "What the lists add in money is not known here: that would take days without them.");
}

export function now(moment) {
  const line = fact("/v1/watch"), places = Object.values(moment.sources).reduce((sum, each) => sum + each, 0);
  const by = Object.entries(moment.sources).sort(([, a], [, b]) => b - a);
  byId("now").replaceChildren(
    ...line("Lists shown", count(moment.lists)),
    ...line("Clicks on them", moment.lists ? `${count(moment.clicks)} (${decimal(moment.clicks / moment.lists)} a list)` : "0"),
    ...line("Purchases", count(moment.purchases)),
    ...line("of them by list", moment.purchases ? `${count(moment.by_list)} (${percent(moment.by_list / moment.purchases)})` : "0"),
    ...by.flatMap(([name, sum]) => line(`Places by ${source(name)}`, percent(sum / places, 0))),
    ...Object.entries(moment.paths).filter(([path]) => path !== "table").flatMap(([path, sum]) => line(`By ${PATHS[path] ?? path}`, count(sum))),
    ...line(`p50, last ${count(moment.requests)} requests`, millis(moment.p50)),
    ...line("p99 of them", millis(moment.p99)),
    ...line("Unlogged, without a list", `${count(moment.unlogged)}, ${count(moment.unanswered)}`));
}

export function table(told, state) {
  const line = fact("/v1/table"), {table: shown, back_to: back} = told, figures = shown?.figures ?? {};
  byId("table").replaceChildren(...(state.version ? [
    ...line("Shown", state.version),
    ...line("Input until", shown ? momentOf(state.at - state.age) : "–"),
    ...line("Age", ago(state.age)),
    ...line("Users", figure(figures.users, count)),
    ...line("Filled up by popularity", figure(figures.fallbacks, percent)),
    ...line("Kept of the first ten before", figure(figures.overlap, (value) => percent(value, 0))),
    ...line("A rollback goes to", back ?? "none is kept"),
  ] : line("Shown", "none yet")));
}

export function recipe({recipe: known, ledger}) {
  const line = fact("/v1/table"), figures = known?.figures ?? {};
  byId("recipe").replaceChildren(...(known ? [
    ...line("In force", `recipe ${known.version}`),
    ...line("Since", momentOf(known.at)),
    ...line("By", known.who),
    ...line("nDCG@20, judged later", figure(figures.ndcg, (value) => decimal(value, 3))),
    ...line("Best single source", figure(figures.best_single, (value) => decimal(value, 3))),
    ...line("Popularity alone", figure(figures.ndcg_popular, (value) => decimal(value, 3))),
  ] : line("In force", "none: a hand blend ranks")),
  ...line("Recipes released so far", count(ledger.filter((each) => each.subject === "recipe" && each.action === "promote").length)));
}

export function drift(told, {trouble}) {
  const report = told.reports[0];
  if (!report || !Object.keys(report.drift).length) {
    say("drift-said", trouble ? "Not known while the log is away." : told.recipe ? "Not judged yet: it takes a day of purchases and the night after it." : "Without a recipe there is nothing to drift from.");
    return byId("drift").replaceChildren();
  }
  const on = dateOf(DAY * report.day);
  say("drift-said", report.drifted.length
    ? `${on}: ${report.drifted.map(column).join(", ")} beyond the limit two days running.`
    : `${on}: what is bought moved beyond no limit two days running.`);
  parts.drift(report.drift, told.limits, column);
}

export const alarms = (told) => parts.alarms(told.alarms, KINDS);
