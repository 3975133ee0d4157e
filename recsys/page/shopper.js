// A shopper: history, today's list with its reasons, and popularity beside it; and one list as it was shown.

import {byId, el, momentOf, plural, say, table} from "/page/dom.js";
import {ask} from "/page/live.js";
import {detail} from "/page/shell.js";
import {PATHS, came, named, source} from "/page/words.js";

const at = (user, by) => `/v1/shoppers/${encodeURIComponent(user)}${by === "pseudonym" ? "?by=pseudonym" : ""}`;

let who = null, seen = ""; // whom, and of which table

/** The picker answers by itself as soon as there is a table, and again when there is another. */
export function update({version}) {
  if (version && version !== seen) show(who ?? byId("user").value.trim(), version);
  else if (!version && !who) say("shopper-said", "No table has been published yet, so there is no list to show.");
}

byId("pick").addEventListener("submit", (event) => {
  event.preventDefault();
  say("shopper-said", "Asking …");
  show(byId("user").value.trim(), seen);
});

async function show(user, version) {
  who = user;
  seen = version;
  byId("shopper-api").href = at(user);
  const given = await ask(at(user)).catch((error) => error);
  if (who !== user) return; // another one was picked meanwhile
  say("shopper-said", given instanceof Error ? given.message : words(given));
  byId("shopper-shown").replaceChildren(...(given instanceof Error ? [] : sides(given)));
}

function words({user, path, explored, version, shown, popular}) {
  const common = shown.filter((place) => popular.some((other) => other.item === place.item)).length;
  return `${user.slice(0, 8)} …, from ${PATHS[path]}, table ${version}; ${common} of ${shown.length} would be shown to a stranger, too.` +
    (explored ? " One of the twentieth whose first places stand in random order tonight, so that lists can be judged." : "");
}

function sides({shown, popular, history}) {
  const place = (row) => shown.indexOf(row) + 1;
  return [el("div", {class: "picked"},
    el("div", {},
      el("h3", {}, "Shown now"),
      table("Shown now", [
        {name: "Place", number: true, of: place},
        {name: "Item", wrap: true, of: (row) => row.title, show: named},
        {name: "Reason given", wrap: true, of: (row) => row.reason},
        {name: "From", of: (row) => source(row.source)},
      ], shown).element),
    el("div", {},
      el("h3", {}, "A stranger, by popularity"),
      el("ol", {class: "plain"}, popular.map((row) => el("li", {}, named(row)))),
      el("h3", {}, "Bought last"),
      history.length ? el("ul", {class: "plain"}, history.map((row) => el("li", {}, named(row))))
        : el("p", {class: "quiet"}, "Nothing that the table knows of.")))];
}

/** A list as it was shown, with what came of it; beside it what the same shopper would be shown now. */
export async function open(row) {
  const {content} = detail(`A list, ${momentOf(row.at)} UTC`);
  const outcome = (place) => row.bought.includes(place + 1) ? came({bought: [1], clicked: []})
    : row.clicked.includes(place + 1) ? came({bought: [], clicked: [1]}) : came({bought: [], clicked: []});
  const places = row.items.map((item, place) => ({item, place, title: row.titles[place], source: row.sources[place]}));
  const later = el("div", {}, el("p", {class: "quiet"}, "Asking …")), path = at(row.user, "pseudonym");
  content.replaceChildren(
    el("p", {class: "verdict"}, came(row)),
    el("p", {class: "quiet"}, `From ${PATHS[row.path] ?? row.path}, table ${row.version}; ${plural(row.length, "place")}` +
      `${row.length > row.items.length ? `, the first ${row.items.length} of them here` : ""}${row.explored ? "; its first places in random order" : ""}.`),
    el("p", {class: "small quiet"}, `Shopper ${row.user}, list ${row.list_id}`),
    el("h3", {}, "As it was shown"),
    table("As it was shown", [
      {name: "Place", number: true, of: (each) => each.place + 1},
      {name: "Item", wrap: true, of: (each) => each.title, show: named},
      {name: "From", of: (each) => source(each.source)},
      {name: "What came", of: (each) => outcome(each.place).textContent, show: (each) => outcome(each.place)},
    ], places).element,
    el("h3", {}, "The same shopper now"), later,
    el("p", {class: "small"}, el("a", {href: path}, "This shopper as JSON")));
  const given = await ask(path).catch((error) => error);
  later.replaceChildren(...(given instanceof Error ? [el("p", {class: "quiet", role: "alert"}, given.message)] : sides(given)));
}
