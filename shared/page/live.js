// The stream: it says when it is lost, how old the last word is, and comes back by itself.

const SILENCE = 4000; // ms without an event after which a connection that says it lives is not believed

export class SignedOut extends Error {}

/** JSON of a path of ours; a problem's detail becomes the error's message, and `refused` says that it is the request's. */
export async function ask(path, body, headers = {}) {
  const request = body === undefined ? {} :
    {method: "POST", headers: {"Content-Type": "application/json", ...headers}, body: JSON.stringify(body)};
  const answer = await fetch(path, {cache: "no-store", ...request});
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({detail: `${answer.status} ${answer.statusText}`}));
  const said = problem.errors?.map((error) => `${error.field}: ${error.message}`).join("; ");
  if (answer.status === 401) throw new SignedOut(problem.detail);
  throw Object.assign(new Error(said || problem.detail), {refused: answer.status < 500});
}

/**
 * Follow a stream: `heard` by event name; `lost(seconds)` each second while nothing comes, `back()` when it does;
 * `signedOut()` when the session is no longer good.
 */
export function follow(path, {heard, lost, back, signedOut}) {
  let source = null, last = Date.now(), away = false, wait = 500, timer = 0;

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(path);
    for (const [name, take] of Object.entries(heard)) {
      source.addEventListener(name, (event) => {
        last = Date.now();
        wait = 500;
        if (away) { away = false; back(); }
        take(JSON.parse(event.data));
      });
    }
    // The browser's own retry gives up on a refused connection, and never looks at why.
    source.onerror = () => { source.close(); again(); };
  }

  function again() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const session = await ask("/session").catch(() => null);
      if (session?.open) open(); else if (session) { clearInterval(watchman); signedOut(); } else again();
    }, wait);
    wait = Math.min(2 * wait, 5000);
  }

  const watchman = setInterval(() => {
    const silent = Date.now() - last;
    if (silent < SILENCE) return;
    away = true;
    lost(silent / 1000);
    if (source.readyState === EventSource.OPEN && silent > 3 * SILENCE) { source.close(); again(); }
  }, 1000);
  addEventListener("pagehide", () => source?.close());
  open();
}
