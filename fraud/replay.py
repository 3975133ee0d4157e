"""Replays a file of payments through the same stages: trains on the first part and decides the rest in order."""

from pathlib import Path

import polars as pl

from fraud import config, evaluate
from fraud.account import money, service
from fraud.demo import RATE, learn, past, told
from fraud.history import read_file
from fraud.live import Live
from fraud.schema import DEAD, PERSONAL, Wanted
from shared.clock import SystemClock, perf_counter
from shared.console import Stage
from shared.dead_letters import rejected_rows
from shared.lake import Lake
from shared.refusals import show_refusals
from shared.settings import Settings
from shared.table_files.cells import Spelling
from shared.table_files.table import Table
from shared.unusable import Unusable

LEARNT = 0.6  # of the days


def run(settings: Settings, file: Path, *, port: int, days: int, seed: int, spelling: Spelling) -> None:
    """`days` of the file, from its first on; 0 takes all.

    Raises:
        Unusable: columns are missing, no row can be read, or there are fewer than 28 days or too little to learn from.
    """
    began, stage = perf_counter(), Stage()
    settings = settings.afresh("replay-fraud", at=SystemClock().now())
    settings.pin("pseudonym_key", f"replay of seed {seed}")

    with stage.act(f"Read {file.name}") as act:
        payments, table = take(file, days=days, spelling=spelling)
        first, end = payments["at"][0] // config.DAY, payments["at"][-1] // config.DAY + 1
        if end - first < 28:
            raise Unusable(
                f"{file.name} has {end - first} days; 28 are needed: half to learn, half for labels and gate"
            )
        today = first + int((end - first) * LEARNT)
        act.outcome = f"{payments.height:,} payments of {end - first} days; {len(table.letters):,} rows refused"
    show_refusals(stage, table, settings.var)

    with Live(settings, payments, stage, port=port, today=today, seed=seed) as live:
        live.log.append(rejected_rows(DEAD, table.letters, personal=PERSONAL))
        with stage.act("History: the first part into the lake") as act:
            act.outcome = past(settings, payments, live, until=today * config.DAY)
        with stage.act("Training") as act:
            candidate = learn(settings, stage, as_of=today * config.DAY, seed=seed)
            act.outcome = told(candidate)
        with stage.act("Live: the rest through log and worker, labels as they come, judged day by day") as act:
            live.open(rate=RATE)
            live.command(Wanted(kind="promote", version=candidate.version.version, force=True, why="the first"))
            live.days(range(today, end))
            answers = live.close_http()
            act.outcome = f"{live.sent:,} events; {len(live.alarms)} alarms, {len(live.releases) - 1} further releases"
        decided = live.decided()
        truth, known = money(decided, Lake(settings.lake(config.SERVICE)), end=end * config.DAY)
        stage.table("Money, EUR", *truth.table(known))
        stage.table("Ranking, by the file's truth", *ranking(decided))
        stage.table("Service", *service(live, answers))
        stage.say(f"\n{perf_counter() - began:.0f} s; everything that was written: {settings.var}")
        stage.next_steps([("make demo-fraud", "a bank with an attack, whose truth is known")])


def take(file: Path, *, days: int, spelling: Spelling) -> tuple[pl.DataFrame, Table]:
    """A file's first days up to now; complaints come when MATURITY is over, as in the Handbook, or have come by now.

    Raises:
        Unusable: columns are missing, or no row can be read.
    """
    table = read_file(file, spelling)
    payments = table.rows
    if days:
        payments = payments.filter(pl.col("at") < (payments["at"][0] // config.DAY + days) * config.DAY)
    after = pl.min_horizontal(pl.lit(config.MATURITY - 1, pl.Int64), spelling.now - pl.col("at"))
    return payments.with_columns(complaint_after=after), table


def ranking(decided: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Average precision, AUC, and the share of fraud among the 100 highest-scored cards of a day."""
    scored = decided.filter(pl.col("probability").is_not_null()).with_columns(weight=pl.lit(1.0))
    figures = evaluate.ranking(scored, scored["probability"].to_numpy())
    return ["", "value"], [[name.replace("_", " "), f"{value:.3f}"] for name, value in figures.items()]
