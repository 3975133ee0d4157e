"""Topics into the lake: up to where the night froze them, each record once, what cannot be read as a dead letter."""

import json

import pytest

from recsys import config, ingest
from recsys.schema import DEAD, EVENTS
from shared.eventlog.port import Entry
from tests.recsys.shop import TODAY, Shop, event


def test_what_comes_after_the_freeze_waits(shop: Shop) -> None:
    before = shop.lake.read("events").height
    shop.happens(event(user="ann", at=TODAY), event(user="bob", at=TODAY))
    offsets = ingest.frozen(shop.log)
    shop.happens(event(user="ann", at=TODAY + 60))
    assert ingest.ingest(shop.log, shop.lake, offsets) == 2
    assert shop.lake.read("events").height == before + 2
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log))
    assert shop.lake.read("events").height == before + 3


BAD = {
    "no JSON": (b"{", "message"),
    "another key": (event(user="bob", at=TODAY).model_dump_json().encode(), "user"),
    "too far ahead": (event(at=TODAY + 2 * 86_400).model_dump_json().encode(), "at"),
    "far too late": (event(at=TODAY - config.MAX_AGE - 86_400).model_dump_json().encode(), "at"),
    "no quantity": (json.dumps(event(at=TODAY).model_dump() | {"quantity": 0}).encode(), "quantity"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(shop: Shop, name: str) -> None:
    before = shop.lake.read("events").height
    value, field = BAD[name]
    shop.log.append([Entry(EVENTS, "ann", value)])
    shop.happens(event(at=TODAY))
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log))
    assert shop.lake.read("events").height == before + 1
    (letter,) = shop.letters(DEAD)
    assert letter.field == field
    assert "bob" not in letter.value, "it could be a name"


def test_who_is_killed_before_the_commit_writes_the_same_files_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.happens(*(event(user=f"u{number}", at=TODAY + number) for number in range(50)))
    offsets, before = ingest.frozen(shop.log), shop.lake.read("events").height
    consumer = shop.log.consumer("another", [EVENTS], "one")
    consumer.close()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(consumer), "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest.ingest(shop.log, shop.lake, offsets)
    assert shop.lake.read("events").height == before + 50
    ingest.ingest(shop.log, shop.lake, offsets)
    assert shop.lake.read("events").height == before + 50, "the same names, so nothing twice"
