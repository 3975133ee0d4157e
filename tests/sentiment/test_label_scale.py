"""What the labels of a file mean is told by all of its values, or refused."""

from pathlib import Path

import polars as pl
import pytest

from sentiment.config import LABELS
from sentiment.history import read_file
from sentiment.label_scale import LabelScale, given
from shared.table_files.cells import Spelling, Undecided
from shared.unusable import Unusable

NEG, NEU, POS = LABELS[:3]
SCALES: list[tuple[list[object], list[str | None]]] = [
    (["Negative", "NEUTRAL", "positive"], [NEG, NEU, POS]),
    (["LABEL_0", "label_1", "LABEL_2"], [NEG, NEU, POS]),
    (["-1", "0", "1"], [NEG, NEU, POS]),
    (["-1.0", "0.0", "+1"], [NEG, NEU, POS]),
    ([-2, -1, 0, 1, 2], [NEG, NEG, NEU, POS, POS]),
    (["0", "1", "2"], [NEG, NEU, POS]),
    (["0", "2", "4"], [NEG, NEU, POS]),
    (["0", "4"], [NEG, POS]),
    ([1, 2, 3, 4, 5], [NEG, NEG, NEU, POS, POS]),
    (["1", "5", ""], [NEG, POS, None]),
    (["negative"], [NEG]),
]


@pytest.mark.parametrize(("cells", "labels"), SCALES)
def test_a_scale_is_told_by_its_values(cells: list[object], labels: list[str | None]) -> None:
    parsed = LabelScale()(pl.Series(cells), Spelling())
    assert parsed.values.to_list() == labels
    assert parsed.faults.null_count() == len(cells)


@pytest.mark.parametrize(
    "cells", [["0", "1"], ["0", "2"], ["1", "2"], ["1"], ["0"], [-1], [5, 5], [1, 2, 3], [2, 4], ["a", "b"]]
)
def test_what_could_be_two_scales_is_refused(cells: list[object]) -> None:
    with pytest.raises(Undecided, match="LABELS=negative=0,neutral=1,positive=2"):
        LabelScale()(pl.Series(cells), Spelling())


def test_one_value_more_does_not_turn_a_column_round() -> None:
    cells = pl.Series([*[0, 1, 2] * 100, -1])
    with pytest.raises(Undecided):
        LabelScale()(cells, Spelling())
    read = LabelScale(given("negative=0,neutral=1,positive=2"))(cells, Spelling())
    assert (read.values.null_count(), read.faults[300] is not None) == (1, True)


@pytest.mark.parametrize("cells", [[1, 2, 3, 4, 5, 6], list(range(11)), [0, 1, 2, 3, 4]])
def test_a_scale_that_is_not_known_is_not_taken_for_one_that_is(cells: list[object]) -> None:
    with pytest.raises(Undecided):
        LabelScale()(pl.Series(cells), Spelling())


def test_a_value_outside_the_scale_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = "\n".join(f"post {n},2026-01-01 10:00:00,{n % 3 - 1}" for n in range(60))
    (tmp_path / "posts.csv").write_text(f"text,at,label\n{rows}\nodd,2026-01-01 10:00:00,7\n")
    table = read_file(tmp_path / "posts.csv")
    assert table.rows["label"].value_counts().sort("label").rows() == [(NEG, 20), (NEU, 20), (POS, 20)]
    assert [(letter.offset, letter.field, letter.value) for letter in table.letters] == [(62, "label", "7")]
    assert "labels are read as -1 negative, 0 neutral, 1 positive" in str(table.notes)


def test_a_person_may_say_what_labels_mean(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text("text,at,label\na,2026-01-01,0\nb,2026-01-01,1\nc,2026-01-01,x\n")
    with pytest.raises(Unusable, match="the column label has labels whose scale cannot be told"):
        read_file(tmp_path / "posts.csv")
    table = read_file(tmp_path / "posts.csv", labels=given("negative=0, positive=1, positive=true"))
    assert table.rows["label"].to_list() == [NEG, POS]
    for text in ("bad=0", "negative", "negative="):
        with pytest.raises(Unusable, match="LABELS"):
            given(text)
