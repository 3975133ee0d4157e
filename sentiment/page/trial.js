// A typed sentence: its label, and the words that moved it.

import {byId, el} from "/page/dom.js";
import {ask} from "/page/live.js";
import {corrections, scores, words} from "/page/reading.js";
import {brandName, opinion} from "/page/words.js";

byId("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const place = byId("tried");
  try {
    const said = await ask("/v1/opinions", {text: byId("text").value});
    place.replaceChildren(
      el("p", {class: "verdict"}, opinion(said.label, said.why_not)),
      el("p", {class: "small quiet"}, said.brands.length ? `On ${said.brands.map(brandName).join(", ")}.` : "It names no brand that is watched, so it would move no count."),
      ...words(said),
      el("div", {class: "pair"}, scores(said.score), corrections(said.id, said.label)));
  } catch (error) {
    place.replaceChildren(el("p", {role: "alert"}, error.message));
  }
});
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("try-form").requestSubmit();
  }
});
