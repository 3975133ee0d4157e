// How opinions and what became of them are said.

import {el} from "/page/dom.js";

export const LABELS = {negative: "Negative", neutral: "Neutral", positive: "Positive"};
export const WHY_NOT = {
  "language": "Not English", "spam": "Spam", "unsure": "Leans nowhere", "no-model": "No model in force", "error": "Could not be scored",
};
export const MARKS = {"shed": "by the linear model, as too many waited", "no-model": "no model in force", "error": "it could not be scored"};
export const KINDS = {
  crisis: "Crisis", confirmed: "Confirmed", retracted: "Taken back", gap: "Gap", drift: "Drift", quality: "Quality", guardrail: "Guardrail", gate: "Gate",
  model: "Model", lake: "Lake", command: "Command", monitor: "Monitor",
};
const COLUMNS = {
  words: "words in a post", pieces_per_word: "pieces a word", unknown: "unknown pieces", negative: "score of negative",
  positive: "score of positive", confidence: "confidence", distance: "distance from known posts",
};
export const column = (name) => COLUMNS[name] ?? name;

/** The reserved brand is all of them. */
export const brandName = (name) => name === "*" ? "all brands" : name;

/** The opinion with its shape, or why it is not counted; never the colour alone. */
export const opinion = (label, whyNot) => el("span", {class: label ?? "none"},
  el("i", {class: "shape", "aria-hidden": "true"}), LABELS[label] ?? WHY_NOT[whyNot] ?? whyNot);
