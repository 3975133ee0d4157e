// What a model reads in a text: its scores, the words that moved it, and buttons to say otherwise.

import {el, percent, say, shape} from "/page/dom.js";
import {ask} from "/page/live.js";
import {LABELS, WHY_NOT, opinion} from "/page/words.js";

export function scores(score) {
  const part = el("div", {}, el("h3", {}, "How sure the model is"));
  if (!score) part.append(el("p", {class: "quiet"}, "It was not scored."));
  else part.append(el("div", {class: "bars"}, Object.keys(LABELS).map((label, place) => {
    const drawing = shape("svg", {viewBox: "0 0 1 8", preserveAspectRatio: "none", "aria-hidden": "true"},
      shape("rect", {class: "track", x: 0, y: 3, width: 1, height: 2}),
      shape("rect", {class: `fill ${label}`, x: 0, y: 1, width: score[place], height: 6}));
    return el("div", {class: "bar-row"}, opinion(label), drawing, el("span", {}, percent(score[place], 0)));
  })));
  return part;
}

/** The text as the model sees it; under a word, how many points of the label's probability go when the word does. */
export function words({label, why_not: why, words: each, model}) {
  if (label === null) return [el("p", {class: "quiet"}, `It is not counted: ${(WHY_NOT[why] ?? "it could not be scored").toLowerCase()}.`)];
  const points = (moved) => `${moved > 0 ? "+" : "−"}${Math.abs(100 * moved).toFixed(0)}`;
  return [
    el("p", {class: "words", dir: "auto"}, each.map(({word, moved}) => el("span",
      {class: moved === 0 ? "word" : moved > 0 ? `word moved ${label}` : "word moved against"}, word,
      moved === 0 ? null : el("small", {}, points(moved))))),
    el("p", {class: "small quiet"}, `Below a word: how many points of “${LABELS[label].toLowerCase()}” go when it is left out, ` +
      `by version ${model}. What rounding alone could move is shown as nothing.`)];
}

/** One click says what it should have been. */
export function corrections(id, shown) {
  const came = el("p", {class: "came", role: "status"});
  const button = (label) => el("button", {type: "button", class: "act", disabled: label === shown,
    click: (event) => correct(id, label, event.currentTarget, came)}, opinion(label));
  return el("div", {}, el("h3", {}, "Is that wrong? It says"), el("div", {class: "controls"}, Object.keys(LABELS).map(button)), came,
    el("p", {class: "small quiet"}, "A correction moves no count: readers correct what hurts them, and are no sample. Two who agree are heard."));
}

async function correct(id, label, pressed, came) {
  const buttons = pressed.parentElement.querySelectorAll("button");
  buttons.forEach((each) => { each.disabled = true; });
  try {
    await ask("/v1/corrections", {post: id, label, reader: reader()});
    say(came, `Taken down: ${LABELS[label].toLowerCase()}.`);
  } catch (error) {
    say(came, `Not done: ${error.message}`);
    buttons.forEach((each) => { each.disabled = false; });
  }
}

/** A random name, the same in this browser, so that one reader counts once. */
function reader() {
  const known = localStorage.getItem("reader") ?? `page-${Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  localStorage.setItem("reader", known);
  return known;
}
