"""Version N of sentiment reads what version N + 1 wrote, and the other way round, on every topic and every path."""

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from pydantic import BaseModel

from sentiment import schema
from sentiment.config import HOUR
from sentiment.monitor import Monitor, entry
from sentiment.schema import (
    ALARMS,
    AUDITS,
    COMMANDS,
    CORRECTIONS,
    DEAD,
    HEARTBEATS,
    MENTIONS,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    REPORTS,
    STORY,
    TOPICS,
    Alarm,
    Audit,
    Command,
    Correction,
    Report,
    Tombstone,
)
from sentiment.serve import answered
from shared import releases
from shared.background_job import Heart, Heartbeat
from shared.dead_letters import DeadLetter
from shared.eventlog.port import Entry, Record
from shared.story import Scene
from tests.sentiment.conftest import crowd, world
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, post
from tests.sentiment.test_serve import serving, until

__all__ = ["crowd", "world"]

KINDS: dict[str, dict[str, type[BaseModel]]] = {
    POSTS.name: {"post": schema.Post, "tombstone": schema.Tombstone, "tick": schema.Tick},
    OPINIONS.name: {"opinion": schema.Opinion, "deleted": schema.Opinion},
    MENTIONS.name: {"mention": schema.Mention, "mark": schema.Mark},
    MINUTES.name: {"minute": schema.Minute, "late": schema.Late, "seal": schema.Seal},
    AUDITS.name: {"": schema.Audit},
    CORRECTIONS.name: {"": schema.Correction},
    DEAD.name: {"": DeadLetter},
    COMMANDS.name: {"": schema.Command},
    ALARMS.name: {"": schema.Alarm},
    REPORTS.name: {"": schema.Report},
    RELEASES.name: {"": releases.Release},
    STORY.name: {"scene": Scene},
    HEARTBEATS.name: {"": Heartbeat},
}
# What an older writer always wrote: the name of the kind, by which records of a topic are told apart.
KEPT = {"kind", "subject", "state"}


def newer(_: Record, said: dict[str, Any]) -> dict[str, Any]:
    """As the next version writes it: with fields that this one does not know."""
    return said | {"mood_of_the_day": ["calm"], "since_version": {"number": 2}}


def older(record: Record, said: dict[str, Any]) -> dict[str, Any]:
    """As the version before wrote it: without any field that came later, which is each that has a default."""
    kinds = KINDS[record.topic]
    model = kinds.get(said.get("kind", ""), next(iter(kinds.values())))
    late = {name for name, field in model.model_fields.items() if not field.is_required()} - KEPT
    return {name: value for name, value in said.items() if name not in late or _needed(record.topic, name)}


def _needed(topic: str, name: str) -> bool:
    """Without these a record says nothing, so no version has left them out."""
    return (topic, name) in {
        (OPINIONS.name, "text"),
        (OPINIONS.name, "brands"),
        (OPINIONS.name, "label"),
        (AUDITS.name, "known_at"),
        (AUDITS.name, "label"),
        (AUDITS.name, "text"),
        (RELEASES.name, "artifact"),
        (RELEASES.name, "digest"),
        (COMMANDS.name, "version"),
    }


def everything(crowd: Crowd) -> None:
    """A record of every kind on every topic."""
    crowd.post(post(), post("@northair is awful", id="p-2"), post("@northair again", id="gone"))
    crowd.tick(TODAY + HOUR)
    crowd.stream()
    crowd.tick(TODAY + 2 * HOUR)
    crowd.post(post("@northair was late", id="late"), Tombstone(id="gone", at=TODAY + HOUR))
    crowd.stream()
    opinion = crowd.opinion("p-1")
    asked = Audit(
        post="p-1",
        at=TODAY,
        model="1",
        score=opinion.score,
        inclusion=0.2,
        drawn={"northair": (1, 5)},
        text=opinion.text,
    )
    correction = Correction(post="p-2", at=TODAY + HOUR, shown=None, label="neutral", model="1", reader="r")
    report = Report(
        day=TODAY // 86_400 - 1,
        posts=1,
        dropped={},
        version="1",
        drift={},
        drifted=(),
        audits=0,
        macro_recall=None,
        confusion=None,
    )
    crowd.log.append(
        [
            Entry(AUDITS, asked.post, asked.model_dump_json().encode()),
            answered(asked, "neutral", known_at=TODAY + HOUR),
            Entry(CORRECTIONS, "p-2", correction.model_dump_json().encode()),
            entry(Alarm(kind="drift", at=TODAY, message="m", action="a")),
            entry(report),
            Entry(STORY, "scene", Scene(number=1, title="t", at=TODAY).model_dump_json().encode()),
            *Heart("monitor", HEARTBEATS).beat("training"),
            Entry(POSTS, "x", b"{"),
        ]
    )
    command = Command(kind="withdraw", who="anna", key="k", expected_champion="1")
    crowd.log.append([Entry(COMMANDS, "withdraw", command.model_dump_json().encode())])
    crowd.stream()


@pytest.mark.parametrize("version", [newer, pytest.param(older, marks=pytest.mark.slow)])
def test_a_log_of_another_version_is_read_along_every_path(
    crowd: Crowd, world: Trained, tmp_path: Any, version: Callable[[Record, dict[str, Any]], dict[str, Any]]
) -> None:
    everything(crowd)
    with closing(Crowd(world, tmp_path / "other", released=False)) as other:
        for topic in TOPICS:
            for record in crowd.read(topic):
                other.clock.observe(record.at)
                value = record.value
                if record.value != b"{":
                    value = json.dumps(version(record, json.loads(record.value))).encode()
                other.log.append([Entry(topic, record.key, value, record.partition)])
        read(other)
        letters = {(letter.topic, letter.field) for letter in other.letters()}
        assert letters == {(POSTS.name, "message")}, "nothing but what is no record in any version"
        assert {"p-1", "p-2", "late"} <= {opinion.id for opinion in other.opinions()}
        rows = other.lake.read("opinions")
        assert {"p-1", "p-2", "late"} <= set(rows["id"])
        assert other.lake.read("audits").height == other.lake.read("corrections").height == 1
        assert set(other.published()[TODAY // HOUR]["post"]) == {"p-1", "p-2", "late"}


def no_registry() -> Any:
    raise ConnectionError("MLflow is away")


def read(crowd: Crowd) -> None:
    """Worker, batch, monitor and gateway, each over all of it."""
    crowd.stream()
    crowd.publish()
    monitor = Monitor(
        crowd.log,
        crowd.lake,
        no_registry,
        BRANDS,
        clock=crowd.clock,
        seed=1,
        fetch=lambda _, digest: crowd.var / "models" / digest,
        folder=crowd.var / "batch",
        recipe=None,
        secret=KEY,
    )
    with closing(monitor):
        for _ in range(3):
            monitor.step()
        assert len(monitor._reports) == 1
        assert monitor._watch.watermark >= TODAY + HOUR
    with serving(crowd) as client:
        until(lambda: client.get("/health/ready").json() == {"status": "ready", "warnings": []})
        assert {"p-1", "p-2", "late"} <= {opinion["id"] for opinion in client.get("/v1/opinions").json()}
        assert len(client.get("/v1/reports").json()) == 1
        told = client.get("/v1/watch").json()["told"]
        assert [line["version"] for line in told["ledger"]][-1] == "1"
        assert len(told["scenes"]) == 1


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_kind_of_record_is_read_from_another_version(crowd: Crowd, topic: Any) -> None:
    everything(crowd)
    records = [record for record in crowd.read(topic) if record.value != b"{"]
    assert records, "a topic without a record proves nothing"
    for record in records:
        said = json.loads(record.value)
        for version in (newer, older):
            changed = version(record, said)
            model = KINDS[topic.name][said.get("kind", "") if "" not in KINDS[topic.name] else ""]
            model.model_validate_json(json.dumps(changed))
