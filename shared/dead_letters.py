"""Refused input: the reason, and its record on the dead-letter topic."""

from collections.abc import Collection, Sequence

from pydantic import ValidationError

from shared.eventlog.port import Entry, Record, Topic
from shared.messages import Message
from shared.privacy import masked

VALUE = 200  # characters of a value that are kept
TEXT = "message"  # the field's name when the whole record is unreadable
LINE = "line"  # the field's name when a whole line of a file is


class Refused(Exception):
    """Input that is not valid: which field, which value, and why."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        # Masked before it is cut: half a card number would not be known as one.
        self.field, self.value, self.reason = masked(field), masked(str(value)[: 2 * VALUE])[:VALUE], masked(reason)
        super().__init__(f"{self.field}: {self.reason} (got {self.value!r})")


class DeadLetter(Message):
    """Where a refused record or row stands, and the reason; the stream went on.

    Neither the record nor its key is kept, and what looks like a person's number or address is masked.
    """

    topic: str
    partition: int
    offset: int
    field: str
    value: str = ""  # empty where it could name a person
    reason: str


def from_validation(error: ValidationError, *, skip: Collection[str] = ()) -> Refused:
    """The first thing that is wrong. `skip`: parts of a field's path that only name the kind of a message.

    A value that is not a plain one is left out: pydantic gives the whole record when a field is missing.
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in skip) or TEXT
    value = first["input"]
    plain = field != TEXT and isinstance(value, str | int | float | bool | None)
    return Refused(field[:VALUE], value if plain else "", first["msg"][:VALUE])


def dead_letter(topic: Topic, record: Record, refused: Refused, *, personal: Collection[str]) -> Entry:
    """The dead letter of a record, keyed by where that stands. `personal`: fields whose value is not kept."""
    letter = DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        field=refused.field,
        value=refused.value,
        reason=refused.reason,
    )
    return _entry(topic, letter, personal)


def rejected_rows(topic: Topic, letters: Sequence[DeadLetter], *, personal: Collection[str]) -> list[Entry]:
    """The dead letters of a file's rows as records of their topic."""
    return [_entry(topic, letter, personal) for letter in letters]


def _entry(topic: Topic, letter: DeadLetter, personal: Collection[str]) -> Entry:
    named = {letter.field, *letter.field.split(".")}
    hidden = not named.isdisjoint({TEXT, LINE, *personal})
    said = {"field": letter.field, "value": "" if hidden else letter.value, "reason": letter.reason}
    # A lone surrogate would make the letter itself unreadable.
    plain = {name: masked(text.encode(errors="replace").decode()) for name, text in said.items()}
    kept = letter.model_copy(update=plain)
    return Entry(topic, f"{letter.topic}/{letter.partition}/{letter.offset}", kept.model_dump_json().encode())
