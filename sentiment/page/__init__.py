"""The data of the page, as JSON and as an event stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

from sentiment import config
from sentiment.board import Board, Compared, Series
from sentiment.edge import Edge
from sentiment.hours import HoursCorrupt, Manifest
from sentiment.schema import Alarm, Report
from sentiment.shares import Corrections
from sentiment.watch import Now, Row
from shared.auth import Keys
from shared.background_job import Heartbeat
from shared.champion import drift_limits
from shared.clock import Clock
from shared.eventlog.port import LogUnavailable
from shared.messages import Message
from shared.page import add_page
from shared.page.document import add_document
from shared.page.stream import Streams, event, newest
from shared.releases import Release
from shared.story import Scene

FOLDER = Path(__file__).parent
LISTS = ("recent", "negative")
LINES = 6  # new posts that an event tells of at most, and as many negative ones
ROWS = 72  # of each at the beginning
HOURS = 24  # published ones that brands are compared over
DAYS = 60  # reports shown


class State(Message):
    """What changes from one moment to the next."""

    at: int  # event time
    now: Now
    lag: int | None  # posts not yet read; none while the log is away
    audits: int  # posts that wait for a person's word
    seam: int | None  # the first second that is not batch's
    published: int  # hours
    expired: int  # posts that came too late for any hour
    trouble: str  # why the log or the batch view cannot be read; empty when they can
    silent: float  # seconds since the log could be read last
    catching_up: bool
    workers: bool  # whether the worker beside this edge runs
    heartbeats: list[Heartbeat]  # what other processes are doing, as they said last


class Told(Message):
    """What was said and done, newest first; it changes seldom. Reports are without the confusion."""

    champion: Release | None
    back_to: str | None  # the version that a rollback would go to
    ledger: list[Release]
    alarms: list[Alarm]
    reports: list[Report]
    limits: dict[str, float]  # of drift, for the champion
    scenes: list[Scene]  # of a demo, oldest first
    demo: bool
    registry: str  # MLflow's address, or the command that shows it


class Watched(Message):
    """All that the page shows; the stream brings the same, part by part."""

    state: State
    told: Told
    compared: Compared  # over the last published hours
    series: Series
    recent: list[Row]
    negative: list[Row]


class Page:
    """What the routes share."""

    def __init__(
        self,
        edge: Edge,
        board: Board,
        *,
        clock: Clock,
        models: Path,
        registry: str,
        workers: Callable[[], bool],
        demo: bool,
    ) -> None:
        self.edge, self.board = edge, board
        self._clock, self._models, self._registry, self._workers, self._demo = clock, models, registry, workers, demo

    def state(self, manifest: Manifest, trouble: str = "") -> State:
        edge = self.edge
        try:
            lag, away = edge.lag(), ""
        except LogUnavailable as error:
            lag, away = None, str(error)
        return State(
            at=self._clock.now(),
            now=edge.watch.now(),
            lag=lag,
            audits=len(edge.audits),
            seam=(max(manifest.hours) + 1) * config.HOUR if manifest.hours else None,
            published=len(manifest.hours),
            expired=manifest.expired,
            trouble=edge.needed.thread.trouble or away or trouble or edge.timeline.damage,
            silent=edge.needed.age(),
            catching_up=not edge.caught_up,
            workers=self._workers(),
            heartbeats=list(edge.heartbeats.values()),
        )

    def told(self) -> Told:
        edge, ledger = self.edge, self.edge.ledger
        champion, fallbacks = ledger.champion(), ledger.fallbacks()
        reports = [edge.reports[day] for day in sorted(edge.reports, reverse=True)[:DAYS]]
        return Told(
            champion=champion,
            back_to=fallbacks[0].version if fallbacks else None,
            ledger=ledger.lines[::-1],
            alarms=list(edge.alarms)[::-1],
            reports=[report.model_copy(update={"confusion": None, "calibration": None}) for report in reports],
            limits=drift_limits(self._models, champion),
            scenes=list(edge.scenes),
            demo=self._demo,
            registry=self._registry,
        )

    def watched(self) -> Watched:
        """Raises HoursCorrupt."""
        manifest, corrections, watch = self.edge.timeline.manifest(), self.edge.corrections(), self.edge.watch
        return Watched(
            state=self.state(manifest),
            told=self.told(),
            compared=self.board.compared(manifest, corrections, hours=HOURS),
            series=self.board.series(manifest),
            recent=watch.rows(most=ROWS),
            negative=watch.rows(most=ROWS, negative=True),
        )

    async def news(self) -> AsyncIterator[list[str]]:
        """First all of it, then what is new."""
        watch, manifest, corrections = self.edge.watch, Manifest(), self.edge.corrections()
        change, heard, begun = 0, self._heard(), False
        while True:
            try:
                before, manifest = manifest, await asyncio.to_thread(self.edge.timeline.manifest)
                if not begun:
                    change, heard, corrections = watch.change, self._heard(), self.edge.corrections()
                    yield [event("all", (await asyncio.to_thread(self.watched)).model_dump_json())]
                    begun = True
                    continue
                said = []
                if heard != self._heard():
                    heard = self._heard()
                    said.append(event("told", (await asyncio.to_thread(self.told)).model_dump_json()))
                since, change = change, watch.change
                said.append(event("rows", self._rows(since)))
                known, corrections = corrections, self.edge.corrections()
                said += await asyncio.to_thread(self._counted, before, manifest, known, corrections)
                yield [*said, event("state", (await asyncio.to_thread(self.state, manifest)).model_dump_json())]
            except HoursCorrupt as error:
                state = await asyncio.to_thread(self.state, manifest, str(error))
                yield [event("state", state.model_dump_json())]

    def _rows(self, since: int) -> str:
        rows = {name: self.edge.watch.rows(since=since, most=LINES, negative=name == "negative") for name in LISTS}
        parts = (f'"{name}":[{",".join(row.model_dump_json() for row in part)}]' for name, part in rows.items())
        return "{" + ",".join(parts) + "}"

    def _counted(self, before: Manifest, manifest: Manifest, known: Corrections, corrections: Corrections) -> list[str]:
        """From the first hour on of which something new is to be told."""
        moved = [hour for hour, line in manifest.hours.items() if before.hours.get(hour) != line]
        following = max(manifest.hours, default=-1) + 1
        said = [event("tail", self.board.series(manifest, since=min([*moved, following])).model_dump_json())]
        if moved or known != corrections:
            compared = self.board.compared(manifest, corrections, hours=HOURS)
            said.append(event("compared", compared.model_dump_json()))
        return said

    def _heard(self) -> tuple[object, ...]:
        edge = self.edge
        return *newest(edge.ledger.lines, edge.alarms, edge.scenes), len(edge.reports)


def add_watching(
    app: FastAPI,
    edge: Edge,
    board: Board,
    *,
    clock: Clock,
    models: Path,
    registry: str,
    keys: Keys,
    workers: Callable[[], bool],
    stopping: Callable[[], bool],
    visitor: str,
) -> None:
    """The page, and what it asks for. With a `visitor`'s token it is a demo's."""
    page = Page(edge, board, clock=clock, models=models, registry=registry, workers=workers, demo=bool(visitor))
    streams = Streams(stopping)
    add_page(app, FOLDER, pattern="hybrid", keys=keys, visitor=visitor)
    add_document(app, FOLDER.parent / "DESIGN.md")
    router = APIRouter(
        prefix="/v1",
        responses={503: {"description": "The batch view is away."}},
    )

    @router.get("/watch", tags=["watching"])
    def watch() -> Watched:  # in a thread, as files may have to be read
        """All that the page shows."""
        return page.watched()

    @router.get("/stream", include_in_schema=False)
    async def stream() -> StreamingResponse:
        return streams.answer(page.news())

    app.include_router(router)
