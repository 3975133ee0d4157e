"""How fast a night and a look-up are, beside what a user would pick instead; ratios in one run, medians of several.

`make bench-recsys` on a quiet machine. Nothing here asserts: a missed target is recorded as missed.
"""

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import polars as pl
from implicit.cpu import topk as compiled
from threadpoolctl import threadpool_limits

from recsys import candidates, config, dataset, demo, simulate, table
from recsys.features import Facts
from recsys.history import write_history
from recsys.recipe import Recipe
from recsys.schema import SOURCES, Interactions, Ints, TopK
from recsys.sources import Sources, fit
from recsys.table import Extras, Manifest, Table
from recsys.topk import arranged
from recsys.train import LEARNT, learn, period
from shared.clock import SystemClock, perf_counter
from shared.console import Stage
from shared.lake import Lake
from shared.results import Run
from shared.settings import Settings
from tests.bench.timing import per_call

REPEATS = 5
SHOPPERS = 200_000  # in the table that is looked up in
SHOWN = 10  # places of a list
POOL = 40  # best of a source
SOME = 256  # users that the loop takes one by one


class Shop(NamedTuple):
    """What a night has in memory when its sources are fitted."""

    known: Interactions
    sources: Sources
    facts: Facts
    recipe: Recipe


def main() -> None:
    stage = Stage()
    run = Run(
        config.SERVICE,
        command="make bench-recsys",
        at=SystemClock().now(),
        var=Settings().var,
        modules=["tests.bench.recsys"],
    )
    with tempfile.TemporaryDirectory() as temporary:
        with stage.act("The demo's shop after twelve weeks, and a recipe learnt from them") as act:
            shop = opened(Path(temporary) / "lake")
            act.outcome = f"{len(shop.known.users):,} shoppers, {len(shop.known.items):,} items"
        with stage.act("The best of one source for all users: scores, then the pool") as act:
            ours, peer = best_of_als(shop.sources)
            run.figure("bench.topk_us_per_user", round(1e6 * ours, 1), unit="us")
            run.figure("bench.topk_vs_implicit", round(peer / ours, 2), unit="ratio", target=">= 1")
            act.outcome = f"{1e6 * ours:.0f} us a user on one core, implicit's topk {1e6 * peer:.0f}"
        with stage.act("A whole night in memory: sources, candidates, features, trees, policy") as act:
            night, blocks, loop = whole_night(shop)
            cores = os.cpu_count() or 1
            per_user = 1e3 * night * cores / len(shop.known.users)
            run.figure("bench.nightly_ms_per_user", round(per_user, 3), unit="ms/user/core", target="<= 1.2")
            run.figure("bench.night_vs_loop", round(loop / blocks, 1), unit="ratio", target=">= 5")
            act.outcome = (
                f"{per_user:.2f} ms a user and core; ranking user by user costs {loop / blocks:.1f} times as much"
            )
        with stage.act(f"A look-up among {SHOPPERS:,}: a user's id in, {SHOWN} items with their sources out") as act:
            took = looked_up(Path(temporary))
            run.figure("bench.lookup_us", round(1e6 * took.ours, 2), unit="us")
            run.figure("bench.lookup_cold_us", round(1e6 * took.cold, 2), unit="us")
            run.figure("bench.lookup_vs_sqlite", round(took.sqlite / took.ours, 1), unit="ratio", target=">= 3")
            run.figure("bench.switch_ms", round(1e3 * took.switch, 1), unit="ms")
            act.outcome = (
                f"{1e6 * took.ours:.1f} us, on untouched pages {1e6 * took.cold:.1f}, SQLite {1e6 * took.sqlite:.1f}; "
                f"opened in {1e3 * took.switch:.0f} ms"
            )
    stage.next_steps([("make record", "take these figures over"), ("make docs", "write them into the documents")])


def opened(folder: Path) -> Shop:
    lake = Lake(folder)
    shop = simulate.open_shop(
        seed=7, start=demo.START, days=demo.HISTORY, users=demo.SHOPPERS, items=demo.ITEMS, season_from=demo.HISTORY
    )
    life, days = simulate.born(shop), []
    for day in range(demo.HISTORY):
        luck = simulate.chances(shop, day)
        days.append(simulate.events(shop, day, luck, simulate.live(shop, life, day, luck, None)))
    events = pl.concat(days).sort("at", maintain_order=True)
    write_history(lake, events, simulate.products(shop, 0), key=b"a key for the bench, 32 bytes ..")
    end, step = demo.START + demo.HISTORY * config.DAY, config.HORIZON * config.DAY
    plain = Recipe()
    fitting, choosing = (
        period(lake, plain, cut=end - back * step, horizon=config.HORIZON, seed=7, most=LEARNT) for back in (2, 1)
    )
    learnt, _ = learn(fitting, choosing, plain.parameters, seed=7)
    known = dataset.interactions(lake, cut=end)
    return Shop(known, fit(known, learnt.parameters, seed=7), Facts.of(known), learnt)


def best_of_als(sources: Sources) -> tuple[float, float]:
    """Seconds a user on one core: our way, and implicit's compiled one, of which no item is kept back."""
    users: Ints = np.arange(len(sources.user_factors))

    def ours() -> None:
        for start in range(0, users.size, candidates.BLOCK):
            scores = sources.user_factors[users[start : start + candidates.BLOCK]] @ sources.item_factors.T
            candidates.mark_best(scores, POOL, np.zeros(scores.shape, dtype=bool))

    def peer() -> None:
        compiled.topk(sources.item_factors, sources.user_factors, POOL, num_threads=1)

    with threadpool_limits(1, "blas"):
        mine, theirs = (median(per_call(call, calls=1) for _ in range(REPEATS)) for call in (ours, peer))
    return mine / users.size, theirs / users.size


def whole_night(shop: Shop) -> tuple[float, float, float]:
    """Seconds of a night for all users; of ranking SOME users in blocks, and one by one."""

    def night() -> None:
        sources = fit(shop.known, shop.recipe.parameters, seed=7)
        every_user = np.arange(len(shop.known.users))
        ranked = shop.recipe.rank(Facts.of(shop.known), sources, every_user, most=config.STORED)
        arranged(shop.known, shop.recipe.policy, sources, ranked, date="2026-03-26")

    def blocks() -> None:
        shop.recipe.rank(shop.facts, shop.sources, np.arange(SOME), most=config.STORED)

    def loop() -> None:
        for user in range(SOME):
            shop.recipe.rank(shop.facts, shop.sources, np.array([user]), most=config.STORED)

    took = [median(per_call(call, calls=1) for _ in range(REPEATS)) for call in (night, blocks, loop)]
    return took[0], took[1], took[2]


class LookUp(NamedTuple):
    """Seconds."""

    ours: float
    cold: float
    sqlite: float  # by primary key, in the page cache
    switch: float  # to open the table


def looked_up(folder: Path) -> LookUp:
    """A user's id in, a Python list of (item, source) out."""
    rng = np.random.default_rng(7)
    users = [f"{number:032x}" for number in rng.permutation(SHOPPERS)]
    count = demo.ITEMS
    items = rng.integers(0, count, (SHOPPERS, config.STORED), dtype=np.int32)
    origins = rng.integers(0, len(SOURCES), items.shape, dtype=np.int8)
    names = [f"i{number:06}" for number in range(count)]
    write_table(
        folder / "table", users, TopK(items, origins, np.zeros(SHOPPERS, bool), np.zeros(SHOPPERS, np.int16)), names
    )
    began = perf_counter()
    made = Table.open(folder / "table")  # as `serve` switches: every byte is read, to verify it
    switch = perf_counter() - began
    database = sqlite3.connect(folder / "table.db")
    database.execute("CREATE TABLE lists (user TEXT PRIMARY KEY, list TEXT) WITHOUT ROWID")
    lists = (
        json.dumps([[names[item], SOURCES[source]] for item, source in zip(row, origin, strict=True)])
        for row, origin in zip(items[:, :SHOWN].tolist(), origins[:, :SHOWN].tolist(), strict=True)
    )
    database.executemany("INSERT INTO lists VALUES (?, ?)", zip(users, lists, strict=True))
    database.commit()
    asked = iter(rng.choice(users, 400_000).tolist())

    def mine() -> list[tuple[str, str]]:
        row = made.row(next(asked))
        pairs = zip(made.items(row, SHOWN), made.sources(row, SHOWN), strict=True)
        return [(names[item], SOURCES[source]) for item, source in pairs]

    def sqlite() -> object:
        (found,) = database.execute("SELECT list FROM lists WHERE user = ?", (next(asked),)).fetchone()
        return json.loads(found)

    cold = per_call(mine, calls=2_000)  # each on pages that this process has not touched yet
    made.first_ten(), made.stored()
    calls: list[Callable[[], object]] = [mine, sqlite]
    ours, peer = (median(per_call(call, calls=20_000) for _ in range(REPEATS)) for call in calls)
    database.close()
    return LookUp(ours, cold, peer, switch)


def write_table(folder: Path, users: list[str], top: TopK, names: list[str]) -> None:
    manifest = Manifest(
        date="2026-03-26", cut=0, recipe="", recipe_digest="", offsets={}, tables={}, files={}, samples={}
    )
    none, no = [0] * len(names), [False] * len(names)
    table.write(
        folder,
        manifest,
        users=users,
        top=top,
        history=np.full((len(users), table.HISTORY), -1),
        scores=np.zeros((len(users), SHOWN), np.float32),
        neighbours=np.full((len(names), config.NEIGHBOURS), -1, np.int32),
        extras=Extras(names, {"": list(range(len(names)))}, none, none, no, no, names),
    )


if __name__ == "__main__":
    main()
