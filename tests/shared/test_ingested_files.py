"""What came by file is kept as it went into the lake, and makes the lake again."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shared import ingested_files
from shared.ingested_files import IngestedFiles, digest_of_file
from shared.lake import Lake

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
    IngestedFiles(lake).finish()
    assert_frame_equal(lake.read("events"), rows(2, 1))
    IngestedFiles(lake).finish()  # nothing is left to do
    assert lake.read("events").height == 2


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
    IngestedFiles(lake).finish()
    assert IngestedFiles(lake).restore(Lake(tmp_path / "other")) == 0


def test_erasing_writes_the_files_again_without_a_person(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    files = IngestedFiles(lake)
    files.add("events", pl.concat([rows(1, 2), rows(3, user="bob")]))
    files.add("events", rows(4, user="bob"))
    files.erase("events", pl.col("user") == "bob")
    other = Lake(tmp_path / "other")
    assert files.restore(other) == 2
    assert set(other.read("events")["user"]) == {"ann"}
    assert b"bob" not in b"".join(path.read_bytes() for path in files.folder.glob("*/*"))


def test_what_an_older_version_did_not_keep_is_taken_over_from_the_lake(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write("events", rows(1, 2), batch="history-of-old")
    IngestedFiles(lake).add("events", rows(3))
    other = Lake(tmp_path / "other")
    assert IngestedFiles(lake).restore(other) == 3
    assert_frame_equal(other.read("events", batch="history"), rows(3, 2, 1))
