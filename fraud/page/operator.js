// The operator's buttons: each says what it does and to what, that it is under way, and what came of it.

import {byId, el, say} from "/page/dom.js";
import {ask} from "/page/live.js";

const PATIENCE = 120; // seconds after which an unanswered command is said to be unanswered
const lines = {};
let latest = null; // what the service said last
let pending = null; // {name, since, before: what it had said then}

function line(name, button, words, ...more) {
  const came = el("p", {class: "came", role: "status"});
  lines[name] = {button, came};
  return el("div", {class: "action"}, el("div", {class: "controls"}, button, ...more),
    el("div", {}, el("p", {class: "small quiet"}, words), came));
}

export function build(told) {
  const version = el("input", {id: "version", inputmode: "numeric", pattern: "[0-9]{1,9}", size: "4", maxlength: "9", required: true});
  const force = el("input", {id: "force", type: "checkbox"});
  const asked = (name, command, question) => async () => {
    if (question && !await sure(question)) return;
    start(name, () => ask("/v1/commands", {who: "page", why: "asked for on the page", ...command()}));
  };
  const promote = () => version.reportValidity() && asked("promote",
    () => ({kind: "promote", version: version.value, force: force.checked}),
    force.checked && `Promote version ${version.value}, even if the gate has refused it?`)();
  const rows = [
    line("retrain", button("Retrain now", asked("retrain", () => ({kind: "retrain"}))),
      "Learn from all labels known by now; released only if the gate lets it through. Takes half a minute."),
    line("rollback", button("Roll back", asked("rollback", () => ({kind: "rollback"}))),
      "To the version before the champion, as the ledger has it. At once; a promotion undoes it."),
    line("promote", button("Promote", promote), "Make a version of the registry the champion.",
      el("label", {for: "version"}, "version"), version, el("label", {class: "check"}, force, "past the gate")),
  ];
  byId("operator").replaceChildren(...rows);
  if (told.demo) {
    const wish = (name, wanted, question) => async () => {
      if (!question || await sure(question)) start(name, () => ask("/v1/wishes", {wish: wanted}));
    };
    byId("wishes").replaceChildren(
      line("attack", button("Start the attack", wish("attack", "attack")),
        "New fraudsters, from the next virtual day on: slowly, at home, in sums like anybody's."),
      line("bad", button("Release a bad model", wish("bad", "bad release", "Release a model past the gate that declines far too much?")),
        "Trees calibrated for a world full of fraud. A guardrail should take it back."));
  }
}

const button = (text, click) => el("button", {type: "button", class: "act", click}, text);

async function start(name, send) {
  const {button: pressed, came} = lines[name];
  pressed.disabled = true;
  say(came, "Sending …");
  const before = newest(latest);
  try {
    await send();
    pending = {name, since: Date.now(), before};
    say(came, name === "attack" || name === "bad"
      ? "Heard; it comes when the virtual day is over." : "In the log; waiting for the monitor …");
  } catch (error) {
    say(came, `Not done: ${error.message}`);
    pressed.disabled = false;
  }
}

/** What the service says now: labels follow it, and what is under way is answered by it. */
export function update(told) {
  const {rollback, attack} = lines;
  latest = told;
  rollback.button.textContent = told.back_to === null ? "Roll back" : `Roll back to version ${told.back_to}`;
  if (pending?.name !== "rollback") rollback.button.disabled = told.back_to === null;
  const begun = told.scenes.some((scene) => scene.marks === "attack");
  if (attack && begun) {
    attack.button.disabled = true;
    attack.button.textContent = "The attack has begun";
  }
  if (!pending) return;
  const [released, alarmed] = newest(told).map((each, place) => each !== pending.before[place]);
  const [release, alarm] = [told.ledger[0], told.alarms[0]];
  if (pending.name === "attack") {
    if (begun) finish("It has begun.");
  } else if (released) finish(`Done: ${release.action === "promote" ? "promoted" : "rolled back to"} version ${release.version}, ${release.why}.`);
  else if (alarmed && pending.name !== "bad") finish(`${alarm.message}; ${alarm.action}.`);
  if (pending && Date.now() - pending.since > 1000 * PATIENCE) finish("Nobody has answered yet: does `python -m fraud monitor` run?");
}

/** The newest release and alarm, as text: lists forget their oldest, so their lengths say nothing. */
const newest = (told) => [told.ledger[0], told.alarms[0]].map((each) => JSON.stringify(each));

function finish(words) {
  const {button: pressed, came} = lines[pending.name];
  say(came, words);
  pressed.disabled = false;
  pending = null;
}

/** Ask once. */
function sure(question) {
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
