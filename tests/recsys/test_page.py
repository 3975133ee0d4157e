"""What the page asks for: all of it as JSON, a shopper, wishes of a demo; the rest is seen in a browser."""

import json

from recsys.schema import EVENTS, IMPRESSIONS, STORY, Alarm, Books, entry
from shared.eventlog.port import Entry
from shared.privacy import pseudonym
from shared.story import Scene
from tests.recsys.shop import KEY, TODAY, Shop
from tests.recsys.test_serve import client, until


def test_the_page_is_public_and_what_it_shows_is_not(shop: Shop) -> None:
    with client(shop) as asking:
        stranger = {"X-API-Key": "wrong"}
        assert "Which things to show each shopper" in asking.get("/", headers=stranger).text
        for path in ("/v1/watch", "/v1/stream", "/v1/shoppers/u000017"):
            assert asking.get(path, headers=stranger).status_code == 401


def test_before_the_first_night_it_shows_nothing_and_breaks_nothing(shop: Shop) -> None:
    with client(shop) as asking:
        until(lambda: asking.get("/v1/watch").json()["told"]["recipe"] is not None)
        said = asking.get("/v1/watch").json()
        assert (said["state"]["version"], said["state"]["age"], said["told"]["back_to"]) == ("", None, None)
        assert (said["told"]["money"], said["told"]["nights"], said["recent"]) == (None, [], [])
        assert asking.get("/v1/shoppers/u000017").status_code == 503


def test_it_shows_the_table_the_night_and_what_passes(shop: Shop) -> None:
    version = shop.night().version
    with client(shop) as asking:
        listed = asking.get("/v1/recommendations/u000001").json()
        first = listed["items"][0]["item"]
        deed = {"kind": "click", "id": "c1", "user": "u000001", "item": first, "list_id": listed["list_id"]}
        assert asking.post("/v1/events", json=deed | {"position": 1}).status_code == 202
        until(lambda: asking.get("/v1/watch").json()["taken"])
        said = asking.get("/v1/watch").json()
        (row,) = said["taken"]
        assert (row["clicked"], row["items"][0], row["user"]) == ([1], first, pseudonym("u000001", KEY))
        assert row["titles"] == [place["title"] for place in listed["items"]]
        assert all(row["titles"])
        assert (said["state"]["version"], said["told"]["table"]["version"]) == (version, version)
        assert said["told"]["nights"][0]["version"] == version
        assert said["told"]["limits"].keys() == {"category", "price", "small", "hour"}
        assert (said["state"]["now"]["lists"], said["state"]["now"]["clicks"]) == (1, 1)
        assert "u000001" not in json.dumps(said)


def test_a_shopper_is_looked_at_without_a_trace(shop: Shop) -> None:
    shop.night()
    with client(shop) as asking:
        seen = asking.get("/v1/shoppers/u000001?k=8").json()
        assert asking.get(f"/v1/shoppers/{seen['user']}?k=8&by=pseudonym").json() == seen
        assert [len(seen[part]) for part in ("shown", "popular")] == [8, 8]
        assert seen["history"]
        assert shop.read(IMPRESSIONS) == []
        assert asking.get("/v1/recommendations/u000001?k=8").json()["items"] == seen["shown"]
        item = seen["shown"][0]["item"]
        deed = {"kind": "purchase", "id": "p1", "user": "u000001", "item": item, "cents": 500}
        assert asking.post("/v1/events", json=deed).status_code == 202
        until(lambda: asking.get("/v1/shoppers/u000001").json()["history"][0]["item"] == item)
        assert asking.get("/v1/shoppers/unknown").json()["path"] == "popular"


def test_a_demo_s_story_and_books_are_told_and_its_visitor_heard(shop: Shop) -> None:
    scene, day = Scene(number=1, title="Dawn", at=TODAY), TODAY // 86_400
    ways = {"served": 3.0, "none": 1.0, "popularity": 2.0, "oracle": 9.0}
    told: list[Scene | Books] = [scene, Books(day=day, earned=ways)]
    shop.log.append([Entry(STORY, noun.kind, noun.model_dump_json().encode()) for noun in told])
    with client(shop, visitor="once") as asking:
        until(lambda: asking.get("/v1/watch").json()["told"]["scenes"])
        said = asking.get("/v1/watch").json()["told"]
        assert (said["scenes"][0]["title"], said["money"]["sum"], said["demo"]) == ("Dawn", 2.0, True)
        assert asking.post("/v1/wishes", json={"wish": "no input"}).status_code == 202
        assert asking.post("/v1/wishes", json={"wish": "rain"}).status_code == 422
        assert shop.said(STORY)[-1] == {"kind": "wish", "wish": "no input"}
    with client(shop) as asking:
        assert asking.post("/v1/wishes", json={"wish": "no input"}).status_code == 404


def test_what_cannot_be_read_is_passed_over(shop: Shop) -> None:
    shop.night()
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        shop.log.append([Entry(IMPRESSIONS, "x", b"{}"), Entry(EVENTS, "x", b"\xff")])
        asking.get("/v1/recommendations/u000001")
        until(lambda: asking.get("/v1/watch").json()["state"]["now"]["lists"] == 1)
        assert asking.get("/v1/watch").json()["state"]["trouble"] == ""


def test_a_stream_brings_all_and_then_what_is_new(shop: Shop) -> None:
    shop.night()
    with client(shop) as asking, asking.stream("GET", "/v1/stream") as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("event: "))
        assert next(lines) == "event: all"
        shop.log.append([entry(Alarm(kind="drift", at=TODAY, message="m", action="a"))])
        asking.get("/v1/recommendations/u000001")
        assert {next(lines) for _ in range(8)} == {"event: told", "event: rows", "event: state"}
