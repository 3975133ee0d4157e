// One post: what it says, which words moved that, and a click that says otherwise.

import {el, momentOf} from "/page/dom.js";
import {ask} from "/page/live.js";
import {corrections, scores, words} from "/page/reading.js";
import {detail} from "/page/shell.js";
import {LABELS, MARKS, brandName, opinion} from "/page/words.js";

export async function open(id) {
  const path = `/v1/opinions/${encodeURIComponent(id)}`, {title, content} = detail("Post");
  try {
    const said = await ask(path), why = el("div", {}, el("p", {class: "quiet"}, "Asking the model …"));
    title.textContent = said.brands.length ? `On ${said.brands.map(brandName).join(", ")}` : "On no brand that is watched";
    content.replaceChildren(
      el("blockquote", {dir: "auto"}, said.text),
      el("p", {class: "verdict"}, opinion(said.label, said.why_not ?? said.mark)),
      el("p", {class: "quiet"}, `${momentOf(said.at)} UTC${said.model ? `, by version ${said.model}` : ""}`,
        ...[said.label === null && "not counted", MARKS[said.mark]].filter(Boolean).map((word) => `; ${word}`), "."),
      el("div", {class: "pair"}, scores(said.score), corrections(said.id, said.label)),
      el("h3", {}, "The words that moved it"), why,
      el("p", {class: "small"}, el("a", {href: path}, "This opinion as JSON")));
    const now = await ask("/v1/opinions", {text: said.text}).catch((error) => error);
    why.replaceChildren(...(now instanceof Error ? [el("p", {class: "quiet"}, now.message)] : [
      now.model !== said.model || now.label !== said.label
        ? el("p", {class: "small quiet"}, `Version ${now.model}, which scores now, says: ${LABELS[now.label] ?? "not counted"}.`) : null,
      ...words(now)].filter(Boolean)));
  } catch (error) {
    content.replaceChildren(el("p", {role: "alert"}, error.message));
  }
}
