// The page of sentiment: what the stream brings, to whom it is shown.

import {say} from "/page/dom.js";
import * as brands from "/page/brands.js";
import * as operator from "/page/operator.js";
import * as posts from "/page/posts.js";
import {releases} from "/page/releases.js";
import * as shell from "/page/shell.js";
import * as standing from "/page/standing.js";
import * as time from "/page/time.js";
import "/page/trial.js";

const ACTS = ["History", "Training", "Live", "Crisis", "New words", "Bad release", "Books"];
let told = null, state = null, series = null;

function moment(given) {
  state = given;
  shell.moment(state, standing.notices(state));
  say("standing", standing.sentence(told, state));
  standing.now(state);
  standing.model(told, state);
  standing.drift(told, state);
  posts.sample(state.now);
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
  operator.update(told);
}

function all(given) {
  ({series, state} = given);
  posts.start(given);
  compare(given.compared);
  if (!told) operator.build();
  hear(given.told);
  moment(given.state);
}

function compare({brands: lines, days}) {
  brands.show(lines);
  time.days(days);
}

function tail(newest) {
  time.join(series, newest);
  time.paint(told, series);
}

shell.begin({all, heard: {told: hear, rows: posts.add, state: moment, tail, compared: compare}});
