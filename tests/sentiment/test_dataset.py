"""Labels count from when they were known, and go with the posts that are deleted."""

import subprocess
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from sentiment.__main__ import app
from sentiment.config import DAY, HOUR
from sentiment.dataset import HELD, NotEnough, blocks, labelled
from sentiment.history import read_file, write_labels
from sentiment.schema import AUDITS, DEAD, TOPICS, Audit, Tombstone
from shared.clock import VirtualClock
from shared.dead_letters import DeadLetter
from shared.eventlog import open_log
from shared.eventlog.port import Entry, beginning
from shared.ingested_files import IngestedFiles, digest_of_file
from shared.lake import Lake
from shared.unusable import Unusable
from tests.sentiment.crowd import KEY, START, TODAY, Crowd, post


def audit(number: int, *, known_at: int, at: int = TODAY) -> Entry:
    said = Audit(
        post=f"p-{number}",
        at=at,
        known_at=known_at,
        label="negative",
        model="1",
        path="linear",
        score=(0.5, 0.3, 0.2),
        inclusion=0.1,
        text=f"text {number}",
        brands=("volt",),
    )
    return Entry(AUDITS, said.post, said.model_dump_json().encode())


def test_a_label_counts_from_the_moment_it_was_known(crowd: Crowd) -> None:
    crowd.log.append([audit(1, known_at=TODAY + DAY), audit(2, known_at=TODAY + 2 * DAY)])
    crowd.ingest()
    assert labelled(crowd.lake, as_of=TODAY + DAY + 1)["post"].to_list() == ["p-1"]
    assert labelled(crowd.lake, as_of=TODAY + 2 * DAY + 1)["post"].to_list() == ["p-1", "p-2"]
    with pytest.raises(NotEnough):
        labelled(crowd.lake, as_of=TODAY + DAY)


def test_a_deleted_post_teaches_nothing_more(crowd: Crowd) -> None:
    crowd.log.append([audit(1, known_at=TODAY), audit(2, known_at=TODAY)])
    crowd.post(post(id="p-1"), Tombstone(id="p-1", at=TODAY + 60))
    crowd.ingest()
    assert labelled(crowd.lake, as_of=TODAY + DAY)["post"].to_list() == ["p-2"]


def rows_of(number: int, *, since: int = START, texts: int = 10**6) -> pl.DataFrame:
    """An hour apart, known a day later."""
    at = [since + n * HOUR for n in range(number)]
    return pl.DataFrame(
        {"post": [f"p-{n}" for n in range(number)], "of": at, "at": [when + DAY for when in at]}
    ).with_columns(seen=pl.format("text {}", pl.int_range(number) % texts))


def test_the_newest_are_judged_and_held_texts_are_learnt_by_no_version() -> None:
    first = blocks(rows_of(1_000), since=0, unseen=0)
    assert first.learnt["of"].max() < first.newest["of"].min()  # type: ignore[operator]  # polars: any literal
    assert first.newest.height == 200
    assert first.older.height == pytest.approx(800 * HELD, rel=0.2)
    again = blocks(rows_of(1_200), since=START + 1_000 * HOUR, unseen=START + 1_000 * HOUR)
    assert set(first.older["seen"]) <= set(again.older["seen"])
    assert again.newest.height == pytest.approx(100, rel=0.2)
    assert again.learnt["of"].max() >= START + 1_000 * HOUR  # type: ignore[operator]


@given(texts=st.integers(50, 400), since=st.integers(0, 400), unseen=st.integers(0, 450))
def test_a_text_is_on_one_side_only_and_no_champion_knows_what_it_is_judged_on(
    texts: int, since: int, unseen: int
) -> None:
    """However often a text comes again: before and after what is new, and before and after the champion was trained."""
    rows = rows_of(400, texts=texts)
    before = START + unseen * HOUR
    ours = blocks(rows, since=START + since * HOUR if since else 0, unseen=before)
    champion = blocks(rows.filter(pl.col("at") < before), since=0, unseen=0) if unseen > 60 else None
    for judged in (ours.newest, ours.older):
        assert set(judged["seen"]).isdisjoint(ours.learnt["seen"])
        assert judged["seen"].is_unique().all()
        if champion is not None:
            assert set(judged["seen"]).isdisjoint(champion.learnt["seen"])


def test_a_broken_audit_is_a_dead_letter_and_the_others_are_taken_in(crowd: Crowd) -> None:
    crowd.log.append([Entry(AUDITS, "p-0", b'{"label": "angry"}'), audit(1, known_at=TODAY)])
    crowd.ingest()
    assert len(crowd.letters()) == 1
    assert labelled(crowd.lake, as_of=TODAY + DAY)["post"].to_list() == ["p-1"]


# --- files ------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[pl.DataFrame, list[DeadLetter]]:
    table = read_file(path)
    return table.rows, table.sorted_letters()


def test_the_airlines_file_is_read_with_its_known_fault(data: Path) -> None:
    posts, letters = read(data / "airline_tweets" / "airline_tweets_feb16_22.parquet")
    assert posts.height + len(letters) == 10_268
    assert posts["at"].is_sorted()
    assert set(posts["brand"]) == {"united", "us-airways", "southwest", "virgin-america", "jetblue", "american"}
    assert set(posts["label"]) == {"negative", "neutral", "positive"}


def test_the_topics_and_tweeteval_are_read(data: Path) -> None:
    topics, _ = read(data / "semeval_topics" / "topics_2016.parquet")
    assert topics.height > 30_000
    assert topics["label"].null_count() == 0
    train, _ = read(data / "tweeteval_sentiment" / "train.parquet")
    assert dict(train.group_by("label").len().iter_rows())["neutral"] > 20_000


def test_bad_rows_are_reported_by_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text(
        "text,created_at,label\nfine,2026-01-01 10:00:00,positive\n,2026-01-01 10:00:00,neutral\n"
        "no time,yesterday,neutral\nodd label,2026-01-01T10:00:00Z,angry\n"
    )
    posts, letters = read(path)
    assert posts.select("text", "label").rows() == [("fine", "positive")]
    assert [(letter.field, letter.offset) for letter in letters] == [("text", 3), ("at", 4), ("label", 5)]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "text,at\n,\n", "text,created_at\nx,never\n"])
def test_a_file_without_posts_is_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "posts.csv").write_text(text)
    with pytest.raises(Unusable, match=r"posts\.csv"):
        read_file(tmp_path / "posts.csv")


def labels_of(name: str, number: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"{name}-{n}" for n in range(number)],
            "at": [START] * number,
            "text": [f"{name} {n}" for n in range(number)],
            "label": ["negative"] * number,
            "kind": ["plain"] * number,
        }
    )


def test_a_second_file_of_labels_takes_nothing_from_the_first(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for name, known_at in (("a", START + DAY), ("b", START + 2 * DAY), ("c", START + DAY), ("a", START + DAY)):
        write_labels(lake, labels_of(name, 5), known_at=known_at)
    assert labelled(lake, as_of=START + 9 * DAY).height == 15


def test_authors_that_are_missing_stand_alone_and_times_in_milliseconds_are_read(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text(
        "text,at,author\nfine,1767225600,Jane Doe\nbad,1767225601,\nodd,1767225602000,x\n"
    )
    posts, letters = read(tmp_path / "posts.csv")
    assert posts.select("author", "at").rows() == [("Jane Doe", START), ("author-3", START + 1), ("x", START + 2)]
    assert letters == []


def test_rows_that_ingest_refuses_are_dead_letters(tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    file.write_text(
        "id,author,at,text,label\n"
        "p-1,anna,1767225600,@northair is great,positive\n"
        "p 2,anna,1767225700,@northair is awful,negative\n"
    )
    done = CliRunner().invoke(app, ["--var", str(tmp_path / "var"), "ingest", str(file)])
    assert done.exit_code == 0, done.output
    with closing(open_log(f"sqlite:///{tmp_path}/var/log.db", clock=VirtualClock(0))) as log:
        log.create(TOPICS)
        with closing(log.reader(beginning([DEAD]))) as reader:
            (letter,) = reader.poll(10, 0.0)
    assert b'"field":"id"' in letter.value


def test_a_damaged_lake_is_made_again_from_files_and_log(crowd: Crowd) -> None:
    """Repeats, expired posts, deletions and audits stand where they stood."""
    crowd.tick(TODAY)
    crowd.post(*(post(f"@northair is great {n}", id=f"p-{n}", at=TODAY + n) for n in range(20)))
    crowd.post(post("@northair again", id="p-1", at=TODAY + 30), Tombstone(id="p-2", at=TODAY + 40))
    crowd.tick(TODAY + HOUR)
    crowd.stream()
    crowd.ingest()
    tables = ("posts", "uncounted", "tombstones", "opinions", "audits")
    before = {table: crowd.lake.read(table) for table in tables}
    assert before["uncounted"].height == 1
    for path in crowd.lake.folder.glob("posts/*/*.parquet"):
        path.write_bytes(b"PAR1")
    (crowd.var / "pseudonym_key.secret").write_bytes(KEY)
    done = subprocess.run(crowd.command("ingest", "--rebuild"), capture_output=True, text=True, check=True)
    assert "the lake is made again" in done.stdout
    for table, rows in before.items():
        assert_frame_equal(crowd.lake.read(table), rows)


def test_the_same_file_again_brings_no_new_label_and_lines_of_two_files_are_two_posts(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for name in ("one", "two"):
        file = tmp_path / f"{name}.csv"
        file.write_text(f"at,text,label\n1767225600,{name} is great,positive\n1767225601,{name} is bad,negative\n")
        posts, _ = read(file)
        assert write_labels(lake, posts, known_at=START + DAY, source=digest_of_file(file)) == 2
        assert write_labels(lake, posts, known_at=START + DAY, source=digest_of_file(file)) == 0
    assert labelled(lake, as_of=START + 9 * DAY).height == 4


def test_a_deletion_removes_the_label_from_what_the_lake_would_be_made_of(crowd: Crowd) -> None:
    files = IngestedFiles(crowd.lake)
    write_labels(crowd.lake, labels_of("p", 3), known_at=TODAY - HOUR)
    crowd.post(Tombstone(id="p-1", at=TODAY))
    crowd.ingest()
    again = Lake(crowd.var / "again")
    files.restore(again)
    assert {"p-0", "p-2"} <= set(again.read("audits")["post"])
    assert "p-1" not in set(again.read("audits")["post"])
    assert write_labels(crowd.lake, labels_of("p", 3), known_at=TODAY - HOUR) == 0
    assert "p-1" not in {row for path in files.folder.rglob("*.parquet") for row in pl.read_parquet(path)["post"]}
