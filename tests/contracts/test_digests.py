"""A digest, or a version, from outside names a folder below the service's own, or nothing: no path reaches a disk."""

import importlib
import shutil
from pathlib import Path

import pytest

from shared.champion import drift_limits
from shared.cli import Runtime
from shared.registry import Corrupt
from shared.releases import Release

HOSTILE = {
    "above": "../lake",
    "far above": "../../..",
    "absolute": "{var}/lake",
    "upper case": "A" * 64,
    "short": "0" * 63,
    "with a line end": "0" * 64 + "\n",
    "a path behind a digest": "0" * 64 + "/../../lake",
    "nothing": "",
}


@pytest.mark.parametrize("service", ["fraud", "recsys", "sentiment"])
def test_a_hostile_digest_is_refused_and_deletes_nothing(service: str, tmp_path: Path) -> None:
    topics = importlib.import_module(f"{service}.schema").TOPICS
    runtime = Runtime(service, topics, var=tmp_path / "var", log="", virtual=None)
    lake = tmp_path / "var" / "lake" / "a.parquet"
    lake.parent.mkdir(parents=True)
    lake.write_text("months of records")
    (lake.parent / "limits.json").write_text('{"amount": 0.0}')
    runtime.models.mkdir()
    shutil.copytree(lake.parent, runtime.models / ("A" * 64))
    for digest in (text.format(var=tmp_path / "var") for text in HOSTILE.values()):
        with pytest.raises(Corrupt, match="which is none"):
            runtime.fetch("file:///anywhere", digest)
        line = Release(action="promote", version="1", digest=digest, at=1, who="operator", why="")
        assert drift_limits(runtime.models, line) == {}
    assert lake.read_text() == "months of records"
    assert [path.name for path in runtime.models.iterdir()] == ["A" * 64]
