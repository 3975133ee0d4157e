// The operator's buttons.

import {answered, button, command, line, start, sure, waits} from "/page/actions.js";
import {byId, el} from "/page/dom.js";

const RELEASE = {retrain: "promote", promote: "promote", rollback: "rollback", withdraw: "withdraw"}; // what answers each
const DONE = {promote: "promoted", rollback: "rolled back to", withdraw: "withdrew"};
let rollback = null, withdraw = null, champion = "none";

export function build() {
  const version = el("input", {id: "version", inputmode: "numeric", pattern: "[0-9]{1,9}", size: "4", maxlength: "9", required: true});
  const force = el("input", {id: "force", type: "checkbox"});
  const asked = (kind, more, question) => async () => {
    const wanted = {kind, why: "asked for on the page", expected_champion: champion, ...more};
    if (question && !await sure(question)) return;
    start(kind, () => command(wanted));
  };
  const promote = () => version.reportValidity() && asked("promote", {version: version.value, force: force.checked},
    force.checked && `Promote version ${version.value}, even if the gate has refused it?`)();
  rollback = button("Roll back", () => asked("rollback", {})());
  withdraw = button("Withdraw", () => asked("withdraw", {}, `Withdraw version ${champion}? Posts get no opinion until another version is promoted.`)());
  byId("operator").replaceChildren(
    line("retrain", button("Retrain now", () => asked("retrain", {})()),
      "Learn from all labels known by now; released only if the gate lets it through. Takes a minute."),
    line("rollback", rollback, "To the last good version before the champion, as the ledger has it. Published hours keep the numbers that were told."),
    line("promote", button("Promote", promote), "Make a version of the registry the champion.",
      el("label", {for: "version"}, "version"), version, el("label", {class: "check"}, force, "past the gate")),
    line("withdraw", withdraw, "The kill switch: no version scores. Posts are counted as raw, and scored once a version is promoted."));
}

/** What the service says now: labels follow it, and what is under way is answered by it. */
export function update(told) {
  const [release, alarm] = [told.ledger[0], told.alarms[0]];
  champion = told.champion?.version ?? "none";
  rollback.textContent = told.back_to === null ? "Roll back" : `Roll back to version ${told.back_to}`;
  if (!waits("rollback")) rollback.disabled = told.back_to === null;
  if (!waits("withdraw")) withdraw.disabled = told.champion === null;
  answered({release, alarm}, (name, kinds) => {
    if (kinds.includes("release") && release.action === RELEASE[name]) return `Done: ${DONE[release.action]} version ${release.version}, ${release.why}.`;
    return kinds.includes("alarm") && ["command", "gate"].includes(alarm.kind) && `${alarm.message}; ${alarm.action}.`;
  }, "python -m sentiment monitor");
}
