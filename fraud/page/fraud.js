// The page of fraud: what the stream brings, to whom it is shown.

import {ago, byId, dateOf, el, say, timeOf} from "/page/dom.js";
import {SignedOut, ask, follow} from "/page/live.js";
import * as operator from "/page/operator.js";
import * as payments from "/page/payments.js";
import {releases} from "/page/releases.js";
import * as standing from "/page/standing.js";
import * as time from "/page/time.js";

let told = null, state = null, series = null;

const ACTS = ["History", "Training", "Live", "Attack", "Retrain", "Bad release", "Books"];

function story({scenes, demo}) {
  byId("story").hidden = !scenes.length && !demo;
  if (!scenes.length) return;
  const last = scenes.at(-1), acts = Math.max(ACTS.length, last.number);
  byId("acts").replaceChildren(...Array.from({length: acts}, (_, place) => {
    const number = place + 1, running = number === last.number && !last.outcome;
    const title = ACTS[place] ?? "After";
    return el("li", {class: running ? "runs" : number <= last.number ? "done" : null, "aria-current": running ? "step" : null}, el("span", {}, `${number} ${title}`));
  }));
  say("act", last.outcome ? `${last.title}. ${last.outcome}` : `${last.title} …`);
}

function moment(given) {
  state = given;
  say("date", `${dateOf(state.at)}, ${timeOf(state.at)} UTC`);
  say("standing", standing.sentence(told, state));
  document.body.classList.toggle("stale", Boolean(state.trouble));
  notice(standing.notices(state));
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
  story(told);
  time.paint(told, series);
  say("standing", standing.sentence(told, state));
  standing.money(told, state);
  operator.update(told);
}

function all(given) {
  byId("watching").hidden = false;
  byId("login").hidden = true;
  ({series, state} = given);
  if (!told) {
    operator.build(given.told);
    registry(given.told.registry);
  }
  hear(given.told);
  moment(given.state);
  payments.start(given);
}

function tail(newest) {
  if (!newest.at.length) return;
  time.join(series, newest);
  time.paint(told, series);
}

let said = "";
function notice(found) {
  const words = JSON.stringify(found);
  if (words === said) return;
  said = words;
  byId("notices").replaceChildren(...found.map(([kind, text]) => el("p", {class: `notice ${kind}`}, text)));
}

/** MLflow: a link where a server shows it; else the command that does. */
function registry(where) {
  const link = byId("mlflow");
  link.hidden = !where;
  if (where.startsWith("http")) return link.setAttribute("href", where);
  link.addEventListener("click", (event) => {
    event.preventDefault();
    byId("mlflow-command").textContent = where;
    byId("registry").showModal();
  });
}

function login() {
  byId("watching").hidden = true;
  byId("login").hidden = false;
  document.body.classList.remove("stale");
  notice([]);
}

function begin() {
  follow("/v1/stream", {
    heard: {all, told: hear, rows: payments.add, state: moment, tail},
    lost: (seconds) => {
      document.body.classList.add("stale");
      notice([["bad", `The connection is lost: what you see is ${ago(seconds)} old. It comes back by itself.`]]);
    },
    back: () => document.body.classList.remove("stale"),
    signedOut: login,
  });
}

for (const box of document.querySelectorAll("dialog")) {
  box.addEventListener("click", (event) => { if (event.target === box && box.id !== "sure") box.close(); });
}
byId("registry-close").addEventListener("click", () => byId("registry").close());
byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("/session", {key: byId("key").value});
    byId("key").value = "";
    say("key-said", "");
    await enter();
  } catch (error) {
    say("key-said", error.message);
  }
});

/** The page's first words come by an ordinary request, which can say that there is no session. */
async function enter() {
  try {
    if (!(await ask("/session")).open) return login();
    all(await ask("/v1/watch"));
    notice([]);
    begin();
  } catch (error) {
    if (error instanceof SignedOut) login();
    else {
      notice([["bad", `The service does not answer: ${error.message}. Trying again.`]]);
      setTimeout(enter, 2000);
    }
  }
}

enter();
