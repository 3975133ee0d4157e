// How opinions and what became of them are said.

import {el} from "/page/dom.js";

export const LABELS = {negative: "Negative", neutral: "Neutral", positive: "Positive"};
export const WHY_NOT = {
  "language": "not English", "spam": "spam", "unsure": "leans nowhere", "no model": "no model yet",
};
export const MARKS = {"shed": "by the linear model, as too many waited", "no-model": "no model yet"};
export const KINDS = {
  crisis: "Crisis", retracted: "Taken back", drift: "Drift", quality: "Quality", guardrail: "Guardrail", gate: "Gate",
  model: "Model", lake: "Lake", command: "Command",
};
const COLUMNS = {
  words: "words in a post", pieces_per_word: "pieces a word", unknown: "unknown pieces", negative: "score of negative",
  positive: "score of positive", confidence: "confidence",
};
export const column = (name) => COLUMNS[name] ?? name;

/** The reserved brand is all of them. */
export const brandName = (name) => name === "*" ? "all brands" : name;

/** The opinion with its shape; never the colour alone. */
export const opinion = (label, word = LABELS[label] ?? "Not counted") =>
  el("span", {class: label ?? "none"}, el("i", {class: "shape", "aria-hidden": "true"}), word);
