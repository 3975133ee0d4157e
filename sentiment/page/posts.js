// The list of posts as they are read.

import {count, el, momentOf, percent, say} from "/page/dom.js";
import {open} from "/page/post.js";
import {Rows} from "/page/rows.js";
import {LABELS, WHY_NOT, opinion} from "/page/words.js";

const GONE = "Deleted by its author.";
let demo = false, now = null;

const rows = new Rows({
  some: "negative",
  keys: {
    label: (row) => Object.keys(LABELS).indexOf(row.label), sure: (row) => row.sure ?? -1, text: (row) => row.text.toLowerCase(),
    brand: (row) => row.brands[0] ?? "", at: (row) => row.at,
  },
  line(row, fresh) {
    const word = LABELS[row.label] ?? `Not counted: ${WHY_NOT[row.why_not] ?? row.why_not}`, text = row.gone ? GONE : row.text;
    return el("tr", {class: fresh ? "fresh" : null, click: row.gone ? null : () => open(row.id)},
      el("td", {}, row.gone ? opinion(null, "Deleted") : el("button", {type: "button", "aria-haspopup": "dialog",
        "aria-label": `${word}: ${text.slice(0, 80)}: show why`}, opinion(row.label, row.why_not))),
      el("td", {class: "number by"}, row.sure === null ? "–" : percent(row.sure, 0)),
      el("td", {title: text, dir: "auto", class: row.gone ? "quiet" : null}, text),
      el("td", {class: "quiet why"}, row.brands.join(", ")),
      el("td", {class: "quiet when"}, momentOf(row.at)));
  },
  empty: (only) => only === "some" ? "Nothing negative has been said yet."
    : demo ? "No post yet: the crowd begins when there is a first model."
    : "No post yet: write some to the topic sentiment.posts, or run make demo-sentiment.",
  sample({only, held, sorted, shown, lines}) {
    if (!now?.posts) return say("sample", "\u00a0");
    say("sample", held ? `Held${sorted ? `: the latest ${count(shown)}, sorted` : ""}. New posts are counted, and not shown.`
      : only === "all" ? `The latest ${lines} of ${count(now.posts)}; at speed a sample that favours the negative. Select one to see why.`
      : `The latest ${lines} of ${count(now.labels.negative)} negative ones. Select one to see why.`);
  },
});

export function start(given) {
  demo = given.told.demo;
  rows.start(given);
}

export const add = (given) => rows.add(given);

export function sample(given) {
  now = given;
  rows.sample();
}
