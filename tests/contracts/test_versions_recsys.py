"""Two versions of recsys on one log: each reads what the other wrote, on every topic, by every process."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import BaseModel

from recsys import table
from recsys.config import DAY, HOUR
from recsys.monitor import GROUP
from recsys.schema import (
    ALARMS,
    CATALOGUE,
    COMMANDS,
    DEAD,
    ERASURES,
    EVENTS,
    HEARTBEATS,
    IMPRESSIONS,
    NIGHTS,
    RELEASES,
    REPORTS,
    STORY,
    TOPICS,
    Alarm,
    Books,
    Command,
    Erasure,
    Impression,
    Night,
    Product,
    Report,
)
from recsys.table import Table
from shared.background_job import Heartbeat
from shared.dead_letters import DeadLetter
from shared.eventlog.port import Entry, Place, Position, Topic
from shared.story import Scene
from tests.recsys.shop import TODAY, Shop, Trained, copied, event, named, open_registry, trained
from tests.recsys.test_monitor import work
from tests.recsys.test_serve import client, until

NOW = TODAY + 2 * HOUR
WAYS = {"none": 1.0, "served": 2.0, "popularity": 1.5, "oracle": 3.0}
ALWAYS = {"subject", "artifact", "digest", "key"}  # fields with a default that every version wrote, and needs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "trained-shop")


@pytest.fixture(params=["newer", "older"])
def shop(request: pytest.FixtureRequest, world: Trained, tmp_path: Path) -> Iterator[Shop]:
    """A shop on whose log another version has written one record of each kind."""
    with closing(copied(world, tmp_path / "var", recipe=False)) as shop:
        with closing(shop.log.consumer(GROUP, [COMMANDS], "monitor")) as consumer:  # that version's monitor was here
            consumer.poll(1, 0.0)
            consumer.commit([], {Place(COMMANDS.name, 0): Position(0)})
        write = newer if request.param == "newer" else older
        shop.log.append([Entry(topic, key, write(message)) for topic, key, message in messages(world)])
        yield shop


def newer(message: BaseModel) -> bytes:
    """As the next version would write it: with a field more, here and in what it holds."""
    written = json.loads(message.model_dump_json())
    nested = {name: value | {"tomorrow": 1} for name, value in written.items() if name in ("seconds", "figures")}
    return json.dumps(written | nested | {"tomorrow": {"deep": [1, None]}}).encode()


def older(message: BaseModel) -> bytes:
    """As the version before would: without any field that has a default."""
    fields = type(message).model_fields
    return message.model_dump_json(exclude={n for n in fields if not fields[n].is_required()} - ALWAYS).encode()


def messages(world: Trained) -> list[tuple[Topic, str, BaseModel]]:
    shown = {"list_id": "l1", "user": "ann", "at": NOW, "version": "v", "path": "table"}
    return [
        (EVENTS, named("ann"), event(user="ann", item="i00001", at=NOW)),
        (IMPRESSIONS, "ann", Impression.model_validate(shown | {"items": ("i00001",), "sources": ("als",)})),
        (ERASURES, "bob", Erasure(user="bob", at=NOW)),
        (CATALOGUE, "i00001", Product(item="i00001", at=NOW - DAY)),
        (COMMANDS, "night", Command(kind="night", who="ann", key="k1")),
        (ALARMS, "drift", Alarm(kind="drift", at=NOW, message="moved", action="train")),
        (NIGHTS, "2026-03-11", Night(date="2026-03-11", at=NOW - DAY, seconds={"rank": 1.0}, figures={"users": 1.0})),
        (REPORTS, "9", Report(day=9, version="v", lists=1, clicks=1, purchases=1)),
        (RELEASES, "1", world.release),
        (STORY, "scene", Scene(number=1, title="Dawn", at=NOW)),
        (STORY, "books", Books(day=9, earned=WAYS)),
        (HEARTBEATS, "monitor", Heartbeat(process="monitor", since=NOW, at=NOW)),
        (DEAD, "a/0/1", DeadLetter(topic="a", partition=0, offset=1, field="at", reason="too late")),
    ]


def test_every_topic_has_a_message_here(world: Trained) -> None:
    assert {topic for topic, _, _ in messages(world)} == set(TOPICS)


def test_the_other_version_s_records_are_read_by_monitor_night_and_server(shop: Shop, world: Trained) -> None:
    monitor = shop.monitor(open_registry(world.var))
    work(monitor)  # it obeys the command: the night takes everything in
    monitor.close()
    night = Night.model_validate(shop.said(NIGHTS)[-1])
    assert (night.refused, night.recipe) == ("", world.release.version), "the night reads the ledger"
    assert shop.lake.read("events").filter(offset=0, partition=shop.read(EVENTS)[0].partition).height == 1
    assert [shop.lake.read(name).height > 0 for name in ("impressions", "erasures", "catalogue")] == [True] * 3
    assert len(shop.read(DEAD)) == 1, "the one that was there: no record was refused"
    assert {said["day"] for said in shop.said(REPORTS)} == {9, TODAY // DAY - 2, TODAY // DAY - 1}
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        until(lambda: asking.get("/v1/watch").json()["told"]["scenes"])
        until(lambda: asking.get("/health/ready").json()["warnings"] == [])
        told = asking.get("/v1/watch").json()["told"]
        assert (told["recipe"]["version"], told["money"]["days"]) == (world.release.version, 1)
        assert told["alarms"][-1]["message"] == "moved"
        assert {night["date"] for night in told["nights"]} == {"2026-03-11", "2026-03-12"}
        shown = asking.get("/v1/shoppers/ann").json()
        assert "i00001" not in {place["item"] for place in shown["shown"]} or shown["history"]
    assert [letter.offset for letter in shop.letters(DEAD)] == [1]


def test_a_table_of_the_other_version_is_opened_and_shown(world: Trained, tmp_path: Path) -> None:
    with closing(copied(world, tmp_path / "var")) as shop:
        folder = shop.tables / shop.night().version
        for change in ("newer", "older"):
            target = shop.tables / "other"
            shutil.copytree(folder, target)
            extras, manifest = target / "main" / "extras.json", target / "manifest.json"
            given, said = json.loads(extras.read_text()), json.loads(manifest.read_text())
            if change == "newer":
                given |= {"tomorrow": [1]}
                said |= {"tomorrow": {"deep": 1}}
            else:
                given = {name: given[name] for name in ("items", "popular")}
                del said["bundle"]
            extras.write_text(json.dumps(given))
            said["files"]["main/extras.json"] = hashlib.sha256(extras.read_bytes()).hexdigest()
            manifest.write_text(json.dumps(said))
            version = table.version_of(said["date"], manifest.read_bytes())
            target.rename(shop.tables / version)
            table.point(shop.tables, version)
            shelf = shop.shelf()
            assert (shelf.version, shelf.trouble) == (version, "")
            user = next(iter(said["samples"]))
            assert shelf.recommend(user, 10, now=NOW).items == Table.open(folder).manifest.samples[user]
            assert len(shelf.recommend("a-stranger", 10, now=NOW).places()) == 10
