"""The account of a soak finds what it is there to find."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from fraud.schema import DECISIONS, EVENTS
from shared.eventlog.port import Record
from tests.soak.fraud import Account, account
from tests.soak.load import Answer

Log = list[dict[str, Any]]
FIRST = {"kind": "decision", "card": "c", "id": "1", "path": "model", "action": "approve", "partition": 0, "offset": 0}
STAND_IN = FIRST | {"path": "stand-in", "partition": None, "offset": None}
PAYMENT = {"kind": "payment", "card": "c", "id": "1"}


def records(topic: str, messages: Log) -> list[Record]:
    return [
        Record(topic, 0, offset, f"{message.get('card')}.{message.get('id')}", json.dumps(message).encode(), 0)
        for offset, message in enumerate(messages)
    ]


def reckon(events: Log, decisions: Log, *, answers: Log | None = None) -> Account:
    return account(
        ["c.1"],
        [Answer("c.1", 200, json.dumps(answer).encode(), 0.1) for answer in answers or decisions[:1]],
        events=records(EVENTS.name, events),
        decisions=records(DECISIONS.name, decisions),
        dead=[],
    )


def test_one_payment_one_decision() -> None:
    said = reckon([PAYMENT, {"kind": "tick"}], [FIRST])
    assert (said.payments, said.lost, said.twice, said.superseded) == (1, [], [], 0)


def test_a_stand_in_before_or_after_the_owner_is_superseded_or_supersedes() -> None:
    for decisions in ([STAND_IN, FIRST], [FIRST, STAND_IN]):
        said = reckon([PAYMENT], decisions)
        assert (said.lost, said.twice, said.superseded) == ([], [], 1)


def test_a_repeat_has_a_verdict_of_its_own() -> None:
    said = reckon([PAYMENT, PAYMENT], [FIRST, FIRST | {"kind": "repeat", "offset": 1}])
    assert (said.lost, said.twice, said.repeats) == ([], [], 1)


@pytest.mark.parametrize(
    ("events", "decisions"),
    [
        pytest.param([PAYMENT], [], id="no decision"),
        pytest.param([], [], id="not even in the log"),
        pytest.param([], [STAND_IN], id="answered, and not in the log"),
        pytest.param([PAYMENT], [STAND_IN], id="its owner never came to it"),
        pytest.param([PAYMENT, PAYMENT], [FIRST], id="nor to the repeat"),
    ],
)
def test_lost(events: Log, decisions: Log) -> None:
    assert reckon(events, decisions).lost == ["c.1"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda first: [first, first], id="one record decided twice"),
        pytest.param(lambda first: [first, first | {"offset": 1}], id="a repeat decided again"),
        pytest.param(lambda first: [first, first | {"kind": "repeat"}], id="two verdicts on one record"),
    ],
)
def test_decided_twice(spoil: Callable[[dict[str, Any]], Log]) -> None:
    said = reckon([PAYMENT, PAYMENT], [*spoil(FIRST), FIRST | {"kind": "repeat", "offset": 1}])
    assert (said.lost, said.twice) == ([], ["c.1"])


def test_an_answer_that_is_not_the_first_decision() -> None:
    other = STAND_IN | {"action": "decline"}
    assert reckon([PAYMENT], [FIRST, other], answers=[FIRST, other]).twice == ["c.1"]
