// Elements and words. Text goes into the page as text and never as HTML.

/** An element: `el("p", {class: "quiet"}, "text", otherElement)`; functions become listeners, null is left out. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** A shape of an SVG; its attributes are no styles, which the page's policy would refuse. */
export function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, given] of Object.entries(attributes)) made.setAttribute(key, given);
  made.append(...children);
  return made;
}

/** A number, and the API call that gives it; by keyboard the section's own link leads there. */
export const from = (path, ...words) => el("a", {class: "figure", href: path, tabindex: "-1", target: "_blank"}, ...words);

export const byId = (id) => document.getElementById(id);

/** Set text only when it has changed, so that a screen reader is not told the same again. */
export function say(id, text) {
  const place = typeof id === "string" ? byId(id) : id;
  if (place.textContent !== text) place.textContent = text;
}

const day = new Intl.DateTimeFormat("en-GB", {day: "numeric", month: "short", timeZone: "UTC"});
const whole = new Intl.DateTimeFormat("en-GB", {day: "numeric", month: "long", year: "numeric", timeZone: "UTC"});
const clock = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", timeZone: "UTC"});
const at = (seconds) => new Date(seconds * 1000);

export const dayOf = (seconds) => day.format(at(seconds));
export const dateOf = (seconds) => whole.format(at(seconds));
export const timeOf = (seconds) => clock.format(at(seconds));
export const momentOf = (seconds) => `${dayOf(seconds)}, ${timeOf(seconds)}`;

const grouped = new Intl.NumberFormat("en-GB", {maximumFractionDigits: 0});
const cents = new Intl.NumberFormat("en-GB", {minimumFractionDigits: 2, maximumFractionDigits: 2});

export const count = (value) => grouped.format(value);
export const euros = (value) => `${value < 0 ? "−" : ""}€ ${grouped.format(Math.abs(value))}`;
export const euroCents = (value) => `${value < 0 ? "−" : ""}€ ${cents.format(Math.abs(value))}`;
export const decimal = (value, digits = 2) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export function millis(seconds) {
  if (seconds === null) return "–";
  const ms = 1000 * seconds;
  return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}

export function ago(seconds) {
  if (seconds < 90) return plural(Math.round(seconds), "second");
  return seconds < 5400 ? plural(Math.round(seconds / 60), "minute") : plural(Math.round(seconds / 3600), "hour");
}

/** A table whose columns sort: columns are {name, of(row) -> value, show(row) -> text or element, number, wrap}. */
export function table(caption, columns, rows, {chosen = () => false} = {}) {
  const body = el("tbody");
  const heads = columns.map((column) => el("th", {scope: "col", class: column.number ? "number" : null},
    el("button", {type: "button", click: () => sort(column)}, column.name)));
  let order = null, down = false;

  function sort(column) {
    down = order === column ? !down : Boolean(column.number);
    order = column;
    heads.forEach((head, place) => columns[place] === order
      ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    fill(rows);
  }

  function fill(given) {
    rows = given;
    if (!rows.length) return body.replaceChildren(el("tr", {}, el("td", {colspan: columns.length, class: "quiet"}, "None yet.")));
    const sorted = order === null ? rows : [...rows].sort((a, b) => {
      const [x, y] = [order.of(a), order.of(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
    body.replaceChildren(...sorted.map((row) => el("tr", {class: chosen(row) ? "chosen" : null}, columns.map((column) =>
      el("td", {class: column.number ? "number" : column.wrap ? "wrap" : null}, column.show ? column.show(row) : String(column.of(row)))))));
  }

  fill(rows);
  const made = el("table", {"aria-label": caption}, el("thead", {}, el("tr", {}, heads)), body);
  return {element: el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption}, made), fill};
}
