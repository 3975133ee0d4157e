"""Every bad message is refused with its field and reason; every good one is itself again in the lake."""

import json

import polars as pl
import pytest
from pydantic import ValidationError

from fraud import config, dataset
from fraud.config import DAY
from fraud.ingest import accept, dead_letter
from fraud.schema import (
    EVENT,
    EVENTS,
    Alarm,
    Event,
    Label,
    Report,
    Tick,
    Transaction,
    TransactionRequest,
    challenger,
    message,
)
from shared.dead_letters import DeadLetter, Refused
from shared.eventlog.port import Record, partition_of
from shared.releases import Release
from tests.worlds import KEY, START, bank, brief, label, payment, troubled

PAYMENT = json.loads(payment(START, id="tx").model_dump_json())
LABEL = json.loads(label(payment(START, id="tx"), START).model_dump_json())


def record(value: bytes | dict[str, object], *, key: str = "card", at: int = START) -> Record:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record("fraud.events", partition_of(key, EVENTS.partitions), 17, key, text, at)


def refused(it: Record) -> Refused:
    with pytest.raises(Refused) as caught:
        accept(it)
    letter = dead_letter(it, caught.value)
    again = DeadLetter.model_validate_json(letter.value)  # whatever it is, it can be written down
    assert (again.topic, again.partition, again.offset) == ("fraud.events", it.partition, 17)
    assert letter.key == f"fraud.events/{it.partition}/17"
    assert (again.field, again.reason) == (caught.value.field, caught.value.reason)
    assert len(again.value) <= 200
    assert again.value == "" or again.field not in ("card", "device", "message")
    assert caught.value.reason
    return caught.value


@pytest.mark.parametrize("event", [payment(START), label(payment(START), START), Tick(at=START)])
def test_a_good_event_is_accepted_as_it_was_sent(event: Event) -> None:
    assert accept(record(event.model_dump_json().encode())) == event


MALFORMED = {
    "empty": b"",
    "no json": b"pay me",
    "cut in half": json.dumps(PAYMENT).encode()[:40],
    "two": json.dumps(PAYMENT).encode() * 2,
    "a list": b"[]",
    "null": b"null",
    "a number": b"17",
    "a text": b'"payment"',
    "without kind": b"{}",
    "no utf-8": b'{"kind": "payment", "card": "\xff\xfe"}',
    "null bytes": bytes(50),
    "deep": b"[" * 100_000,
    "a lone surrogate": json.dumps(PAYMENT | {"id": "\ud800"}).encode(),
    "a mb": b"x" * 1_000_000,
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_event_is_refused(kind: str) -> None:
    assert refused(record(MALFORMED[kind])).field in ("message", "kind")


@pytest.mark.parametrize("name", ["card", "id", "terminal", "at", "cents"])
def test_a_missing_field_is_named(name: str) -> None:
    why = refused(record({field: value for field, value in PAYMENT.items() if field != name}))
    assert (why.field, why.reason) == (name, "Field required")


@pytest.mark.parametrize("name", ["card", "id", "terminal", "at", "fraud", "source"])
def test_a_missing_field_of_a_label_is_named(name: str) -> None:
    assert refused(record({field: value for field, value in LABEL.items() if field != name})).field == name


def test_an_extra_field_is_of_a_later_version_on_the_topic_and_a_mistake_by_http() -> None:
    later = PAYMENT | {"channel": "chip"}
    assert accept(record(later)) == Transaction(**PAYMENT)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        TransactionRequest.model_validate(later)


def test_a_record_on_another_partition_than_its_cards_is_refused() -> None:
    """Its owner does not know the card."""
    good = record(PAYMENT)
    assert refused(good._replace(partition=(good.partition + 1) % EVENTS.partitions)).field == "partition"
    assert accept(record({"kind": "tick", "at": START}, key="tick")._replace(partition=0)).kind == "tick"


BAD: dict[str, list[object]] = {
    "cents": [-1, config.MAX_CENTS + 1, 10**30, 42.0, 42.5, "42", None, True, float("nan"), float("inf"), [42]],
    "at": [-1, 2**32, 10**30, 1.5, "2026-01-01", None, float("nan")],
    "currency": ["USD", "eur", "", None, 978],
    "id": ["", "a b", "x" * 65, "x" * 1_000_000, "a\0b", "né", "a\n", 7, None],
    "card": ["", "a.b", "x" * 1_000_000, None],
    "terminal": ["", "x" * 65, {"id": "t"}],
    "country": ["be", "BEL", "", 32],
    "device": ["", "a b", "x" * 65],
    "probe": ["maybe", 7, None],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD.items() for value in values], ids=brief
)
def test_a_bad_value_is_refused_with_field_and_value(field: str, value: object) -> None:
    why = refused(record(PAYMENT | {field: value}, key=str(value) if field == "card" else "card"))
    assert why.field in (field, "message")  # NaN is no JSON for some, no integer for others
    if isinstance(value, str):
        assert why.value == value[:200]


@pytest.mark.parametrize(("field", "value"), [("fraud", "maybe"), ("fraud", None), ("source", "a hunch"), ("at", -1)])
def test_a_bad_label_is_refused_with_its_field(field: str, value: object) -> None:
    assert refused(record(LABEL | {field: value})).field == field


def test_an_unknown_kind_is_refused() -> None:
    assert refused(record(PAYMENT | {"kind": "refund"})).field in ("message", "kind")


def test_the_far_future_and_the_far_past_are_refused_by_the_time_of_append() -> None:
    ahead, past = START + config.MAX_AHEAD, START - config.MAX_AGE
    for at in (ahead, past):
        assert accept(record(PAYMENT | {"at": at})) == Transaction(**PAYMENT | {"at": at})
    for at in (ahead + 1, past - 1):
        assert refused(record(PAYMENT | {"at": at})).field == "at"
    assert refused(record(LABEL | {"at": ahead + 1})).field == "at"
    assert isinstance(accept(record(LABEL | {"at": START - 100 * DAY})), Label)  # a chargeback takes its time
    assert isinstance(accept(record({"kind": "tick", "at": START - 100 * DAY})), Tick)  # an old one changes nothing
    assert refused(record({"kind": "tick", "at": ahead + 1})).field == "at"  # one would make all payments late for good


@pytest.mark.parametrize("day", [-1, 2**32 // DAY, 10**9])
def test_a_report_on_a_day_that_no_second_has_cannot_be_read(day: int) -> None:
    known = {"payments": 1, "actions": {}, "drift": {}, "drifted": []}
    with pytest.raises(ValidationError, match="day"):
        Report.model_validate(known | {"day": day})
    with pytest.raises(ValidationError, match="actions"):
        Report.model_validate(known | {"day": 1, "actions": {"decline": 10**400}})


def test_a_record_under_another_cards_key_is_refused() -> None:
    """It would be counted in a partition that is not its card's."""
    assert refused(record(PAYMENT, key="other")).field == "card"


def test_a_row_of_the_lake_is_the_event_again() -> None:
    rows = troubled(bank(seed=2, days=10, cards=60), seed=1)
    events = [event for stream in dataset.streams(rows) for event in stream]
    assert len(events) == rows.height
    assert {event.kind for event in events} == {"payment", "label", "tick"}
    for event, row in zip(events, rows.iter_rows(named=True), strict=True):
        assert event.model_dump() == {name: row[name] for name in type(event).model_fields}
        assert EVENT.validate_json(event.model_dump_json()) == event


def test_the_message_of_a_row_has_the_fields_of_its_kind_only() -> None:
    rows = bank(seed=2, days=1, cards=60).group_by("kind").first().with_columns(message())
    fields = {noun.model_fields["kind"].default: list(noun.model_fields) for noun in (Transaction, Label, Tick)}
    assert {kind: list(json.loads(text)) for kind, text in rows.select("kind", "message").iter_rows()} == fields


def test_a_repeat_has_the_same_fingerprint_and_other_content_another() -> None:
    paid = payment(START)
    assert paid.fingerprint(KEY) == Transaction(**paid.model_dump()).fingerprint(KEY)
    assert paid.fingerprint(KEY) != paid.fingerprint(b"another key")
    others: list[dict[str, object]] = [
        {"terminal": "t2"},
        {"at": START + 1},
        {"cents": 1},
        {"country": None},
        {"device": "d2"},
    ]
    assert len({paid.fingerprint(KEY), *(paid.model_copy(update=other).fingerprint(KEY) for other in others)}) == 6


def test_records_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        payment(START).cents = 1  # type: ignore[misc]  # that it is frozen is the test


def test_columns_of_the_lake_are_those_of_the_events() -> None:
    columns = {name for noun in (Transaction, Label, Tick) for name in noun.model_fields}
    assert set(bank(seed=2, days=1, cards=60).columns) == columns | {"partition"}
    assert message().meta.root_names()
    assert pl.DataFrame(schema=dict.fromkeys(columns, pl.String)).select(message()).is_empty()


def test_the_challenger_is_who_the_gate_refused_last_unless_a_newer_one_was_released() -> None:
    said = {"kind": "gate", "at": 1, "message": "refused", "action": ""}
    alarms = [Alarm.model_validate(said | {"version": version}) for version in ("2", "10", None)]
    known = {"artifact": "", "digest": "", "at": 9, "who": "me", "why": "", "figures": {}}
    ledger = [
        Release.model_validate(known | {"action": action, "version": version})
        for action, version in (("promote", "1"), ("promote", "9"), ("rollback", "1"), ("promote", "11"))
    ]
    assert challenger(alarms, ledger[:3]) == challenger(alarms, []) == alarms[1]
    assert challenger(alarms[:1], ledger[:3]) is None
    assert challenger(alarms, ledger) is None
    assert challenger([], []) is None
