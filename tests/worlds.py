"""Tiny worlds with a known answer, and large ones with every trouble that a log knows."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud import config
from fraud.config import DAY, HOUR
from fraud.features import NAMES, needs
from fraud.history import as_events
from fraud.order import Order
from fraud.schema import Cell, Event, Features, Label, Tick, Transaction
from fraud.simulate import labels, simulate
from fraud.snapshot import Memory
from fraud.terminals import Book

START = 1_767_225_600  # 2026-01-01 00:00 UTC, a Thursday
KEY = b"a key of tests"


def payment(at: int, cents: int = 10_00, *, id: str = "", card: str = "card", terminal: str = "shop") -> Transaction:
    return Transaction(card=card, id=id or f"at-{at}", terminal=terminal, at=at, cents=cents, country="BE", device="d1")


def label(paid: Transaction, at: int, *, fraud: bool = True) -> Label:
    return Label(card=paid.card, id=paid.id, terminal=paid.terminal, at=at, fraud=fraud, source="chargeback")


def ticks(since: int, until: int) -> list[Tick]:
    return [Tick(at=at) for at in range(since, until, HOUR)]


def brief(value: object) -> str:
    """The name of a test's parameter: a megabyte would not fit on the screen."""
    return repr(value) if len(repr(value)) < 30 else f"{repr(value)[:10]}...{len(repr(value))}"


def bank(*, seed: int, days: int, cards: int, payments_a_day: float = 1.0) -> pl.DataFrame:
    """A simulated past as rows of `fraud.events`; one payment in four was reviewed, the others approved."""
    paid = simulate(seed=seed, start=START, days=days, cards=cards, terminals=cards // 3, payments_a_day=payments_a_day)
    reviewed = pl.int_range(pl.len()) % 4 == 0
    known = labels(
        paid.with_columns(action=pl.when(reviewed).then(pl.lit("review")).otherwise(pl.lit("approve"))), seed=1
    )
    return as_events(paid, known, key=KEY, ticks=(START, START + (days + 9) * DAY))


def troubled(rows: pl.DataFrame, *, seed: int, gaps: bool = True) -> pl.DataFrame:
    """The same rows as a bad network would bring them, with `arrival` (which is when the log takes them, `appended`)
    and `offset`, by partition and offset.

    Late, too late, at the same second, without device, probes ahead of time; verdicts repeated, taken
    back, taken back again, late and early; `gaps`: hours without ticks.
    """
    rng = np.random.default_rng(seed)
    at, draw, late = pl.col("at"), pl.col("draw"), pl.col("late")
    rows = rows.with_columns(arrival=at, draw=rng.random(rows.height), late=rng.random(rows.height))
    middle = at.is_between(at.min() + HOUR, at.max() - 3 * DAY)
    chosen = rows.filter(~((pl.col("kind") == "tick") & (draw < 0.2) & middle & gaps))

    def seconds(share: float, hours: float) -> pl.Expr:  # of `late`, seen from the edge of a share
        return ((late * 1e6 % 1) * hours * HOUR * (late < share)).cast(pl.Int64)

    paid = chosen.filter(kind="payment").with_columns(
        at=pl.when(draw < 0.1).then(at // 600 * 600).when(draw > 0.995).then(at + 3 * HOUR).otherwise(at),
        arrival=at + seconds(0.04, 5.5) + 8 * seconds(0.006, 5.5),
        probe=draw > 0.99,
        device=pl.when(draw.is_between(0.5, 0.55)).then(None).otherwise(pl.col("device")),
        country=pl.when(draw.is_between(0.53, 0.56)).then(None).otherwise(pl.col("country")),
    )
    twins = paid.filter(draw.is_between(0.07, 0.12)).with_columns(
        id=pl.format("{}-again", "id"), cents=pl.col("cents") // 2 + 1
    )
    told = chosen.filter(kind="label").with_columns(
        at=pl.when(draw < 0.02).then(at + 2 * HOUR).otherwise(at), arrival=at + seconds(0.1, 48)
    )
    repeated = told.filter(draw.is_between(0.1, 0.25)).with_columns(arrival=pl.col("arrival") + HOUR, at=at + HOUR)
    taken_back = told.filter(draw.is_between(0.2, 0.4)).with_columns(
        arrival=pl.col("arrival") + 2 * DAY, at=at + 2 * DAY, fraud=~pl.col("fraud")
    )
    again = taken_back.filter(draw < 0.3).with_columns(arrival=pl.col("arrival") + DAY, fraud=~pl.col("fraud"))
    every = pl.concat([chosen.filter(kind="tick"), paid, twins, told, repeated, taken_back, again])
    return placed(every.drop("draw", "late").sort("arrival", maintain_order=True)).with_columns(appended="arrival")


def placed(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in order of arrival get their offsets; gives them by partition and offset."""
    offset = pl.int_range(pl.len()).over("partition")
    return rows.with_columns(offset=offset).sort("partition", "offset")


class Replay:
    """What a worker does with features, without a log: queue, take in order, remember."""

    def __init__(self, memories: Sequence[Memory] = (), cells: Iterable[Cell] = ()) -> None:
        self.memories = list(memories) or [Memory(partition) for partition in range(config.PARTITIONS)]
        self.book, self.cells = Book(), list(cells)
        self.book.add(self.cells)
        self._order: Order[Event] = Order(self.book)
        self.seen: dict[str, Features | None] = {}  # by identity

    def push(self, partition: int, events: Iterable[Event]) -> None:
        for event in events:
            self._order.push(partition, event, at=event.at, needs=needs(event))

    def drain(self) -> None:
        while (item := self._order.pop()) is not None:
            partition, event = item
            memory = self.memories[partition]
            memory.offset += 1
            features, cell = memory.state.step(event, self.book)
            if isinstance(event, Transaction):
                self.seen[event.identity] = features
            if cell is not None:
                self.book.add([cell])
                self.cells.append(cell)

    @property
    def waiting(self) -> int:
        return len(self._order)


def learnable(rows: int, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (n, 36) and labels of payments whose frauds are large and at risky terminals, with some chance."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((rows, len(NAMES)))
    matrix[:, 0] = rng.integers(1, 100_000, rows) / 100  # the amount
    odds = 0.006 * matrix[:, 0] + 4 * matrix[:, NAMES.index("terminal_risk_28d")] - 7
    return matrix, (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.float64)
