"""Replays an events file through the nightly job: trains on the first part and serves the rest day by day."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys import config, dataset, evaluate, table
from recsys.batch import Nights, date_of
from recsys.demo import by_source, learn, nights_of, told
from recsys.evaluate import Truth
from recsys.history import EVENT_COLUMNS, Past, hidden, read_file, write_history
from recsys.releases import RECIPE
from recsys.schema import DEAD, EVENTS, PERSONAL, TOPICS, Interactions, Ints, Release, entry
from recsys.table import Table
from recsys.train import Candidate
from shared.clock import SystemClock, VirtualClock, perf_counter
from shared.console import Stage
from shared.dead_letters import rejected_rows
from shared.eventlog import open_log
from shared.eventlog.port import Entry, EventLog, for_ever
from shared.lake import Lake
from shared.refusals import show_refusals
from shared.registry import Registry
from shared.results import Run
from shared.settings import Settings
from shared.table_files.cells import Spelling
from shared.unusable import Unusable

NIGHTS = 24  # the last days of the file
NEEDED = 28  # days before them: three horizons of a week to learn, choose and judge, and a week to know shoppers by
AT = evaluate.AT
MEASURES = ("ndcg", "recall", "map")
OURS = "this system"

Judged = dict[str, dict[str, float]]  # way of recommending -> measure -> mean over users


class Lived(NamedTuple):
    """What came of the nights."""

    refused: list[str]  # date and reason
    seconds: list[float]  # of each
    judged: list[Judged]  # of each after which there were purchases


def run(settings: Settings, file: Path, *, name: str, days: int, seed: int, spelling: Spelling) -> None:
    """`days`: how many of the file's last days get a night each; 0 takes NIGHTS. `name`: under which figures go.

    Raises:
        Unusable: columns are missing, no row can be read, or there are not enough days or purchases to learn from.
    """
    began, stage, lived = perf_counter(), Stage(), days or NIGHTS
    command = f"make replay-recsys FILE={name}" + (f" DAYS={days}" if days else "")
    figures = Run(config.SERVICE, command=command, at=SystemClock().now(), var=settings.var, modules=["recsys.replay"])
    settings = settings.afresh("replay-recsys", at=SystemClock().now())
    settings.pin("pseudonym_key", f"replay of seed {seed}")
    lake, registry = Lake(settings.lake(config.SERVICE)), Registry(settings.mlflow, config.SERVICE)

    past = take(stage, file, spelling)
    show_refusals(stage, past.table, settings.var)
    first, end = past.events["at"][0] // config.DAY, past.events["at"][-1] // config.DAY + 1
    today = end - lived
    if today - first < NEEDED:
        raise Unusable(f"{file.name} has {end - first} days; {lived + NEEDED} are needed: {NEEDED} to learn from")

    with stage.act("The first part into the lake, and a recipe learnt from it") as act:
        before = past.events.filter(pl.col("at") < today * config.DAY)
        write_history(lake, before, past.products, key=settings.key("pseudonym_key"))
        # What a recipe is chosen on reaches as far as what the tables will be judged on, if the file does.
        horizon = max(lived, config.HORIZON) if today - first >= 4 * lived else config.HORIZON
        candidate = learn(settings, registry, as_of=today * config.DAY, seed=seed, horizon=horizon)
        act.outcome = told(candidate)
    stage.table(f"Each source alone, on the {horizon} days before the first night", *by_source(candidate))

    with stage.act(f"{lived} nights, and what each user bought after them") as act:
        clock = VirtualClock(today * config.DAY)
        log = open_log(settings.log, clock=clock)
        log.create(for_ever(TOPICS))
        log.append([*rejected_rows(DEAD, past.table.letters, personal=PERSONAL), released(candidate, at=clock.now())])
        named = hidden(past.events, key=settings.key("pseudonym_key"))
        nights = nights_of(settings, registry, seed)(log, clock)
        done = live(stage, log, clock, nights, lake, named, days=range(today, end))
        log.close()
        published = f"{lived - len(done.refused)} published, {np.median(done.seconds):.1f} s a night"
        act.outcome = "; ".join([published, *done.refused])

    means = summary(done.judged)
    buyers = [night[OURS]["users"] for night in done.judged]
    title = f"Means over {len(buyers)} nights, over all who bought from then on"
    asked = f"{max(buyers, default=0):,.0f} users after the first, {min(buyers, default=0):,.0f} after the last"
    rows = [[arm, *(f"{of[what]:.4f}" for what in MEASURES)] for arm, of in means.items()]
    stage.table(f"{title}: {asked}", ["", *(f"{what}@{AT}" for what in MEASURES)], rows)
    learnt = candidate.version.figures
    values: dict[str, tuple[float, str]] = {
        f"{what}{AT}" if arm == OURS else f"{arm}.{what}{AT}": (of[what], "")
        for arm, of in means.items()
        for what in MEASURES
    } | {
        "free_vs_single": (learnt["ndcg_free"] / max(1e-9, learnt["best_single"]), "ratio"),
        "nights": (lived - len(done.refused), "nights"),
        "night_seconds": (float(np.median(done.seconds)), "s"),
        "deeds": (past.events.height, "rows"),
        "rows_refused": (len(past.table.letters), "rows"),
        "rows_set_aside": (sum(past.set_aside.values()), "rows"),
        "seconds": (round(perf_counter() - began, 1), "s"),
    }
    for what, (value, unit) in values.items():
        figures.figure(f"replay.{name}.{what}", value, unit=unit)
    stage.say(f"\n{perf_counter() - began:.0f} s; everything that was written: {settings.var}")
    stage.next_steps([("make demo-recsys", "a shop whose truth is known")])


def take(stage: Stage, file: Path, spelling: Spelling) -> Past:
    """What the file holds. Raises Unusable: columns are missing, or no row can be read."""
    with stage.act(f"Read {file.name}") as act:
        past = read_file(file, spelling)
        days = past.events["at"][-1] // config.DAY + 1 - past.events["at"][0] // config.DAY
        back = past.events.filter(kind="cancel").height
        aside = "".join(f"; {count:,} set aside: {reason}" for reason, count in past.set_aside.items())
        act.outcome = (
            f"{past.events.height:,} deeds of {days} days, {back:,} of them cancellations; "
            f"{len(past.table.letters):,} rows refused{aside}"
        )
    return past


def released(candidate: Candidate, *, at: int) -> Entry:
    """The first recipe goes out whatever its gate says: validation preferred it, also to the plain blend."""
    why = f"the first, although {candidate.refused}" if candidate.refused else "the first"
    return entry(Release.promotion(candidate.version, at=at, who="replay", why=why, key="the-first", subject=RECIPE))


def live(
    stage: Stage, log: EventLog, clock: VirtualClock, nights: Nights, lake: Lake, named: pl.DataFrame, *, days: range
) -> Lived:
    """A night before each of the days (since the epoch), the day's rows of `named` after it."""
    done = Lived([], [], [])
    with stage.progress(len(days), "nights") as advance:
        for day in days:
            clock.observe(day * config.DAY)
            night = nights.run(date_of(clock.now()))
            done.seconds.append(sum(night.seconds.values()))
            if night.refused:
                done.refused.append(f"{night.date}: {night.refused}")
            if (judged := judge(nights, lake, named, cut=clock.now())) is not None:
                done.judged.append(judged)
            clock.observe((day + 1) * config.DAY - 1)
            log.append(messages(named.filter(pl.col("at") // config.DAY == day)))
            advance(1)
    return done


def messages(rows: pl.DataFrame) -> list[Entry]:
    """Rows of `recsys.events` as records of the topic."""
    filled = [name for name in EVENT_COLUMNS if rows[name].null_count() < rows.height]
    if not filled:
        return []  # no shopper came
    text = pl.struct(filled).struct.json_encode().alias("text")
    return [Entry(EVENTS, user, text.encode()) for user, text in rows.select("user", text).iter_rows()]


def judge(nights: Nights, lake: Lake, named: pl.DataFrame, *, cut: int) -> Judged | None:
    """The table in force, popularity and repeats, on what is bought from the cut on; None without any."""
    version = table.current(nights.tables)
    if version is None:
        return None
    made, known = Table.open(nights.tables / version, verify=False), dataset.interactions(lake, cut=cut)
    later = dataset.standing(named.filter(pl.col("at") >= cut)).unique(["user", "item"], maintain_order=True)
    if later.is_empty():
        return None
    # Unknown shoppers too: each buyer is shown a list, by popularity if need be.
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
        OURS: np.array(served),
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


def summary(nights: list[Judged]) -> Judged:
    """By way of recommending, the mean of each measure over nights."""
    arms = nights[0] if nights else {}
    return {arm: {what: float(np.mean([night[arm][what] for night in nights])) for what in MEASURES} for arm in arms}
