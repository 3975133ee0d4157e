"""THE MAIN PATH: runs the whole service on eight days of simulated brands, one call a stage, and reports results."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import polars as pl

from sentiment import config
from sentiment.account import compared, difference, false_alarms, opened, seam, share_errors
from sentiment.artifact import Artifact, reference
from sentiment.config import DAY, HOUR
from sentiment.grammar import LIVE
from sentiment.history import write_labels
from sentiment.live import Live
from sentiment.mentions import Brands
from sentiment.model import Linear
from sentiment.monitor import GUARD_COUNT
from sentiment.recipe import DEMO, Recipe
from sentiment.schema import Confusion, Wanted
from sentiment.shares import correcting
from sentiment.simulate import Crisis, Flood, history, simulate
from sentiment.train import Candidate, train
from shared import story
from shared.clock import SystemClock, perf_counter
from shared.console import Stage
from shared.eventlog import open_log
from shared.lake import Lake
from shared.registry import Registry
from shared.results import Run
from shared.settings import Settings
from shared.story import Scene

PROCESSES = (
    "sentiment.demo",
    "sentiment.serve",
    "sentiment.stream",
    "sentiment.batch",
    "sentiment.monitor",
)  # what runs in a demo or a replay
START = 1_767_225_600  # 2026-01-01
HISTORY = 5  # days of labelled posts
POSTS = 1_200  # a day
TODAY = START + HISTORY * DAY
MIN_DAYS = 5  # a quiet one, a crisis, two of new words, a bad release
WORLD = "simulated"  # of brands.toml
BRAND, BOTS = "northair", "peach-mobile"
MISTAKEN = 0.05  # of the audits: people slip
NAP = 0.5  # seconds of real time between a few posts, once the story is told
HOT_FIX = "a hot fix, no time for the gate"


class Plan(NamedTuple):
    """When what happens, in event time."""

    flood: int
    turned: int  # the mood of one brand
    slang: int
    release: int  # of a bad model
    end: int

    @classmethod
    def of(cls, days: int) -> Self:
        """Quiet days, bots in the morning of a crisis, new words the day after, and on the last day the bad release."""
        crisis = TODAY + max(1, days - 5) * DAY
        return cls(crisis + 7 * HOUR, crisis + 12 * HOUR, crisis + DAY, TODAY + (days - 1) * DAY, TODAY + days * DAY)


def run(
    settings: Settings, *, port: int, days: int, seed: int, headless: bool, visitor: str, recipe: Recipe | None = DEMO
) -> None:
    """`days` of live posts. Without a `recipe` the linear model scores alone: minutes faster, and less to see.

    `visitor`: the token that opens the page once.
    """
    began, stage, plan = perf_counter(), Stage(), Plan.of(days)
    figures = Run(
        config.SERVICE, command="make demo-sentiment", at=SystemClock().now(), var=settings.var, modules=PROCESSES
    )
    settings = settings.afresh("demo-sentiment", at=SystemClock().now())
    settings.pin(
        "pseudonym_key", f"demo of seed {seed}"
    )  # audits are drawn with it, and figures hang on the seed alone
    settings.pin("visitor", visitor)
    crowd = simulate(
        seed=seed + 1,
        start=TODAY,
        days=days,
        posts_a_day=POSTS,
        grammar=LIVE,
        crises=(Crisis(BRAND, plan.turned),),
        floods=(Flood(BOTS, plan.flood, varied=True),),
        slang_from=plan.slang,
    )

    with Live(settings, stage, port=port, today=TODAY, seed=seed, world=WORLD, mistaken=MISTAKEN) as live:
        scene = partial(story.scene, stage, clock=live.clock, tell=live.tell)
        with scene("History: posts that people have labelled") as act:
            past = history(seed=seed, start=START, days=HISTORY, posts_a_day=POSTS)
            write_labels(Lake(settings.lake(config.SERVICE)), past, known_at=TODAY - HOUR)
            act.outcome = f"{past.height:,} posts, {past['brand'].n_unique()} brands"

        with scene("Training: a linear model, MiniLM fine-tuned, int8, the test of names, the gate") as act:
            live.children.start("serve", "--port", str(live.port), "--demo")
            live.children.start("batch")
            candidate = learn(settings, stage, Brands.read(WORLD), as_of=TODAY, seed=seed, recipe=recipe)
            live.children.start("monitor", "--seed", str(seed), *([] if recipe else ["--linear"]))
            act.outcome = told(candidate)

        with scene("Live: quiet days, and a flood of bots") as act:
            live.open()
            live.command(Wanted(kind="promote", version=candidate.version.version, why="the first"))
            live.send(crowd, until=plan.turned)
            early, retracted = (sum(alarm.kind == kind for alarm in live.alarms) for kind in ("crisis", "retracted"))
            act.outcome = (
                f"{live.sent:,} posts, {live.throughput:,.0f} a second; "
                f"{early} false alarms, {retracted} of them taken back by batch"
            )

        with scene(f"Crisis: from noon on many are angry at {BRAND}", marks="crisis") as act:

            def called() -> bool:
                return any(alarm.brand == BRAND and alarm.at > plan.turned for alarm in live.alarms)

            live.send(crowd, until=plan.slang, pause=called)
            crises = [alarm for alarm in live.alarms if alarm.kind == "crisis" and alarm.brand == BRAND]
            first = next((alarm for alarm in crises if alarm.at > plan.turned), None)
            to_alarm = first.at - plan.turned if first else None
            act.outcome = first.message if first else "not noticed"
            live.send(crowd, until=plan.slang)

        with scene("New words and new emoji: noticed, audited, learnt", marks="slang") as act:
            live.send(crowd, until=plan.release + HOUR)
            if len(live.releases) < 2:
                live.command(Wanted(kind="retrain", why="asked for"))
            said = (a.at for a in live.alarms if a.kind in ("drift", "quality") and a.at > plan.slang)
            noticed = next(((at - plan.slang) // DAY for at in said), None)
            act.outcome = last_words(live)

        with scene("A bad release, and its roll-back", marks="bad release") as act:
            bad = release_bad_model(settings, live)

            def taken_back() -> bool:
                live.follow()
                return live.releases[-1].action == "rollback"

            def judged() -> bool:
                """The monitor compares beside its loop, and no hour passes meanwhile."""
                said = [opinion for opinion in live.opinions.values() if opinion.model == bad and opinion.score]
                if len(said) >= GUARD_COUNT:
                    live.children.wait(taken_back, "the release is not taken back; see monitor.log")
                return taken_back()

            hour = live.send(crowd, until=plan.end, pause=judged)
            back = live.releases[-1]
            to_rollback = (hour - plan.release) // HOUR if back.action == "rollback" else None
            act.outcome = f"{back.action} to version {back.version} after {to_rollback} hours: {back.why}"

        with scene("The rest of the days, and the books") as act:
            live.send(crowd, until=plan.end)
            live.hour(crowd.clear(), plan.end + HOUR)  # so that the last day closes
            act.outcome = f"{live.sent:,} posts, {live.requests:,} requests, {len(live.failures)} failed"
        noted: dict[str, tuple[int | None, str]] = {
            "demo.seconds_to_alarm": (to_alarm, "s"),
            "demo.days_to_notice": (noticed, "days"),
            "demo.hours_to_rollback": (to_rollback, "h"),
        }
        books(stage, figures, settings, live, crowd, noted=noted, seconds=lambda: perf_counter() - began)
        stage.next_steps(next_steps(settings, live, plan, headless=headless))
        if not headless:
            live_on(live, number=len(stage.acts) + 1)


def books(
    stage: Stage,
    figures: Run,
    settings: Settings,
    live: Live,
    crowd: pl.DataFrame,
    *,
    noted: Mapping[str, tuple[int | None, str]],
    seconds: Callable[[], float],
) -> None:
    """Closing tables and figures. `noted`: what the acts have found, with its unit."""
    with closing(open_log(settings.log, clock=live.clock)) as log:
        timeline = opened(settings, log)
        hours, wrong = seam(timeline, log)
        views = difference(timeline, log)
        stage.table("What batch made of what the stream had counted", *views.table())
    live.follow()
    corrections = correcting(live.reports)
    truth = crowd.select(post="id", at="at", brand="brand", label="label").filter(pl.col("label").is_not_null())
    errors = share_errors(timeline, truth, corrections, audited=live.asked)
    stage.table("Shares of brand-days against the truth", *errors.table())
    both, mistaken = compared(timeline, truth)
    known: Confusion | None = next((report.confusion for report in live.reports if report.confusion), None)
    alarms = None if known is None else false_alarms(known) / 100
    retracted = sum(alarm.kind == "retracted" for alarm in live.alarms)
    took = seconds()
    figured = (
        ("demo.seconds", round(took, 1), "s", "<= 300"),
        *((name, value, unit, None) for name, (value, unit) in noted.items()),
        *((f"views.{cause}", mentions, "mentions", None) for cause, mentions in views._asdict().items()),
        ("demo.failed_requests", len(live.failures), "requests", "== 0"),
        ("demo.retracted", retracted, "alarms", ">= 1"),
        ("demo.posts_per_s", round(live.throughput), "posts/s", None),
        ("demo.share_mae_raw", errors.raw, "share", None),
        ("demo.share_mae_corrected", errors.corrected, "share", None),
        ("demo.share_coverage90", errors.coverage, "share", None),
        ("demo.share_mae_first", errors.first, "share", None),
        ("demo.share_first_coverage90", errors.first_coverage, "share", None),
        ("demo.days_withheld", sum(bool(r.calibration) for r in live.reports) - len(corrections.known), "days", None),
        ("demo.compared_opinions", both, "opinions", None),
        ("demo.compared_error", mistaken, "share", None),
        ("seam.recounted", hours, "brand-hours", None),
        ("seam.mismatches", wrong, "brand-hours", "== 0"),
        ("alarm.false_per_brand_month", alarms, "alarms", "<= 1"),
    )
    for name, value, unit, target in figured:
        figures.figure(name, value, unit=unit, target=target)
    stage.table("Figures", ["", "value", "unit", "target"], [[n, v, u, t or ""] for n, v, u, t in figured])
    for failure in live.failures:
        stage.say(f"failed: {failure}")
    stage.say(f"\n{took:.0f} s; everything that was written: {settings.var}")


def live_on(live: Live, *, number: int) -> None:
    """Until Ctrl-C the crowd goes on, slowly: there is something to watch and to try."""
    title = "The crowd goes on, slowly, until Ctrl-C: type a sentence, correct one, roll back"
    live.tell(Scene(number=number, title=title, at=live.clock.now()))
    day = live.clock.now() // DAY
    while True:
        later = simulate(seed=day, start=day * DAY, days=1, posts_a_day=POSTS, grammar=LIVE)
        live.send(later, until=(day + 1) * DAY, nap=NAP)
        day += 1


def learn(
    settings: Settings, stage: Stage, brands: Brands, *, as_of: int, seed: int, recipe: Recipe | None
) -> Candidate:
    """Train on the lake, register, judge against the champion if there is one."""
    registry, lake = Registry(settings.mlflow, config.SERVICE), Lake(settings.lake(config.SERVICE))
    champion, unseen = None, 0
    if (alias := registry.alias("champion")) is not None:
        version = registry.version(alias)
        unseen = int(registry.tags(alias).get("as_of", 0))
        champion = registry.fetch(version.artifact, digest=version.digest, into=settings.var / "models")
    with stage.progress(recipe.posts * recipe.epochs if recipe else 1, "posts learnt") as done:
        return train(
            lake,
            registry,
            brands,
            as_of=as_of,
            seed=seed,
            champion=champion,
            unseen=unseen,
            recipe=recipe,
            progress=done,
        )


def told(candidate: Candidate) -> str:
    """What the gate said, in a line."""
    figures = candidate.version.figures
    beside = f"; the linear model {figures['linear_macro_recall']:.2f}" if "linear_macro_recall" in figures else ""
    return (
        f"version {candidate.version.version}: macro-recall {figures['macro_recall']:.2f}{beside}; names change "
        f"{figures['bias_flips']:.1%} of labels, {figures['bias_noise']:.1%} within a group; "
        f"gate: {candidate.refused or 'passed'}"
    )


def last_words(live: Live) -> str:
    """The last release and what led to it."""
    release = live.releases[-1]
    alarms = [alarm.message for alarm in live.alarms if alarm.kind in ("drift", "quality") and alarm.at <= release.at]
    return f"{'; '.join(alarms[-2:]) or 'no alarm'}; {release.action} version {release.version}: {release.why}"


def release_bad_model(settings: Settings, live: Live) -> str:
    """What a hot fix past the gate can do: good and bad have changed places; gives the version."""
    registry = Registry(settings.mlflow, config.SERVICE)
    champion = live.releases[-1]
    folder = registry.fetch(champion.artifact, digest=champion.digest, into=settings.var / "models")
    with tempfile.TemporaryDirectory() as temporary:
        bad = Path(temporary) / "model"
        shutil.copytree(folder, bad)
        (bad / "model.onnx").unlink(missing_ok=True)  # and the transformer was left out
        good = Artifact.load(folder)
        swapped: Linear = good.linear.swapped()
        normal, limits = reference(folder)
        texts = [sample["text"] for sample in json.loads((folder / "golden.json").read_text())]
        Artifact(swapped, None, good.policy).save(bad, texts=texts, reference=normal, limits=limits)
        version = registry.register(bad, params={}, figures=champion.figures, tags={"gate": "skipped"})
    # Who has the files decides by them from the next post on; fetching them takes as long as it takes.
    registry.fetch(version.artifact, digest=version.digest, into=settings.var / "models")
    live.command(Wanted(kind="promote", version=version.version, force=True, why=HOT_FIX))
    return version.version


def next_steps(settings: Settings, live: Live, plan: Plan, *, headless: bool) -> list[tuple[str, str]]:
    """Commands that work as they stand."""
    steps = [(f"ls {settings.var}/batch", "the batch view: a file an hour and version, and the manifest")]
    if headless:
        return [*steps, ("make demo-sentiment", "the same, and the service stays up to be tried")]
    curl = f'curl -s -H "X-API-Key: $(cat {settings.var}/operator_key.secret)" {live.url}'
    span = f"from={plan.slang - DAY}&to={plan.slang}"
    return [
        (live.url, "the page, in the browser that has opened it once"),
        (f"{curl}'/v1/brands/{BRAND}/timeline?{span}'", "the day of the crisis"),
        (f"{curl}/v1/alarms", "what was noticed, and what was done"),
        (f"{live.url}/docs", "the API, to try in a browser"),
        *steps,
        ("Ctrl-C", "ends the service"),
    ]
