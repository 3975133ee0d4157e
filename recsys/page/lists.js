// The lists as they are shown, and what comes of them.

import {count, el, momentOf, say} from "/page/dom.js";
import {Rows} from "/page/rows.js";
import {open} from "/page/shopper.js";
import {came, source, thing} from "/page/words.js";

let demo = false, now = null;
const sources = (row) => [...new Set(row.sources.slice(0, 3))].map(source).join(", ");
const worth = (row) => 100 * row.bought.length + row.clicked.length;

const rows = new Rows({
  some: "taken",
  keys: {came: worth, first: (row) => thing(row.items[0], row.titles[0]), why: sources, user: (row) => row.user, at: (row) => row.at},
  line(row, fresh) {
    const top = row.items.slice(0, 3).map((item, place) => thing(item, row.titles[place])).join(", ");
    const outcome = came(row);
    return el("tr", {class: fresh ? "fresh" : null, click: () => open(row)},
      el("td", {}, el("button", {type: "button", "aria-haspopup": "dialog",
        "aria-label": `${outcome.textContent}, list of ${momentOf(row.at)}: show it`}, outcome)),
      el("td", {title: top}, top),
      el("td", {class: "quiet why"}, sources(row)),
      el("td", {class: "quiet by"}, row.user.slice(0, 8)),
      el("td", {class: "quiet when"}, momentOf(row.at)));
  },
  empty: (only) => only === "some" ? "Nothing has come of a list yet."
    : demo ? "No list yet: the shop opens when it has its first recipe and its first night."
    : "No list yet: GET /v1/recommendations/u000017, or run make demo-recsys.",
  sample({only, held, sorted, shown, lines}) {
    if (!now?.lists) return say("sample", "\u00a0");
    say("sample", held ? `Held${sorted ? `: the latest ${count(shown)}, sorted` : ""}. New lists are counted, and not shown.`
      : only === "all" ? `The latest ${lines} of ${count(now.lists)}; at speed a sample that favours those taken up. Select one to see it whole.`
      : `The latest ${lines} of which something was clicked or bought. Select one to see it whole.`);
  },
});

/** All of it anew. */
export function start(given) {
  demo = given.told.demo;
  rows.start(given);
}

export const add = (given) => rows.add(given);

export function sample(given) {
  now = given;
  rows.sample();
}
