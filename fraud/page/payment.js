// One payment: what the model saw, what each feature added, what each action would have cost.

import {decimal, el, euroCents, momentOf, percent, shape, table} from "/page/dom.js";
import {ask} from "/page/live.js";
import {detail} from "/page/shell.js";
import {MARKS, feature, risk, value, verdict} from "/page/words.js";

const SHOWN = 8; // features that added most
let names = null;

export async function open(identity, reasons) {
  const path = `/v1/decisions/${encodeURIComponent(identity)}`, {title, content} = detail("Payment");
  try {
    const decision = await ask(path);
    names ??= (await ask("/v1/features")).names;
    const why = el("div", {}, el("p", {class: "quiet"}, "Asking the version that decided …"));
    title.textContent = `${euroCents(decision.cents / 100)} at ${decision.terminal}`;
    content.replaceChildren(
      head(decision, reasons),
      el("div", {class: "pair"}, costs(decision), windows(decision)),
      el("h3", {}, "What the features added"), why, ...seen(decision),
      el("p", {class: "small"}, el("a", {href: path}, "This decision as JSON"), " · ",
        el("a", {href: `${path}/explanation`}, "its explanation as JSON")),
    );
    const given = decision.model === null ? new Error("The rules decided: no model saw this payment.")
      : await ask(`${path}/explanation`).catch((error) => error);
    why.replaceChildren(...(given instanceof Error
      ? [el("p", {class: "quiet"}, given.message)] : pushes(given, decision)));
  } catch (error) {
    content.replaceChildren(el("p", {role: "alert"}, error.message));
  }
}

function head(decision, reasons) {
  const by = decision.model ? `by version ${decision.model}`
    : decision.path === "rules" ? "by the rules" : "by the rules, standing in";
  const more = [
    decision.mark && (MARKS[decision.mark] ?? decision.mark),
    decision.explored && "let through at random, 1 in 100, to learn whether declining is right",
    decision.rules !== decision.action && `the rules alone would ${decision.rules}`,
    decision.probe && "a test payment",
  ].filter(Boolean);
  return el("div", {},
    el("p", {class: "verdict"}, verdict(decision.action)),
    el("p", {class: "quiet"}, `${momentOf(decision.at)} UTC, ${by}`,
      decision.probability === null ? "" : `, probability of fraud ${risk(decision.probability)}`,
      ...more.map((word) => `; ${word}`), "."),
    el("ul", {class: "lines"}, decision.reasons.map((code) => el("li", {}, reasons[code] ?? code))),
    el("p", {class: "small quiet"}, `Card ${decision.card}, transaction ${decision.id}`));
}

function costs(decision) {
  const part = el("div", {}, el("h3", {}, "What each action would cost"));
  if (!decision.costs) {
    part.append(el("p", {class: "quiet"}, "The rules decided; they know no costs."));
    return part;
  }
  const taken = decision.costs[decision.action];
  const chosen = ({action}) => action === decision.action;
  const against = (row) => chosen(row) ? "taken"
    : `${euroCents(Math.abs(row.cost - taken))} ${row.cost < taken ? "less" : "more"}`;
  part.append(table("What each action would cost", [
    {name: "Action", of: (row) => row.action, show: (row) => verdict(row.action, row.action)},
    {name: "Expected", number: true, of: (row) => row.cost, show: (row) => euroCents(row.cost)},
    {name: "Against it", number: true, of: (row) => row.cost, show: against},
  ], Object.entries(decision.costs).map(([action, cost]) => ({action, cost})), {chosen}).element, el("p", {class: "small quiet"}, "Expected EUR by the probability: a missed fraud, a lost customer, an " +
      "analyst's time with what its scarcity adds."));
  return part;
}

function windows(decision) {
  const part = el("div", {}, el("h3", {}, "The card before this payment"));
  if (!decision.features) {
    part.append(el("p", {class: "quiet"}, "Its windows were not looked at."));
    return part;
  }
  const of = (name) => decision.features[names.indexOf(name)];
  const spans = names.filter((name) => name.startsWith("card_payments_")).map((name) => name.slice(14));
  part.append(table("The card before this payment", [
    {name: "Within", of: (row) => row.place, show: (row) => feature(`x_${row.span}`).split(", ")[1]},
    {name: "Payments", number: true, of: (row) => of(`card_payments_${row.span}`)},
    {name: "Sum", number: true, of: (row) => of(`card_amount_${row.span}`), show: (row) => euroCents(of(`card_amount_${row.span}`))},
  ], spans.map((span, place) => ({span, place}))).element);
  return part;
}

function pushes(given, decision) {
  const all = Object.entries(given.contributions), shown = all.slice(0, SHOWN);
  const rest = all.slice(SHOWN).reduce((sum, [, added]) => sum + added, 0);
  const largest = Math.max(...all.map(([, added]) => Math.abs(added)), 0.01);
  const line = (name, seen, added) => el("div", {class: "push"}, el("span", {}, name), el("span", {}, seen),
    bar(added / largest), el("span", {}, `${added < 0 ? "" : "+"}${decimal(added)}`));
  return [
    el("p", {class: "small quiet"}, `Log-odds, by version ${given.model}: red speaks for fraud, green against it. ` +
      `From ${decimal(given.base)}, before anything is known, to a probability of ${percent(decision.probability, 2)}.`),
    ...shown.map(([name, added]) =>
      line(feature(name), value(name, decision.features[names.indexOf(name)]), added)),
    line(`${all.length - SHOWN} others`, "", rest),
  ];
}

function bar(share) {
  const drawing = shape("svg", {viewBox: "-1 0 2 10", preserveAspectRatio: "none", "aria-hidden": "true"});
  drawing.append(
    shape("rect", {x: Math.min(0, share), y: 1, width: Math.abs(share), height: 8, class: share < 0 ? "down" : "up"}),
    shape("line", {x1: 0, x2: 0, y1: 0, y2: 10, class: "zero", "vector-effect": "non-scaling-stroke"}));
  return drawing;
}

function seen(decision) {
  if (!decision.features) return [];
  return [el("details", {}, el("summary", {}, `All ${names.length} values that the model saw`),
    el("dl", {class: "facts"}, names.flatMap((name, place) =>
      [el("dt", {}, feature(name)), el("dd", {}, value(name, decision.features[place]))])))];
}
