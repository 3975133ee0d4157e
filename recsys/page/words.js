// How this shop says things.

import {el, plural} from "/page/dom.js";

export const KINDS = {
  drift: "Drift", clicks: "Clicks", gate: "Gate", night: "Night", table: "Table", recipe: "Recipe", command: "Command",
};
export const PATHS = {
  table: "a row of the table", today: "what they did today", popular: "popularity: unknown", expired: "popularity: the table is too old",
};
export const SOURCES = {
  als: "taste", linear: "goes with", repeat: "again", content: "alike", popular: "popular",
};
const COLUMNS = {category: "category bought", price: "price paid", small: "small sellers' share", hour: "hour of purchase"};

export const source = (name) => SOURCES[name] ?? name;
export const column = (name) => COLUMNS[name] ?? name;

/** What a thing is called in a line: its title, else its id. */
export const thing = (item, title) => title || item;

/** What it is called where there is room: titles are not unique. */
export const named = ({item, title}) => el("span", {}, title, title ? " " : null, el("span", {class: "small quiet"}, item));

/** What came of a list, with its shape; never the colour alone. */
export function came({bought, clicked}) {
  const [kind, words] = bought.length ? ["bought", `${bought.length} bought`]
    : clicked.length ? ["clicked", plural(clicked.length, "click")] : ["shown", "shown"];
  return el("span", {class: kind}, el("i", {class: "shape", "aria-hidden": "true"}), words);
}
