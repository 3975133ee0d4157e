"""Labels by hand: which are known when, on which side a text is, and what its data is called."""

import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sentiment import dataset
from sentiment.config import DAY, HOUR
from sentiment.dataset import NotEnough, answers, answers_on_filtered, blocks, labelled, version
from shared.lake import Lake
from tests.sentiment.crowd import START

KINDS: Any = {"label": pl.String, "why_not": pl.String, "text": pl.String}


def lake_of(folder: Path, *rows: dict[str, Any]) -> Lake:
    """Answers of people: post, at (when it was known), and what else is said."""
    lake = Lake(folder)
    usual = {"partition": 0, "label": "negative", "why_not": None, "of": START}
    written = [usual | {"offset": n, "text": f"text of {row['post']}"} | row for n, row in enumerate(rows)]
    lake.write("audits", pl.DataFrame(written, schema_overrides=KINDS), batch="b")
    return lake


def test_a_label_is_known_from_its_moment_on(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, {"post": "a", "at": START + 5}, {"post": "b", "at": START + 6})
    assert labelled(lake, as_of=START + 6)["post"].to_list() == ["a"]
    assert labelled(lake, as_of=START + 7)["post"].to_list() == ["a", "b"]
    with pytest.raises(NotEnough, match="no labels known by 2026-01-01"):
        labelled(lake, as_of=START + 5)


def test_labels_of_the_last_day_are_read_too(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, {"post": "a", "at": START - 1}, {"post": "b", "at": START + DAY - 1})
    assert labelled(lake, as_of=START + DAY)["post"].to_list() == ["a", "b"]


def test_the_last_answer_on_a_post_and_on_a_text_counts(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path,
        {"post": "a", "at": START + 9, "label": "positive"},
        {"post": "a", "at": START + 1, "label": "negative"},
        {"post": "b", "at": START + 9, "offset": 7, "label": "neutral", "text": "the same"},
        {"post": "c", "at": START + 9, "offset": 8, "label": "positive", "text": "the same"},
    )
    assert labelled(lake, as_of=START + DAY).select("post", "label").rows() == [("a", "positive"), ("c", "positive")]


def test_what_is_deleted_and_what_is_no_answer_teaches_nothing(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path,
        {"post": "gone", "at": START},
        {"post": "none", "at": START, "label": None},
        {"post": "spam", "at": START, "why_not": "spam"},
        {"post": "foreign", "at": START, "why_not": "language", "label": None},
        {"post": "unsure", "at": START, "why_not": "unsure", "label": None},
        {"post": "good", "at": START},
    )
    lake.write("tombstones", pl.DataFrame({"id": ["gone"], "at": START, "partition": 0, "offset": 9}), batch="b")
    assert labelled(lake, as_of=START + 1)["post"].to_list() == ["good"]
    day = {"since": date(2026, 1, 1), "until": date(2026, 1, 2)}
    assert answers(lake, **day)["post"].to_list() == ["gone", "good"]
    assert answers_on_filtered(lake, **day)["post"].to_list() == ["spam", "foreign"]
    earlier = {"since": date(2025, 12, 31), "until": date(2026, 1, 1)}
    assert answers(lake, **earlier).is_empty()
    assert answers_on_filtered(lake, **earlier).is_empty()


def test_an_older_version_wrote_fewer_columns(tmp_path: Path) -> None:
    (row,) = labelled(lake_of(tmp_path, {"post": "a", "at": START}), as_of=START + 1).to_dicts()
    assert dataset.ANSWERS.keys() <= row.keys()
    assert (row["drawn"], row["author"]) == (None, None)


# --- sides -------------------------------------------------------------------------------------------------


def rows(*posts: tuple[int, str], known_after: int = 0) -> pl.DataFrame:
    """Of (hours since START, text)."""
    of = [START + hour * HOUR for hour, _ in posts]
    at = [when + known_after * HOUR for when in of]
    return pl.DataFrame(
        {"post": [f"p-{n}" for n in range(len(posts))], "of": of, "at": at, "seen": [t for _, t in posts]}
    )


def texts_on(low: float, high: float, count: int) -> list[str]:
    """Texts whose side lies between."""
    found = (f"text {n}" for n in range(10_000))
    return [text for text in found if low <= dataset._side(text) < high][:count]


def seen(block: pl.DataFrame) -> list[str]:
    return block["seen"].to_list()


def test_a_side_is_the_hash_of_the_text() -> None:
    digest = hashlib.blake2b(b"fine", digest_size=4).digest()
    assert dataset._side("fine") == int.from_bytes(digest, "big") / 2**32
    sides = [dataset._side(f"text {n}") for n in range(2_000)]
    assert 0 <= min(sides) < 0.01 < 0.99 < max(sides) < 1


def test_a_first_version_is_judged_on_the_last_fifth_of_the_time_and_on_texts_that_none_learns_from() -> None:
    free, held = texts_on(0.2, 1, 11), texts_on(0, 0.2, 11)
    made = rows(*((hour, text) for hour, pair in enumerate(zip(free, held, strict=True)) for text in pair))
    first = blocks(made, since=0, unseen=0)
    assert seen(first.learnt) == free[:9], "up to the eighth of ten hours"
    assert seen(first.older) == held[:9]
    assert seen(first.newest) == [text for pair in zip(free[9:], held[9:], strict=True) for text in pair]


def test_of_what_is_new_half_is_learnt_and_half_is_judged_on() -> None:
    taught, judged, held = texts_on(0.5, 1, 6), texts_on(0.2, 0.5, 6), texts_on(0, 0.2, 6)
    columns = zip(taught, judged, held, strict=True)
    made = rows(*((hour, text) for hour, three in enumerate(columns) for text in three))
    split = blocks(made, since=START + 3 * HOUR, unseen=0)
    assert seen(split.learnt) == [taught[0], judged[0], taught[1], judged[1], taught[2], judged[2], *taught[3:]]
    assert seen(split.newest) == [judged[3], held[3], judged[4], held[4], judged[5], held[5]]
    assert seen(split.older) == held[:3]
    later = blocks(made, since=START + 3 * HOUR, unseen=START + 5 * HOUR)
    assert seen(later.newest) == [judged[5], held[5]], "what was known before, the champion may have learnt"
    assert seen(later.older) == held[:3], "held texts it has not learnt"
    again = pl.concat([made, rows((6, judged[3]), (7, held[3]))])
    assert seen(blocks(again, since=START + 3 * HOUR, unseen=START + 5 * HOUR).newest) == [judged[5], held[5], held[3]]
    late = made.with_columns(at=pl.col("of") + 2 * HOUR)
    assert seen(blocks(late, since=START + 3 * HOUR, unseen=START + 5 * HOUR).newest) == seen(split.newest)


def test_what_was_written_a_second_before_is_not_new() -> None:
    (taught,), (judged, other) = texts_on(0.5, 1, 1), texts_on(0.2, 0.5, 2)
    made = rows((3, judged), (3, other), (3, taught)).with_columns(of=pl.col("of") - pl.Series([1, 0, 0]))
    split = blocks(made, since=START + 3 * HOUR, unseen=0)
    assert (seen(split.learnt), seen(split.newest)) == ([judged, taught], [other])


def test_a_text_that_comes_again_is_judged_once_and_not_if_it_is_learnt() -> None:
    (judged,), (held,) = texts_on(0.2, 0.5, 1), texts_on(0, 0.2, 1)
    made = rows((0, held), (1, held), (5, judged), (6, judged), (7, held))
    split = blocks(made, since=START + 4 * HOUR, unseen=0)
    assert (seen(split.newest), seen(split.older)) == ([judged, held], [held])
    assert split.newest["post"].to_list() == ["p-2", "p-4"], "the first of it"
    before = rows((0, judged), (5, judged), (6, held))
    assert seen(blocks(before, since=START + 4 * HOUR, unseen=0).newest) == [held], "it was learnt when it was old"


def test_a_version_of_data_names_posts_labels_and_when_they_were_known() -> None:
    one = pl.DataFrame({"post": ["a"], "label": ["neutral"], "at": [1], "more": ["x"]})
    assert version(one) == hashlib.sha256(b"post,label,at\na,neutral,1\n").hexdigest()[:12]
