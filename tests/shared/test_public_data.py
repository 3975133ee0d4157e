"""A data set is the very file that the figures were measured on, or a clear error."""

from pathlib import Path

import pytest

from shared.public_data import DATA_SETS, DataCorrupt, DataMissing, load

HANDBOOK = DATA_SETS["handbook_fraud"]


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_data_are_those_of_the_figures(name: str, data: Path) -> None:
    assert load(name, data) == data / DATA_SETS[name].file


def test_without_a_folder_the_error_names_source_licence_and_setting() -> None:
    with pytest.raises(DataMissing) as error:
        load("handbook_fraud", None)
    for word in (HANDBOOK.source, HANDBOOK.licence, HANDBOOK.file, "MLSD_DATA"):
        assert word in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="there is no"):
        load("handbook_fraud", tmp_path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / HANDBOOK.file
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    with pytest.raises(DataCorrupt, match=HANDBOOK.sha256):
        load("handbook_fraud", tmp_path)
