"""Deeds that nobody here did, through the very same nights: the first part is learnt from, the rest is lived."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from recsys import config, dataset, evaluate, table
from recsys.batch import Nights, date_of
from recsys.demo import learn, nights_of, told
from recsys.evaluate import Truth
from recsys.history import EVENT_COLUMNS, hidden, read_file, write_history
from recsys.ingest import refusals
from recsys.monitor import promotion
from recsys.schema import EVENTS, RELEASES, TOPICS, Interactions, Ints
from recsys.table import Table
from shared.clock import SystemClock, VirtualClock, perf_counter
from shared.console import Stage
from shared.eventlog import open_log
from shared.eventlog.port import Entry
from shared.lake import Lake
from shared.registry import Registry
from shared.settings import Settings

NIGHTS = 24  # the last days of the file
NEEDED = 28  # days before them: three horizons of a week to learn, choose and judge, and a week to know somebody by
SHOWN = 10  # refused rows
AT = evaluate.AT


class TooShort(Exception):
    """The file has too few days to learn from."""


def run(settings: Settings, file: Path, *, days: int, seed: int) -> None:
    """`days`: how many of the file's last days get a night each; 0 takes NIGHTS.

    Raises:
        Refused: columns are missing. TooShort: not enough days, or no row that can be read.
    """
    began, stage = perf_counter(), Stage()
    stamp = datetime.fromtimestamp(SystemClock().now(), UTC).strftime("%Y%m%d-%H%M%S")
    settings = settings.afresh(f"replay-recsys/{stamp}")
    settings.pin("pseudonym_key", f"replay of seed {seed}")
    key, lake = settings.key("pseudonym_key"), Lake(settings.var / "lake")

    with stage.act(f"Read {file.name}") as act:
        past = read_file(file)
        if past.events.is_empty():
            raise TooShort(f"{file.name} has no row that can be read")
        first, end = past.events["at"][0] // config.DAY, past.events["at"][-1] // config.DAY + 1
        lived = days or NIGHTS
        today = end - lived
        if today - first < NEEDED:
            raise TooShort(f"{file.name} has {end - first} days; {lived + NEEDED} are needed: {NEEDED} to learn from")
        aside = "".join(f"; {count:,} set aside: {reason}" for reason, count in past.set_aside.items())
        act.outcome = f"{past.events.height:,} deeds of {end - first} days; {len(past.letters):,} refused{aside}"
    if past.letters:
        rows = [[str(letter.offset), letter.field, letter.value[:40], letter.reason] for letter in past.letters[:SHOWN]]
        stage.table(
            f"Refused, the first {len(rows)} of {len(past.letters):,}", ["line", "field", "value", "reason"], rows
        )

    with stage.act("The first part into the lake, and a recipe learnt from it") as act:
        write_history(lake, past.events.filter(pl.col("at") < today * config.DAY), past.products, key=key)
        registry = Registry(settings.mlflow, config.SERVICE)
        candidate = learn(settings, registry, as_of=today * config.DAY, seed=seed)
        act.outcome = told(candidate)

    clock = VirtualClock(today * config.DAY)
    log = open_log(settings.log, clock=clock)
    log.create(TOPICS)
    log.append(refusals(past.letters))
    if not candidate.refused:
        line = promotion(candidate.version, at=clock.now(), who="replay", why="the first")
        log.append([Entry(RELEASES, line.version, line.model_dump_json().encode())])
    nights = nights_of(settings, registry, seed)(log, clock)
    named = hidden(past.events, key=key)
    figures: list[dict[str, dict[str, float]]] = []
    with (
        stage.act(f"{lived} nights, and what each user bought after them") as act,
        stage.progress(lived, "nights") as done,
    ):
        refused, seconds = 0, list[float]()
        for day in range(today, end):
            clock.observe(day * config.DAY)
            night = nights.run(date_of(clock.now()))
            refused += not night.version
            seconds.append(sum(night.seconds.values()))
            if (judged := judge(nights, lake, named, cut=clock.now())) is not None:
                figures.append(judged)
            today_s = named.filter(pl.col("at") // config.DAY == day)
            clock.observe((day + 1) * config.DAY - 1)
            log.append([Entry(EVENTS, user, text.encode()) for user, text in messages(today_s)])
            done(1)
        act.outcome = (
            f"{lived - refused} published, {refused} refused by their gate; {np.median(seconds):.1f} s a night"
        )
    log.close()
    stage.table(f"nDCG@{AT} and recall@{AT}: means over nights; every user who bought afterwards", *summary(figures))
    stage.say(f"\n{perf_counter() - began:.0f} s; everything that was written: {settings.var}")
    stage.next_steps([("make demo-recsys", "a shop whose truth is known")])


def messages(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """User and JSON of each row of `recsys.events`."""
    filled = [name for name in EVENT_COLUMNS if rows[name].null_count() < rows.height]
    text = pl.struct(filled).struct.json_encode().alias("text")
    return list(rows.select("user", text).iter_rows())


def judge(nights: Nights, lake: Lake, named: pl.DataFrame, *, cut: int) -> dict[str, dict[str, float]] | None:
    """The table in force, popularity and repeats, on what is bought from the cut on; None without any."""
    version = table.current(nights.tables)
    if version is None:
        return None
    made, known = Table.open(nights.tables / version, verify=False), dataset.interactions(lake, cut=cut)
    later = dataset.standing(named.filter(pl.col("at") >= cut)).unique(["user", "item"], maintain_order=True)
    if later.is_empty():
        return None
    # Strangers too: whoever buys is shown something, by popularity if need be.
    buyers = later["user"].unique().sort()
    items = pl.Series("item", made.extras.items, pl.String)
    truth = Truth(
        dataset.number(later["user"], buyers).to_numpy(),
        dataset.number(later["item"], items).to_numpy(),
        count=len(made.extras.items),
    )
    popular = np.array(made.extras.popular[""][:AT])
    served = [made.items(row)[:AT] if (row := made.row(user)) >= 0 else popular.tolist() for user in buyers]
    lists = {
        "this system": np.array(served),
        "popularity": np.tile(popular, (len(buyers), 1)),
        "repeats": repeats(known, made, buyers.to_list(), popular),
    }
    return {name: evaluate.judge(truth, shown) for name, shown in lists.items()}


def repeats(known: Interactions, made: Table, users: list[str], popular: Ints) -> Ints:
    """What each bought most often, the latest first among equals; filled up with popularity."""
    most = known.bought.group_by("user", "item").agg(pl.len(), pl.col("at").max())
    order = most.sort(["user", "len", "at", "item"], descending=[False, True, True, False])
    number = {user: place for place, user in enumerate(known.users)}
    mine = {user: part["item"].to_list() for (user,), part in order.group_by("user", maintain_order=True)}
    out = np.empty((len(users), AT), dtype=np.int64)
    for row, user in enumerate(users):
        had = [made.number.get(known.items[item], -1) for item in mine.get(number.get(user, -1), [])]
        first = [item for item in had if item >= 0][:AT]
        more = [item for item in popular.tolist() if item not in first]
        out[row] = (first + more)[:AT]
    return out


def summary(figures: list[dict[str, dict[str, float]]]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in figures[0] if figures else ():
        of = [night[name] for night in figures]
        values = [float(np.mean([night[what] for night in of])) for what in ("ndcg", "recall", "map")]
        rows.append([name, *(f"{value:.4f}" for value in values)])
    return ["", "nDCG", "recall", "MAP"], rows
