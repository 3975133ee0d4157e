"""One definition of the features: what it says, and that the fold is it, bit for bit."""

import math
import random
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fraud import config, dataset
from fraud.config import ALLOWED_LATENESS, BOOK_LAG, DAY, HOUR, PARTITIONS
from fraud.features import NAMES, State, fold
from fraud.history import as_events, read_file
from fraud.schema import Event, Features, Tick, Transaction
from fraud.terminals import Book
from tests.fraud.oracle import by_place, differences, oracle
from tests.worlds import KEY, START, Replay, bank, label, payment, ticks, troubled

MINUTE = 60


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """60,000 payments of 40 days with every trouble, and a partition without payments."""
    rows = bank(seed=3, days=40, cards=500, payments_a_day=3.5)
    return troubled(rows.filter((pl.col("kind") == "tick") | (pl.col("partition") != 3)), seed=4)


@pytest.fixture(scope="module")
def by_definition(rows: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    return oracle(rows)


def folded(rows: pl.DataFrame) -> NDArray[np.float64]:
    vectors: list[list[Features | None]] = [[] for _ in range(PARTITIONS)]
    for partition, event, vector in fold(dataset.streams(rows)):
        if isinstance(event, Transaction):
            vectors[partition].append(vector)
    return by_place(vectors)


def features(events: list[Event]) -> dict[str, float]:
    """The last event's, in a world of one partition's events and the hours that all others close."""
    state, book = State(0), Book()
    for event in events:
        vector, cell = state.step(event, book)
        if cell is not None:
            book.add([cell.model_copy(update={"partition": p, "counts": {}}) for p in range(1, PARTITIONS)] + [cell])
    assert vector is not None
    return dict(zip(NAMES, vector, strict=True))


# --- the definition, and its oracle ------------------------------------------------------------


def test_fold_equals_the_oracle(rows: pl.DataFrame, by_definition: tuple[pl.DataFrame, NDArray[np.float64]]) -> None:
    payments, expected = by_definition
    assert payments.height > 60_000
    assert 50 < payments["late"].sum() < 3_000
    assert payments["probe"].sum() > 300
    assert differences(payments, folded(rows), expected) == []


@pytest.mark.slow
def test_fold_equals_the_oracle_on_the_handbooks_payments(data: Path, proof: bool) -> None:
    """One card in 36 over half a year; the proof takes one in nine: 200,000 payments."""
    share, count = (9, 190_000) if proof else (36, 45_000)
    table = read_file(data / "handbook_fraud" / "transactions.parquet")
    assert not table.letters
    file = table.rows
    some = file.filter(pl.col("card").cast(pl.Int64) % share == 5).filter(pl.int_range(pl.len()) < count)
    known = some.filter("fraud").select("card", "id", "terminal", "at", "fraud", source=pl.lit("chargeback"))
    first, last = some["at"][0] // DAY * DAY, some["at"][-1] // DAY * DAY + 12 * DAY
    told = known.with_columns(pl.col("at") + 7 * DAY)
    rows = troubled(as_events(some, told, key=KEY, ticks=(first, last)), seed=5)
    payments, expected = oracle(rows)
    assert payments.height > count
    assert differences(payments, folded(rows), expected) == []


def test_the_troubled_world_moves_every_feature(by_definition: tuple[pl.DataFrame, NDArray[np.float64]]) -> None:
    """Or the parity above would say nothing about it."""
    _, expected = by_definition
    timely = expected[~np.isnan(expected[:, 0])]
    assert [name for name, column in zip(NAMES, timely.T, strict=True) if len(np.unique(column)) < 2] == []
    assert timely.min() == -1  # never: no count is below 0, though verdicts are taken back after their day


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_features_do_not_depend_on_how_partitions_interleave(rows: pl.DataFrame, seed: int) -> None:
    rows = rows.filter((pl.col("arrival") < START + 12 * DAY) | (pl.col("kind") == "tick"))
    payments = rows.filter(kind="payment")
    expected = folded(rows)
    rng = np.random.default_rng(seed)
    replay = Replay()
    streams = dict(enumerate(dataset.streams(rows)))
    while streams:
        partition = int(rng.choice(list(streams)))
        batch = list(islice(streams[partition], int(rng.integers(1, 2_000))))
        if not batch:
            del streams[partition]
        replay.push(partition, batch)
        replay.drain()
    assert not replay.waiting
    identities = zip(payments["card"], payments["id"], strict=True)
    got = np.array([replay.seen[f"{card}.{id_}"] or [math.nan] * len(NAMES) for card, id_ in identities])
    assert differences(payments, got, expected) == []


def test_the_future_changes_nothing() -> None:
    rows = troubled(bank(seed=6, days=14, cards=200), seed=7, gaps=False)
    future = pl.col("arrival") >= START + 9 * DAY
    garbage = rows.with_columns(
        cents=pl.when(future).then(1).otherwise("cents"),
        fraud=pl.when(future).then(~pl.col("fraud")).otherwise("fraud"),
        terminal=pl.when(future & (pl.col("kind") != "tick")).then(pl.lit("elsewhere")).otherwise("terminal"),
        device=pl.when(future).then(None).otherwise("device"),
    )
    payments = rows.filter(kind="payment")
    past = ~payments.select(future).to_series().to_numpy()
    expected = folded(rows)
    assert differences(payments.filter(past), folded(garbage)[past], expected[past]) == []
    assert differences(payments.filter(past), folded(rows.filter(~future)), expected[past]) == []
    assert differences(payments, folded(garbage), expected) != []


# --- what a single payment sees ----------------------------------------------------------------


def test_the_first_payment_of_a_card_sees_nothing() -> None:
    seen = features([payment(START + 13 * HOUR, 42_50)])
    assert (seen["amount"], seen["hour"], seen["weekday"]) == (42.5, 13, 3)  # a Thursday
    assert seen["card_since_payment"] == seen["card_since_fraud"] == seen["terminal_since_fraud"] == -1
    assert seen["card_new_device"] == seen["card_new_country"] == 0  # nothing to compare with
    assert not any(value for name, value in seen.items() if "30d" in name or "terminal_payments" in name)


def test_a_payment_is_compared_with_those_before_it_and_not_with_itself() -> None:
    seen = features([payment(START, 10_00), payment(START + HOUR, 30_00), payment(START + 2 * HOUR, 60_00)])
    assert (seen["card_payments_1h"], seen["card_payments_1d"], seen["card_amount_1d"]) == (0, 2, 40.0)
    assert seen["amount_over_mean_7d"] == 60 / 20
    assert seen["amount_over_median"] == 60 / 30  # of two, the upper one
    assert seen["amount_over_maximum"] == 60 / 30


def test_an_unknown_device_is_new_and_so_is_an_unknown_country() -> None:
    stranger = payment(START + HOUR).model_copy(update={"device": "d2", "country": "TR"})
    seen = features([payment(START), stranger])
    assert seen["card_new_device"] == seen["card_new_country"] == 1
    again = stranger.model_copy(update={"id": "again", "at": START + 2 * HOUR})
    seen = features([payment(START), stranger, again])
    assert (seen["card_new_device"], seen["card_same_device"]) == (0, 1)


def test_too_late_a_payment_has_no_features_and_is_added_nowhere() -> None:
    late = payment(START - ALLOWED_LATENESS - 1, id="late")
    state, book = State(0), Book()
    state.step(payment(START), book)
    assert state.step(late, book) == (None, None)
    assert state.step(late.model_copy(update={"id": "just", "at": late.at + 1}), book)[0] is not None
    assert len(state.cards["card"].at) == 2
    assert state.open.counts == {"shop": (2, 0)}


@pytest.mark.parametrize("kind", ["payment", "label", "tick"])
def test_an_event_moves_time_no_further_than_to_when_the_log_took_it(kind: str) -> None:
    """So one fast clock makes nothing late, and closes no hour."""
    state, book, ahead = State(0), Book(), START + 6 * HOUR
    made: dict[str, Event] = {
        "payment": payment(ahead, id="fast"),
        "label": label(payment(START), ahead),
        "tick": Tick(at=ahead),
    }
    state.step(payment(START), book)
    _, cell = state.step(made[kind].appended(START + 60), book)
    assert cell is None
    assert state.watermark == START + 60
    assert state.step(payment(START - ALLOWED_LATENESS + 60, id="slow"), book)[0] is not None
    state.step(Tick(at=ahead).appended(ahead + 5), book)
    assert state.watermark == ahead  # and a slow one moves it by its own time


def test_a_probe_counts_on_its_own_card_only() -> None:
    probe = payment(START + HOUR, id="probe").model_copy(update={"probe": True})
    state, book = State(0), Book()
    state.step(payment(START), book)
    _, cell = state.step(probe, book)
    assert cell is None
    assert state.watermark == START  # test traffic does not move the bank's time
    assert state.open.counts == {"shop": (1, 0)}
    vector, _ = state.step(payment(START + HOUR, id="next"), book)
    assert vector is not None
    assert vector[NAMES.index("card_payments_1d")] == 2


def test_a_fraud_counts_on_the_card_from_when_it_was_known() -> None:
    paid = payment(START)
    day = START + 3 * DAY
    events: list[Event] = [paid, label(paid, day), payment(day - 1, id="before"), payment(day + MINUTE, id="after")]
    assert features(events[:3])["card_frauds_30d"] == 0  # its label has arrived, but was not known yet
    seen = features(events)
    assert (seen["card_frauds_30d"], seen["card_since_fraud"]) == (1, MINUTE)


def test_a_repeated_verdict_counts_once_and_a_contradicting_one_takes_it_back() -> None:
    paid = payment(START)
    once: list[Event] = [paid, label(paid, START + DAY)]
    twice = [*once, label(paid, START + DAY + HOUR)]
    back = [*twice, label(paid, START + 2 * DAY, fraud=False)]
    for events, frauds in ((once, 1), (twice, 1), (back, 0), ([*back, label(paid, START + 3 * DAY)], 1)):
        later = START + 6 * DAY
        seen = features([*ticks(START, START + HOUR), *events, *ticks(START + 4 * DAY, later), payment(later)])
        assert seen["card_frauds_30d"] == seen["terminal_frauds_7d"] == seen["terminal_risk_7d"] == frauds


def test_a_verdict_of_no_fraud_alone_takes_nothing_back() -> None:
    paid, later = payment(START), START + 4 * DAY
    seen = features([paid, label(paid, START + DAY, fraud=False), *ticks(START + 2 * DAY, later), payment(later)])
    assert seen["card_frauds_30d"] == seen["terminal_frauds_28d"] == 0


def test_a_terminals_hour_is_used_a_lag_after_it_ended() -> None:
    paid = payment(START + MINUTE)
    ended = START + HOUR + BOOK_LAG * HOUR
    for at, visits in ((ended - 1, 0), (ended, 1)):
        seen = features([paid, *ticks(START + HOUR, ended + 1), payment(at, card="other")])
        assert seen["terminal_payments_1d"] == visits


def test_a_fold_without_the_ticks_that_close_hours_says_so() -> None:
    streams: list[list[Event]] = [[] for _ in range(PARTITIONS)]
    streams[0] = [payment(START), payment(START + 9 * DAY)]
    with pytest.raises(ValueError, match="wait for hours that no tick has closed"):
        list(fold(streams))


# --- what is forgotten -------------------------------------------------------------------------


def stepped(events: list[Event]) -> tuple[list[Features | None], int]:
    """Features of one partition's events, and the most cards that it has held."""
    state, seen, most = State(0), Book(), 0
    vectors = []
    for event in events:
        vector, cell = state.step(event, seen)
        vectors.append(vector)
        if cell is not None:
            seen.add(cell.model_copy(update={"partition": partition}) for partition in range(PARTITIONS))
        most = max(most, len(state.cards))
    return vectors, most


def test_a_card_that_is_silent_for_half_a_year_is_forgotten_and_no_feature_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(1)
    paid = [
        payment(
            START + number * HOUR,
            chance.randrange(1, 500_00),
            id=str(number),
            card=f"c{number // 40 + chance.randrange(60)}",
        )
        for number in range(20_000)  # 833 days: each card is used for three months; 200 come back at the end
    ]
    paid += [payment(START + 20_000 * HOUR + number, id=f"back-{number}", card=f"c{number}") for number in range(200)]
    frauds = [label(each, each.at + 20 * DAY) for each in paid[:20_000:7]]
    taken_back = [label(each, each.at + 300 * DAY, fraud=False) for each in paid[:12_000:35]]
    events: list[Event] = sorted([*paid, *frauds, *taken_back], key=lambda event: event.at)
    vectors, most = stepped(events)
    monkeypatch.setattr(config, "SILENT", 10**9)
    expected, all_cards = stepped(events)
    assert vectors == expected
    assert all_cards == len({each.card for each in paid}) == 559
    assert most < 400  # the 200 that come back, and those of half a year
