"""The HTTP API: validates, calls, answers. Domain errors become HTTP errors here."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import FastAPI, Header, HTTPException, Query, Response
from fastapi import Path as InPath
from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Gauge, Histogram
from pydantic import Field

from sentiment import config
from sentiment.board import Board, BrandNow
from sentiment.edge import Edge, Unavailable
from sentiment.explanation import Word, moved
from sentiment.hours import HoursCorrupt
from sentiment.opinions import Reader, seen
from sentiment.page import add_watching
from sentiment.schema import (
    ALL,
    AUDITS,
    COMMANDS,
    CORRECTIONS,
    PERSONAL,
    POSTS,
    Alarm,
    Audit,
    Command,
    Correction,
    Id,
    Label,
    Name,
    Opinion,
    Post,
    Report,
    Score,
    Seconds,
    Tombstone,
    Wanted,
)
from sentiment.timeline import Point
from shared.api import create_app, problem
from shared.auth import SHARED, Access, Caller, Keys, Role
from shared.clock import Clock, perf_counter
from shared.eventlog.port import Entry, LogUnavailable
from shared.health import Health
from shared.messages import Message, Request
from shared.privacy import pseudonym
from shared.releases import Key, Rejected, Release, check_expected
from shared.supervised_thread import SupervisedThread

STEPS = {"minute": config.MINUTE, "hour": config.HOUR, "day": config.DAY}
MOST = 2_000  # points of an answer
PostId = Annotated[str, InPath(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# [7.3] Least privilege: who shows what is said of brands reads counts, and the posts themselves are for analysts.
ACCESS: Access = SHARED | {
    "GET /v1/brands": Role.CLIENT,
    "GET /v1/brands/{brand}/timeline": Role.CLIENT,
    "POST /v1/opinions": Role.CLIENT,
    "GET /v1/opinions/{id}": Role.CLIENT,
    "GET /v1/opinions": Role.ANALYST,
    "POST /v1/corrections": Role.ANALYST,
    "GET /v1/audits": Role.ANALYST,
    "POST /v1/audits": Role.ANALYST,
    "DELETE /v1/posts/{id}": Role.OPERATOR,
    "POST /v1/commands": Role.OPERATOR,
    "GET /v1/model": Role.OPERATOR,
    "GET /v1/alarms": Role.OPERATOR,
    "GET /v1/reports": Role.OPERATOR,
    "GET /v1/watch": Role.OPERATOR,
    "GET /v1/stream": Role.OPERATOR,
}
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class TextIn(Request):
    """A text to be scored; it is kept nowhere."""

    text: Annotated[str, Field(min_length=1, max_length=config.MAX_TEXT, examples=["@northair was not late for once"])]


class Said(Message):
    """What the model makes of a text, and which words moved it."""

    id: str  # a keyed digest of the text, by which it can be corrected for a while
    label: Label | None
    why_not: str | None
    score: Score | None
    brands: tuple[str, ...]
    model: str | None
    seen: str  # the text as the model sees it
    words: list[Word]


class CorrectionIn(Request):
    post: Id
    label: Label
    reader: Name


class CommandIn(Wanted, Request):
    """A command. One that changes the champion names the version that it takes away: `none` where there is none."""


class AuditIn(Request):
    """What a person says of a post; `none`: it is no opinion that ought to be counted."""

    post: Id
    label: Label | Literal["none"]


class Question(Message):
    """A post of which people are asked, without the model's word on it: they would agree with it."""

    post: Id
    at: Seconds
    text: str
    brands: tuple[str, ...]


class Accepted(Message):
    """Where the log has it."""

    partition: int
    offset: int


class CommandAccepted(Accepted):
    key: str  # the same again by this key changes nothing


class TimelineOut(Message):
    """Both views as one; `seam` is the first hour that is not batch's."""

    brand: str
    revision: int  # of the batch view's manifest
    seam: int | None
    expired: int  # posts that came too late for any hour
    points: list[Point]


class ModelNow(Message):
    champion: Release | None  # none before the first release, and after a withdrawal
    ledger: list[Release]


def make_app(
    edge_of: Callable[[CollectorRegistry], Edge],
    reader: Reader,
    *,
    clock: Clock,
    keys: Keys,
    pseudonym_key: bytes,
    workers: Callable[[], bool],
    models: Path,
    threads: Sequence[SupervisedThread] = (),
    registry: str = "",
    stopping: Callable[[], bool] = lambda: False,
    visitor: str = "",
) -> FastAPI:
    """The service. `edge_of` makes the followers, given where their metrics go; `workers` says whether one runs,
    `stopping` that streams have to end; `threads` are others that the process needs.

    `models` is where the files of versions are kept; `registry` where a person sees MLflow, or the command that
    shows it; `visitor` the token that lets one browser into a demo.
    """
    metrics = CollectorRegistry()
    edge = edge_of(metrics)
    board = Board(edge.timeline, reader.brands.names)
    seconds = Histogram("sentiment_timeline_seconds", "A timeline", registry=metrics, buckets=BUCKETS)
    Gauge("sentiment_lag", "Posts not yet read", registry=metrics).set_function(lambda: _lag(edge))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        edge.start()
        yield
        edge.stop()

    health = Health(
        needed=[edge.needed],
        shown=[edge.shown],
        threads=threads,
        warns=lambda: "" if workers() else "no worker runs: only what is published moves on",
    )
    app = create_app(
        title="sentiment",
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
    route: dict[str, Any] = {"responses": errors}

    @app.exception_handler(Unavailable)
    async def unavailable(_: HttpRequest, error: Unavailable) -> Response:
        return problem(503, str(error), headers={"Retry-After": "1"})

    @app.exception_handler(HoursCorrupt)
    async def corrupt(_: HttpRequest, error: HoursCorrupt) -> Response:
        return problem(503, f"the batch view cannot be read: {error}")

    async def append(entry: Entry) -> Accepted:
        partition, offset = await edge.append(entry)
        return Accepted(partition=partition, offset=offset)

    def known(post: str, caller: Role) -> Opinion:
        read = edge.opinions.get(post) if caller >= Role.ANALYST else None
        if (opinion := read or edge.typed.get(post)) is None:
            raise HTTPException(404, f"no opinion on post {post!r} is at hand")
        return opinion

    @app.get("/v1/brands/{brand}/timeline", tags=["brands"], **route)
    def timeline(
        brand: Annotated[str, InPath(pattern=r"^([a-z0-9-]{1,40}|\*)$", description="`*`: all together")],
        since: Annotated[int, Query(alias="from", ge=0, lt=2**32)],
        until: Annotated[int, Query(alias="to", ge=0, lt=2**32)],
        step: Literal["minute", "hour", "day"] = "hour",
    ) -> TimelineOut:  # in a thread, as files may have to be read
        """Opinions over time; each point says which view has counted it."""
        _named(brand, reader)
        width = STEPS[step]
        since = since // width * width
        if not 0 < -(-(until - since) // width) <= MOST:
            raise HTTPException(422, f"from {since} to {until} by {step}: 1 to {MOST} points can be given")
        began = perf_counter()
        manifest = edge.timeline.manifest()  # once: whatever is published meanwhile belongs to the next request
        points = list(
            edge.timeline.points(manifest, brand, since=since, until=until, step=width, corrections=edge.corrections())
        )
        seconds.observe(perf_counter() - began)
        seam = (max(manifest.hours) + 1) * config.HOUR if manifest.hours else None
        return TimelineOut(brand=brand, revision=manifest.revision, seam=seam, expired=manifest.expired, points=points)

    @app.get("/v1/brands", tags=["brands"], **route)
    def brands(hours: Annotated[int, Query(ge=1, le=24 * 14)] = 24) -> list[BrandNow]:
        """Every brand over its last published hours, most negative first."""
        return board.brands(edge.timeline.manifest(), edge.corrections(), hours=hours)

    @app.post("/v1/opinions", tags=["posts"], **route)
    def opinions(given: TextIn) -> Said:
        """What the model that scores the stream makes of a text, which is kept nowhere."""
        artifact, version = edge.champion.model, edge.champion.version
        if artifact is None:
            raise Unavailable("no model is in force")
        typed = f"typed-{pseudonym(given.text, pseudonym_key)}"
        post = Post(id=typed, author="typed", at=clock.now(), text=given.text)
        opinion, _ = reader.judged(post, artifact, version, place=(0, 0))
        edge.answered(opinion)
        text = seen(given.text, reader.brands)
        return Said(
            id=typed,
            label=opinion.label,
            why_not=opinion.why_not,
            score=opinion.score,
            brands=opinion.brands,
            model=opinion.model,
            seen=text,
            words=moved(text, opinion.label, artifact) if opinion.label else [],
        )

    @app.get("/v1/opinions", tags=["posts"], **route)
    def latest(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[Opinion]:
        """The latest posts, newest first."""
        return list(edge.opinions.values())[: -limit - 1 : -1]

    @app.get("/v1/opinions/{id}", tags=["posts"], **route)
    async def opinion_on(id: PostId, caller: Caller) -> Opinion:
        """One of the latest posts; for a client, of the latest texts that were sent here."""
        return known(id, caller)

    @app.post("/v1/corrections", status_code=202, tags=["posts"], **route)
    async def correct(given: CorrectionIn, caller: Caller) -> Accepted:
        """A reader disagrees. It moves no count: readers correct what hurts them, and are no sample."""
        opinion = known(given.post, caller)
        # [7.2] What is published about a brand moves money and jobs, so no reader may write the number: a label that
        # readers could change would be changed by those who are paid to.
        correction = Correction(
            post=given.post,
            at=clock.now(),
            shown=opinion.label,
            label=given.label,
            model=opinion.model,
            reader=pseudonym(given.reader, pseudonym_key),
        )
        return await append(Entry(CORRECTIONS, given.post, correction.model_dump_json().encode()))

    @app.get("/v1/audits", tags=["audits"], **route)
    def audits(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> list[Question]:
        """Posts of closed days that were drawn at random and wait for a person's word, oldest first."""
        asked = list(edge.audits.values())[:limit]
        return [Question(post=audit.post, at=audit.at, text=audit.text, brands=audit.brands) for audit in asked]

    @app.post("/v1/audits", status_code=202, tags=["audits"], **route)
    async def audit(given: AuditIn) -> Accepted:
        """What a person says about a post that was drawn."""
        if (asked := edge.audits.get(given.post)) is None:
            raise HTTPException(404, f"post {given.post!r} was not drawn, or has been audited")
        label = None if given.label == "none" else given.label
        return await append(answered(asked, label, known_at=clock.now()))

    @app.delete("/v1/posts/{id}", status_code=202, tags=["posts"], **route)
    async def delete(id: PostId) -> Accepted:
        """The author has deleted the post: it is shown no more, and its hour is counted again the next night."""
        gone = Tombstone(id=id, at=clock.now())
        return await append(Entry(POSTS, id, gone.model_dump_json().encode()))

    @app.post("/v1/commands", status_code=202, tags=["model"], **route)
    async def command(
        wanted: CommandIn, caller: Caller, idempotency_key: Annotated[Key | None, Header()] = None
    ) -> CommandAccepted:
        """Retrain, promote, roll back, withdraw, or accept a brand's new level; carried out by the monitor.

        What came of it is seen in alarms and releases. With the same `Idempotency-Key` it counts once, however often it
        is sent.
        """
        key = idempotency_key or wanted.key or uuid4().hex
        if not edge.caught_up:  # the champion that it knows may be an old one
            raise Unavailable("the releases have not been read to their end yet")
        if wanted.kind not in ("retrain", "accept") and edge.ledger.by_key(key) is None:
            try:
                check_expected(wanted.expected_champion, edge.ledger.version())
            except Rejected as error:
                raise HTTPException(409, str(error)) from error
        message = Command(**wanted.model_dump(exclude={"key"}), key=key, who=str(caller))
        accepted = await append(Entry(COMMANDS, wanted.kind, message.model_dump_json().encode()))
        return CommandAccepted(key=key, **accepted.model_dump())

    @app.get("/v1/model", tags=["model"], **route)
    async def model() -> ModelNow:
        """The champion and the ledger of releases, newest first."""
        return ModelNow(champion=edge.ledger.champion(), ledger=edge.ledger.lines[::-1])

    @app.get("/v1/alarms", tags=["model"], **route)
    async def alarms() -> list[Alarm]:
        """Newest first."""
        return list(edge.alarms)[::-1]

    @app.get("/v1/reports", tags=["model"], **route)
    async def reports() -> list[Report]:
        """Day by day: what was dropped, drift, audited quality. Newest first."""
        return [edge.reports[day] for day in sorted(edge.reports, reverse=True)]

    add_watching(
        app,
        edge,
        board,
        clock=clock,
        models=models,
        registry=registry,
        keys=keys,
        workers=workers,
        stopping=stopping,
        visitor=visitor,
    )
    return app


DESCRIPTION = """What people say of brands: within seconds by stream, an hour later for good by batch.

Every point of a timeline names the view that has counted it. `raw` counts posts; `negative`, `neutral` and
`positive` count opinions, the same text in an hour once. Corrected shares bear an interval, and are left out where
opinions or audits are too few."""
ERRORS = {
    400: "The body is no text at all.",
    404: "No such brand or post.",
    409: "The champion is not the one that the command names.",
    413: "The body is too long.",
    422: "A field is missing, unknown or out of range; says which and with what value.",
    503: "The log or the batch view is away; try again.",
}


def answered(asked: Audit, label: Label | None, *, known_at: int) -> Entry:
    """A person's word on a post that was drawn, as a record."""
    audit = asked.model_copy(update={"label": label, "known_at": known_at})
    return Entry(AUDITS, audit.post, audit.model_dump_json().encode())


def _named(brand: str, reader: Reader) -> None:
    if brand != ALL and brand not in reader.brands.names:
        raise HTTPException(404, f"no brand {brand!r}; there are {', '.join(reader.brands.names)}")


def _lag(edge: Edge) -> float:
    try:
        return edge.lag()
    except LogUnavailable:
        return float("nan")
