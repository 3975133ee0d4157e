// The shell of a page to watch: who may look, the stream, notices, the story of a demo, MLflow, one row in full.

import {ago, byId, dateOf, el, say, timeOf} from "/page/dom.js";
import {SignedOut, ask, follow} from "/page/live.js";

/** Begin. `all` takes /v1/watch, and each `heard` what /v1/stream brings under its name. */
export function begin({all, heard}) {
  let began = false;

  function first(given) {
    byId("watching").hidden = false;
    byId("login").hidden = true;
    if (!began) registry(given.told.registry);
    began = true;
    all(given);
  }

  function login() {
    byId("watching").hidden = true;
    byId("login").hidden = false;
    document.body.classList.remove("stale");
    notice([]);
  }

  /** The page's first words come by an ordinary request, which can say that there is no session. */
  async function enter() {
    try {
      if (!(await ask("/session")).open) return login();
      first(await ask("/v1/watch"));
      notice([]);
      follow("/v1/stream", {
        heard: {...heard, all: first},
        lost: (seconds) => {
          document.body.classList.add("stale");
          notice([["bad", `The connection is lost: what you see is ${ago(seconds)} old. It comes back by itself.`]]);
        },
        back: () => document.body.classList.remove("stale"),
        signedOut: login,
      });
    } catch (error) {
      if (error instanceof SignedOut) return login();
      notice([["bad", `The service does not answer: ${error.message}. Trying again.`]]);
      setTimeout(enter, 2000);
    }
  }

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
  enter();
}

/** What holds for the whole page: the date, and whether what is shown is old. `found`: [kind, words]. */
export function moment(state, found) {
  say("date", `${dateOf(state.at)}, ${timeOf(state.at)} UTC`);
  document.body.classList.toggle("stale", Boolean(state.trouble));
  notice(found);
}

let said = "";
function notice(found) {
  const words = JSON.stringify(found);
  if (words === said) return;
  said = words;
  byId("notices").replaceChildren(...found.map(([kind, text]) => el("p", {class: `notice ${kind}`}, text)));
}

/** The acts of a demo as a line that fills, by their short names; what is happening, in a sentence. */
export function story({scenes, demo}, acts) {
  byId("story").hidden = !scenes.length && !demo;
  if (!scenes.length) return;
  const last = scenes.at(-1);
  byId("acts").replaceChildren(...Array.from({length: Math.max(acts.length, last.number)}, (_, place) => {
    const number = place + 1, running = number === last.number && !last.outcome;
    return el("li", {class: running ? "runs" : number <= last.number ? "done" : null, "aria-current": running ? "step" : null},
      el("span", {}, `${number} ${acts[place] ?? "After"}`));
  }));
  say("act", last.outcome ? `${last.title}. ${last.outcome}` : `${last.title} …`);
}

/** A dialog for one row: its title, and the place of its content, which say so until the answer comes. */
export function detail(words) {
  // Title and button stay, or the focus would be lost when the answer comes.
  const box = byId("detail"), title = el("h2", {id: "detail-title"}, words), content = el("div", {}, el("p", {class: "quiet"}, "Asking …"));
  box.replaceChildren(el("div", {class: "title"}, title,
    el("button", {type: "button", class: "act", click: () => box.close()}, "Close")), content);
  box.showModal();
  return {title, content};
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

for (const box of document.querySelectorAll("dialog")) {
  box.addEventListener("click", (event) => { if (event.target === box && box.id !== "sure") box.close(); });
}
byId("registry-close").addEventListener("click", () => byId("registry").close());
