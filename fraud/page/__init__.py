"""The data of the page, as JSON and as an event stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from fraud.edge import MISSING, Edge
from fraud.explanation import Explainer, Explanation, NotAvailable
from fraud.features import DEFINITION, NAMES
from fraud.policy import REASONS
from fraud.savings import Money, taken_back
from fraud.schema import STORY, Alarm, Decision, Report, WishRequest, challenger
from fraud.timeline import Series
from fraud.watch import Now, Row
from shared.auth import Keys
from shared.champion import drift_limits
from shared.clock import Clock, SystemClock
from shared.eventlog.port import Entry
from shared.health import Health
from shared.messages import Message
from shared.page import add_page
from shared.page.document import add_document
from shared.page.stream import Streams, event, newest
from shared.releases import Release
from shared.story import Scene

FOLDER = Path(__file__).parent
LINES = 4  # new decisions that an event tells of at most, and as many that were stopped
TAIL = 3  # buckets that an event brings up to date
DAYS = 60  # reports shown
SHOWN_LINES = 100  # of the ledger

Identity = Annotated[
    str, InPath(pattern=r"^[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,64}$", description="card.id as answered")
]


class MonitorState(Message):
    """What the monitor is at; times are of the wall clock."""

    doing: str  # empty: it waits for work
    since: int  # seconds that it has been at it
    silent: int  # seconds since it was heard last


class State(Message):
    """What changes from one moment to the next."""

    at: int  # event time
    now: Now
    money: Money
    trouble: str  # why the log cannot be read; empty when it can
    silent: float  # seconds since it could be read last
    catching_up: bool
    deciders: bool  # whether the worker beside this gateway runs
    monitor: MonitorState | None
    warnings: list[str]  # records that were skipped, topics that are late


class Told(Message):
    """What was said and done, newest first; it changes seldom."""

    in_force: str  # the version of the champion, `none` if the rules decide
    champion: Release | None
    challenger: Alarm | None  # whom the gate refused
    back_to: str | None  # the version that a rollback would go to
    ledger: list[Release]
    alarms: list[Alarm]
    reports: list[Report]
    limits: dict[str, float]  # of drift, for the champion
    scenes: list[Scene]  # of a demo, oldest first
    demo: bool  # whether wishes are heard
    registry: str  # MLflow's address, or the command that shows it


class Watched(Message):
    """All that the page shows; the stream brings the same, part by part."""

    state: State
    told: Told
    series: Series
    recent: list[Row]
    stopped: list[Row]
    reasons: dict[str, str]


class Defined(Message):
    """The features as this code has them."""

    definition: str
    names: tuple[str, ...]


class Page:
    """What the routes share."""

    def __init__(
        self,
        edge: Edge,
        *,
        clock: Clock,
        models: Path,
        registry: str,
        deciders: Callable[[], bool],
        health: Health,
        demo: bool,
    ) -> None:
        self.edge, self.explainer, self._models = edge, Explainer(models), models
        self._clock, self._registry, self._deciders, self._demo = clock, registry, deciders, demo
        self._health, self._wall = health, SystemClock()

    @property
    def _back(self) -> frozenset[str]:
        return taken_back(self.edge.ledger)

    def _monitor(self) -> MonitorState | None:
        heard = self.edge.heartbeats.get("monitor")
        if heard is None:
            return None
        now = self._wall.now()
        return MonitorState(doing=heard.doing, since=max(0, now - heard.since), silent=max(0, now - heard.at))

    def state(self) -> State:
        edge = self.edge
        return State(
            at=self._clock.now(),
            now=edge.watch.now(),
            money=edge.watch.money(without=self._back),
            trouble=edge.needed.thread.trouble,
            silent=edge.needed.age(),
            catching_up=not edge.needed.caught_up,
            deciders=self._deciders(),
            monitor=self._monitor(),
            warnings=self._health.warnings(),
        )

    def told(self) -> Told:
        edge, ledger = self.edge, self.edge.ledger
        champion, back_to = ledger.champion(), ledger.fallbacks()
        return Told(
            in_force=ledger.version(),
            champion=champion,
            challenger=challenger(list(edge.alarms), ledger.lines),
            back_to=back_to[0].version if champion and back_to else None,
            ledger=ledger.lines[: -SHOWN_LINES - 1 : -1],
            alarms=list(edge.alarms)[::-1],
            reports=list(edge.reports)[: -DAYS - 1 : -1],
            limits=drift_limits(self._models, champion),
            scenes=list(edge.scenes),
            demo=self._demo,
            registry=self._registry,
        )

    def watched(self) -> Watched:
        watch = self.edge.watch
        return Watched(
            state=self.state(),
            told=self.told(),
            series=watch.series(without=self._back),
            recent=watch.rows(most=4 * LINES),
            stopped=watch.rows(most=4 * LINES, stopped=True),
            reasons=REASONS,
        )

    async def news(self) -> AsyncIterator[list[str]]:
        """First all of it, then what is new; all again when the series have another width, or begin anew."""
        number = width = 0
        watch, heard = self.edge.watch, self._heard()
        while True:
            if self.edge.watch is not watch or self.edge.watch.width != width or number == 0:
                watch, heard = self.edge.watch, self._heard()
                number, width = watch.number, watch.width
                yield [event("all", (await asyncio.to_thread(self.watched)).model_dump_json())]
                continue
            said = []
            if heard != self._heard():
                heard = self._heard()
                said.append(event("told", (await asyncio.to_thread(self.told)).model_dump_json()))
            recent, stopped = (watch.rows(since=number, most=LINES, stopped=only) for only in (False, True))
            number = max(number, *(row.number for row in (*recent, *stopped)), 0)
            said.append(event("rows", _rows(recent, stopped)))
            said.append(event("tail", watch.series(without=self._back, last=TAIL).model_dump_json()))
            yield [*said, event("state", self.state().model_dump_json())]

    def _heard(self) -> tuple[int, ...]:
        edge = self.edge
        return newest(edge.ledger.lines, edge.alarms, edge.reports, edge.scenes)


def add_watching(
    app: FastAPI,
    edge: Edge,
    *,
    clock: Clock,
    models: Path,
    registry: str,
    keys: Keys,
    deciders: Callable[[], bool],
    health: Health,
    stopping: Callable[[], bool],
    visitor: str,
) -> None:
    """The page, and what it asks for. With a `visitor`'s token it is a demo's, and hears wishes."""
    page = Page(
        edge, clock=clock, models=models, registry=registry, deciders=deciders, health=health, demo=bool(visitor)
    )
    streams = Streams(stopping)
    add_page(app, FOLDER, pattern="real-time", keys=keys, visitor=visitor)
    add_document(app, FOLDER.parent / "DESIGN.md")
    router = APIRouter(prefix="/v1")

    @router.get("/watch", tags=["watching"])
    def watch() -> Watched:  # in a thread, as it takes milliseconds
        """All that the page shows, since this service started."""
        return page.watched()

    @router.get("/stream", include_in_schema=False)
    async def stream() -> StreamingResponse:
        return streams.answer(page.news())

    @router.get(
        "/decisions/{identity}/explanation",
        tags=["payments"],
        responses={code: {"description": text} for code, text in ERRORS.items()},
    )
    def explanation(identity: Identity) -> Explanation:  # in a thread: a model may have to be loaded
        """What each feature added, by the version that decided."""
        if (found := edge.decision(identity)) is None:
            raise HTTPException(404, MISSING.format(identity))
        decision = Decision.model_validate_json(found)
        release = next((line for line in edge.ledger.lines if line.version == decision.model), None)
        try:
            return page.explainer.explain(decision, release)
        except NotAvailable as error:
            raise HTTPException(404, f"not available: {error}") from error

    @router.get("/features", tags=["model"])
    async def features() -> Defined:
        """What the numbers of a decision's `features` are, in their order."""
        return Defined(definition=DEFINITION, names=NAMES)

    if visitor:

        @router.post("/wishes", status_code=202, tags=["demo"])
        async def wish(wanted: WishRequest) -> dict[str, str]:
            """Ask the demo to show something; it does so when the virtual day is over."""
            await edge.append([Entry(STORY, wanted.kind, wanted.model_dump_json().encode())])
            return {"status": "heard"}

    app.include_router(router)


ERRORS = {404: "No such payment, or nothing to explain it with.", 422: "No identity.", 503: "The view is away."}


def _rows(recent: Sequence[Row], stopped: Sequence[Row]) -> str:
    parts = (
        f'"{name}":[{",".join(row.model_dump_json() for row in rows)}]'
        for name, rows in (("recent", recent), ("stopped", stopped))
    )
    return "{" + ",".join(parts) + "}"
