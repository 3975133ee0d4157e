"""What is seen of decisions: nothing twice, bounded, and money that a release taken back does not count in."""

import pytest

from fraud.config import DAY, MINUTE
from fraud.policy import realised
from fraud.savings import gained, taken_back
from fraud.schema import Decision
from fraud.timeline import MOST
from fraud.watch import RECENT, Watch
from shared.releases import Ledger, Release
from tests.fraud.bank import TODAY

NO_PROBES: frozenset[str] = frozenset()


def decision(number: int = 0, **change: object) -> Decision:
    known = {"card": "c", "id": f"p{number}", "terminal": "t", "at": TODAY + number, "cents": 100_00, "mark": None}
    known |= {"action": "approve", "rules": "approve", "reasons": [], "path": "model", "model": "1"}
    return Decision.model_validate(known | {"probability": 0.5, "probe": False, "fingerprint": ""} | change)


def release(action: str, version: str) -> Release:
    known = {"artifact": "", "digest": "", "at": TODAY, "who": "me", "why": "", "figures": {}}
    return Release.model_validate(known | {"action": action, "version": version})


def test_counts_by_action_and_path_leave_tests_out() -> None:
    watch = Watch()
    watch.saw(
        [decision(1), decision(2, action="review"), decision(3, probe=True), decision(4, path="rules", model=None)]
    )
    now = watch.now()
    assert (now.payments, now.tests) == (3, 1)
    assert now.actions == {"approve": 2, "review": 1, "decline": 0}
    assert now.paths == {"model": 2, "rules": 1}
    assert [row.identity for row in watch.rows()] == ["c.p1", "c.p2", "c.p4"]
    assert [row.identity for row in watch.rows(stopped=True)] == ["c.p2"]
    assert [row.identity for row in watch.rows(since=1, most=1)] == ["c.p4"]


def test_a_gain_is_the_mean_of_both_outcomes() -> None:
    said = decision(action="decline", probability=0.3)
    outcomes = [
        realised("approve", 100_00, fraud=fraud) - realised("decline", 100_00, fraud=fraud) for fraud in (True, False)
    ]
    mean = 0.3 * outcomes[0] + 0.7 * outcomes[1]
    gain = gained(said)
    assert gain.mean == pytest.approx(mean)
    assert gain.variance == pytest.approx(sum(p * (x - mean) ** 2 for p, x in zip((0.3, 0.7), outcomes, strict=True)))


def test_money_is_without_what_was_taken_back_now_and_over_time() -> None:
    watch = Watch()
    watch.saw([decision(n * MINUTE, action="decline", model=str(1 + n % 2)) for n in range(10)])
    both, one = watch.money(without=NO_PROBES), watch.money(without=frozenset({"2"}))
    assert both.expected == pytest.approx(2 * one.expected)
    assert (one.payments, one.differed, one.without) == (5, 5, {"2": 5})
    assert one.low < one.expected < one.high
    series = watch.series(without=frozenset({"2"}))
    assert series.saved[-1] == pytest.approx(one.expected)
    assert series.saved[0] == pytest.approx(one.expected / 5)
    assert watch.series(without=frozenset({"2"}), last=3).saved == pytest.approx(series.saved[-3:])


def test_a_month_fits_and_loses_nothing() -> None:
    watch = Watch()
    for minute in range(0, 30 * DAY // MINUTE, 7):
        watch.answered(0.01)
        watch.saw([decision(minute * MINUTE)])
    series = watch.series(without=NO_PROBES)
    assert MOST / 2 <= len(series.at) <= MOST
    assert sum(series.approve) == watch.now().payments == watch.number
    assert series.at == sorted(set(series.at))
    assert all(at % series.width == 0 for at in series.at)
    assert series.p99 == pytest.approx([0.01] * len(series.at), rel=0.11)
    assert len(watch.rows()) == RECENT


def test_who_comes_late_is_counted_when_he_comes() -> None:
    watch = Watch()
    watch.saw([decision(DAY), decision(0)])
    assert watch.series(without=NO_PROBES).approve == [2]


def test_nothing_seen_is_no_number() -> None:
    watch = Watch()
    now = watch.now()
    assert (now.p50, now.p99, now.rate, now.requests) == (None, None, 0.0, 0)
    assert watch.series(without=NO_PROBES).at == []
    assert watch.money(without=NO_PROBES).expected == 0


def test_requests_without_a_decision_are_counted() -> None:
    watch = Watch()
    watch.failed()
    assert (watch.now().unanswered, watch.now().unanswered_now) == (1, 1)


@pytest.mark.parametrize(
    ("ledger", "back"),
    [
        ("", ""),
        ("+1", ""),
        ("+1 +2", ""),
        ("+1 +2 -1", "2"),
        ("+1 +2 +3 -2 -1", "23"),
        ("+1 +2 -1 +2", ""),
        ("+1 +2 -1 +3", "2"),
    ],
)
def test_a_version_is_taken_back_until_it_is_promoted_again(ledger: str, back: str) -> None:
    lines = [release("promote" if word[0] == "+" else "rollback", word[1]) for word in ledger.split()]
    assert taken_back(Ledger(lines)) == set(back)
