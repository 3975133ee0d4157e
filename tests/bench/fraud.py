"""How fast the path of a payment is, beside what a user would pick instead; ratios in one run, medians of several.

`make bench-fraud` on a quiet machine. Nothing here asserts: a missed target is recorded as missed.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from statistics import median

import lightgbm as lgb
import numpy as np
import polars as pl

from fraud import config
from fraud.config import DAY
from fraud.model import Model
from fraud.schema import EVENTS, message
from fraud.stream import Worker
from fraud.windows import Card
from shared.clock import SystemClock, perf_counter
from shared.console import Stage
from shared.eventlog.port import Record
from shared.results import Run
from shared.settings import Settings
from tests.bench.timing import per_call
from tests.fraud.bank import LIVE, TODAY, Trained, copied, trained
from tests.worlds import learnable

REPEATS = 5
GROUP = 20  # events timed together: a tick or a late hour is the cost of no single one
CARD_EVENTS = 57  # of a card within the longest window, as the Handbook's busy ones


def main() -> None:
    stage = Stage()
    run = Run(
        config.SERVICE,
        command="make bench-fraud",
        at=SystemClock().now(),
        var=Settings().var,
        modules=["tests.bench.fraud"],
    )
    with tempfile.TemporaryDirectory() as temporary:
        with stage.act("A small bank, and a model learnt from it") as act:
            world = trained(Path(temporary) / "trained")
            act.outcome = f"{world.events.height:,} events to decide"
        with stage.act("JSON in, decision JSON out, one core, no log") as act:
            seconds = path_of_a_payment(world, Path(temporary))
            rate, (p50, p99) = 1 / np.mean(seconds), 1e6 * np.quantile(seconds, (0.5, 0.99))
            run.figure("bench.events_per_s", round(float(rate)), unit="events/s", target=">= 45000")
            run.figure("bench.event_p50_us", round(float(p50), 1), unit="us")
            run.figure("bench.event_p99_us", round(float(p99), 1), unit="us")
            act.outcome = f"{rate:,.0f} events a second; means over {GROUP}: p50 {p50:.0f} us, p99 {p99:.0f} us"
        with stage.act("One row through the trees") as act:
            ours, booster, sklearn, contributions = one_row()
            run.figure("bench.row_us", round(1e6 * ours, 1), unit="us")
            run.figure("bench.row_vs_sklearn", round(sklearn / ours, 1), unit="ratio", target=">= 60")
            run.figure("bench.contributions_vs_row", round(contributions / ours, 1), unit="ratio")
            run.figure("bench.row_vs_booster", round(booster / ours, 1), unit="ratio", target=">= 4")
            act.outcome = f"{1e6 * ours:.1f} us; the booster on numpy {1e6 * booster:.0f}, sklearn {1e6 * sklearn:.0f}"
        with stage.act("Memory of a card") as act:
            size = bytes_per_card()
            run.figure("bench.bytes_per_card", size, unit="bytes", target="<= 1500")
            act.outcome = f"{size:,} bytes with {CARD_EVENTS} payments"
    stage.next_steps([("make record", "take these figures over"), ("make docs", "write them into the documents")])


def path_of_a_payment(world: Trained, folder: Path) -> list[float]:
    """Seconds an event takes, by event: parsed, placed, folded, scored, decided, explained where it is due, written."""
    with closing(copied(world, folder / "var")) as bank:
        worker = bank.worker()
        bank.settle(worker)
        sent = records(world)
        return [timed(worker, sent[first : first + GROUP]) / GROUP for first in range(0, len(sent) - GROUP, GROUP)]


def timed(worker: Worker, some: Iterable[Record]) -> float:
    began = perf_counter()
    for record in some:
        worker._queue(record)
        while (item := worker._order.pop()) is not None:
            partition, (taken, event) = item
            worker._take(partition, taken, event)
    worker._out.clear()
    return perf_counter() - began


def records(world: Trained) -> list[Record]:
    """The live days as the topic would give them."""
    rows = world.events.filter(pl.col("at") < TODAY + LIVE * DAY).with_columns(message())
    offsets = [0] * EVENTS.partitions
    made = []
    for partition, card, at, text in rows.select("partition", "card", "at", "message").iter_rows():
        made.append(Record(EVENTS.name, partition, offsets[partition], card or "tick", text.encode(), at))
        offsets[partition] += 1
    return made


def one_row() -> tuple[float, float, float, float]:
    """Seconds of one prediction through 100 trees x 31 leaves: ours, the booster on a numpy row, sklearn's wrapper; and
    of the contributions to one.
    """
    matrix, frauds = learnable(20_000, seed=1)
    peer = lgb.LGBMClassifier(n_estimators=100, num_leaves=31, n_jobs=1, verbosity=-1).fit(matrix, frauds)
    ours = Model(peer.booster_, slope=1.0, intercept=0.0)
    row, as_list = matrix[:1], matrix[0].tolist()
    calls: list[Callable[[], object]] = [
        lambda: ours.score(as_list),
        lambda: peer.booster_.predict(row, num_threads=1),
        lambda: peer.predict_proba(row),
        lambda: ours.contributions(as_list),
    ]
    mine, booster, sklearn, contributions = (median(per_call(call) for _ in range(REPEATS)) for call in calls)
    return mine, booster, sklearn, contributions


def bytes_per_card() -> int:
    """What a card's columns take, the room that arrays keep for growth included."""
    card = Card()
    for number in range(CARD_EVENTS):
        at = TODAY + number * 12 * config.HOUR
        card.add(at, 1_000 + number, 1, 1, median=card.see(at, 1, 1).median)
    return sum(map(sys.getsizeof, (card, *(getattr(card, column) for column in Card.__slots__))))


if __name__ == "__main__":
    main()
