"""THE MAIN PATH: runs the whole service on four weeks of a simulated shop, one call a stage, and reports results."""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from recsys import account, config, simulate, table
from recsys.batch import Nights
from recsys.history import write_history
from recsys.live import Live
from recsys.model import Model
from recsys.recipe import Recipe, reference
from recsys.releases import RECIPE
from recsys.schema import SOURCES, Wanted
from recsys.simulate import Life, Shop
from recsys.train import Candidate, train
from shared import story
from shared.children import Stuck
from shared.clock import Clock, SystemClock, perf_counter
from shared.console import Stage
from shared.eventlog.port import EventLog
from shared.lake import Lake
from shared.registry import Registry
from shared.results import Run
from shared.settings import Settings
from shared.story import Scene

PROCESSES = ("recsys.demo", "recsys.serve", "recsys.monitor")  # what runs in a demo or a replay
START = 1_767_225_600  # 2026-01-01
HISTORY = 84  # days: eight weeks say what is usual, four how much that varies
SHOPPERS, ITEMS = 4_500, 2_000
MIN_DAYS = 14
WHY = "a hot fix, no time for the gate"
BESTSELLERS = [0.25, 0.0, 0.25, 0.0, 0.5]  # weights of SOURCES: little of a shopper's own taste
ENCORE, PAUSE = 28, 0.6  # days that the truth is prolonged by; seconds of real time an hour of the shop takes then


def run(settings: Settings, *, port: int, days: int, seed: int, headless: bool, visitor: str) -> None:
    """`days` of nights and days; the season turns after two fifths of them, the bad recipe comes after four fifths.

    `visitor`: the token that opens the page once. Who watches may break things on top of that.
    """
    began, stage = perf_counter(), Stage()
    figures = Run(
        config.SERVICE, command="make demo-recsys", at=SystemClock().now(), var=settings.var, modules=PROCESSES
    )
    settings = settings.afresh("demo-recsys", at=SystemClock().now())
    settings.pin("pseudonym_key", f"demo of seed {seed}")  # the shuffled shoppers depend on it
    settings.pin("visitor", visitor)
    broken, turn, bad, end = days // 4, days * 2 // 5, days * 4 // 5, days

    shop = simulate.open_shop(
        seed=seed, start=START, days=HISTORY + days, users=SHOPPERS, items=ITEMS, season_from=HISTORY + turn
    )
    registry = Registry(settings.mlflow, config.SERVICE)
    with Live(settings, shop, port=port, today=HISTORY, nights=nights_of(settings, registry, seed)) as live:
        scene = partial(story.scene, stage, clock=live.clock, tell=live.tell)
        live.children.start("serve", "--port", str(port), "--demo")
        live.children.start("monitor", "--seed", str(seed))
        live.obeys["no input"] = live.cut_off
        live.obeys["bad recipe"] = lambda: force(settings, registry, live, BESTSELLERS)

        with scene("History: twelve weeks of a shop that recommended nothing") as act:
            life, act.outcome = past(settings, shop)
            live.go_on(life)

        with scene(
            "A recipe: sources, ranker, policy; learnt, chosen and judged on three weeks, one after another"
        ) as act:
            candidate = learn(settings, registry, as_of=START + HISTORY * config.DAY, seed=seed)
            live.children.wait(lambda: answers(live), "serve does not answer; see serve.log")
            live.command(Wanted(kind="promote", version=candidate.version.version, why="the first"))
            act.outcome = told(candidate)
        stage.table("Each source alone", *by_source(candidate))

        with scene("Nights and days: ingest, candidates, rank, policy, gate, publish; then shoppers come") as act:
            first = live.night()
            live.day()
            pass_days(stage, live, broken - 1)
            act.outcome = f"{live.today - HISTORY} nights, the first {words(first.seconds)}; {len(live.alarms)} alarms"
            false_alarms = len(live.alarms)

        with scene("Broken nights: killed half-way; an empty input; a table that fails its gate") as act:
            said = [killed(stage, live), outage(live), spoilt(settings, registry, live)]
            act.outcome = " ".join(said)

        with scene("Days until the season turns, and the monitor notices") as act:
            pass_days(stage, live, turn - (live.today - HISTORY))
            mark(stage, live, "The season turns: a tenth of the categories is wanted far more", "the season turns")
            before = live.today
            seen = pass_days(stage, live, bad - turn, until=lambda: noticed(live, before))
            days_to_notice = seen if noticed(live, before) else None
            alarm = next((alarm for alarm in live.alarms if alarm.kind == "drift"), None)
            act.outcome = "not noticed" if alarm is None else f"after {seen} days: {alarm.message}; {alarm.action}"
            pass_days(stage, live, bad - (live.today - HISTORY))

        with scene("A bad recipe passes every gate, and the table is rolled back") as act:
            act.outcome = rolled_back(settings, registry, live)

        with scene("The rest of the days, and the books") as act:
            pass_days(stage, live, end - (live.today - HISTORY))
            act.outcome = f"{sum(day.lists for day in live.days):,} lists, {len(live.latencies):,} of them over HTTP"

        books = account.money(live.days)
        stage.table("Margin net of returns, EUR: the same shoppers, the same luck", *books.table())
        stage.table("Had the same twenty stood in the order of their popularity", *live.otherwise.table())
        stage.table("Service", *account.service(live))
        seconds, (p50, p99) = perf_counter() - began, account.latency(live)
        lists = sum(day.lists for day in live.days)
        if live.visited:
            stage.say("\nSomebody has pressed buttons, so these figures are of no other run: none is written down.")
        figured = (
            ("demo.seconds", round(seconds, 1), "s", "<= 180"),
            ("demo.failed_requests", len(live.failures), "requests", "== 0"),
            ("demo.incremental_vs_popularity", books.ratio, "ratio", None),
            ("demo.incremental_eur_per_1000", 1_000 * books.added["served"][0] / lists, "EUR", None),
            ("demo.oracle_eur_per_1000", 1_000 * books.added["oracle"][0] / lists, "EUR", None),
            ("demo.days_to_notice", days_to_notice, "days", None),
            ("demo.false_alarms_before", false_alarms, "alarms", "<= 1"),
            ("demo.night_seconds", float(np.median([sum(n.seconds.values()) for n in live.told])), "s", "<= 3"),
            ("demo.http_p50_ms", round(p50, 1), "ms", None),
            ("demo.http_p99_ms", round(p99, 1), "ms", None),
        )
        for name, value, unit, target in () if live.visited else figured:
            figures.figure(name, value, unit=unit, target=target)
        stage.say(f"\n{seconds:.0f} s on seed {seed}; everything that was written: {settings.var}")
        stage.next_steps(next_steps(settings, live, headless=headless))
        if not headless:
            live_on(live, number=len(stage.acts) + 1)


def mark(stage: Stage, live: Live, title: str, marks: str) -> None:
    """Something that begins in the middle of an act."""
    live.tell(Scene(number=len(stage.acts), title=title, at=live.clock.now(), marks=marks))


def live_on(live: Live, *, number: int) -> None:
    """Until Ctrl-C the nights and days go on, slowly: there is something to watch and to try."""
    title = "The shop lives on, slowly, until Ctrl-C: try the buttons"
    live.tell(Scene(number=number, title=title, at=live.clock.now()))
    while True:
        live.shop = simulate.prolonged(live.shop, ENCORE)
        for _ in range(ENCORE):
            live.obey()
            live.night()
            live.day(pause=PAUSE)


def past(settings: Settings, shop: Shop) -> tuple[Life, str]:
    """Days before there was a system go straight to the lake; gives how the shoppers stand, and a line."""
    life, parts = simulate.born(shop), []
    for day in range(HISTORY):
        luck = simulate.chances(shop, day)
        parts.append(simulate.events(shop, day, luck, simulate.live(shop, life, day, luck, None)))
    events = pl.concat(parts).filter(pl.col("at") < START + HISTORY * config.DAY).sort("at", maintain_order=True)
    changes = [simulate.products(shop, day, since=day - 1) for day in range(1, HISTORY)]
    catalogue = pl.concat([simulate.products(shop, 0), *changes])
    write_history(Lake(settings.lake(config.SERVICE)), events, catalogue, key=settings.key("pseudonym_key"))
    bought = events.filter(pl.col("kind") == "purchase").height
    return life, f"{events.height:,} events in the lake, {bought:,} of them purchases, {catalogue.height:,} products"


def nights_of(settings: Settings, registry: Registry, seed: int) -> Callable[[EventLog, Clock], Nights]:
    """Makes the nights of these settings on a log and a clock."""

    def made(log: EventLog, clock: Clock) -> Nights:
        return Nights(
            log,
            Lake(settings.lake(config.SERVICE)),
            clock=clock,
            var=settings.var,
            seed=seed,
            key=settings.key("pseudonym_key"),
            fetch=lambda artifact, digest: registry.fetch(artifact, digest=digest, into=settings.var / "recipes"),
        )

    return made


def learn(settings: Settings, registry: Registry, *, as_of: int, seed: int, horizon: int = config.HORIZON) -> Candidate:
    """Train on the lake, and register what comes of it; it is the first."""
    return train(Lake(settings.lake(config.SERVICE)), registry, as_of=as_of, seed=seed, champion=None, horizon=horizon)


def told(candidate: Candidate) -> str:
    """What the gate said, in a line."""
    figures = candidate.version.figures
    beside = f", the recipe in force {figures['champion_ndcg']:.3f}" if "champion_ndcg" in figures else ""
    return (
        f"recipe {candidate.version.version}: nDCG@20 {figures['ndcg']:.3f}{beside}, the best single source "
        f"{figures['best_single']:.3f}, a hand blend {figures['ndcg_blend']:.3f}; "
        f"without policy {figures['ndcg_free']:.3f}, and € {figures['euros_free']:.2f} of a shopper's purchases named "
        f"instead of {figures['euros']:.2f}; gate: {candidate.refused or 'passed'}"
    )


def by_source(candidate: Candidate) -> tuple[list[str], list[list[str]]]:
    """Each source alone on the users that the recipe was judged on, and its share of what was then shown."""
    figures = candidate.version.figures
    rows = [
        [name, *(f"{figures[f'{what}_{name}']:.3f}" for what in ("recall", "ndcg")), f"{figures[f'share_{name}']:.0%}"]
        for name in SOURCES
    ]
    pool = ["all candidates", f"{figures['pool_recall']:.3f}", "", ""]
    return ["", "recall@20", "nDCG@20", "of the list"], [*rows, pool]


def words(seconds: dict[str, float]) -> str:
    return f"{sum(seconds.values()):.1f} s ({', '.join(f'{name} {took:.1f}' for name, took in seconds.items())})"


def answers(live: Live) -> bool:
    try:
        live.ask("GET", "/v1/nights")
    except OSError:
        return False
    return True


def pass_days(stage: Stage, live: Live, days: int, *, until: Callable[[], bool] = lambda: False) -> int:
    """Nights and days, one after the other; gives how many."""
    with stage.progress(max(0, days), "days") as done:
        for number in range(days):
            live.obey()
            live.night()
            live.day()
            done(1)
            if until():
                return number + 1
    return max(0, days)


def noticed(live: Live, since: int) -> bool:
    """Whether drift has been raised since that day."""
    moment = START + since * config.DAY
    return any(alarm.kind == "drift" and alarm.at > moment for alarm in live.alarms)


def killed(stage: Stage, live: Live) -> str:
    """A night in a process of its own, killed half-way; the old table is served, and the rerun ends the night."""
    before = table.current(live.nights.tables)
    live.clock.observe(live.night_of(live.today))
    date = simulate_date(live)
    ranked = live.settings.var / "nights" / date / "sources.npz"
    child = live.children.start("night", "--date", date, stays=False)
    live.children.wait(lambda: ranked.exists() or child.poll() is not None, "the night does not begin; see night.log")
    child.kill()
    child.wait()
    mark(stage, live, "A night is killed half-way: yesterday's table stays", "a night is killed")
    still = table.current(live.nights.tables)
    if still != before:
        raise Stuck(f"a night killed half-way left {still} instead of {before}")
    night = live.night()
    live.day()
    return f"Killed in the middle of {night.date}: {before} stayed, the rerun took {sum(night.seconds.values()):.1f} s."


def outage(live: Live) -> str:
    """A day's events do not arrive; the night after it has next to no input."""
    live.night()
    live.day(delivered=False)
    night = live.night()
    live.day()
    return f"No input: {night.refused or 'published all the same'}."


def spoilt(settings: Settings, registry: Registry, live: Live) -> str:
    """A recipe that turns everything round makes a table that its gate refuses."""
    force(settings, registry, live, [-1.0, -1.0, -1.0, 0.0, -1.0])
    night = live.night()
    live.command(Wanted(kind="promote", version=first_recipe(live), force=True, why="the good one"))
    live.day()
    return f"A recipe turned round: {night.refused or 'published all the same'}."


def rolled_back(settings: Settings, registry: Registry, live: Live) -> str:
    """A recipe of popularity, past its gate by force, and past the table's; an operator takes it back."""
    good = live.ledger.lines[-1].recipe or first_recipe(live)
    force(settings, registry, live, BESTSELLERS)
    night = live.night()
    day = live.day()
    if not night.version:
        return f"the table's gate refused it: {night.refused}"
    usual = np.mean([past.clicks / past.lists for past in live.days[-8:-1]])
    live.command(Wanted(kind="rollback", why="fewer clicks since the hot fix"))
    live.shelf.follow()
    return (
        f"{day.clicks / day.lists:.2f} clicks a list, {usual:.2f} were usual; {night.version} rolled back to "
        f"{table.current(live.nights.tables)}, recipe {good} pinned"
    )


def force(settings: Settings, registry: Registry, live: Live, weights: list[float]) -> None:
    """Promote a recipe of fixed weights, whatever a gate would say."""
    live.follow()
    champion = live.ledger.champion(RECIPE)
    assert champion is not None  # the story begins with one
    folder = registry.fetch(champion.artifact, digest=champion.digest, into=settings.var / "recipes")
    good, (usual, limits) = Recipe.load(folder), reference(folder)
    made = good._replace(model=Model(np.array(weights, dtype=np.float32)))
    samples = np.array(json.loads((folder / "golden.json").read_text())["features"], dtype=np.float32)
    assert len(weights) == len(SOURCES)
    with tempfile.TemporaryDirectory() as temporary:
        made.save(Path(temporary) / "recipe", matrix=samples, reference=usual, limits=limits)
        version = registry.register(
            Path(temporary) / "recipe", params={}, figures=champion.figures, tags={"gate": "skipped"}
        )
    live.command(Wanted(kind="promote", version=version.version, force=True, why=WHY))


def first_recipe(live: Live) -> str:
    """The last recipe that came by its gate."""
    good = [line.version for line in live.ledger.lines if line.subject == "recipe" and line.why != WHY]
    return good[-1]


def simulate_date(live: Live) -> str:
    return datetime.fromtimestamp(live.clock.now(), UTC).strftime("%Y-%m-%d")


def next_steps(settings: Settings, live: Live, *, headless: bool) -> list[tuple[str, str]]:
    """Commands that work as they stand."""
    steps = [
        (
            f"ls {settings.var}/recsys/reports {settings.var}/tables",
            "evidently's pages of the drift, and the versions kept",
        ),
        (settings.registry_page, "MLflow: every recipe with its figures"),
    ]
    if headless:
        return [*steps, ("make demo-recsys", "the same, and the service stays up to be tried")]
    curl = f'curl -s -H "X-API-Key: $(cat {settings.var}/operator_key.secret)" {live.url}'
    return [
        (live.url, "the page, in the browser that has opened it once"),
        (f"{curl}/v1/recommendations/u000017?k=5", "a shopper's list, with reasons"),
        (f"{curl}/v1/table", "which table is shown, and the ledger of releases"),
        (f"{live.url}/docs", "the API, to try in a browser"),
        *steps,
        ("Ctrl-C", "ends the service"),
    ]
