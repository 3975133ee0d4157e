"""What the code of commit 8aa415f left behind is taken up where it ended (tests/fixtures/sentiment/README.md)."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from sentiment import config
from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR
from sentiment.hours import Manifest
from sentiment.monitor import Monitor
from sentiment.opinions import seen
from sentiment.schema import ALARMS, COMMANDS, TOPICS, Alarm
from shared.checklist import ROOT
from shared.eventlog import open_log
from shared.lake import Lake
from shared.old_lake import take_over
from shared.releases import Release
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained
from tests.sentiment.test_serve import serving, until

FIXTURE = ROOT / "tests" / "fixtures" / "sentiment" / "8aa415f"
LARGEST = 200_000  # bytes of a part


class Old(Crowd):
    """A crowd that begins with what is there."""

    def __init__(self, var: Path) -> None:
        empty = var.parent / "empty"
        (empty / "models").mkdir(parents=True)
        nothing = Release(action="promote", version="0", at=0, who="tests", why="")
        super().__init__(Trained(empty, pl.DataFrame(), nothing), var.parent / "unused", released=False)
        self.log.close()
        self.var, self.url = var, f"sqlite:///{var}/log.db"
        self.clock.observe(TODAY + 26 * HOUR)
        self.log = open_log(self.url, clock=self.clock)
        self.log.create(TOPICS)
        self.lake = Lake(self.var / "sentiment" / "lake")


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Old]:
    shutil.copytree(FIXTURE, tmp_path / "var")
    take_over(tmp_path / "var", tmp_path / "var" / "sentiment" / "lake", config.LAKE)
    with closing(Old(tmp_path / "var")) as crowd:
        yield crowd


def test_its_parts_are_small() -> None:
    for part in FIXTURE.iterdir():
        size = sum(path.stat().st_size for path in ([part] if part.is_file() else part.rglob("*")) if path.is_file())
        assert size <= LARGEST, part.name


def test_the_worker_goes_on_and_scores_nothing_twice(old: Old) -> None:
    before = {opinion.id for opinion in old.opinions()}
    mentions = len(old.mentions())
    old.stream()
    ids = [opinion.id for opinion in old.opinions() if opinion.kind == "opinion"]
    assert len(ids) == len(set(ids))
    assert set(ids) - before == {f"new-{n}" for n in range(4)}
    assert {old.opinion(f"new-{n}").model for n in range(4)} == {"1"}
    assert len(old.mentions()) == mentions + 8
    assert old.letters() == []


def test_its_bundle_is_shown_the_same_and_says_the_same(old: Old) -> None:
    (folder,) = (old.var / "models").iterdir()
    artifact = Artifact.load(folder)
    scored = [opinion for opinion in old.opinions() if opinion.score]
    assert len(scored) > 40
    for opinion in scored:
        assert artifact.score(seen(opinion.text, BRANDS), "linear") == opinion.score


def test_batch_goes_on_and_publishes_nothing_again(old: Old) -> None:
    before = Manifest.read(old.var / "batch")
    old.stream()
    old.tick(TODAY + 28 * HOUR)
    manifest = old.publish()
    assert {h: p.version for h, p in manifest.hours.items() if h in before.hours} == {
        h: p.version for h, p in before.hours.items()
    }
    assert {f"new-{n}" for n in range(4)} <= set(old.published()[TODAY // HOUR + 26]["post"])
    old.tick(TODAY + 2 * DAY + HOUR)
    assert old.publish().night == TODAY // DAY + 2


def test_the_monitor_remembers_and_refuses_a_command_without_a_key(old: Old) -> None:
    def said() -> list[Alarm]:
        return [Alarm.model_validate_json(record.value) for record in old.read(ALARMS)]

    before = said()
    assert [alarm.kind for alarm in before] == ["crisis", "confirmed", "command"]
    monitor = Monitor(
        old.log,
        old.lake,
        lambda: pytest.fail("no registry is needed"),
        BRANDS,
        clock=old.clock,
        seed=1,
        fetch=lambda _, digest: old.var / "models" / digest,
        folder=old.var / "batch",
        recipe=None,
        secret=KEY,
    )
    monitor._repair_alias = lambda: None  # type: ignore[method-assign]  # MLflow's file is no part of the fixture
    with closing(monitor):
        for _ in range(3):
            monitor.step()
    (refused,) = said()[len(before) :]
    assert (refused.kind, refused.action) == ("command", "nothing changed")
    assert len(old.releases()) == 1
    assert all("key" not in json.loads(record.value) for record in old.read(COMMANDS))


def test_the_gateway_is_ready_and_shows_both_views(old: Old) -> None:
    with serving(old) as client:
        until(lambda: client.get("/health/ready").json() == {"status": "ready", "warnings": []})
        assert client.get("/v1/model").json()["champion"]["version"] == "1"
        span = {"from": TODAY, "to": TODAY + 27 * HOUR}
        points = client.get("/v1/brands/northair/timeline", params=span).json()["points"]
        counts = [sum(part["raw"] for part in point["parts"]) for point in points]
        assert counts[:3] == [3, 0, 4], "of the first hour one is deleted"
        assert {part["view"] for point in points for part in point["parts"]} == {"batch", "speed"}
