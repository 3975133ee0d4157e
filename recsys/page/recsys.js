// The page of recsys: what the stream brings, to whom it is shown.

import {say} from "/page/dom.js";
import * as lists from "/page/lists.js";
import {nights} from "/page/nights.js";
import * as operator from "/page/operator.js";
import * as shell from "/page/shell.js";
import * as shopper from "/page/shopper.js";
import * as standing from "/page/standing.js";
import * as time from "/page/time.js";

const ACTS = ["History", "Recipe", "Live", "Broken nights", "New season", "Bad recipe", "Books"];
let told = null, state = null;

function moment(given) {
  state = given;
  shell.moment(state, standing.notices(state));
  say("standing", standing.sentence(told, state));
  standing.now(state.now);
  standing.table(told, state);
  lists.sample(state.now);
  shopper.update(state);
  operator.update(told);
}

function hear(given) {
  told = given;
  say("standing", standing.sentence(told, state));
  standing.worth(told);
  standing.table(told, state);
  standing.recipe(told);
  standing.drift(told, state);
  standing.alarms(told);
  nights(told);
  shell.story(told, ACTS);
  time.paint(told);
  operator.update(told);
}

function all(given) {
  ({state} = given);
  if (!told) operator.build(given.told);
  hear(given.told);
  moment(given.state);
  lists.start(given);
}

shell.begin({all, heard: {told: hear, rows: lists.add, state: moment}});
