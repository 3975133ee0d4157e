"""THE MAIN PATH: runs the whole service on months of a simulated bank, one call a stage, and reports results."""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from fraud import config, dataset
from fraud.account import latency, money, precision_recall, quality, service
from fraud.artifact import Artifact, reference
from fraud.history import as_events, write_history
from fraud.live import Live
from fraud.schema import Wanted
from fraud.simulate import labels, simulate
from fraud.train import HISTORY as LEARNT
from fraud.train import Candidate, train
from shared import story
from shared.clock import SystemClock, perf_counter
from shared.console import Stage
from shared.lake import Lake
from shared.registry import Registry
from shared.results import Run
from shared.settings import Settings
from shared.story import Scene

PROCESSES = ("fraud.demo", "fraud.serve", "fraud.stream", "fraud.monitor")  # what runs in a demo or a replay
START = 1_767_225_600  # 2026-01-01
HISTORY = (
    84  # days: a month fills the windows, a month sets the alarms, a fortnight is their reference, the rest judges
)
CARDS = 4_000
RATE = 50.0  # test payments a second
HOT_FIX = "a hot fix, no time for the gate"
ENCORE, PAUSE, SLOW = 28, 0.6, 5.0  # days that come again; seconds of real time an hour takes; test payments a second
BAD_SHIFT = 4.6  # log-odds: legitimate payments thinned to 1 in 100 for speed, and the weights forgotten


def run(settings: Settings, *, port: int, days: int, seed: int, headless: bool, visitor: str) -> None:
    """`days` of live traffic; the attack begins after a quarter of them, the bad release comes after five sixths.

    `visitor`: the token that opens the page once. Who watches may bring both forward.
    """
    began, stage = perf_counter(), Stage()
    figures = Run(
        config.SERVICE, command="make demo-fraud", at=SystemClock().now(), var=settings.var, modules=PROCESSES
    )
    settings = settings.afresh("demo-fraud", at=SystemClock().now())
    settings.pin(
        "pseudonym_key", f"demo of seed {seed}"
    )  # partitions hang on pseudonyms, and figures on the seed alone
    settings.pin("visitor", visitor)
    today = START // config.DAY + HISTORY
    attack, bad, end = today + days // 4, today + days * 5 // 6, today + days

    def bank() -> pl.DataFrame:
        """The same payments whenever the attack begins; it comes on top of them."""
        return simulate(
            seed=seed, cards=CARDS, start=START, days=HISTORY + days, tactics_from=attack - START // config.DAY
        )

    world = bank()

    with Live(settings, world, stage, port=port, today=today, seed=seed) as live:
        scene = partial(story.scene, stage, clock=live.clock, tell=live.tell)
        with scene("History: what the bank knows before it has a model") as act:
            act.outcome = past(settings, world, live, until=today * config.DAY)

        with scene("Training: features folded over the lake, LightGBM, calibration, prices, gate") as act:
            candidate = learn(settings, stage, as_of=today * config.DAY, seed=seed)
            act.outcome = told(candidate)

        with scene("Live: payments by topic, test payments by HTTP") as act:
            live.open(rate=RATE)
            live.command(Wanted(kind="promote", version=candidate.version.version, why="the first"))
            live.obeys["bad release"] = lambda: release_bad_model(settings, live)
            live.days(range(today, attack), until=lambda: "attack" in live.wishes)
            if live.next_day < attack:
                attack = live.next_day
                live.go_on_with(world := bank())
            false_alarms = len(live.alarms)
            act.outcome = f"{attack - today} days, {false_alarms} false alarms, {live.throughput:,.0f} events a second"

        with scene("Attack: from now on some pay slowly, at home, in ordinary amounts", marks="attack") as act:
            passed = live.days(range(attack, bad), until=lambda: len(live.alarms) > false_alarms) - attack + 1
            noticed = passed if len(live.alarms) > false_alarms else None
            act.outcome = "not noticed" if noticed is None else f"noticed on day {noticed} of it. {live.last_words()}"

        with scene("Retrain: when the new pattern has labels; gate, promote") as act:
            live.days(range(live.next_day, bad), until=lambda: retrained(live))
            if not retrained(live):  # a shortened demo ends before the labels are in
                live.command(Wanted(kind="retrain", why="asked for"))
            act.outcome = live.last_words()
            live.days(range(live.next_day, bad))

        with scene("A bad release, and its rollback") as act:
            release_bad_model(settings, live)
            hours = live.hours(bad, until=lambda: live.releases[-1].action == "rollback")
            back = live.releases[-1]
            act.outcome = f"{back.action} to version {back.version} after {hours} hours: {back.why}"

        with scene("The rest of the days, and the books") as act:
            live.days(range(live.next_day, end))
            answers = live.close_http()
            truth, known = money(live.decided(), Lake(settings.lake(config.SERVICE)), end=end * config.DAY)
            act.outcome = f"{live.sent:,} events, {len(answers.latencies):,} requests"

        stage.table("Money, EUR: what frauds, reviews and declined customers cost", *truth.table(known))
        stage.table("Payments stopped (review or decline), by truth", *quality(live.decided(), attack=attack))
        stage.table("Service", *service(live, answers))
        seconds, decided = perf_counter() - began, live.decided()
        (precision, recall), (p50, p99) = precision_recall(decided, "action"), latency(answers)
        figured = (
            ("demo.seconds", round(seconds, 1), "s", "<= 180"),
            ("demo.days_to_notice", noticed, "days", None),
            ("demo.false_alarms_before", false_alarms, "alarms", "== 0"),
            ("demo.failed_requests", len(answers.failures), "requests", "== 0"),
            ("demo.saved_vs_rules", truth.ratio, "ratio", None),
            ("demo.saved_vs_rules_known", known.ratio, "ratio", None),
            ("demo.precision", precision, "ratio", None),
            ("demo.recall", recall, "ratio", None),
            ("demo.rules_recall", precision_recall(decided, "rules")[1], "ratio", None),
            ("demo.declined", float((decided["action"] == "decline").sum()) / decided.height, "ratio", None),
            ("demo.hours_to_rollback", hours, "hours", None),
            ("demo.events_per_s", round(live.throughput), "events/s", None),
            ("demo.http_p50_ms", round(p50, 1), "ms", None),
            ("demo.http_p99_ms", round(p99, 1), "ms", None),
        )
        if live.visited:
            stage.say("\nSomebody had wishes, so these figures are of no other run: none is written down.")
        for name, value, unit, target in () if live.visited else figured:
            figures.figure(name, value, unit=unit, target=target)
        stage.say(f"\n{seconds:.0f} s on seed {seed}; everything that was written: {settings.var}")
        stage.next_steps(next_steps(settings, live, headless=headless))
        if not headless:
            live_on(live, world, end=end, number=len(stage.acts) + 1)


def live_on(live: Live, world: pl.DataFrame, *, end: int, number: int) -> None:
    """Until Ctrl-C the last weeks come again, slowly, as new payments: there is something to watch and to try."""
    live.tell(
        Scene(number=number, title="The bank lives on, slowly, until Ctrl-C: try the buttons", at=live.clock.now())
    )
    live.open_http(rate=SLOW, name="probe-after")  # or they would be repeats of the first ones
    weeks, turn = world.filter(pl.col("at") >= (end - ENCORE) * config.DAY), 0
    while True:
        turn += 1
        later = pl.col("at") + turn * ENCORE * config.DAY
        live.go_on_with(weeks.with_columns(later, id=pl.col("id") + f"-{turn}"))
        for day in range(live.next_day, live.next_day + ENCORE):
            live.hours(day, pause=PAUSE)
            live.forget()


def retrained(live: Live) -> bool:
    """Whether a model has followed the first one."""
    return len([release for release in live.releases if release.action == "promote" and release.why != HOT_FIX]) > 1


def past(settings: Settings, world: pl.DataFrame, live: Live, *, until: int) -> str:
    """The past goes straight to the lake; the worker and the monitor start on it."""
    payments = world.filter(pl.col("at") < until)
    expected, _ = write_past(settings, payments, until=until, seed=live.seed)
    live.expect(expected)
    live.children.start("serve", "--port", str(live.port), "--patience", "inf", "--demo")
    live.children.start("monitor", "--seed", str(live.seed))
    frauds = payments["fraud"].sum()
    return f"{payments.height:,} payments in the lake, {frauds:,} of them frauds ({frauds / payments.height:.2%})"


def write_past(
    settings: Settings, payments: pl.DataFrame, *, until: int, seed: int, source: str = ""
) -> tuple[pl.DataFrame, int]:
    """Payments that were all let through, and the complaints that came.

    `source`: the digest of their file, if any. Gives the complaints still to come, and the number of payments that the
    lake did not have.
    """
    complaints = labels(payments.with_columns(action=pl.lit("approve")), seed=seed)
    known = complaints.filter(pl.col("at") < until)
    begun = payments["at"][0] // config.HOUR * config.HOUR
    rows = as_events(payments, known, key=settings.key("pseudonym_key"), ticks=(begun, until))
    new = write_history(Lake(settings.lake(config.SERVICE)), rows, source=source)
    return complaints.filter(pl.col("at") >= until), new


def learn(settings: Settings, stage: Stage, *, as_of: int, seed: int) -> Candidate:
    """Train on the lake, register, judge against the champion if there is one."""
    registry, lake = Registry(settings.mlflow, config.SERVICE), Lake(settings.lake(config.SERVICE))
    champion = None
    if (alias := registry.alias("champion")) is not None:
        version = registry.version(alias)
        champion = registry.fetch(version.artifact, digest=version.digest, into=settings.var / "models")
    number = dataset.events(lake, since=as_of - LEARNT * config.DAY, as_of=as_of).height
    with stage.progress(number, "events folded") as done:
        return train(lake, registry, as_of=as_of, seed=seed, champion=champion, progress=done)


def told(candidate: Candidate) -> str:
    """What the gate said, in a line."""
    figures = candidate.version.figures
    return (
        f"version {candidate.version.version}: average precision {figures['average_precision']:.2f}, "
        f"{figures['cost_per_1000']:.0f} EUR per 1,000 payments; the rules {figures['rules_cost_per_1000']:.0f}, "
        f"approving all {figures['cost_per_1000_approve_all']:.0f}; gate: {candidate.refused or 'passed'}"
    )


def release_bad_model(settings: Settings, live: Live) -> None:
    """What a hot fix past the gate can do: the champion's trees, calibrated for a world full of fraud."""
    registry = Registry(settings.mlflow, config.SERVICE)
    champion = live.releases[-1]
    folder = registry.fetch(champion.artifact, digest=champion.digest, into=settings.var / "models")
    good = Artifact.load(folder)
    bad = Artifact(good.model.shifted(BAD_SHIFT), good.policy)
    normal, limits = reference(folder)
    samples = np.array([sample["features"] for sample in json.loads((folder / "golden.json").read_text())])
    with tempfile.TemporaryDirectory() as temporary:
        bad.save(Path(temporary) / "model", matrix=samples, reference=normal, limits=limits)
        judged = {"declined": champion.figures["declined"]}  # nothing else is known of what no gate has seen
        version = registry.register(Path(temporary) / "model", params={}, figures=judged, tags={"gate": "skipped"})
    # Who has the files decides by them from the next payment on; fetching them takes as long as it takes.
    registry.fetch(version.artifact, digest=version.digest, into=settings.var / "models")
    live.command(Wanted(kind="promote", version=version.version, force=True, why=HOT_FIX))


def next_steps(settings: Settings, live: Live, *, headless: bool) -> list[tuple[str, str]]:
    """Commands that work as they stand."""
    steps = [
        (f"ls {settings.var}/fraud/reports", "evidently's pages of the drift"),
        (settings.registry_page, "MLflow: every version with its figures and plots"),
    ]
    if headless:
        return [*steps, ("make demo-fraud", "the same, and the service stays up to be tried")]
    curl = f'curl -s -H "X-API-Key: $(cat {settings.var}/operator_key.secret)" {live.url}'
    return [
        (live.url, "the page, in the browser that has opened it once"),
        (f"{curl}/v1/model", "who decides now, and the ledger of releases"),
        (f"{curl}/v1/alarms", "what was noticed, and what was done"),
        (f"{live.url}/docs", "the API, to try in a browser"),
        *steps,
        ("Ctrl-C", "ends the service"),
    ]
