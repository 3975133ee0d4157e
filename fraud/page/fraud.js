// The page of fraud: what the stream brings, to whom it is shown.

import {say} from "/page/dom.js";
import * as operator from "/page/operator.js";
import * as payments from "/page/payments.js";
import {releases} from "/page/releases.js";
import * as shell from "/page/shell.js";
import * as standing from "/page/standing.js";
import * as time from "/page/time.js";

const ACTS = ["History", "Training", "Live", "Attack", "Retrain", "Bad release", "Books"];
let told = null, state = null, series = null;

function moment(given) {
  state = given;
  shell.moment(state, standing.notices(state));
  say("standing", standing.sentence(told, state));
  standing.money(told, state);
  standing.now(state.now);
  standing.model(told, state);
  standing.drift(told, state);
  payments.sample(state.now);
  operator.update(told);
}

function hear(given) {
  told = given;
  standing.model(told, state);
  standing.drift(told, state);
  standing.alarms(told);
  releases(told);
  shell.story(told, ACTS);
  time.paint(told, series);
  say("standing", standing.sentence(told, state));
  standing.money(told, state);
  operator.update(told);
}

function all(given) {
  ({series, state} = given);
  if (!told) operator.build(given.told);
  hear(given.told);
  moment(given.state);
  payments.start(given);
}

function tail(newest) {
  if (!newest.at.length) return;
  time.join(series, newest);
  time.paint(told, series);
}

shell.begin({all, heard: {told: hear, rows: payments.add, state: moment, tail}});
