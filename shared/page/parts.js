// Parts that every page has: facts, bars against a limit, alarms, marked events, the tail of a series.

import {byId, dayOf, decimal, el, from, momentOf, shape} from "/page/dom.js";

export const figure = (value, show) => value === undefined || value === null ? "–" : show(value);

/** A line of facts, its words leading to the API call at `path`. */
export const fact = (path) => (name, ...words) => [el("dt", {}, name), el("dd", {}, from(path, ...words))];

/** Distances by name, the largest against their limits first. */
export function drift(distances, limits, named) {
  const least = (name) => limits[name] ?? 1;
  const order = Object.entries(distances).sort(([a, x], [b, y]) => y / least(b) - x / least(a)).slice(0, 5);
  byId("drift").replaceChildren(...order.map(([name, distance]) => {
    const limit = limits[name], top = Math.max(distance, 2 * (limit ?? 0.1));
    const drawing = shape("svg", {viewBox: "0 0 1 8", preserveAspectRatio: "none", "aria-hidden": "true"},
      shape("rect", {class: "track", x: 0, y: 3, width: 1, height: 2}),
      shape("rect", {class: limit !== undefined && distance > limit ? "fill over" : "fill", x: 0, y: 1, width: distance / top, height: 6}));
    if (limit !== undefined) drawing.append(shape("line", {class: "limit", x1: limit / top, x2: limit / top, y1: 0, y2: 8, "vector-effect": "non-scaling-stroke"}));
    return el("div", {class: "bar-row", title: limit === undefined ? null : `beyond ${decimal(limit, 3)} it is drift`},
      el("span", {}, named(name)), drawing, el("span", {}, from("/v1/reports", decimal(distance, 3))));
  }));
}

export function alarms(given, kinds) {
  const shown = given.slice(0, 4);
  byId("alarms").replaceChildren(...(shown.length ? shown.map((alarm) => el("li", {},
    el("strong", {}, `${kinds[alarm.kind] ?? alarm.kind}, ${momentOf(alarm.at)}`), el("br"), alarm.message,
    alarm.action ? el("span", {class: "quiet"}, `; ${alarm.action}`) : null))
    : [el("li", {class: "quiet"}, "None.")]));
}

/** The words of the numbered lines on the charts. */
export function marks(found) {
  const words = found.map((mark) => `${dayOf(mark.at)} ${mark.text}`), place = byId("marks");
  if (place.dataset.words === words.join()) return;
  place.dataset.words = words.join();
  place.replaceChildren(...words.map((word) => el("li", {}, word)));
}

/** A figure of a row, and how it differs from that of the row before. */
export function change(row, key, show, path) {
  const [value, before] = [row.figures[key], row.before?.figures[key]];
  if (value === undefined || value === null) return "–";
  const moved = before === undefined || before === null ? null : value - before, size = show(Math.abs(moved));
  return el("span", {}, from(path, show(value)), moved === null ? null
    : el("span", {class: "change"}, size === show(0) ? "same" : `${moved < 0 ? "−" : "+"}${size}`));
}
