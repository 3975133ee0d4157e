"""Alarms: a turn of the mood is told within hours; volume, bots and good news are not; quiet months stay quiet."""

import numpy as np
import pytest

from sentiment.account import false_alarms
from sentiment.config import BRAND_PARTITIONS, DAY, HOUR, MINUTE
from sentiment.crisis import Watch, confirmed
from sentiment.schema import Alarm, Confusion, Counts, Minute, Seal
from sentiment.simulate import HOURS
from shared.eventlog.port import Record, partition_of

BRAND = "northair"
PARTITION = partition_of(BRAND, BRAND_PARTITIONS)


def records(days: list[tuple[float, float]], *, seed: int = 1, from_hour: int = 0) -> list[Record]:
    """Minutes and hourly seals; for each day the posts and the share of negatives from an hour of it on."""
    rng, made, usual = np.random.default_rng(seed), list[Record](), days[0][1]
    for day, (posts, share) in enumerate(days):
        for hour in range(24):
            now = share if hour >= from_hour else usual
            for minute in range(60):
                n = int(rng.poisson(posts * HOURS[hour] / 60))
                negative = int(rng.binomial(n, now))
                at = day * DAY + hour * HOUR + minute * MINUTE
                if n:
                    counts = Counts(n, negative, n - negative, 0)
                    said = Minute(brand=BRAND, at=at, revision=len(made), counts=counts)
                    made.append(record(said))
            made.append(record(Seal(partition=PARTITION, at=day * DAY + (hour + 1) * HOUR)))
    return made


def record(message: Minute | Seal) -> Record:
    return Record("sentiment.minutes", PARTITION, 0, "", message.model_dump_json().encode(), 0)


def alarms(made: list[Record]) -> list[Alarm]:
    return list(Watch().take(made))


def test_a_crisis_is_told_within_hours() -> None:
    told = alarms(records([(300.0, 0.35)] * 3 + [(600.0, 0.8)], from_hour=12))
    assert told
    first = told[0]
    assert (first.kind, first.brand) == ("crisis", BRAND)
    assert 0 < first.at - (3 * DAY + 12 * HOUR) <= 3 * HOUR
    assert "are negative" in first.message


@pytest.mark.parametrize(
    ("what", "day"), [("more volume", (1_500.0, 0.35)), ("good news", (600.0, 0.05)), ("silence", (2.0, 0.35))]
)
def test_what_is_no_crisis_is_not_told(what: str, day: tuple[float, float]) -> None:
    assert alarms(records([(300.0, 0.35)] * 3 + [day])) == [], what


def test_the_same_minutes_give_the_same_alarms_however_they_are_read() -> None:
    made = records([(300.0, 0.35)] * 3 + [(600.0, 0.8)], from_hour=12)
    watch, found = Watch(), list[Alarm]()
    for first in range(0, len(made), 7):
        found += watch.take(made[first : first + 7])
    assert found == alarms(made)
    assert found == alarms([record for pair in zip(made, made, strict=True) for record in pair])


def test_before_there_is_a_baseline_nothing_is_told() -> None:
    assert alarms(records([(40.0, 0.9)])) == []


def test_a_baseline_learns_nothing_from_a_crisis() -> None:
    watch = Watch()
    list(watch.take(records([(300.0, 0.35)] * 3 + [(600.0, 0.8)])))
    usual = watch.usual(BRAND, 4 * DAY)
    assert usual is not None
    assert usual < 0.5


def test_batch_bears_out_what_people_said_and_not_what_bots_did() -> None:
    assert confirmed(Counts(60, 45, 10, 5), 0.35)
    assert not confirmed(Counts(460, 20, 25, 15), 0.35)
    assert not confirmed(Counts(), 0.35)


def test_quiet_brand_months_have_at_most_one_false_alarm_each() -> None:
    rows = ((0.7, 0.2, 0.1), (0.2, 0.6, 0.2), (0.1, 0.2, 0.7))
    assert false_alarms(Confusion(rows, (100, 100, 100)), months=12, seed=3) <= 12
