"""Records are read leniently, requests strictly."""

import pytest
from pydantic import ValidationError

from shared.messages import Message, Request


class Payment(Message):
    card: str
    cents: int = 0


class PaymentRequest(Payment, Request):
    pass


def test_a_record_of_a_newer_writer_is_read_without_what_this_version_does_not_know() -> None:
    read = Payment.model_validate_json('{"card": "c", "cents": 5, "colour": "red"}')
    assert read == Payment(card="c", cents=5)
    assert read.model_dump() == {"card": "c", "cents": 5}


def test_a_record_of_an_older_writer_gets_the_defaults() -> None:
    assert Payment.model_validate_json('{"card": "c"}').cents == 0


def test_a_request_with_an_unknown_field_is_refused_and_the_field_is_named() -> None:
    with pytest.raises(ValidationError, match="colour"):
        PaymentRequest.model_validate_json('{"card": "c", "colour": "red"}')
    assert PaymentRequest.model_validate_json('{"card": "c", "cents": 5}').cents == 5


def test_a_request_is_a_message() -> None:
    assert isinstance(PaymentRequest(card="c"), Payment)


@pytest.mark.parametrize("kind", [Payment, PaymentRequest])
def test_both_are_frozen(kind: type[Payment]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(kind(card="c"), "card", "d")  # noqa: B010  # mypy knows that it is frozen
