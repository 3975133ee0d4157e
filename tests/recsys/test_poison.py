"""Records that cannot be read or stand in the wrong partition: only they are lost."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import polars as pl
import pytest

from recsys import ingest
from recsys.config import DAY, HOUR
from recsys.edge import Edge
from recsys.schema import (
    ALARMS,
    COMMANDS,
    DEAD,
    ERASURES,
    EVENTS,
    RELEASES,
    STORY,
    TOPICS,
)
from recsys.shelf import Shelf
from shared.eventlog.port import Entry, partition_of
from tests.recsys.shop import KEY, TODAY, Shop, Trained, event, named
from tests.recsys.test_serve import client, until

NOW = TODAY + 3 * HOUR
POISON = (b"", b"{", b"\xff\xfe", b"null", b"[]", b'"text"', b'{"kind":"books","day":1,"earned":{}}', b"[" * 5_000)


@contextmanager
def following(shop: Shop) -> Iterator[tuple[Edge, Shelf]]:
    with closing(Shelf(shop.log, shop.tables, key=KEY)) as shelf:
        edge = Edge(shop.log, shelf, clock=shop.clock, key=KEY)
        edge.start()
        try:
            until(lambda: edge.needed.caught_up and edge.shown.caught_up)
            yield edge, shelf
        finally:
            edge.stop()


def test_an_alarm_of_a_kind_that_this_version_does_not_know_ends_no_thread(shop: Shop, shop_world: Trained) -> None:
    shop.night()
    with following(shop) as (edge, shelf):
        item = shelf.recommend(named("ann"), 1, now=NOW).items[0]
        alarm = b'{"kind":"latency","at":1,"message":"p99","action":"scale out","severity":3}'
        shop.log.append([Entry(ALARMS, "latency", alarm)])
        until(lambda: [alarm.kind for alarm in edge.alarms] == ["latency"])
        shop.happens(event(user="ann", item=item, at=NOW))
        until(lambda: item not in shelf.recommend(named("ann"), 50, now=NOW).items)
        shop.send(shop_world.live[0])
        shop.clock.observe(TODAY + DAY + 2 * HOUR)
        version = shop.night("2026-03-13").version
        until(lambda: shelf.version == version)
        assert (edge.health.ready(), edge.health.warnings()) == ("", [])


def test_poison_on_every_topic_is_named_and_the_service_goes_on(shop: Shop, shop_world: Trained) -> None:
    shop.night()
    poison = [
        Entry(topic, "books" if topic is STORY else "x", value)
        for topic in TOPICS
        for value in POISON
        if topic is not DEAD
    ]
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        shop.log.append(poison)
        first = asking.get("/v1/recommendations/u000002").json()["items"][0]["item"]
        deed = {"kind": "purchase", "id": "p1", "user": "u000002", "item": first, "cents": 500}
        assert asking.post("/v1/events", json=deed).status_code == 202
        until(lambda: first not in asking.get("/v1/recommendations/u000002").text)
        until(lambda: len(asking.get("/health/ready").json()["warnings"]) >= 10)
        ready = asking.get("/health/ready")
        assert ready.status_code == 200
        named = {warning.split("/")[0] for warning in ready.json()["warnings"]}
        assert named == {topic.name for topic in TOPICS if topic not in (DEAD, COMMANDS)}
        assert asking.get("/v1/watch").status_code == 200
        assert asking.get("/v1/table").status_code == 200
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    assert shop.night("2026-03-13").version
    with client(shop) as asking:  # a restart does not get stuck on it either
        until(lambda: asking.get("/health/ready").status_code == 200)


def test_what_is_needed_is_green_while_a_page_topic_cannot_be_followed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()
    monkeypatch.setattr(Edge, "_page_start", lambda _: (_ for _ in ()).throw(RuntimeError("a bug of the page")))
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        until(lambda: any("page" in warning for warning in asking.get("/health/ready").json()["warnings"]))
        assert asking.get("/v1/recommendations/u000001").status_code == 200


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"date": "2026-03-13"}'])
def test_a_damaged_manifest_is_a_warning_and_yesterday_s_table_goes_on(
    shop: Shop, shop_world: Trained, damage: bytes
) -> None:
    first = shop.night().version
    with following(shop) as (edge, shelf):
        edge.stop()
        shop.send(shop_world.live[0])
        shop.clock.observe(TODAY + DAY + 2 * HOUR)
        second = shop.night("2026-03-13").version
        (shop.tables / second / "manifest.json").write_bytes(damage)
        edge.start()
        until(lambda: any(second in warning for warning in edge.health.warnings()))
        assert (edge.health.ready(), shelf.version) == ("", first)
        assert shelf.recommend(named("ann"), 5, now=NOW).items


def test_dead_letters_name_no_person(shop: Shop) -> None:
    mail = "alice@example.com"
    bad = [
        b'{"kind":"view","user":"alice@example.com","item":"i1"',
        b'"alice@example.com bought a test"',
        json.dumps(event().model_dump() | {"user": f"{mail} "}).encode(),
        json.dumps(event().model_dump() | {"id": mail}).encode(),
        json.dumps(event().model_dump() | {"order": mail}).encode(),
        event(user="bob").model_dump_json().encode(),
        json.dumps(event().model_dump() | {"item": mail}).encode(),
        json.dumps(event().model_dump() | {"kind": f"call +44 7700 900123, {mail}"}).encode(),
    ]
    shop.log.append([Entry(EVENTS, mail, value) for value in bad])
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    records = shop.read(DEAD)
    assert len(records) == len(bad)
    assert not any(mail in record.key or mail.encode() in record.value for record in records)
    assert not any(b"900123" in record.value for record in records)
    assert {record.key.split("/")[0] for record in records} == {EVENTS.name}


@pytest.mark.parametrize("topic", [EVENTS, ERASURES])
def test_a_record_on_another_partition_than_its_key_s_is_a_dead_letter(shop: Shop, topic: object) -> None:
    shop.night()
    user, now = named("ann"), shop.clock.now()
    wrong = (partition_of(user, EVENTS.partitions) + 1) % EVENTS.partitions
    value = (
        json.dumps({"user": user, "at": now}).encode()
        if topic is ERASURES
        else event(at=now).model_dump_json().encode()
    )
    shop.log.append([Entry(topic, user, value, wrong)])  # type: ignore[arg-type]  # one of the two
    with following(shop) as (edge, _):
        assert any("another partition" in warning for warning in edge.health.warnings())
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    assert [letter.field for letter in shop.letters(DEAD)] == ["partition"]


def test_a_message_of_which_no_row_can_be_made_costs_only_itself(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pl.read_ndjson

    def picky(text: bytes, **options: Any) -> pl.DataFrame:
        if b"cursed" in text:
            raise OverflowError("a number that no column holds")
        return real(text, **options)

    monkeypatch.setattr(pl, "read_ndjson", picky)
    before = shop.lake.read("events").height
    shop.happens(event(id="good"), event(id="cursed"), event(id="fine"))
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    assert shop.lake.read("events").height == before + 2
    assert len(shop.letters(DEAD)) == 1


def test_lines_of_the_ledger_that_cannot_be_read_stop_neither_night_nor_rollback(
    shop: Shop, shop_world: Trained
) -> None:
    first = shop.night().version
    line = shop.ledger().lines[-1].model_dump()
    newer = [line | {"canary": 0.1, "key": "newer"}, line | {"action": "explode"}, {"version": "x"}]
    shop.log.append([Entry(RELEASES, "x", json.dumps(value).encode()) for value in newer])
    shop.log.append([Entry(RELEASES, "x", value) for value in POISON])
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    assert shop.night("2026-03-13").version
    assert shop.roll_back() == first
