"""What is seen of lists and deeds: nothing twice, bounded; and days side by side, with what lists added."""

from typing import Any

import pytest

from recsys.config import DAY, HOUR
from recsys.earnings import added
from recsys.schema import Books, Event, Impression, Night, Release, Report
from recsys.timeline import money, series
from recsys.watch import OPEN, RECENT, Watch
from shared.releases import Ledger
from tests.recsys.shop import TODAY

TONIGHT = TODAY // DAY


def shown(number: int, **change: Any) -> Impression:
    known = {"list_id": f"l{number}", "user": f"u{number}", "at": TODAY, "version": "v", "path": "table"}
    return Impression.model_validate(known | {"items": ("a", "b"), "sources": ("als", "popular")} | change)


def deed(kind: str, number: int, *, position: int | None = 1, **change: Any) -> Event:
    known = {"kind": kind, "id": f"{kind}-{number}-{position}", "user": f"u{number}", "item": "a", "at": TODAY}
    return Event.model_validate(known | {"list_id": f"l{number}", "position": position} | change)


def test_a_list_and_what_came_of_it() -> None:
    watch = Watch()
    watch.saw([shown(1), shown(2), shown(2)])
    seen = watch.change
    watch.heard([deed("click", 1), deed("click", 1, position=2), deed("purchase", 1, position=2)])
    assert [(row.list_id, row.clicked, row.bought) for row in watch.lists(since=seen)] == [("l1", (1, 2), (2,))]
    assert [row.list_id for row in watch.lists()] == ["l1", "l2"]
    assert [row.list_id for row in watch.lists(taken=True)] == ["l1"]
    now = watch.now()
    assert (now.lists, now.clicks, now.purchases, now.by_list) == (2, 2, 1, 1)
    assert now.sources == {"als": 2, "popular": 2}


def test_what_is_said_twice_counts_once_and_what_comes_of_no_list_is_no_list_s() -> None:
    watch = Watch()
    watch.saw([shown(1)])
    watch.heard([deed("click", 1), deed("click", 1), deed("purchase", 7, list_id=None, position=None)])
    watch.heard([deed("click", 1), deed("view", 1)])
    now = watch.now()
    assert (now.clicks, now.purchases, now.by_list) == (1, 1, 0)


def test_a_deed_on_another_shopper_s_list_is_not_entered() -> None:
    watch = Watch()
    watch.saw([shown(1)])
    watch.heard([deed("click", 1, user="mallory")])
    assert watch.lists(taken=True) == []


def test_a_deed_that_comes_before_its_list_is_entered_once_the_list_is_seen() -> None:
    watch = Watch()
    watch.heard([deed("click", 1), deed("purchase", 1)])
    assert watch.lists(taken=True) == []
    watch.saw([shown(1)])
    assert [(row.clicked, row.bought) for row in watch.lists(taken=True)] == [((1,), (1,))]
    assert (watch.now().clicks, watch.now().by_list) == (1, 1)


def test_memory_is_bounded_and_counts_are_not() -> None:
    watch = Watch()
    watch.saw([shown(number) for number in range(OPEN + 500)])
    watch.heard([deed("click", number) for number in range(OPEN + 500)])
    assert (watch.now().lists, watch.now().clicks) == (OPEN + 500, OPEN + 500)
    watch.heard([deed("click", number) for number in range(10 * OPEN, 12 * OPEN)])
    assert len(watch._early) == OPEN
    assert len(watch.lists()) == len(watch.lists(taken=True)) == RECENT
    assert [row.number for row in watch.lists(most=2)] == [OPEN + 499, OPEN + 500]


def test_nothing_seen_is_no_number() -> None:
    now = Watch().now()
    assert (now.p50, now.p99, now.rate, now.requests) == (None, None, 0.0, 0)


def test_requests_are_counted_by_what_they_got() -> None:
    watch = Watch()
    for number in range(100):
        watch.answered(number / 1_000, logged=number > 0)
    watch.failed()
    now = watch.now()
    assert (now.p50, now.p99, now.requests, now.unlogged, now.unanswered) == (0.05, 0.099, 100, 1, 1)


# --- days --------------------------------------------------------------------------------------------


def books(day: int, served: float, none: float) -> Books:
    return Books(day=day, earned={"served": served, "none": none, "popularity": none + 1, "oracle": none + 9})


def report(day: int, **change: Any) -> Report:
    known = {"day": day, "version": "v", "lists": 100, "clicks": 50, "purchases": 9, "drift": {}, "drifted": ()}
    return Report.model_validate(known | change)


def night(date: str, **figures: float) -> Night:
    return Night(date=date, at=TODAY, version="v", recipe="1", seconds={}, figures=figures)


def test_what_lists_added_is_a_sum_with_a_band_by_days() -> None:
    assert added([]) == (0, 0, 0)
    assert added([5.0]) == (5, 5, 5)
    total = added([4.0, 6.0, 8.0])
    assert total.sum == 18
    assert total.high - total.sum == pytest.approx(1.96 * 2 * 3**0.5)
    assert total.low + total.high == pytest.approx(36)


def test_money_is_against_the_same_days_without_lists() -> None:
    assert money([]) is None
    sum_ = money([books(1, 14, 10), books(2, 26, 20)])
    assert sum_ is not None
    assert (sum_.days, sum_.sum, sum_.popularity, sum_.oracle) == (2, 10, 2, 18)


def test_night_report_and_books_of_a_day_stand_at_the_midnight_that_ends_it() -> None:
    day = TONIGHT - 1
    nights = [night("2026-03-12", overlap=0.1), night("2026-03-12", overlap=0.7)]
    reports = [report(day, usual_clicks=0.4, drift={"price": 0.3, "hour": 0.1})]
    found = series(nights, reports, [books(day, 12, 10), books(day + 1, 13, 10)], {"price": 0.2, "hour": 0.2})
    assert found.at == [TODAY, TODAY + DAY]
    assert (found.clicks, found.usual, found.kept) == ([0.5, None], [0.4, None], [0.7, None])
    assert found.drift == [pytest.approx(1.5), None]
    assert (found.added, found.popularity) == ([2, 5], [1, 2])


def test_a_day_without_lists_has_no_rate_and_no_limit_no_share() -> None:
    found = series([], [report(5, lists=0, clicks=0, drift={"price": 0.3})], [], {})
    assert (found.clicks, found.drift, found.added) == ([None], [None], [None])


# --- a rollback --------------------------------------------------------------------------------------


def line(version: str, action: str = "publish", subject: str = "table") -> Release:
    known = {"version": version, "action": action, "subject": subject, "digest": "", "at": TODAY + HOUR}
    return Release.model_validate(known | {"who": "me", "why": "", "figures": {}})


@pytest.mark.parametrize(
    ("published", "back", "kept", "expected"),
    [
        ("", "", "", None),
        ("a", "", "a", None),
        ("a b c", "", "a b c", "b"),
        ("a b c", "", "a c", "a"),  # b has been pruned
        ("a b c", "b", "a b c", "a"),  # rolled back to b already
        ("a b c", "b a", "a b c", None),  # all are taken back
    ],
)
def test_a_rollback_goes_to_the_table_before_that_is_still_kept(
    published: str, back: str, kept: str, expected: str | None
) -> None:
    lines = [line(version) for version in published.split()] + [line("9", "promote", "recipe")]
    ledger = Ledger([*lines, *(line(version, "rollback") for version in back.split())])
    found = ledger.fallbacks("table", kept=kept.split())
    assert (found[0].version if found else None) == expected
