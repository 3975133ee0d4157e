"""Authors are pseudonyms from the boundary on, whatever a producer sends, and one person stays one author."""

import json

import polars as pl
import pytest

from sentiment import config
from sentiment.config import HOUR
from sentiment.schema import CORRECTIONS, POSTS, TOPICS, Correction, Tombstone
from shared.eventlog.port import Entry
from shared.lake import Lake
from shared.privacy import pseudonym, pseudonymised
from tests.sentiment.crowd import KEY, TODAY, Crowd, post

HANDLE = "JaneDoe_1984"


def test_a_pseudonym_stays_and_a_name_does_not() -> None:
    known = pseudonym(HANDLE, KEY)
    assert pseudonymised(HANDLE, KEY) == pseudonymised(known, KEY) == known
    assert pseudonymised(f"{known}\n", KEY) != f"{known}\n"


def test_a_handle_reaches_no_topic_table_or_view_behind_the_boundary(crowd: Crowd) -> None:
    crowd.post(post(author=HANDLE), Tombstone(id="p-2", at=TODAY))
    unreadable = json.dumps(post(author=HANDLE).model_dump() | {"text": ""}).encode()
    said = Correction(post="p-1", at=TODAY, shown=None, label="neutral", model=None, reader=HANDLE)
    crowd.log.append([Entry(POSTS, "p-1", unreadable)])
    crowd.log.append([Entry(CORRECTIONS, "p-1", said.model_dump_json().encode())])
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    written = [
        record.value.decode() for topic in TOPICS if topic not in (POSTS, CORRECTIONS) for record in crowd.read(topic)
    ]
    tables = [folder.name for folder in (crowd.var / "sentiment" / "lake").iterdir()]
    written += [crowd.lake.read(table).write_json() for table in tables]
    written += [rows.write_json() for rows in crowd.published().values()]
    assert not [text for text in written if HANDLE in text]
    known = pseudonym(HANDLE, KEY)
    assert {mention.author for mention in crowd.mentions()} == {known}
    assert {row["author"] for rows in crowd.published().values() for row in rows.to_dicts()} == {known}
    assert crowd.lake.read("corrections")["reader"].to_list() == [known]
    assert len(crowd.letters()) == 1


@pytest.mark.parametrize("handle", ["@alice", "alice.real", "alice@mastodon.social", "@alice@mastodon.social"])
def test_handles_as_platforms_have_them_are_taken(crowd: Crowd, handle: str) -> None:
    crowd.post(post(author=handle))
    crowd.stream()
    assert crowd.letters() == []
    assert {mention.author for mention in crowd.mentions()} == {pseudonym(handle.removeprefix("@"), KEY)}


def test_an_author_is_one_whether_sent_by_handle_or_by_pseudonym(crowd: Crowd) -> None:
    names = [HANDLE, pseudonym(HANDLE, KEY)]
    for number in range(config.BOT_REPEATS):
        crowd.post(post("leave @northair now", id=f"p-{number}", author=names[number % 2]))
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    assert set(crowd.published()[TODAY // HOUR]["removed"]) == {"bot"}


def test_rows_that_an_older_version_took_in_by_handle_are_published_by_pseudonym(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Lake.write

    def as_before(lake: Lake, table: str, rows: pl.DataFrame, *, batch: str) -> None:
        old = {"author": pl.lit(HANDLE), "expired": pl.lit(value=False)} if table == "posts" else {}
        write(lake, table, rows.with_columns(**old), batch=batch)

    monkeypatch.setattr(Lake, "write", as_before)
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    assert set(crowd.published()[TODAY // HOUR]["author"]) == {pseudonym(HANDLE, KEY)}
