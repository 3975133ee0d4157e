"""Who knows the key comes in; nobody else, whatever they send."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry

from shared.api import PROBLEM, create_app
from shared.auth import require_key
from shared.health import Health
from tests.asgi import ask


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def guarded(key: bytes) -> FastAPI:
    app = create_app(
        title="t",
        description="t",
        body_limit=100,
        health=Health(needed=[]),
        lifespan=nothing,
        metrics=CollectorRegistry(),
    )

    @app.get("/secret", dependencies=[Depends(require_key(key, service="orders"))])
    def secret() -> str:
        return "secret"

    return app


def test_the_key_opens() -> None:
    answer = ask(guarded(b"sesame"), "GET", "/secret", headers={"X-API-Key": "sesame"})
    assert (answer.status_code, answer.json()) == (200, "secret")


def test_a_key_in_other_letters_opens() -> None:
    key = "абракадабра".encode()
    assert ask(guarded(key), "GET", "/secret", headers={b"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"X-API-Key": b""},
        {b"X-API-Key": b"sesam"},
        {b"X-API-Key": b"sesame2"},
        {b"X-API-Key": b"Sesame"},
        {b"X-API-Key": "сезам".encode()},
        {b"X-API-Key": b"\xff\xfe"},
        {b"Authorization": b"Bearer sesame"},
    ],
    ids=str,
)
def test_anything_else_is_refused_as_a_problem(headers: dict[bytes, bytes]) -> None:
    answer = ask(guarded(b"sesame"), "GET", "/secret", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "header X-API-Key is missing or wrong",
    }


def test_the_key_does_not_open_as_a_query() -> None:
    assert ask(guarded(b"sesame"), "GET", "/secret", params={"X-API-Key": "sesame"}).status_code == 401


def test_health_and_metrics_need_no_key() -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert ask(guarded(b"sesame"), "GET", path).status_code == 200
