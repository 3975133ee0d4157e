// Buttons that act: each says what it does and to what, that it is under way, and what came of it.

import {byId, el, say} from "/page/dom.js";
import {ask} from "/page/live.js";

const PATIENCE = 120; // seconds after which an unanswered command is said to be unanswered
const lines = {};
let latest = {}; // what the service said last, by kind, as text
const keys = new Map(); // of commands that have not been accepted yet, by their text
const pending = new Map(); // by name: {since, before: what it had said then}

/** A button with its words, and the place where it says what came of it. */
export function line(name, button, words, ...more) {
  const came = el("p", {class: "came", role: "status"});
  lines[name] = {button, came};
  return el("div", {class: "action"}, el("div", {class: "controls"}, button, ...more),
    el("div", {}, el("p", {class: "small quiet"}, words), came));
}

export const button = (text, click) => el("button", {type: "button", class: "act", click}, text);

/** Send a command. Until it has been accepted it keeps its key, so that one that is sent again counts once. */
export async function command(body) {
  const text = JSON.stringify(body);
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (!keys.has(text)) keys.set(text, random());
  const accepted = await ask("/v1/commands", body, {"Idempotency-Key": keys.get(text)});
  keys.delete(text);
  return accepted;
}

/** Whether the action waits to be answered. */
export const waits = (name) => pending.has(name);

export async function start(name, send, words = "In the log; waiting for the monitor …") {
  const {button: pressed, came} = lines[name];
  pressed.disabled = true;
  say(came, "Sending …");
  const before = latest;
  try {
    await send();
    pending.set(name, {since: Date.now(), before});
    say(came, words);
  } catch (error) {
    say(came, `Not done: ${error.message}`);
    pressed.disabled = false;
  }
}

/**
 * What is under way is answered by what the service says next. `newest`: its last words by kind, as lists forget
 * their oldest, so their lengths say nothing; `came(name, kinds)`: what came of it by those new words, or nothing yet.
 */
export function answered(newest, came, process) {
  latest = Object.fromEntries(Object.entries(newest).map(([kind, word]) => [kind, JSON.stringify(word)]));
  for (const [name, {since, before}] of pending) {
    const words = came(name, Object.keys(latest).filter((kind) => latest[kind] !== before[kind]));
    if (words) finish(name, words);
    else if (Date.now() - since > 1000 * PATIENCE) finish(name, `No answer yet: does \`${process}\` run?`);
  }
}

function finish(name, words) {
  const {button: pressed, came} = lines[name];
  say(came, words);
  pressed.disabled = false;
  pending.delete(name);
}

/** Ask once. */
export function sure(question) {
  const box = byId("sure");
  return new Promise((resolve) => {
    const answer = (yes) => () => { box.close(); resolve(yes); };
    box.replaceChildren(
      el("div", {class: "title"}, el("h2", {id: "sure-title"}, question)),
      el("div", {class: "controls"}, button("No", answer(false)),
        el("button", {type: "button", class: "act first", click: answer(true)}, "Yes")));
    box.oncancel = () => resolve(false);
    box.showModal();
  });
}
