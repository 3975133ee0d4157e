"""Every answer that is not the one asked for is a problem+json that says what was wrong."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel, ConfigDict, Field

from shared.api import PROBLEM, create_app
from shared.auth import SHARED, Role
from shared.clock import monotonic
from shared.eventlog.port import Record, Topic
from shared.follower import Follower
from shared.health import Health
from shared.supervised_thread import SupervisedThread
from tests.asgi import ask
from tests.roles import keys, shown

LIMIT = 1_000  # bytes


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    item: Annotated[str, Field(min_length=1)]
    count: Annotated[int, Field(gt=0)] = 1
    notes: dict[str, int] = {}
    buyer: Annotated[str, Field(max_length=9)] = ""


ACCESS = SHARED | dict.fromkeys(["POST /orders", "GET /orders/{name}", "GET /broken", "GET /busy"], Role.ANYONE)


class Service:
    """The smallest service: one that takes orders, and can be told not to be ready."""

    def __init__(self) -> None:
        self.reason = ""
        self.ticks = SupervisedThread("ticks", lambda _: None)
        self.health = Health(needed=[], threads=[self.ticks], service=lambda: self.reason)
        self.events: list[str] = []
        self.metrics = CollectorRegistry()
        self.app = create_app(
            title="orders",
            description="Takes orders.",
            body_limit=LIMIT,
            health=self.health,
            lifespan=self.lifespan,
            metrics=self.metrics,
            keys=keys("orders"),
            access=ACCESS,
            personal=["buyer"],
        )

        @self.app.post("/orders")
        async def order(order: Order) -> Order:
            return order

        @self.app.get("/orders/{name}")
        async def one(name: str) -> None:
            raise HTTPException(404, f"no order {name!r}")

        @self.app.get("/broken")
        async def broken() -> None:
            raise RuntimeError("password=hunter2")

        @self.app.get("/busy")
        async def busy() -> None:
            raise HTTPException(503, "come again", headers={"Retry-After": "7"})

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.events.append("started")
        yield
        self.events.append("stopped")


@pytest.fixture
def service() -> Service:
    return Service()


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of a problem, after a look at its form."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    return body


# --- operation -------------------------------------------------------------------------------------


def test_a_process_that_runs_is_live_though_it_is_not_ready(service: Service) -> None:
    service.reason = "still reading"
    assert ask(service.app, "GET", "/health/live").json() == {"status": "live"}


def test_a_service_that_is_not_ready_says_why(service: Service) -> None:
    assert ask(service.app, "GET", "/health/ready").json() == {"status": "ready", "warnings": []}
    service.reason = "still reading"
    answer = problem(ask(service.app, "GET", "/health/ready"), 503)
    assert (answer["detail"], answer["warnings"]) == ("still reading", [])
    service.ticks.trouble = "thread ticks ended: ValueError"
    assert problem(ask(service.app, "GET", "/health/ready"), 503)["detail"] == "thread ticks ended: ValueError"


def test_warnings_are_told_whether_it_is_ready_or_not(service: Service) -> None:
    page = Topic("shop.page", 1)
    shown = Follower("page", None, [page], lambda *_: None)  # type: ignore[arg-type]  # it is never started
    shown.skip(Record("shop.page", 0, 7, "k", b"", 0), ValueError("Anna"))
    service.health.shown = [shown]
    told = ["shop.page/0: 1 unreadable, last at offset 7 (ValueError)", "page: still reading shop.page (0 s old)"]
    assert ask(service.app, "GET", "/health/ready").json() == {"status": "ready", "warnings": told}
    service.reason = "still reading"
    assert problem(ask(service.app, "GET", "/health/ready"), 503)["warnings"] == told


def test_a_loop_that_stood_still_for_half_a_minute_is_not_live(service: Service) -> None:
    service.health.beat = monotonic() - 29
    assert ask(service.app, "GET", "/health/live").status_code == 200
    service.health.beat = monotonic() - 31
    assert "the event loop has not run for 31 s" in problem(ask(service.app, "GET", "/health/live"), 503)["detail"]


def test_a_thread_that_failed_five_times_is_not_live(service: Service) -> None:
    service.ticks.failures, service.ticks.trouble = 4, "thread ticks ended: ValueError"
    assert ask(service.app, "GET", "/health/live").status_code == 200
    service.ticks.failures = 5
    assert "ticks failed 5 times" in problem(ask(service.app, "GET", "/health/live"), 503)["detail"]


def test_the_loop_of_a_running_app_gives_its_heartbeat_until_it_stops(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = asyncio.sleep
    monkeypatch.setattr("shared.api.asyncio.sleep", lambda _: pause(0.005))

    async def run() -> None:
        service.health.beat = 0.0
        async with service.app.router.lifespan_context(service.app):
            for _ in range(2):
                await pause(0.05)
                assert monotonic() - service.health.beat < 5
                service.health.beat = 0.0
        service.health.beat = 0.0
        await pause(0.05)
        assert service.health.beat == 0.0

    asyncio.run(run())


def test_metrics_are_what_the_service_counted(service: Service) -> None:
    Counter("orders", "Orders taken", registry=service.metrics).inc(3)
    answer = ask(service.app, "GET", "/metrics", headers=shown(Role.OPERATOR))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "orders_total 3.0" in answer.text.splitlines()


def test_a_metric_that_waits_holds_up_no_request(service: Service) -> None:
    """A gauge that asks a locked log used to stop every request for seconds."""
    answered = threading.Event()
    Gauge("lag", "Events not yet done", registry=service.metrics).set_function(lambda: float(answered.wait(10)))

    async def ask() -> str:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            scrape = asyncio.create_task(client.get("/metrics", headers=shown(Role.OPERATOR)))
            await asyncio.sleep(0.05)
            await client.get("/health/live")
            answered.set()
            return (await scrape).text

    assert "lag 1.0" in asyncio.run(ask()).splitlines()


def test_the_description_needs_no_network(service: Service) -> None:
    page = ask(service.app, "GET", "/docs")
    assert "swagger" in page.text
    assert "://" not in page.text
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert ask(service.app, "GET", address).status_code == 200, address


def test_what_a_service_starts_it_stops(service: Service) -> None:
    async def run() -> None:
        async with service.app.router.lifespan_context(service.app):
            assert service.events == ["started"]

    asyncio.run(run())
    assert service.events == ["started", "stopped"]


# --- the limit of a body ---------------------------------------------------------------------------


def order(service: Service, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    return ask(service.app, "POST", "/orders", content=content, headers={"content-type": "application/json"})


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Sent so, a body does not say its length."""
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (100 * LIMIT, 413)])
def test_a_body_may_have_the_limit_and_not_a_byte_more(service: Service, size: int, status: int, chunked: bool) -> None:
    body = b'{"item": "%s"}' % (b"x" * (size - 12))
    assert len(body) == size
    answer = order(service, in_pieces(body) if chunked else body)
    assert ("content-length" in answer.request.headers) is not chunked
    if status == 413:
        assert str(LIMIT) in problem(answer, 413)["detail"]
    assert answer.status_code == status


def test_of_a_body_that_says_it_is_too_long_nothing_is_read(service: Service) -> None:
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{")
        yield b"{"

    answer = ask(service.app, "POST", "/orders", content=body(), headers={"content-length": str(LIMIT + 1)})
    problem(answer, 413)
    assert read == []


# --- problems --------------------------------------------------------------------------------------


def test_an_unknown_path_is_a_problem(service: Service) -> None:
    assert problem(ask(service.app, "GET", "/nowhere"), 404)["detail"] == "Not Found"


def test_a_wrong_method_is_a_problem_that_names_the_right_one(service: Service) -> None:
    answer = ask(service.app, "GET", "/orders")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_a_refusal_keeps_its_words_and_headers(service: Service) -> None:
    answer = ask(service.app, "GET", "/busy")
    assert problem(answer, 503)["detail"] == "come again"
    assert answer.headers["retry-after"] == "7"


def test_an_error_of_ours_tells_nothing_of_our_insides(service: Service) -> None:
    answer = ask(service.app, "GET", "/broken")
    problem(answer, 500)
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text


def test_an_error_of_ours_reaches_the_servers_log(service: Service) -> None:
    with pytest.raises(RuntimeError, match="hunter2"):
        ask(service.app, "GET", "/broken", raising=True)


# --- what is not valid -----------------------------------------------------------------------------


def errors(answer: httpx.Response) -> list[dict[str, str]]:
    found: list[dict[str, str]] = problem(answer, 422)["errors"]
    return found


def test_a_wrong_value_is_named_with_its_field(service: Service) -> None:
    (error,) = errors(ask(service.app, "POST", "/orders", json={"item": "tea", "count": -3}))
    assert (error["field"], error["value"]) == ("count", "-3")
    assert error["message"] == "Input should be greater than 0"


def test_all_that_is_wrong_is_named_at_once(service: Service) -> None:
    found = errors(ask(service.app, "POST", "/orders", json={"count": "many", "colour": "red"}))
    assert {error["field"] for error in found} == {"item", "count", "colour"}


SECRET = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    "body",
    [{"item": "tea", "buyer": SECRET}, {"item": "tea", "pan": SECRET}, {"pan": SECRET}, [SECRET], SECRET],
    ids=["personal", "unknown", "missing", "list", "text"],
)
def test_no_value_comes_back_that_may_name_a_person(service: Service, body: object) -> None:
    answer = ask(service.app, "POST", "/orders", json=body)
    assert all(error["value"] == "" for error in errors(answer))
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "body",
    [{"item": "tea", "count": SECRET}, {"item": "tea", "count": -4111111111111111}, {"item": "tea", SECRET: 1}],
    ids=["value", "number", "field"],
)
def test_a_card_number_in_a_field_that_is_not_personal_is_masked(service: Service, body: object) -> None:
    answer = ask(service.app, "POST", "/orders", json=body)
    (error,) = errors(answer)
    assert "[card number]" in error["field"] + error["value"]
    assert "1111" not in answer.text


@pytest.mark.parametrize("name", [SECRET, "4111111111111111.x", "anna@example.com"])
def test_what_was_asked_for_and_is_not_there_is_named_without_what_names_a_person(service: Service, name: str) -> None:
    answer = ask(service.app, "GET", f"/orders/{name}")
    assert name not in problem(answer, 404)["detail"]
    assert name not in answer.text


@pytest.mark.parametrize("body", [{"item": "tea", "count": "y" * 900}, {"item": "tea", "x" * 900: 1}])
def test_what_was_wrong_comes_back_cut(service: Service, body: dict[str, Any]) -> None:
    (error,) = errors(ask(service.app, "POST", "/orders", json=body))
    assert len(error["field"]) <= 100
    assert len(error["value"]) <= 100


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"tea"', b'{"item": NaN}', b'{"item": "\\ud800"}'])
def test_a_body_that_is_no_order_is_not_valid(service: Service, content: bytes) -> None:
    assert errors(order(service, content))


def test_a_name_that_utf8_cannot_write_is_answered_all_the_same(service: Service) -> None:
    assert errors(order(service, b'{"item": "tea", "notes": {"\\ud800": "many"}}'))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * LIMIT], ids=["no text", "deep"])
def test_a_body_that_cannot_be_parsed_is_the_senders_problem(service: Service, content: bytes) -> None:
    answer = order(service, content)
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code)
