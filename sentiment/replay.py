"""Replays a file of posts through stream and batch in its own time: trains on the labels of the first days."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import polars as pl

from sentiment import config
from sentiment.account import difference, opened, seam, share_errors
from sentiment.config import DAY, HOUR
from sentiment.demo import PROCESSES, learn, told
from sentiment.history import read_file, write_labels
from sentiment.live import Live
from sentiment.mentions import Brands, worlds
from sentiment.recipe import Recipe
from sentiment.schema import DEAD, PERSONAL, Wanted
from sentiment.shares import correcting
from shared.clock import SystemClock, perf_counter
from shared.console import Stage
from shared.dead_letters import rejected_rows
from shared.eventlog import open_log
from shared.lake import Lake
from shared.privacy import pseudonym
from shared.refusals import show_refusals
from shared.results import Run
from shared.settings import Settings
from shared.table_files.cells import Spelling
from shared.unusable import Unusable

LEARNT = 0.3  # of the days


def run(
    settings: Settings,
    file: Path,
    *,
    name: str,
    port: int,
    world: str,
    seed: int,
    recipe: Recipe | None,
    spelling: Spelling,
    labels: Mapping[str, str],
) -> None:
    """`name`: what was typed for the file; `world`: the section of brands.toml that the file's brands stand in.

    Raises:
        Unusable: columns are missing, no row can be read, or there are too few days or labels to learn from.
    """
    began, stage = perf_counter(), Stage()
    figures = Run(
        config.SERVICE,
        command=f"make replay-sentiment FILE={name} BRANDS={world}",
        at=SystemClock().now(),
        var=settings.var,
        modules=["sentiment.replay", *PROCESSES],
    )
    settings = settings.afresh("replay-sentiment", at=SystemClock().now())
    settings.pin("pseudonym_key", f"replay of seed {seed}")
    with stage.act(f"Read {file.name}") as act:
        table = read_file(file, spelling, labels=labels)
        posts = table.rows
        known = Brands.read(world)
        unknown = posts.filter(~pl.col("text").map_elements(lambda text: bool(known.found(text)), pl.Boolean)).height
        if unknown == posts.height:
            raise Unusable(
                f"none of the {unknown:,} posts of {file.name} names a brand of {world}: {', '.join(known.names)}; "
                f"say BRANDS=, one of {', '.join(worlds())} or a TOML file of your own"
            )
        names = {name: pseudonym(name, settings.key("pseudonym_key")) for name in posts["author"].unique()}
        posts = posts.with_columns(pl.col("author").replace_strict(names))
        first, last = posts["at"][0] // DAY, posts["at"][-1] // DAY
        today = (first + max(1, round((last - first + 1) * LEARNT))) * DAY
        past, live_posts = posts.filter(pl.col("at") < today), posts.filter(pl.col("at") >= today)
        labelled = past["label"].drop_nulls().len()
        if labelled < 300 or live_posts.is_empty():
            raise Unusable(
                f"{file.name} has {last - first + 1} days and {labelled} labels in the first of them; 300 are needed"
            )
        act.outcome = (
            f"{posts.height:,} posts of {last - first + 1} days, {unknown:,} of no known brand; "
            f"{len(table.letters):,} rows refused"
        )
    show_refusals(stage, table, settings.var)

    with Live(settings, stage, port=port, today=today, seed=seed, world=world) as live:
        live.log.append(rejected_rows(DEAD, table.letters, personal=PERSONAL))
        with stage.act("Training on the first days") as act:
            write_labels(Lake(settings.lake(config.SERVICE)), past, known_at=today - HOUR)
            live.children.start("serve", "--port", str(port))
            live.children.start("batch")
            candidate = learn(settings, stage, Brands.read(world), as_of=today, seed=seed, recipe=recipe)
            live.children.start("monitor", "--seed", str(seed), *([] if recipe else ["--linear"]))
            act.outcome = told(candidate)
        with stage.act("Live: the rest through log, worker and batch, audited a day later") as act:
            live.open()
            live.command(Wanted(kind="promote", version=candidate.version.version, force=True, why="the first"))
            end = (last + 1) * DAY
            live.send(live_posts, until=end)
            live.hour(live_posts.clear(), end + HOUR)  # so that the last day closes
            live.follow()
            crises = [alarm.brand for alarm in live.alarms if alarm.kind == "crisis"]
            act.outcome = (
                f"{live.sent:,} posts, {live.throughput:,.0f} a second; crises: {', '.join(map(str, crises)) or 'none'}"
            )
        with closing(open_log(settings.log, clock=live.clock)) as log:
            timeline = opened(settings, log)
            hours, wrong = seam(timeline, log)
            stage.table("What batch made of what the stream had counted", *difference(timeline, log).table())
        corrections = correcting(live.reports)
        truth = live_posts.select(post="id", at="at", brand="brand", label="label").filter(
            pl.col("label").is_not_null()
        )
        errors = share_errors(timeline, truth, corrections, audited=live.asked)
        stage.table("Shares of brand-days against the labels in the file", *errors.table())
        figured = (
            ("share.days", errors.days, "brand-days", None),
            ("share.mae_raw", errors.raw, "share", None),
            ("share.mae_corrected", errors.corrected, "share", "<= 0.035"),
            ("share.mae_first", errors.first, "share", None),
            ("share.coverage90", errors.coverage, "share", ">= 0.85"),
        )
        for name, value, unit, target in figured:
            figures.figure(name, value, unit=unit, target=target)
        stage.table(
            "Figures",
            ["", "value", "unit"],
            [*([n, v, u] for n, v, u, _ in figured), ["seam mismatches", wrong, f"of {hours}"]],
        )
        stage.say(f"\n{perf_counter() - began:.0f} s; everything that was written: {settings.var}")
        stage.next_steps([("make demo-sentiment", "a crowd with a crisis and new words, whose truth is known")])
