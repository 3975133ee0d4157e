"""A key gives a role, and a role may ask for what the table says; no other role may, whatever it sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from shared.api import PROBLEM, create_app
from shared.auth import SHARED, Caller, Keys, Role
from shared.health import Health
from tests.asgi import ask


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


ACCESS = SHARED | {"GET /v1/orders/{id}": Role.CLIENT, "GET /secret": Role.OPERATOR}


def guarded(operator: bytes = b"sesame") -> FastAPI:
    app = create_app(
        title="t",
        description="t",
        body_limit=100,
        health=Health(needed=[]),
        lifespan=nothing,
        metrics=CollectorRegistry(),
        keys=Keys("orders", client=b"till", analyst=b"desk", operator=operator),
        access=ACCESS,
    )
    router = APIRouter(prefix="/v1")

    @router.get("/orders/{id}")
    def order(id: int, caller: Caller) -> str:
        return f"{id} for the {caller}"

    @app.get("/secret")
    def secret() -> str:
        return "secret"

    @app.get("/forgotten")
    def forgotten() -> str:
        return "a route that stands in no table"

    app.include_router(router)
    return app


def test_the_key_opens() -> None:
    answer = ask(guarded(), "GET", "/secret", headers={"X-API-Key": "sesame"})
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
    answer = ask(guarded(), "GET", "/secret", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "header X-API-Key is missing or wrong",
    }


def test_the_key_does_not_open_as_a_query() -> None:
    assert ask(guarded(), "GET", "/secret", params={"X-API-Key": "sesame"}).status_code == 401


@pytest.mark.parametrize(("key", "role"), [("till", "client"), ("desk", "analyst"), ("sesame", "operator")])
def test_each_role_may_do_what_those_before_it_may(key: str, role: str) -> None:
    answer = ask(guarded(), "GET", "/v1/orders/7", headers={"X-API-Key": key})
    assert (answer.status_code, answer.json()) == (200, f"7 for the {role}")


def test_too_small_a_role_is_told_which_one_it_takes() -> None:
    answer = ask(guarded(), "GET", "/secret", headers={"X-API-Key": "desk"})
    assert answer.status_code == 403
    assert answer.json()["detail"] == "this needs the key of the role operator; the key that was sent is the analyst's"


def test_a_route_that_the_table_forgot_answers_no_request() -> None:
    assert ask(guarded(), "GET", "/forgotten", headers={"X-API-Key": "sesame"}).status_code == 500


@pytest.mark.parametrize("same", [{"client": b"sesame"}, {"analyst": b"till"}])
def test_two_roles_with_one_key_are_refused(same: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="must differ"):
        Keys("orders", **({"client": b"till", "analyst": b"desk", "operator": b"sesame"} | same))


def test_health_needs_no_key_and_metrics_need_the_operators() -> None:
    app = guarded()
    for path in ("/health/live", "/health/ready"):
        assert ask(app, "GET", path).status_code == 200
    assert ask(app, "GET", "/metrics").status_code == 401
    assert ask(app, "GET", "/metrics", headers={"X-API-Key": "desk"}).status_code == 403
    assert ask(app, "GET", "/metrics", headers={"X-API-Key": "sesame"}).status_code == 200


def test_the_openapi_says_what_needs_a_key_and_which() -> None:
    app = guarded()
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", "") != "/forgotten"]
    schema = ask(app, "GET", "/openapi.json").json()
    assert schema["components"]["securitySchemes"] == {
        "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    }
    assert "security" not in schema["paths"]["/health/live"]["get"]
    told = schema["paths"]["/secret"]["get"]
    assert told["security"] == [{"X-API-Key": []}]
    assert "operator" in told["responses"]["403"]["description"]
