"""The edge over HTTP: lists with reasons, events, errors that name field and value, a log that is away."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from recsys.schema import COMMANDS, ERASURES, EVENTS, IMPRESSIONS
from recsys.serve import make_app
from recsys.shelf import Shelf
from shared.clock import monotonic, sleep
from shared.eventlog.port import Entry, LogUnavailable
from shared.privacy import pseudonym
from tests.recsys.shop import KEY, TODAY, Shop

HEADERS = {"X-API-Key": "secret"}
REGISTRY = ".venv/bin/mlflow ui"


def until(done: Callable[[], bool]) -> None:
    end = monotonic() + 20
    while not done():
        assert monotonic() < end, "it did not happen"
        sleep(0.01)


@contextmanager
def client(shop: Shop, *, visitor: str = "") -> Iterator[httpx.Client]:
    """The service on a free port, and a client that knows the key."""
    shelf = Shelf(shop.log, shop.tables)
    app = make_app(
        shop.log,
        shelf,
        clock=shop.clock,
        api_key=b"secret",
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


def test_somebody_is_forgotten(shop: Shop) -> None:
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
        ("POST", "/v1/commands", {"kind": "night"}, "who"),
    ],
)
def test_bad_input_is_told_by_field(shop: Shop, method: str, path: str, body: Any, field: str) -> None:
    with client(shop) as asking:
        answer = asking.request(method, path, json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == field


def test_nobody_gets_in_without_the_key(shop: Shop) -> None:
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


def test_a_command_is_a_record_for_the_monitor(shop: Shop) -> None:
    with client(shop) as asking:
        assert asking.post("/v1/commands", json={"kind": "rollback", "who": "ann"}).status_code == 202
        assert shop.said(COMMANDS)[-1]["kind"] == "rollback"


def test_the_table_now_and_what_came_of_the_night(shop: Shop) -> None:
    version = shop.night().version
    with client(shop) as asking:
        until(lambda: bool(asking.get("/v1/nights").json()))
        now = asking.get("/v1/table").json()
        assert (now["version"], now["recipe"]) == (version, "1")
        assert now["age_hours"] == (shop.clock.now() - TODAY - 7_200) / 3_600
        assert asking.get("/v1/nights").json()[0]["version"] == version
