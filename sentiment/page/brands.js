// The brands beside one another: shares as counted and as corrected, with their intervals.

import {byId, count, el, from, momentOf, percent, plural, say, shape, table} from "/page/dom.js";
import {brandName} from "/page/words.js";

const NEGATIVE = 0; // the place of a label in a share
let drawn = null;

const of = (shares) => shares?.[NEGATIVE] ?? null;
const shown = (share) => share === null ? "–" : percent(share, 0);
const sum = (window, name) => window.parts.reduce((all, part) => all + part[name], 0);
const opinions = (window) => ["negative", "neutral", "positive"].reduce((all, name) => all + sum(window, name), 0);

export function show(lines) {
  if (!drawn) {
    drawn = table("Brands", COLUMNS, lines);
    byId("brands").replaceChildren(drawn.element);
  } else drawn.fill(lines);
  const whole = lines.find((line) => line.brand === "*")?.window;
  headline(whole);
  say("brands-cover", !whole ? "Nothing is published yet: the first hour is, ten minutes after it is over."
    : `Published hours, ${momentOf(whole.at)} to ${momentOf(whole.until)}. Intervals are for 90 %; ` +
      "a share is corrected from audits of earlier days, where they and the opinions are enough.");
}

function headline(window) {
  const [counted, corrected] = [of(window?.counted), of(window?.corrected)];
  say("share", corrected !== null ? percent(corrected) : counted !== null ? percent(counted) : "–");
  const part = window?.covers ?? 1; // the rest was scored by a version that has no audits yet
  say("share-kind", counted !== null && corrected === null ? "as counted"
    : part < 1 ? `corrected by audits, ${percent(part, 0)} of the posts` : "corrected by audits");
  say("share-band", corrected !== null ? `90 % interval: ${percent(of(window.low))} to ${percent(of(window.high))}`
    : counted !== null ? "Not corrected yet: audits are known a day later." : "No hour has been published yet.");
  say("share-raw", corrected === null ? "" : `As counted, without correction: ${percent(counted)}`);
  say("share-covers", window ? `Of ${plural(opinions(window), "opinion")} in published hours, ${momentOf(window.at)} to ${momentOf(window.until)}.` : "");
}

const timeline = ({brand, window}) => `/v1/brands/${encodeURIComponent(brand)}/timeline?from=${window.at}&to=${window.until}&step=hour`;

const COLUMNS = [
  {name: "Brand", of: (row) => brandName(row.brand), show: (row) => el("a", {href: timeline(row), target: "_blank"}, brandName(row.brand))},
  {name: "As counted", number: true, of: (row) => of(row.window.counted) ?? -1, show: (row) => from("/v1/brands", shown(of(row.window.counted)))},
  {name: "Corrected", number: true, of: (row) => of(row.window.corrected) ?? -1, show: (row) => from("/v1/brands", shown(of(row.window.corrected)))},
  {name: "90 % interval", number: true, of: (row) => of(row.window.low) ?? -1,
    show: (row) => row.window.low ? from("/v1/brands", `${shown(of(row.window.low))} to ${shown(of(row.window.high))}`) : "–"},
  {name: "0 to 100 %", wrap: true, of: (row) => of(row.window.corrected) ?? of(row.window.counted) ?? -1, show: interval},
  {name: "Opinions", number: true, of: (row) => opinions(row.window), show: (row) => from(timeline(row), count(opinions(row.window)))},
  {name: "Late, waiting", number: true, of: (row) => sum(row.window, "late_pending"), show: (row) => from(timeline(row), count(sum(row.window, "late_pending")))},
];

/** The interval as a bar, the corrected share as a stroke in it, what was counted as a ring. */
function interval({window}) {
  const [counted, corrected, low, high] = [window.counted, window.corrected, window.low, window.high].map(of);
  const x = (share) => 100 * share;
  return shape("svg", {class: "interval", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true"},
    shape("rect", {class: "track", x: 0, y: 3.5, width: 100, height: 1}),
    ...(low === null ? [] : [shape("rect", {class: "span", x: x(low), y: 1, width: Math.max(0.5, x(high) - x(low)), height: 6}),
      shape("line", {class: "middle", x1: x(corrected), x2: x(corrected), y1: 0, y2: 8, "vector-effect": "non-scaling-stroke"})]),
    ...(counted === null ? [] : [shape("line", {class: "counted", x1: x(counted), x2: x(counted), y1: 0, y2: 8, "vector-effect": "non-scaling-stroke"})]));
}
