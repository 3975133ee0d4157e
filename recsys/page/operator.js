// The operator's buttons, and those of a demo's visitor.

import {answered, button, command, line, start, sure, waits} from "/page/actions.js";
import {byId, el} from "/page/dom.js";
import {ask} from "/page/live.js";

const ANSWERS = ["command", "recipe"]; // kinds of alarm that say what became of a command
const DONE = {rollback: "rolled back to", withdraw: "withdrawn: recipe", promote: "promoted recipe"};
const NAMES = {"no-input": "no input", "bad-recipe": "bad recipe"};
let rollback = null, backTo = null, latest = null; // the table that its label names; what the service said last

export function build(told) {
  const version = el("input", {id: "version", inputmode: "numeric", pattern: "[0-9]{1,9}", size: "4", maxlength: "9", required: true});
  const force = el("input", {id: "force", type: "checkbox"});
  const asked = (name, wanted, question) => async () => {
    const body = {why: "asked for on the page", ...wanted()}; // of what is shown now
    if (question && !await sure(question)) return;
    start(name, () => command(body));
  };
  const recipe = () => latest.recipe?.version ?? "none";
  const promote = () => version.reportValidity() && asked("promote",
    () => ({kind: "promote", version: version.value, force: force.checked, expected_champion: recipe()}),
    force.checked && `Promote recipe ${version.value}, even if its gate has refused it?`)();
  rollback = button("Roll back", asked("rollback",
    () => ({kind: "rollback", version: backTo, expected_champion: latest.table?.version ?? "none"})));
  byId("operator").replaceChildren(
    line("night", button("Run tonight", asked("night", () => ({kind: "night"}))),
      "Tonight's night again, with what is known by now; published only if the gate lets it through. Refused when tonight's table was rolled back."),
    line("rollback", rollback, "To the table before, whose recipe comes back with it. At once, by one switch; what is taken back never comes back by itself."),
    line("train", button("Train a recipe", asked("train", () => ({kind: "train"}))),
      "From the whole lake; in force from the next night on if its gate lets it through. Takes a minute."),
    line("promote", button("Promote", promote), "Put a recipe of the registry in force, from the next night on.",
      el("label", {for: "version"}, "recipe"), version, el("label", {class: "check"}, force, "past the gate")),
    line("withdraw", button("Withdraw the recipe", asked("withdraw",
      () => ({kind: "withdraw", expected_champion: recipe()}), "Let no recipe rank until another is promoted?")),
      "From the next night on a hand blend of the sources ranks. The table that is shown stays."));
  if (!told.demo) return;
  const wish = (name, question) => async () => {
    if (!question || await sure(question)) start(name, () => ask("/v1/wishes", {wish: NAMES[name]}), "Heard; it comes with the next virtual day.");
  };
  byId("wishes").replaceChildren(
    line("no-input", button("Break tonight's input", wish("no-input")),
      "A day's events do not arrive: the gate should refuse the table of the night after it."),
    line("bad-recipe", button("Force a bad recipe", wish("bad-recipe", "Force a recipe past its gate that knows little but bestsellers?")),
      "No gate sees it, clicks will: roll back when they fall."));
}

/** What the service says now: labels follow it, and what is under way is answered by it. */
export function update(told) {
  latest = told;
  backTo = told.back_to;
  rollback.textContent = backTo === null ? "Roll back" : `Roll back to ${backTo}`;
  if (!waits("rollback")) rollback.disabled = backTo === null;
  const [release, night] = [told.ledger[0], told.nights[0]];
  const alarm = told.alarms.find((each) => ANSWERS.includes(each.kind));
  answered({release, alarm, night}, (name, kinds) => {
    if (name === "night" || name === "no-input") {
      if (kinds.includes("night") && (name === "night" || night.refused)) return night.refused ? `Refused: ${night.refused}; yesterday's table stays.` : `Done: ${night.version} is published.`;
      return name === "night" && kinds.includes("alarm") && `${alarm.message}; ${alarm.action}.`;
    }
    const line = told.ledger.find((each) => each.subject === (name === "rollback" ? "table" : "recipe"));
    const action = {rollback: "rollback", withdraw: "withdraw"}[name] ?? "promote";
    if (kinds.includes("release") && line?.action === action) return `Done: ${DONE[action]} ${line.version}, ${line.why}.`;
    return kinds.includes("alarm") && `${alarm.message}; ${alarm.action}.`;
  }, "python -m recsys monitor");
}
