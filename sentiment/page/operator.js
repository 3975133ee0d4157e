// The operator's buttons.

import {answered, button, line, start, sure, waits} from "/page/actions.js";
import {byId, el} from "/page/dom.js";
import {ask} from "/page/live.js";

let rollback = null;

export function build() {
  const version = el("input", {id: "version", inputmode: "numeric", pattern: "[0-9]{1,9}", size: "4", maxlength: "9", required: true});
  const force = el("input", {id: "force", type: "checkbox"});
  const asked = (name, command, question) => async () => {
    if (question && !await sure(question)) return;
    start(name, () => ask("/v1/commands", {who: "page", why: "asked for on the page", ...command()}));
  };
  const promote = () => version.reportValidity() && asked("promote",
    () => ({kind: "promote", version: version.value, force: force.checked}),
    force.checked && `Promote version ${version.value}, even if the gate has refused it?`)();
  rollback = button("Roll back", asked("rollback", () => ({kind: "rollback"})));
  byId("operator").replaceChildren(
    line("retrain", button("Retrain now", asked("retrain", () => ({kind: "retrain"}))),
      "Learn from all labels known by now; released only if the gate lets it through. Takes a minute."),
    line("rollback", rollback, "To the version before the champion, as the ledger has it. Published hours keep the numbers that were told."),
    line("promote", button("Promote", promote), "Make a version of the registry the champion.",
      el("label", {for: "version"}, "version"), version, el("label", {class: "check"}, force, "past the gate")));
}

/** What the service says now: labels follow it, and what is under way is answered by it. */
export function update(told) {
  const [release, alarm] = [told.ledger[0], told.alarms[0]];
  rollback.textContent = told.back_to === null ? "Roll back" : `Roll back to version ${told.back_to}`;
  if (!waits("rollback")) rollback.disabled = told.back_to === null;
  answered({release, alarm}, (name, kinds) => {
    if (kinds.includes("release") && (release.action === "rollback") === (name === "rollback")) return `Done: ${release.action === "promote" ? "promoted" : "rolled back to"} version ${release.version}, ${release.why}.`;
    return kinds.includes("alarm") && ["command", "gate"].includes(alarm.kind) && `${alarm.message}; ${alarm.action}.`;
  }, "python -m sentiment monitor");
}
