// The live list: the newest on top, held or sorted while the reader wants to read.

import {byId, el} from "/page/dom.js";

const LINES = 18; // rows shown
const KEPT = 4 * LINES; // and kept, to be sorted

/**
 * Rows of the table `#lines`, by their `number`; a row that has changed since has another `change`.
 *
 * `keys`: what each column sorts by. `line(row, fresh)`: its table row. `some`: which rows the second button shows, as
 * the name of the list that brings them. `empty(only)`: what stands where there are none. `sample({only, held, sorted,
 * shown, lines})`: the words above.
 */
export class Rows {
  #only = "all";
  #held = null; // what was seen then
  #sorted = null;
  #seen = {all: [], some: []};
  #heads = [...document.querySelectorAll("#lines th")];

  constructor({keys, line, some, empty, sample}) {
    Object.assign(this, {keys, line, some, empty, words: sample});
    for (const head of this.#heads) {
      const name = head.dataset.sort, first = head.classList.contains("number") || name === "at"; // the largest on top
      head.firstChild.addEventListener("click", () => this.#hold(true, {name, down: this.#sorted?.name === name ? !this.#sorted.down : first}));
    }
    byId("show-all").addEventListener("click", () => this.#choose("all"));
    byId("show-some").addEventListener("click", () => this.#choose("some"));
    byId("hold").addEventListener("click", () => this.#hold(!this.#held));
  }

  /** All of it anew. */
  start(given) {
    this.#seen = {all: [], some: []};
    this.#enter(given);
    this.#show(Infinity);
  }

  add(given) {
    const before = this.#seen[this.#only][0]?.number ?? 0, moved = given.recent.length + given[this.some].length;
    this.#enter(given);
    if (!this.#held && moved) this.#show(before);
  }

  /** At speed the newest would all be ordinary: the others stand among them, each once, in the order of the log. */
  #enter(given) {
    const some = given[this.some];
    for (const [name, more] of [["all", [...given.recent, ...some]], ["some", some]]) {
      const known = new Map([...this.#seen[name], ...more].map((row) => [row.number, row])); // the later word holds
      this.#seen[name] = [...known.values()].sort((a, b) => b.number - a.number).slice(0, KEPT);
    }
  }

  get #shown() { return (this.#held ?? this.#seen)[this.#only]; }

  /** Rows are kept while they stand, so that a focus on one is not lost each half second. */
  #show(before) {
    const body = byId("rows"), wanted = this.#inOrder(this.#shown).slice(0, LINES);
    const known = new Map([...body.children].map((child) => [child.dataset.number, child]));
    const lines = wanted.map((row) => {
      const number = String(row.number), change = String(row.change ?? 0), old = known.get(number);
      if (old?.dataset.change === change) return old;
      const made = this.line(row, row.number > before);
      Object.assign(made.dataset, {number, change});
      if (old) {
        const focused = old.contains(document.activeElement);
        old.replaceWith(made);
        if (focused) made.querySelector("button")?.focus();
      }
      return made;
    });
    lines.forEach((each, place) => { if (body.children[place] !== each) body.insertBefore(each, body.children[place] ?? null); });
    while (body.children.length > Math.max(1, lines.length)) body.lastChild.remove();
    if (!lines.length) body.replaceChildren(el("tr", {}, el("td", {colspan: this.#heads.length, class: "quiet"}, this.empty(this.#only))));
  }

  #inOrder(rows) {
    if (!this.#sorted) return rows;
    const key = this.keys[this.#sorted.name], way = this.#sorted.down ? -1 : 1;
    return [...rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * way);
  }

  #choose(which) {
    this.#only = which;
    byId("show-all").setAttribute("aria-pressed", String(which === "all"));
    byId("show-some").setAttribute("aria-pressed", String(which === "some"));
    this.#show(Infinity);
    this.sample();
  }

  /** Who sorts wants to read, so the list is held; letting it go brings the newest on top again. */
  #hold(wish, order = null) {
    this.#held = wish ? this.#held ?? {...this.#seen} : null;
    this.#sorted = order;
    byId("hold").setAttribute("aria-pressed", String(wish));
    for (const head of this.#heads) {
      if (head.dataset.sort !== order?.name) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    }
    this.#show(Infinity);
    this.sample();
  }

  /** Say what is shown of how many. */
  sample() {
    const shown = this.#shown.length;
    this.words({only: this.#only, held: this.#held, sorted: this.#sorted, shown, lines: Math.min(LINES, shown)});
  }
}
