"""The FastAPI app of every service: health, metrics, limits, and errors that name field and value."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

import prometheus_client
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.auth import Access, Keys, describe_roles, guard
from shared.clock import monotonic
from shared.health import Health
from shared.privacy import masked

PROBLEM = "application/problem+json"


class BodyLimit:
    """Refuses a body of more than `limit` bytes, also one that does not say its length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, f"the body is longer than {self.limit} bytes")
            return message

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit:
            response = problem(413, f"the body is longer than {self.limit} bytes")
            return await response(scope, receive, send)
        await self.app(scope, limited, send)


def problem(status: int, detail: str, *, headers: dict[str, str] | None = None, **more: object) -> JSONResponse:
    """An RFC 9457 answer. What looks like a person's number or address is masked in `detail`."""
    detail = masked(detail)
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(content, status, headers, media_type=PROBLEM)


def create_app(
    *,
    title: str,
    description: str,
    body_limit: int,
    health: Health,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    metrics: prometheus_client.CollectorRegistry,
    keys: Keys,
    access: Access,
    personal: Collection[str] = (),
) -> FastAPI:
    """An app with `/docs`, `/health/live`, `/health/ready` and `/metrics`; it gives `health` its heartbeat.

    `access` has every route of the app, also of those that are added later, and `keys` say who may ask for which.
    `personal`: fields whose value a 422 does not repeat.
    """

    @asynccontextmanager
    async def beating(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            heart = asyncio.create_task(_beat(health))
            try:
                yield
            finally:
                heart.cancel()

    # Swagger UI at /docs from the installed package: a reader on a train, or a bank's network, has no CDN.
    guarded = [Depends(guard(access, keys))]
    app = FastAPIOffline(redoc_url=None, title=title, description=description, lifespan=beating, dependencies=guarded)
    describe_roles(app, access)
    app.add_middleware(BodyLimit, limit=body_limit)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return problem(422, "the request is not valid", errors=described(error.errors(), personal=personal))

    @app.exception_handler(StarletteHTTPException)
    async def failed(_: Request, error: StarletteHTTPException) -> Response:
        return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return problem(500, "an error of the service's own; its log says more")

    @app.get("/health/live", tags=["operation"], responses={503: {"description": "A new process is needed; says why."}})
    async def live() -> Response:
        """The process works, or can mend itself."""
        reason = health.live()
        return problem(503, reason) if reason else JSONResponse({"status": "live"})

    @app.get("/health/ready", tags=["operation"], responses={503: {"description": "Not ready, with the reason."}})
    async def readiness() -> Response:
        """Requests may be sent. `warnings` are of what the answers do not depend on, and of records skipped."""
        reason, warnings = health.ready(), health.warnings()
        if reason:
            return problem(503, reason, warnings=warnings)
        return JSONResponse({"status": "ready", "warnings": warnings})

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    def scrape() -> Response:  # in a thread: a gauge may have to ask the log, and wait for it
        """For Prometheus."""
        return Response(prometheus_client.generate_latest(metrics), media_type="text/plain; version=0.0.4")

    return app


async def _beat(health: Health) -> None:
    while True:
        health.beat = monotonic()
        await asyncio.sleep(1.0)


def described(errors: Sequence[Any], *, personal: Collection[str]) -> list[dict[str, str]]:
    """Which field, what is wrong with it, and the value, cut to a line.

    The value is left out where it may name a person or hold a card number: of a field that is personal, of one that
    is not known, and of a whole body. Elsewhere what looks like a card number is masked.
    """
    found = []
    for error in errors:
        place = [str(part) for part in error["loc"] if part != "body"]
        value = error.get("input")
        plain = place and error["type"] != "extra_forbidden" and isinstance(value, str | int | float | bool | None)
        shown = plain and not {*place} & {*personal}
        # Masked before it is cut: half a card number would not be known as one.
        field, said = (masked(text[:400])[:100] for text in (".".join(place) or "body", repr(value) if shown else ""))
        found.append({"field": field, "message": masked(str(error["msg"])), "value": said})
    return found
