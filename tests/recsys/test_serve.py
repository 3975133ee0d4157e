"""The edge over HTTP: lists with reasons, events, errors that name field and value, a log that is away."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from recsys import dataset, ingest, report
from recsys.config import DAY
from recsys.edge import Edge
from recsys.schema import COMMANDS, ERASURES, EVENTS, HEARTBEATS, IMPRESSIONS, entry
from recsys.serve import make_app
from recsys.shelf import Shelf
from shared.background_job import Heartbeat
from shared.clock import SystemClock, monotonic, sleep
from shared.eventlog.port import Entry, LogUnavailable
from shared.follower import Follower
from shared.privacy import pseudonym
from tests.recsys.shop import KEY, TODAY, Shop, Trained
from tests.roles import keys

HEADERS = {"X-API-Key": "secret"}
REGISTRY = ".venv/bin/mlflow ui"


def until(done: Callable[[], object], *, seconds: float = 20.0) -> None:
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, "it did not happen"
        sleep(0.01)


@contextmanager
def client(shop: Shop, *, visitor: str = "") -> Iterator[httpx.Client]:
    """The service on a free port, and a client that knows the key."""
    shelf = Shelf(shop.log, shop.tables, key=KEY)
    app = make_app(
        shop.log,
        shelf,
        clock=shop.clock,
        keys=keys("recsys"),
        pseudonym_key=KEY,
        recipes=shop.var / "recipes",
        registry=REGISTRY,
        stopping=lambda: server.should_exit,
        visitor=visitor,
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, http="httptools"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, headers=HEADERS, timeout=10.0) as asking:
                until(lambda: "still reading" not in asking.get("/health/ready").text)
                yield asking
        finally:
            server.should_exit = True
            thread.join()
            shelf.close()


def test_before_the_first_night_it_is_not_ready_and_says_why(shop: Shop) -> None:
    with client(shop) as asking:
        assert "no table" in asking.get("/health/ready").json()["detail"]
        answer = asking.get("/v1/recommendations/u000001")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


def test_a_list_has_reasons_and_is_logged_as_shown(shop: Shop) -> None:
    version = shop.night().version
    with client(shop) as asking:
        answer = asking.get("/v1/recommendations/u000001?k=7").json()
        assert (answer["version"], answer["path"], answer["logged"]) == (version, "table", True)
        assert len(answer["items"]) == 7
        assert all(place["reason"].endswith(".") for place in answer["items"])
        logged = shop.said(IMPRESSIONS)[-1]
        assert logged["items"] == [place["item"] for place in answer["items"]]
        assert logged["list_id"] == answer["list_id"]
        assert logged["user"] == pseudonym("u000001", KEY)
        assert "u000001" not in str(shop.read(IMPRESSIONS))


def test_a_purchase_is_out_of_the_list_a_moment_later(shop: Shop) -> None:
    shop.night()
    with client(shop) as asking:
        first = asking.get("/v1/recommendations/u000002").json()["items"][0]["item"]
        deed = {"kind": "purchase", "id": "p1", "user": "u000002", "item": first, "cents": 500}
        assert asking.post("/v1/events", json=deed).status_code == 202
        until(lambda: first not in asking.get("/v1/recommendations/u000002").text)
        assert shop.said(EVENTS)[-1]["at"] == shop.clock.now()


def test_a_shopper_is_forgotten(shop: Shop) -> None:
    shop.night()
    with client(shop) as asking:
        assert asking.get("/v1/recommendations/u000001").json()["path"] == "table"
        assert asking.delete("/v1/users/u000001").status_code == 202
        until(lambda: asking.get("/v1/recommendations/u000001").json()["path"] == "popular")
        assert len(shop.said(ERASURES)) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/v1/recommendations/u1?k=0", None, "query.k"),
        ("GET", "/v1/recommendations/u1?k=51", None, "query.k"),
        ("GET", "/v1/recommendations/u1?kk=5", None, "query.kk"),
        ("GET", "/v1/recommendations/a%20b", None, "path.user_id"),
        ("POST", "/v1/events", {"kind": "dance", "id": "1", "user": "u", "item": "i"}, "kind"),
        ("POST", "/v1/events", {"kind": "click", "id": "1", "user": "u", "item": "i", "at": 5}, "at"),
        ("POST", "/v1/events", {"kind": "click", "id": "1", "user": "u", "item": "i", "quantity": "2"}, "quantity"),
        ("POST", "/v1/commands", {"kind": "night", "who": "ann"}, "who"),
    ],
)
def test_bad_input_is_told_by_field(shop: Shop, method: str, path: str, body: Any, field: str) -> None:
    with client(shop) as asking:
        answer = asking.request(method, path, json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == field


def test_no_request_is_answered_without_the_key(shop: Shop) -> None:
    with client(shop) as asking:
        for path in ("/v1/recommendations/u1", "/v1/table", "/v1/nights", "/v1/alarms", "/v1/reports"):
            assert asking.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
        assert asking.get("/health/live", headers={"X-API-Key": ""}).status_code == 200


def test_a_body_of_a_megabyte_is_refused(shop: Shop) -> None:
    with client(shop) as asking:
        assert asking.post("/v1/events", content=b"x" * 1_000_000).status_code == 413


def test_without_the_log_lists_are_shown_unlogged_and_events_are_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()

    def away(_: Sequence[Entry]) -> list[tuple[int, int]]:
        raise LogUnavailable("away")

    with client(shop) as asking:
        asking.get("/v1/recommendations/u000001")
        monkeypatch.setattr(shop.log, "append", away)
        assert asking.get("/v1/recommendations/u000001").json()["logged"] is False
        assert "recsys_impression_unlogged_total 1.0" in asking.get("/metrics").text
        deed = {"kind": "click", "id": "c1", "user": "u000002", "item": "i00001"}
        answer = asking.post("/v1/events", json=deed)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_list_that_the_log_takes_after_it_was_answered_as_unlogged_counts_nowhere(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()
    append, held = shop.log.append, threading.Event()

    def slow(entries: Sequence[Entry]) -> list[tuple[int, int]]:
        assert held.wait(20)
        return append(entries)

    with client(shop) as asking:
        counted = asking.get("/v1/recommendations/u000001").json()
        monkeypatch.setattr(shop.log, "append", slow)
        late = asking.get("/v1/recommendations/u000001").json()
        assert (counted["logged"], late["logged"]) == (True, False)
        held.set()
        until(lambda: len(shop.said(IMPRESSIONS)) == 3)
        for number, shown in enumerate((counted, late)):
            deed = {"kind": "click", "id": f"c{number}", "user": "u000001", "item": shown["items"][0]["item"]}
            asking.post("/v1/events", json=deed | {"list_id": shown["list_id"], "position": 1})
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    day = TODAY // DAY
    lists = dataset.impressions(shop.lake, since=dataset.day_of(TODAY), until=dataset.day_of(TODAY + DAY))
    assert lists["list_id"].to_list() == [counted["list_id"]]
    judged = report.judge(shop.lake, day, [], version="", recipe=None)
    assert (judged.lists, judged.clicks) == (1, 1)


def test_a_command_is_a_record_for_the_monitor(shop: Shop) -> None:
    with client(shop) as asking:
        assert asking.post("/v1/commands", json={"kind": "night"}).status_code == 202
        assert shop.said(COMMANDS)[-1]["kind"] == "night"


def test_the_table_now_and_what_came_of_the_night(shop: Shop) -> None:
    version = shop.night().version
    with client(shop) as asking:
        until(lambda: bool(asking.get("/v1/nights").json()))
        now = asking.get("/v1/table").json()
        assert (now["version"], now["recipe"]) == (version, "1")
        assert now["age_hours"] == (shop.clock.now() - TODAY - 7_200) / 3_600
        assert asking.get("/v1/nights").json()[0]["version"] == version


def post(asking: httpx.Client, key: str = "", **command: Any) -> httpx.Response:
    return asking.post("/v1/commands", json=command, headers={"Idempotency-Key": key} if key else {})


def test_a_command_that_replaces_something_has_to_say_what(shop: Shop) -> None:
    version = shop.night().version
    with client(shop) as asking:
        for kind, current in (("rollback", version), ("withdraw", "1"), ("promote", "1")):
            for given in ({}, {"expected_champion": "another"}):
                answer = post(asking, kind=kind, **given)
                assert answer.status_code == 409
                assert f"version {current} is in force" in answer.json()["detail"]
            answer = post(asking, kind=kind, expected_champion=current)
            assert answer.status_code == 202
            assert shop.said(COMMANDS)[-1]["key"] == answer.json()["key"]
        assert len(shop.said(COMMANDS)) == 3


def test_a_command_that_is_sent_again_is_accepted_again_though_it_has_been_carried_out(shop: Shop) -> None:
    shop.nights().releases.withdraw(who="ann", why="bad", key="k1", expected="1")
    with client(shop) as asking:
        until(lambda: asking.get("/v1/watch").json()["told"]["ledger"][0]["action"] == "withdraw")
        answer = post(asking, "k1", kind="withdraw", expected_champion="1")
        assert (answer.status_code, answer.json()["key"]) == (202, "k1")
        assert post(asking, "k2", kind="withdraw", expected_champion="1").status_code == 409
        assert post(asking, "k2", kind="promote", version="2", expected_champion="none").status_code == 202
        assert post(asking, "two words", kind="night").status_code == 422


def test_the_whole_ledger_is_known_and_not_its_last_lines(shop: Shop, shop_world: Trained) -> None:
    first = shop.night().version
    other = shop_world.release.model_copy(update={"version": "2"})
    shop.log.append([entry(other.model_copy(update={"key": f"k{n}"})) for n in range(300)])
    with client(shop) as asking:
        until(lambda: asking.get("/v1/table").json()["recipe"] == "2")
        assert asking.get("/v1/watch").json()["told"]["table"]["version"] == first


def test_the_page_says_what_the_monitor_is_at(shop: Shop) -> None:
    beat = Heartbeat(process="monitor", doing="training a recipe", since=SystemClock().now() - 12, at=TODAY)
    shop.log.append([Entry(HEARTBEATS, "monitor", beat.model_dump_json().encode())])
    with client(shop) as asking:
        until(lambda: asking.get("/v1/watch").json()["state"]["doing"].startswith("training a recipe for 1"))


def test_while_the_ledger_is_not_read_to_its_end_a_command_has_to_wait(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()
    command = {"kind": "rollback", "expected_champion": "newer-than-what-was-read"}
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        assert asking.post("/v1/commands", json=command).status_code == 409
        monkeypatch.setattr(Follower, "caught_up", False)
        answer = asking.post("/v1/commands", json=command)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert asking.get("/health/ready").status_code == 200, "lists go on"


def test_lists_go_on_while_every_thread_that_writes_to_the_log_hangs(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()
    released = threading.Event()
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        monkeypatch.setattr(Edge, "append", lambda *_: released.wait(30.0) and [])
        try:
            answers = [asking.get("/v1/recommendations/u000001?k=3") for _ in range(12)]
        finally:
            released.set()
    assert [answer.status_code for answer in answers] == [200] * 12
    assert {answer.json()["logged"] for answer in answers} == {False}


def test_no_shopper_s_name_reaches_a_file_or_a_line_of_the_logs(
    shop: Shop, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    name = "alice-of-example-com"
    shop.night()
    with client(shop) as asking:
        asking.get(f"/v1/recommendations/{name}")
        asking.get(f"/v1/recommendations/{name}@example.com")
        deed = {"kind": "click", "id": "c1", "user": name, "item": "i00001"}
        assert asking.post("/v1/events", json=deed).status_code == 202
        assert name not in asking.post("/v1/events", json=deed | {"user": f"{name}@"}).text
        asking.get(f"/v1/shoppers/{name}")
        assert asking.delete(f"/v1/users/{name}").status_code == 202
    files = {path: path.read_bytes() for path in shop.var.rglob("*") if path.is_file()}
    assert [path for path, content in files.items() if name.encode() in content] == []
    hidden = pseudonym(name, KEY).encode()
    assert any(hidden in content for content in files.values())  # so one would have seen it there
    captured = capfd.readouterr()
    ours = [x.getMessage() for x in caplog.records if not x.name.startswith("http")]  # not the client's own
    assert [text for text in (*ours, captured.out, captured.err) if name in text] == []
