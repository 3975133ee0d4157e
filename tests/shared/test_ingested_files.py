"""What came by file is kept as it went into the lake, and makes the lake again."""

import threading
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shared import ingested_files
from shared.ingested_files import IngestedFiles, digest_of_file
from shared.lake import Lake, read_parquet
from shared.unusable import Unusable

DAY = 86_400


def rows(*places: int, user: str = "ann") -> pl.DataFrame:
    """Two days of rows below the log's offsets."""
    return pl.DataFrame(
        {
            "partition": [0] * len(places),
            "offset": [-place for place in places],
            "at": [place % 2 * DAY for place in places],
            "user": [user] * len(places),
            "scores": [[0.5, 1.0]] * len(places),
        }
    )


def kept(files: IngestedFiles) -> list[str]:
    return sorted(path.name for path in files.folder.glob("*/*"))


def test_rows_are_kept_as_they_went_in_and_named_after_their_source(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    files = IngestedFiles(lake)
    source = tmp_path / "payments.csv"
    source.write_text("a,b\n")
    files.add("events", rows(1, 2), source=digest_of_file(source))
    files.add("events", rows(3, 4), source=digest_of_file(source))
    files.add("events", rows(5).clear())
    assert [name[: len("history-") + 16] for name in kept(files)] == [f"history-{digest_of_file(source)[:16]}"] * 2
    assert_frame_equal(lake.read("events"), rows(4, 3, 2, 1))
    assert not (tmp_path / "lake" / "lake-files").exists()


def test_a_command_that_died_on_its_way_into_the_lake_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path / "lake")

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(lake, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            IngestedFiles(lake).add("events", rows(1, 2))
    assert lake.read("events").is_empty()
    for _ in range(2):  # the second time nothing is left to do
        with IngestedFiles(lake).alone():
            assert_frame_equal(lake.read("events"), rows(2, 1))


def test_a_command_that_died_before_its_rows_were_kept_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, _: pl.DataFrame) -> None:
        path.with_name(f".{path.stem}.1").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(ingested_files, "write_parquet", dies)
        with pytest.raises(KeyboardInterrupt):
            IngestedFiles(Lake(tmp_path / "lake")).add("events", rows(1, 2))
    lake = Lake(tmp_path / "lake")
    with IngestedFiles(lake).alone():
        assert IngestedFiles(lake).restore(Lake(tmp_path / "other")) == 0


def test_erasing_writes_the_files_again_without_a_person(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    files = IngestedFiles(lake)
    files.add("events", pl.concat([rows(1, 2), rows(3, user="bob")]))
    files.add("events", rows(4, user="bob"))
    files.erase("events", ["bob", "eve"], column="user")
    other = Lake(tmp_path / "other")
    assert files.restore(other) == 2
    assert set(other.read("events")["user"]) == {"ann"}
    assert b"bob" not in b"".join(path.read_bytes() for path in files.folder.glob("*/*"))


def test_of_a_person_only_rows_up_to_a_time_are_erased(tmp_path: Path) -> None:
    files = IngestedFiles(Lake(tmp_path / "lake"))
    files.add("events", pl.concat([rows(1, 2), rows(3, 4, user="bob")]))
    files.erase("events", ["ann"], column="user", gone=pl.col("at") < DAY)
    other = Lake(tmp_path / "other")
    assert files.restore(other) == 3
    assert other.read("events").filter(user="ann")["at"].to_list() == [DAY]


def test_files_without_the_names_are_read_once_and_not_at_every_erasure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, read, real = IngestedFiles(Lake(tmp_path / "lake")), [], read_parquet
    for number in range(3):
        files.add("events", rows(number + 1, user=f"user-{number}"))

    def spy(path: Path) -> pl.DataFrame:
        read.append(path)
        return real(path)

    monkeypatch.setattr(ingested_files, "read_parquet", spy)
    for number in range(10):
        files.erase("events", [f"unknown-{number}"], column="user")
    assert len(read) == 3
    files.erase("events", ["user-1"], column="user")
    assert len(read) == 4
    assert files.restore(Lake(tmp_path / "other")) == 2


def test_what_an_older_version_did_not_keep_is_taken_over_from_the_lake(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write("events", rows(1, 2), batch="history-of-old")
    IngestedFiles(lake).add("events", rows(3))
    other = Lake(tmp_path / "other")
    assert IngestedFiles(lake).restore(other) == 3
    assert_frame_equal(other.read("events", batch="history"), rows(3, 2, 1))


def named(*names: str, at: int = DAY) -> pl.DataFrame:
    """Rows of a file: one a name, in one partition and second."""
    return pl.DataFrame({"partition": [0] * len(names), "at": [at] * len(names), "user": list(names)})


def test_two_commands_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    """Both would see the lake as it was before, and give the same offsets."""
    files, ready, added = IngestedFiles(Lake(tmp_path / "lake")), threading.Barrier(2), list[int]()

    def add(name: str) -> None:
        ready.wait()
        with files.alone():
            rows = named("ann", *(f"{name}-{n}" for n in range(50)))
            added.append(files.add_new("events", rows, known_by=["user"], source=name * 16).height)

    threads = [threading.Thread(target=add, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [50, 51]
    assert Lake(tmp_path / "lake").read("events").height == 101


def test_new_rows_stand_below_the_log_by_their_time_and_only_their_dates_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path / "lake")
    files = IngestedFiles(lake)
    for day in (3, 1, 2):
        files.add_new("events", named("ann", at=day * DAY), known_by=["user"])
    assert lake.read("events")["at"].to_list() == [DAY, 2 * DAY, 3 * DAY]
    assert lake.read("events")["offset"].max() < 0  # type: ignore[operator]  # of integers
    read, real = list[object](), lake.read

    def spy(table: str, **asked: object) -> pl.DataFrame:
        read.append((asked["since"], asked["until"]))
        return real(table, **asked)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(lake, "read", spy)
    assert files.add_new("events", named("ann", "bob", at=2 * DAY), known_by=["user"])["user"].to_list() == ["bob"]
    assert read == [(date(1970, 1, 3), date(1970, 1, 4))]


def test_the_place_of_a_row_that_was_erased_is_not_given_again(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    IngestedFiles(lake).add_new("events", named("ann", "bob"), known_by=["user"])
    IngestedFiles(lake).erase("events", ["ann"], column="user")
    made = Lake(tmp_path / "made")
    IngestedFiles(lake).restore(made)
    IngestedFiles(made).add_new("events", named("eve"), known_by=["user"])
    assert set(made.read("events")["user"]) == {"bob", "eve"}


def test_a_lake_into_which_an_older_version_took_files_takes_no_further_one(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write("events", rows(1, 2), batch="history")
    said = r"an older version took from files \(history.parquet\)"
    with pytest.raises(Unusable, match=said), IngestedFiles(lake).alone():
        pass
