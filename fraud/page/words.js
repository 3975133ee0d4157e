// How this bank says things.

import {count, decimal, el, percent} from "/page/dom.js";

export const DONE = {approve: "Approved", review: "Review", decline: "Declined"};
export const MARKS = {
  "late": "came too late to be compared", "no-model": "no model yet", "stale-book": "shop counts not up to date",
  "owner-late": "the decider was late", "error": "could not be scored",
};
export const KINDS = {
  drift: "Drift", quality: "Quality", guardrail: "Guardrail", gate: "Gate", model: "Model", lake: "Lake",
  command: "Command", registry: "Registry", unreadable: "Unreadable record", monitor: "Monitor",
};

const WINDOWS = {"10m": "10 minutes", "1h": "1 hour", "1d": "1 day", "7d": "7 days", "30d": "30 days", "28d": "28 days"};

/** A feature's name in words: `card_payments_10m` is "card payments, 10 minutes". */
export function feature(name) {
  const parts = name.split("_"), window = WINDOWS[parts.at(-1)];
  return window ? `${parts.slice(0, -1).join(" ")}, ${window}` : parts.join(" ");
}

/** A feature's value as a person would write it. */
export function value(name, given) {
  if (name.includes("since")) return given < 0 ? "never" : duration(given);
  if (name.includes("_over_")) return given ? `× ${decimal(given)}` : "–";
  if (name.includes("risk")) return percent(given);
  if (name.startsWith("amount") || name.startsWith("card_amount")) return `€ ${decimal(given)}`;
  if (name === "weekday") return ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][given];
  if (name === "hour") return `${given}:00`;
  if (name.includes("_new_")) return given ? "yes" : "no";
  return count(given);
}

export function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** The action with its shape; never the colour alone. */
export const verdict = (action, word = DONE[action]) =>
  el("span", {class: action}, el("i", {class: "shape", "aria-hidden": "true"}), word);

/** A probability: a small one in words, as 0.0 % would be wrong. */
export const risk = (p) => p === null ? "–" : p < 0.0005 ? "< 0.1 %" : percent(p);
