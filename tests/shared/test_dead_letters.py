"""A dead letter says where, what and why, and names no person."""

from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from shared.clock import perf_counter
from shared.dead_letters import DeadLetter, Refused, dead_letter, from_validation, rejected_rows
from shared.eventlog.port import Record, Topic
from shared.messages import Message

DEAD = Topic("shop.dead", 1)
PERSONAL = {"customer", "card", "message"}


class Home(Message):
    street: str
    number: int


class Payment(Message):
    kind: Literal["payment"] = "payment"
    card: Annotated[str, Field(max_length=10)]
    cents: Annotated[int, Field(gt=0)]
    note: bool | None = None
    home: Home | None = None


class Refund(Message):
    kind: Literal["refund"]
    card: str


EVENT: TypeAdapter[Payment | Refund] = TypeAdapter(Annotated[Payment | Refund, Field(discriminator="kind")])


def refused(raw: str, kind: type[BaseModel] = Payment) -> Refused:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(raw)
    return from_validation(caught.value)


def letter(about: Refused, *, personal: set[str] = PERSONAL) -> DeadLetter:
    record = Record("shop.events", 3, 17, "anna", b"raw", 5)
    return DeadLetter.model_validate_json(dead_letter(DEAD, record, about, personal=personal).value)


# --- what is wrong ---------------------------------------------------------------------------------------


def test_the_first_thing_that_is_wrong_is_named_with_its_value() -> None:
    about = refused('{"card": "c", "cents": -3, "note": "often"}')
    assert (about.field, about.value, about.reason) == ("cents", "-3", "Input should be greater than 0")
    assert str(about) == "cents: Input should be greater than 0 (got '-3')"


def test_a_field_within_a_field_is_named_by_its_path() -> None:
    about = refused('{"card": "c", "cents": 1, "home": {"street": "s", "number": "one"}}')
    assert (about.field, about.value) == ("home.number", "one")


def test_a_missing_field_does_not_bring_the_whole_record_along() -> None:
    """Pydantic calls the record the input of a field that is missing."""
    about = refused('{"cents": 1, "note": true, "customer": "Anna Example"}')
    assert (about.field, about.value, about.reason) == ("card", "", "Field required")


@pytest.mark.parametrize("value", ['["Anna Example"]', '{"name": "Anna Example"}'])
def test_a_value_that_is_not_plain_is_left_out(value: str) -> None:
    assert refused(f'{{"card": "c", "cents": {value}}}').value == ""


@pytest.mark.parametrize("raw", ["Anna Example", '"Anna Example"', "5", "[]", "null", ""])
def test_of_a_record_that_is_no_record_nothing_is_kept(raw: str) -> None:
    about = refused(raw)
    assert (about.field, about.value) == ("message", "")
    assert "Anna" not in about.reason


@pytest.mark.parametrize(("value", "kept"), [('"x"', "x"), ("1.5", "1.5"), ("null", "None"), ("true", "True")])
def test_plain_values_are_kept(value: str, kept: str) -> None:
    class Strict(Message):
        at: Annotated[int, Field(strict=True)]

    assert refused(f'{{"at": {value}}}', Strict).value == kept


def test_long_values_fields_and_reasons_are_cut() -> None:
    class Many(Message):
        counts: dict[str, int]

    about = refused(f'{{"counts": {{"{"k" * 900}": "{"x" * 900}"}}}}', Many)
    assert max(map(len, (about.field, about.value, about.reason))) == 200
    assert len(Refused("f", "x" * 900, "r").value) == 200


def test_parts_of_a_path_that_only_name_the_kind_can_be_skipped() -> None:
    with pytest.raises(ValidationError) as caught:
        EVENT.validate_json('{"kind": "payment", "card": "c", "cents": 0}')
    assert from_validation(caught.value).field == "payment.cents"
    assert from_validation(caught.value, skip={"payment", "refund"}).field == "cents"


# --- the letter ------------------------------------------------------------------------------------------


def test_a_letter_is_keyed_by_where_the_record_stands() -> None:
    record = Record("shop.events", 3, 17, "anna", b"raw", 5)
    entry = dead_letter(DEAD, record, Refused("cents", -3, "too small"), personal=PERSONAL)
    assert (entry.topic, entry.key, entry.partition) == (DEAD, "shop.events/3/17", None)
    assert DeadLetter.model_validate_json(entry.value) == DeadLetter(
        topic="shop.events", partition=3, offset=17, field="cents", value="-3", reason="too small"
    )
    assert b"raw" not in entry.value


@pytest.mark.parametrize("field", ["card", "customer.name", "payment.card", "message", "line"])
def test_a_value_that_could_name_a_person_is_hidden(field: str) -> None:
    kept = letter(Refused(field, "Anna Example", "too long"))
    assert (kept.field, kept.value, kept.reason) == (field, "", "too long")


@pytest.mark.parametrize("field", ["cents", "cardinality", "home.street"])
def test_other_values_are_kept(field: str) -> None:
    assert letter(Refused(field, "x", "r")).value == "x"


@pytest.mark.parametrize("field", ["message", "line"])
def test_a_whole_record_or_line_is_hidden_whatever_is_personal(field: str) -> None:
    assert letter(Refused(field, "Anna Example,5", "r"), personal=set()).value == ""


@settings(max_examples=30, deadline=None)
@given(st.text(), st.text(), st.text())
def test_whatever_was_written_the_letter_can_be_read(field: str, value: str, reason: str) -> None:
    lone = "\ud800"
    for about in (Refused(field, value, reason), Refused(f"{field}{lone}", f"{value}{lone}", f"{reason}{lone}")):
        assert letter(about).offset == 17
    assert letter(Refused("f", f"a{lone}b", "r")).value == "a?b"


def test_rejected_rows_of_a_file_are_letters_too() -> None:
    rows = [
        DeadLetter(topic="payments.csv", partition=0, offset=line, field=field, value="v", reason="r")
        for line, field in ((2, "cents"), (9, "card"))
    ]
    first, second = rejected_rows(DEAD, rows, personal=PERSONAL)
    assert (first.topic, first.key, second.key) == (DEAD, "payments.csv/0/2", "payments.csv/0/9")
    assert DeadLetter.model_validate_json(first.value) == rows[0]
    assert DeadLetter.model_validate_json(second.value).value == ""
    assert rejected_rows(DEAD, [], personal=PERSONAL) == []


def test_a_letter_of_an_older_writer_can_be_read() -> None:
    old = b'{"topic": "t", "partition": 0, "offset": 1, "field": "f", "reason": "r", "text": "raw"}'
    assert DeadLetter.model_validate_json(old).value == ""


def test_a_card_number_where_the_value_is_cut_is_no_half_of_one() -> None:
    value = "x " * 95 + "4111 1111 1111 1111"
    about = letter(Refused("note", value, "odd"))
    assert "4111" not in about.value
    assert len(about.value) <= 200


@pytest.mark.parametrize("text", ["x" * 1_000_000, "1" * 1_000_000, "@" * 1_000_000, "+1 " * 300_000], ids=range(4))
def test_a_long_value_costs_no_more_than_a_short_one(text: str) -> None:
    began = perf_counter()
    letter(Refused("note", text, "odd"))
    assert perf_counter() - began < 0.5
