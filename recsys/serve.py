"""The HTTP API: validates, calls, answers. Domain errors become HTTP errors here."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from recsys import config
from recsys.edge import Edge
from recsys.page import User, add_watching
from recsys.policy import REASONS
from recsys.releases import RECIPE, TABLE
from recsys.schema import (
    COMMANDS,
    ERASURES,
    EVENTS,
    IMPRESSIONS,
    PERSONAL,
    Alarm,
    Command,
    Erasure,
    Event,
    Id,
    Impression,
    Item,
    Name,
    Night,
    Release,
    Report,
    Wanted,
)
from recsys.schema import Path as Way
from recsys.shelf import NoTable, Shelf
from shared.api import create_app, problem
from shared.auth import SHARED, Access, Caller, Keys, Role
from shared.clock import Clock, perf_counter
from shared.eventlog.port import Entry, EventLog, LogUnavailable
from shared.messages import Message
from shared.messages import Request as Strict
from shared.privacy import pseudonymised
from shared.releases import Key, Rejected, check_expected

# [7.3] Least privilege: a shop's front end shows lists and reports events; it can neither read a shopper's history
# nor erase it.
ACCESS: Access = SHARED | {
    "GET /v1/recommendations/{user_id}": Role.CLIENT,
    "POST /v1/events": Role.CLIENT,
    "GET /v1/shoppers/{user_id}": Role.ANALYST,
    "DELETE /v1/users/{user_id}": Role.OPERATOR,
    "POST /v1/commands": Role.OPERATOR,
    "GET /v1/table": Role.OPERATOR,
    "GET /v1/nights": Role.OPERATOR,
    "GET /v1/alarms": Role.OPERATOR,
    "GET /v1/reports": Role.OPERATOR,
    "GET /v1/watch": Role.OPERATOR,
    "GET /v1/stream": Role.OPERATOR,
    "POST /v1/wishes": Role.OPERATOR,
}
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
PATIENCE = 0.3  # seconds that a list waits to be logged; then it is shown unlogged


class Asked(Strict):
    """How many places, and where the list will stand."""

    k: Annotated[int, Field(ge=1, le=config.SERVED)] = 10
    context: Annotated[
        str, Field(max_length=200, description="A category: whose popular items a stranger is shown.")
    ] = ""


class ListOut(Message):
    """A list as shown. `logged` is false when the log was away: such a list counts in no estimate."""

    list_id: str
    version: str
    path: Way
    logged: bool
    items: list[Item]


class EventIn(Strict):
    """A deed; the server says when, and replaces the shopper's name."""

    kind: Annotated[str, Field(pattern="^(view|click|cart|purchase|cancel)$", examples=["click"])]
    id: Id
    user: Name
    item: Id
    quantity: Annotated[int, Field(ge=1, le=config.MAX_QUANTITY, strict=True)] = 1
    cents: Annotated[int, Field(ge=0, le=config.MAX_CENTS, strict=True)] = 0
    order: Id | None = None
    list_id: Id | None = None
    position: Annotated[int, Field(ge=1, le=config.SERVED, strict=True)] | None = None


class CommandRequest(Wanted, Strict):
    """A command by HTTP; the header Idempotency-Key, if there is one, takes the place of `key`."""


class Accepted(Message):
    """Where the log has it."""

    partition: int
    offset: int


class Commanded(Accepted):
    """`key`: a command that is sent again under it counts once."""

    key: str


class TableNow(Message):
    """What is shown, and the ledger behind it, newest first."""

    version: str
    age_hours: float
    catalogue: int  # the offset before which stock and prices are known
    recipe: str  # in force for the next night; `none`: the hand blend ranks
    ledger: list[Release]


def make_app(
    log: EventLog,
    shelf: Shelf,
    *,
    clock: Clock,
    keys: Keys,
    pseudonym_key: bytes,
    recipes: Path,
    registry: str = "",
    stopping: Callable[[], bool] = lambda: False,
    visitor: str = "",
) -> FastAPI:
    """The service. `stopping` says that streams have to end.

    `recipes` is where nights keep the files of recipes; `registry` where a person sees MLflow, or the command that
    shows it; `visitor` the token that lets one browser into a demo.
    """
    metrics = CollectorRegistry()
    edge = Edge(log, shelf, clock=clock, key=pseudonym_key)
    seconds = Histogram("recsys_request_seconds", "From request to list", registry=metrics, buckets=BUCKETS)
    shown = Counter("recsys_lists", "Lists by path", ["path"], registry=metrics)
    unlogged = Counter("recsys_impression_unlogged", "Lists that the log did not take", registry=metrics)
    age = Gauge("recsys_table_age_seconds", "Since the input of the table ended", registry=metrics)
    age.set_function(lambda: clock.now() - shelf.manifest.cut if shelf.manifest else float("nan"))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        edge.start()
        yield
        edge.stop()

    app = create_app(
        title="recsys",
        description=DESCRIPTION,
        body_limit=config.BODY_LIMIT,
        health=edge.health,
        lifespan=lifespan,
        metrics=metrics,
        keys=keys,
        access=ACCESS,
        personal=PERSONAL,
    )
    errors: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in ERRORS.items()}

    @app.exception_handler(NoTable)
    async def no_table(_: Request, error: NoTable) -> Response:
        edge.watch.failed()
        return problem(503, str(error), headers={"Retry-After": "60"})

    @app.exception_handler(LogUnavailable)
    async def unavailable(_: Request, error: LogUnavailable) -> Response:
        return problem(503, f"the log does not answer: {error}", headers={"Retry-After": "1"})

    # [4.1] Nothing is computed here that could have been computed by night: a look-up, a filter, and the log.
    @app.get("/v1/recommendations/{user_id}", responses=errors, tags=["lists"])
    async def recommend(user_id: User, asked: Annotated[Asked, Query()]) -> ListOut:
        """What to show this shopper now, with reasons. The server logs it as shown."""
        began, user = perf_counter(), pseudonymised(user_id, pseudonym_key)
        # The table's files are mapped, and a page fault blocks, so the look-up is not made on the event loop. These
        # threads are not those that write to the log: a log that hangs must not hold lists up.
        made = await run_in_threadpool(shelf.recommend, user, asked.k, now=clock.now(), context=asked.context)
        impression = Impression(
            list_id=secrets.token_hex(8),
            user=user,
            at=clock.now(),
            version=made.version,
            path=made.path,
            items=tuple(made.items),
            sources=tuple(made.sources),
            explored=made.explored,
            permuted=made.permuted,
            support=tuple(made.support),
        )
        logged = await _logged(edge, impression)
        if not logged:
            unlogged.inc()
        shown.labels(made.path).inc()
        took = perf_counter() - began
        seconds.observe(took)
        edge.watch.answered(took, logged=logged)
        return ListOut(
            list_id=impression.list_id, version=made.version, path=made.path, logged=logged, items=made.places()
        )

    @app.post("/v1/events", status_code=202, responses=errors, tags=["lists"])
    async def event(given: EventIn) -> Accepted:
        """Say what a shopper did. The same id of a shopper again is a repeat, and counts once."""
        user = pseudonymised(given.user, pseudonym_key)
        deed = Event.model_validate(given.model_dump() | {"user": user, "at": clock.now()})
        return await _append(edge, Entry(EVENTS, user, deed.model_dump_json().encode()))

    @app.delete("/v1/users/{user_id}", status_code=202, responses=errors, tags=["shoppers"])
    async def erase(user_id: User) -> Accepted:
        """Forget what this shopper did: at once in what is shown, from the next night on in lists, then in recipes."""
        user = pseudonymised(user_id, pseudonym_key)
        return await _append(edge, Entry(ERASURES, user, Erasure(user=user, at=clock.now()).model_dump_json().encode()))

    conflict: dict[int | str, dict[str, Any]] = {409: {"description": "`expected_champion` is not in force."}}

    @app.post("/v1/commands", status_code=202, responses=errors | conflict, tags=["operation"])
    async def command(
        wanted: CommandRequest,
        caller: Caller,
        idempotency_key: Annotated[Key | None, Header(description="The same for each attempt.")] = None,
    ) -> Commanded:
        """Run tonight's night, train, promote or withdraw a recipe, roll a table back; carried out by the monitor.

        `expected_champion` is what the last three replace: the recipe in force, or the table; `none` without one.
        """
        key = idempotency_key or wanted.key or uuid4().hex
        _check_current(edge, wanted, key)
        keyed = Command(**wanted.model_dump(exclude={"key"}), key=key, who=str(caller))
        found = await _append(edge, Entry(COMMANDS, keyed.kind, keyed.model_dump_json().encode()))
        return Commanded(**found.model_dump(), key=key)

    @app.get("/v1/table", responses=errors, tags=["operation"])
    async def table() -> TableNow:
        """The version shown and the ledger of releases."""
        if (manifest := shelf.manifest) is None:
            raise NoTable("no table has been published yet")
        return TableNow(
            version=shelf.version,
            age_hours=round((clock.now() - manifest.cut) / config.HOUR, 2),
            catalogue=shelf.catalogue,
            recipe=edge.ledger.version(RECIPE),
            ledger=edge.ledger.lines[::-1],
        )

    _add_reading(app, edge, errors)
    add_watching(
        app,
        edge,
        shelf,
        clock=clock,
        recipes=recipes,
        registry=registry,
        keys=keys,
        pseudonym_key=pseudonym_key,
        errors=errors,
        stopping=stopping,
        visitor=visitor,
    )
    return app


def _add_reading(app: FastAPI, edge: Edge, errors: dict[int | str, dict[str, Any]]) -> None:
    @app.get("/v1/nights", responses=errors, tags=["operation"])
    async def nights() -> list[Night]:
        """What came of the nights. Newest first."""
        return list(edge.nights)[::-1]

    @app.get("/v1/alarms", responses=errors, tags=["operation"])
    async def alarms() -> list[Alarm]:
        """Newest first."""
        return list(edge.alarms)[::-1]

    @app.get("/v1/reports", responses=errors, tags=["operation"])
    async def reports() -> list[Report]:
        """Day by day: lists, clicks, drift. Newest first."""
        return list(edge.reports)[::-1]


def _check_current(edge: Edge, wanted: Wanted, key: str) -> None:
    """Raises HTTPException: what the command would replace is not in force, so the caller has not seen what is."""
    if wanted.kind in ("night", "train"):
        return
    if not edge.needed.caught_up:  # else what stands in an older ledger would be a conflict
        why = edge.needed.ready() or "the ledger of releases is still being read"
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, why, headers={"Retry-After": "1"})
    subject = TABLE if wanted.kind == "rollback" else RECIPE
    if edge.ledger.by_key(key, subject) is not None:
        return  # an answer was lost; the command counts once
    try:
        check_expected(wanted.expected_champion, edge.ledger.version(subject))
    except Rejected as error:
        raise HTTPException(HTTPStatus.CONFLICT, str(error)) from error


async def _logged(edge: Edge, impression: Impression) -> bool:
    """Whether the log had the list in time. Of one that it takes later, a second record says that it does not count."""
    outcome: dict[str, bool] = {}  # decided once, by the thread or by the time-out: `setdefault` is atomic

    def append() -> None:
        edge.append([_shown(impression)])
        if not outcome.setdefault("logged", True):
            edge.append([_shown(impression.model_copy(update={"logged": False}))])

    try:
        await asyncio.wait_for(asyncio.to_thread(append), PATIENCE)
    except (LogUnavailable, TimeoutError):
        return outcome.setdefault("logged", False)
    return True


def _shown(impression: Impression) -> Entry:
    return Entry(IMPRESSIONS, impression.user, impression.model_dump_json().encode())


async def _append(edge: Edge, entry: Entry) -> Accepted:
    ((partition, offset),) = await asyncio.to_thread(edge.append, [entry])
    return Accepted(partition=partition, offset=offset)


DESCRIPTION = "\n".join(
    [
        "What to show a shopper: computed by night, looked up by day.",
        "",
        "| source | in words |",
        "|---|---|",
        *(f"| `{code}` | {words} |" for code, words in REASONS.items()),
    ]
)
ERRORS = {
    400: "The body is no text at all.",
    413: "The body is too long.",
    422: "A field is missing, unknown or out of range; says which and with what value.",
    503: "Nothing has been published yet, or the log is away; try again.",
}
