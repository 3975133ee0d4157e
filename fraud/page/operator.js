// The operator's buttons, and those of a demo's visitor.

import {answered, button, command, line, start, sure, waits} from "/page/actions.js";
import {byId, el} from "/page/dom.js";
import {ask} from "/page/live.js";

const RELEASED = {promote: "promoted", rollback: "rolled back to", withdraw: "withdrew"};

let rollback = null, withdraw = null, attack = null, inForce = "none";

export function build(told) {
  const version = el("input", {id: "version", inputmode: "numeric", pattern: "[0-9]{1,9}", size: "4", maxlength: "9", required: true});
  const force = el("input", {id: "force", type: "checkbox"});
  const asked = (name, wanted, question) => async () => {
    if (question && !await sure(question)) return;
    start(name, () => command({why: "asked for on the page", expected_champion: inForce, ...wanted()}));
  };
  const promote = () => version.reportValidity() && asked("promote",
    () => ({kind: "promote", version: version.value, force: force.checked}),
    force.checked && `Promote version ${version.value}, even if the gate has refused it?`)();
  rollback = button("Roll back", asked("rollback", () => ({kind: "rollback"})));
  withdraw = button("Withdraw", asked("withdraw", () => ({kind: "withdraw"}), "Withdraw the champion, and let the rules decide?"));
  byId("operator").replaceChildren(
    line("retrain", button("Retrain now", asked("retrain", () => ({kind: "retrain"}))),
      "Learn from all labels known by now; released only if the gate lets it through. Takes half a minute."),
    line("rollback", rollback, "To the version before the champion, as the ledger has it. At once; a promotion undoes it."),
    line("withdraw", withdraw, "The rules decide until a version is promoted. At once."),
    line("promote", button("Promote", promote), "Make a version of the registry the champion.",
      el("label", {for: "version"}, "version"), version, el("label", {class: "check"}, force, "past the gate")));
  if (!told.demo) return;
  const wish = (name, wanted, question) => async () => {
    if (!question || await sure(question)) start(name, () => ask("/v1/wishes", {wish: wanted}), "Heard; it comes when the virtual day is over.");
  };
  attack = button("Start the attack", wish("attack", "attack"));
  byId("wishes").replaceChildren(
    line("attack", attack, "New fraudsters, from the next virtual day on: slowly, at home, in ordinary amounts."),
    line("bad", button("Release a bad model", wish("bad", "bad release", "Release a model past the gate that declines far too much?")),
      "Trees calibrated for a world full of fraud. A guardrail should take it back."));
}

/** What the service says now: labels follow it, and what is under way is answered by it. */
export function update(told) {
  inForce = told.in_force;
  withdraw.textContent = told.champion === null ? "Withdraw" : `Withdraw version ${told.in_force}`;
  if (!waits("withdraw")) withdraw.disabled = told.champion === null;
  rollback.textContent = told.back_to === null ? "Roll back" : `Roll back to version ${told.back_to}`;
  if (!waits("rollback")) rollback.disabled = told.back_to === null;
  const begun = told.scenes.some((scene) => scene.marks === "attack");
  if (attack && begun) {
    attack.disabled = true;
    attack.textContent = "The attack has begun";
  }
  const [release, alarm] = [told.ledger[0], told.alarms[0]];
  answered({release, alarm}, (name, kinds) => {
    if (name === "attack") return begun && "It has begun.";
    if (kinds.includes("release")) return `Done: ${RELEASED[release.action] ?? release.action} version ${release.version}, ${release.why}.`;
    return kinds.includes("alarm") && name !== "bad" && `${alarm.message}; ${alarm.action}.`;
  }, "python -m fraud monitor");
}
