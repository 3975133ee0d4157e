"""One shopper has one identity, by topic, file and HTTP; behind the boundary nothing knows a name."""

import json
import logging
from pathlib import Path

import polars as pl
import pytest

from recsys import dataset, ingest
from recsys.config import DAY, HOUR
from recsys.history import read_file, write_history
from recsys.schema import DEAD, ERASURES, EVENTS
from shared.eventlog.port import Entry, Topic
from shared.privacy import pseudonym
from tests.recsys.shop import KEY, TODAY, Shop, Trained, event
from tests.recsys.test_serve import client, until

MAIL = "alice.o-hara+shop@example.com"
ALICE = pseudonym(MAIL, KEY)


def says(shop: Shop, topic: Topic, user: str, message: dict[str, object]) -> None:
    """As a producer of the shop's own that knows nothing of pseudonyms."""
    shop.log.append([Entry(topic, user, json.dumps(message | {"user": user}).encode())])


def written(var: Path) -> bytes:
    """Everything below a folder but the log itself; of Parquet, the texts."""
    found = []
    for path in sorted(var.rglob("*")):
        if path.suffix == ".parquet":
            found.append(pl.read_parquet(path).write_json().encode())
        elif path.is_file() and not path.name.startswith(("log.", "mlflow")):
            found.append(path.read_bytes())
    return b"\n".join(found)


def test_topic_file_and_http_mean_the_same_shopper_and_nothing_behind_them_knows_the_name(
    shop: Shop, shop_world: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "past.csv").write_text(f"user_id,item_id,event,at\n{MAIL},i00001,purchase,2026-03-01 10:00:00\n")
    past = read_file(tmp_path / "past.csv")
    write_history(shop.lake, past.events, past.products, key=KEY)
    says(shop, EVENTS, MAIL, event(item="i00002", at=TODAY).model_dump())
    says(shop, EVENTS, MAIL, event(item="i00003", at=TODAY).model_dump() | {"quantity": 0})
    shop.log.append([Entry(EVENTS, MAIL, f'"{MAIL} bought a test"'.encode())])
    with client(shop) as asking:
        deed = {"kind": "purchase", "id": "by-http", "user": MAIL, "item": "i00004"}
        assert asking.post("/v1/events", json=deed).status_code == 202
        shop.night()
        until(lambda: asking.get("/health/ready").status_code == 200)
        assert {place["item"] for place in asking.get(f"/v1/shoppers/{MAIL}").json()["history"]} == {
            "i00001",
            "i00002",
            "i00004",
        }
        assert asking.get(f"/v1/recommendations/{MAIL}").json()["path"] == "table"
        says(shop, ERASURES, MAIL, {"at": shop.clock.now()})
        until(lambda: asking.get(f"/v1/recommendations/{MAIL}").json()["path"] == "popular")
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    assert shop.night("2026-03-13").version
    assert ALICE not in dataset.interactions(shop.lake, cut=shop.clock.now()).users
    assert ALICE in shop.lake.read("events")["user"].to_list()
    told = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]  # of the client
    for name in (MAIL, MAIL.split("@")[0]):
        assert name.encode() not in written(shop.var)
        assert not any(name in line for line in told)
        assert not any(name in record.key or name.encode() in record.value for record in shop.read(DEAD))
    assert len(shop.read(DEAD)) == 2


def test_a_pseudonym_stays_and_a_name_that_is_none_is_refused_without_being_repeated(shop: Shop) -> None:
    before = shop.lake.read("events").height
    says(shop, EVENTS, ALICE, event(item="i00002", at=TODAY).model_dump())
    for name in ("Alice O'Hara", "", "x" * 255):
        says(shop, EVENTS, name, event(item="i00002", at=TODAY).model_dump())
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    rows = shop.lake.read("events")
    assert rows.height == before + 1
    assert ALICE in rows["user"].to_list()
    assert [(letter.field, letter.value) for letter in shop.letters(DEAD)] == [("user", "")] * 3
