"""The HTTP API: validates, calls, answers. Domain errors become HTTP errors here."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import FastAPI, Header, HTTPException, Response
from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import Field

from fraud import config
from fraud.edge import MISSING, Conflict, Edge, Unavailable
from fraud.ingest import DECIDERS, check_time
from fraud.page import Identity, add_watching
from fraud.policy import REASONS
from fraud.schema import (
    COMMANDS,
    EVENTS,
    PERSONAL,
    Action,
    Alarm,
    Command,
    CommandRequest,
    Count,
    Decision,
    Id,
    Label,
    Report,
    Seconds,
    Transaction,
    TransactionRequest,
    challenger,
)
from shared.api import create_app, problem
from shared.auth import SHARED, Access, Caller, Keys, Role
from shared.clock import Clock, perf_counter
from shared.dead_letters import Refused
from shared.eventlog.port import Entry, EventLog, LogUnavailable
from shared.health import Health
from shared.messages import Message, Request
from shared.privacy import pseudonym
from shared.releases import Key, Rejected, Release, check_expected
from shared.store.port import Store
from shared.supervised_thread import SupervisedThread

# [7.3] Least privilege: a till that is stolen can ask about payments, and learns nothing about how they are decided.
ACCESS: Access = SHARED | {
    "POST /v1/decisions": Role.CLIENT,
    "GET /v1/decisions/{identity}": Role.CLIENT,
    "GET /v1/decisions/{identity}/explanation": Role.ANALYST,
    "GET /v1/features": Role.ANALYST,
    "POST /v1/labels": Role.ANALYST,
    "POST /v1/commands": Role.OPERATOR,
    "GET /v1/model": Role.OPERATOR,
    "GET /v1/alarms": Role.OPERATOR,
    "GET /v1/reports": Role.OPERATOR,
    "GET /v1/watch": Role.OPERATOR,
    "GET /v1/stream": Role.OPERATOR,
    "POST /v1/wishes": Role.OPERATOR,
}
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class LabelIn(Request):
    """A verdict on a decided payment: the analyst's, or a chargeback."""

    payment: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,64}$", examples=["0f3a.tx-1001"])]
    fraud: bool
    source: Annotated[str, Field(pattern="^(chargeback|analyst)$", examples=["chargeback"])]


class Answer(Message):
    """What a client is told of a decision: what to do, and not why."""

    kind: Literal["decision"] = "decision"
    card: Id
    id: Id
    terminal: Id
    at: Seconds
    cents: Count
    action: Action


class Accepted(Message):
    """Where the log has it."""

    partition: int
    offset: int
    key: str | None = None  # of a command: the same command may be sent again under it


class ModelNow(Message):
    """Who decides, whom the gate refused, and the ledger behind it, newest first."""

    champion: Release | None
    challenger: Alarm | None
    ledger: list[Release]


def make_app(
    log: EventLog,
    store: Store,
    *,
    clock: Clock,
    keys: Keys,
    pseudonym_key: bytes,
    deciders: Callable[[], bool],
    models: Path,
    threads: Sequence[SupervisedThread] = (),
    registry: str = "",
    stopping: Callable[[], bool] = lambda: False,
    visitor: str = "",
) -> FastAPI:
    """The service. `deciders` says whether the worker that it supervises runs, `stopping` that streams have to end.

    `threads` are those that the process needs beside the gateway's own.

    `models` is where workers keep the files of versions; `registry` where a person sees MLflow, or the command that
    shows it; `visitor` the token that lets one browser into a demo.
    """
    metrics = CollectorRegistry()
    edge = Edge(log, store, secret=pseudonym_key, clock=clock, metrics=metrics)
    seconds = Histogram("fraud_request_seconds", "From request to decision", registry=metrics, buckets=BUCKETS)
    unanswered = Counter("fraud_unavailable", "Requests that got no decision in time", registry=metrics)
    lag = Gauge("fraud_lag", "Events not yet decided", registry=metrics)
    lag.set_function(lambda: _lag(log))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        edge.start(asyncio.get_running_loop())
        # Whatever start-up made stays; a collection that walks it takes longer than a payment may.
        gc.collect()
        gc.freeze()
        yield
        edge.stop()

    health = Health(
        needed=[edge.needed],
        shown=[edge.shown],
        threads=[edge.appends, *threads],
        warns=lambda: "" if deciders() else "no worker runs; the rules stand in",
    )
    app = create_app(
        title="fraud",
        description=DESCRIPTION,
        body_limit=config.BODY_LIMIT,
        health=health,
        lifespan=lifespan,
        metrics=metrics,
        keys=keys,
        access=ACCESS,
        personal=PERSONAL,
    )
    errors: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in ERRORS.items()}

    @app.exception_handler(Unavailable)
    async def unavailable(_: HttpRequest, error: Unavailable) -> Response:
        unanswered.inc()
        edge.watch.failed()
        return problem(503, f"{error}; the card network's own stand-in rules apply", headers={"Retry-After": "1"})

    @app.exception_handler(Conflict)
    async def conflict(_: HttpRequest, error: Conflict) -> Response:
        return problem(409, str(error))

    @app.exception_handler(Refused)
    async def refused(_: HttpRequest, error: Refused) -> Response:
        found = [{"field": error.field, "message": error.reason, "value": error.value}]
        return problem(422, "the request is not valid", errors=found)

    @app.post("/v1/decisions", response_model=Decision | Answer, responses=errors, tags=["payments"])
    async def decide(payment: TransactionRequest, caller: Caller) -> Response:
        """Decide on a payment. The same payment again gets the first decision again.

        Test payments (`probe`) are the operator's: they are in no count and in no training, so a fraud must not be one.
        """
        began = perf_counter()
        if payment.probe and caller < Role.OPERATOR:
            raise HTTPException(403, "only an operator may send a test payment: leave `probe` out")
        check_time(payment, clock.now())
        device = None if payment.device is None else pseudonym(payment.device, pseudonym_key)
        # [7.3] From here on no part sees the card's own number: not the log, the lake, or the model.
        known = payment.model_dump() | {"card": pseudonym(payment.card, pseudonym_key), "device": device}
        hidden = Transaction.model_construct(**known)
        # [4.1] Not a call to a model: the payment goes into the log that ingestion, decision and training all read,
        # and the answer is read back from it. So HTTP and topic are one way, with one order.
        answer = await edge.decide(hidden)
        took = perf_counter() - began
        seconds.observe(took)
        edge.watch.answered(took)
        return _told(answer, caller, headers={"Location": f"/v1/decisions/{hidden.identity}"})

    @app.get("/v1/decisions/{identity}", response_model=Decision | Answer, responses=errors, tags=["payments"])
    def decision(identity: Identity, caller: Caller) -> Response:  # in a thread: the store may have to be waited for
        """The decision on a payment; analysts are told all it was made on."""
        return _told(_found(edge, identity), caller)

    @app.post("/v1/labels", status_code=202, responses=errors, tags=["payments"])
    async def label(given: LabelIn) -> Accepted:
        """Say what a payment turned out to be. A later verdict replaces an earlier one."""
        known = Decision.model_validate_json(await asyncio.to_thread(_found, edge, given.payment))
        if known.probe:
            raise Refused("payment", given.payment, "a test payment is in no count, so it has no verdict")
        verdict = Label(
            card=known.card,
            id=known.id,
            terminal=known.terminal,
            at=max(clock.now(), known.at),
            fraud=given.fraud,
            source="analyst" if given.source == "analyst" else "chargeback",
        )
        return await _append(edge, Entry(EVENTS, verdict.card, verdict.model_dump_json().encode()))

    @app.exception_handler(Rejected)
    async def rejected(_: HttpRequest, error: Rejected) -> Response:
        return problem(409, str(error))

    @app.post("/v1/commands", status_code=202, responses=errors, tags=["model"])
    async def command(
        wanted: CommandRequest, caller: Caller, idempotency_key: Annotated[Key | None, Header()] = None
    ) -> Accepted:
        """Retrain, promote, roll back or withdraw; carried out by the monitor, seen in alarms and releases.

        All but `retrain` name the version that they replace, `expected_champion`. A command that is sent again under
        its `Idempotency-Key` counts once.
        """
        key = idempotency_key or wanted.key or uuid4().hex
        if wanted.kind != "retrain" and not edge.needed.caught_up:
            raise HTTPException(503, "still reading the ledger of releases; try again", headers={"Retry-After": "1"})
        if wanted.kind != "retrain" and edge.ledger.by_key(key) is None:
            check_expected(wanted.expected_champion, edge.ledger.version())
        keyed = Command(**wanted.model_dump(exclude={"key"}), key=key, who=str(caller))
        accepted = await _append(edge, Entry(COMMANDS, wanted.kind, keyed.model_dump_json().encode()))
        return accepted.model_copy(update={"key": key})

    @app.get("/v1/model", responses=errors, tags=["model"])
    async def model() -> ModelNow:
        """The champion, the challenger that the gate refused, and the ledger of releases."""
        ledger = edge.ledger
        refused = challenger(list(edge.alarms), ledger.lines)
        return ModelNow(champion=ledger.champion(), challenger=refused, ledger=ledger.lines[::-1])

    @app.get("/v1/alarms", responses=errors, tags=["model"])
    async def alarms() -> list[Alarm]:
        """Newest first."""
        return list(edge.alarms)[::-1]

    @app.get("/v1/reports", responses=errors, tags=["model"])
    async def reports() -> list[Report]:
        """Day by day: actions, drift, and quality on the labels that have matured. Newest first."""
        return list(edge.reports)[::-1]

    add_watching(
        app,
        edge,
        clock=clock,
        models=models,
        registry=registry,
        keys=keys,
        deciders=deciders,
        health=health,
        stopping=stopping,
        visitor=visitor,
    )
    return app


DESCRIPTION = "\n".join(
    [
        "Approve, review or decline a card payment while the card is still in the terminal.",
        "On `review` the till asks for a second factor, and an analyst looks at the payment.",
        "",
        "| reason | in words |",
        "|---|---|",
        *(f"| `{code}` | {words} |" for code, words in REASONS.items()),
    ]
)
ERRORS = {
    400: "The body is no text at all.",
    404: "No such payment, or its decision is older than the log keeps decisions.",
    409: "The card has another payment under this transaction id; or a command does not name the version in force.",
    413: "The body is too long.",
    422: "A field is missing, unknown or out of range; says which and with what value.",
    503: "No decision in time; try again.",
}


def _found(edge: Edge, identity: str) -> bytes:
    if (found := edge.decision(identity)) is None:
        raise HTTPException(404, MISSING.format(identity))
    return found


def _told(decision: bytes, caller: Role, *, headers: dict[str, str] | None = None) -> Response:
    """The answer to a caller of that role: from reasons, costs and features a thief of a till's key would learn."""
    if caller < Role.ANALYST:
        decision = Answer.model_validate_json(decision).model_dump_json().encode()
    return Response(decision, media_type="application/json", headers=headers)


async def _append(edge: Edge, entry: Entry) -> Accepted:
    ((partition, offset),) = await edge.append([entry])
    return Accepted(partition=partition, offset=offset)


def _lag(log: EventLog) -> float:
    try:
        done = log.committed(DECIDERS, EVENTS)
        return sum(end - (done[p].offset if p in done else 0) for p, end in log.ends(EVENTS).items())
    except LogUnavailable:
        return float("nan")
