"""What a replay records."""

from pathlib import Path

import pytest

from sentiment import replay
from shared.public_data import DATA_SETS
from shared.settings import Settings
from shared.table_files.cells import Spelling


class Told(Exception):
    """What would be recorded is known; nothing has been read yet."""


def test_figures_of_a_replay_name_a_command_that_measures_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: object, command: str, **__: object) -> None:
        raise Told(command)

    monkeypatch.setattr("sentiment.replay.Run", told)
    name = "airline_tweets"
    with pytest.raises(Told, match=f"^make replay-sentiment FILE={name} BRANDS=airlines$"):
        replay.run(
            Settings(var=tmp_path),
            tmp_path / DATA_SETS[name].file,
            name=name,
            port=0,
            world="airlines",
            seed=1,
            recipe=None,
            spelling=Spelling(),
            labels={},
        )
