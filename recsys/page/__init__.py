"""The data of the page, as JSON and as an event stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from pydantic import Field

from recsys import config
from recsys.edge import Edge
from recsys.policy import REASONS
from recsys.releases import RECIPE, TABLE
from recsys.schema import NAME, STORY, Alarm, Item, Night, Release, Report, Wish
from recsys.schema import Path as Way
from recsys.shelf import Shelf
from recsys.timeline import Money, Series, money, series
from recsys.watch import Now, Row
from shared.auth import Keys
from shared.champion import drift_limits
from shared.clock import Clock, SystemClock
from shared.eventlog.port import Entry
from shared.messages import Message, Request
from shared.page import add_page
from shared.page.document import add_document
from shared.page.stream import Streams, event, newest
from shared.privacy import pseudonymised
from shared.story import Scene

FOLDER = Path(__file__).parent
LINES = 18  # lists that an event tells of at most, and as many that something came of: all that the page has rows for
ROWS = 24  # of each at the beginning
NIGHTS = 60  # nights, and lines of the ledger, shown

User = Annotated[str, InPath(pattern=NAME, examples=["u000017"])]


class State(Message):
    """What changes from one moment to the next."""

    at: int  # event time
    now: Now
    version: str  # shown now; empty: none
    age: int | None  # seconds since the input of that table ended
    trouble: str  # why the log cannot be read; empty when it can
    refused: str  # why the table that the pointer names is not shown; empty when it is
    doing: str  # what the monitor is at, and for how long; empty when it waits
    silent: float  # seconds since the log could be read last
    catching_up: bool


class Told(Message):
    """What was said and done, newest first; it changes seldom."""

    table: Release | None
    recipe: Release | None
    back_to: str | None  # the table that a rollback would go to
    nights: list[Night]
    ledger: list[Release]
    alarms: list[Alarm]
    reports: list[Report]
    limits: dict[str, float]  # of drift, by the recipe in force
    money: Money | None  # a demo's
    series: Series
    scenes: list[Scene]  # of a demo, oldest first
    demo: bool  # whether wishes are heard
    registry: str  # MLflow's address, or the command that shows it


class Watched(Message):
    """All that the page shows; the stream brings the same, part by part."""

    state: State
    told: Told
    recent: list[Row]
    taken: list[Row]  # lists that something came of
    reasons: dict[str, str]  # by source


class Asked(Request):
    """What may be asked about a shopper."""

    k: Annotated[int, Field(ge=1, le=config.SERVED)] = 10
    by: Annotated[Literal["name", "pseudonym"], Field(description="What the path names the shopper by.")] = "name"


class Bought(Message):
    """Something that a shopper has."""

    item: str
    title: str


class Shopper(Message):
    """What is known of a shopper, what they would be shown now, and what an unknown shopper would."""

    user: str  # pseudonym
    version: str
    path: Way
    explored: bool
    history: list[Bought]  # newest first
    shown: list[Item]
    popular: list[Item]


class WishRequest(Wish, Request):
    """A wish by HTTP."""


class Page:
    """What the routes share."""

    def __init__(
        self, edge: Edge, shelf: Shelf, *, clock: Clock, recipes: Path, registry: str, pseudonym_key: bytes, demo: bool
    ) -> None:
        self.edge, self.shelf = edge, shelf
        self._clock, self._recipes, self._registry, self._demo = clock, recipes, registry, demo
        self._key = pseudonym_key

    def state(self) -> State:
        edge, manifest = self.edge, self.shelf.manifest
        return State(
            at=self._clock.now(),
            now=edge.watch.now(),
            version=self.shelf.version,
            age=self._clock.now() - manifest.cut if manifest else None,
            trouble=edge.trouble,
            refused=self.shelf.trouble,
            doing=_doing(edge),
            silent=edge.needed.age(),
            catching_up=not edge.needed.caught_up,
        )

    def told(self) -> Told:
        edge, ledger = self.edge, self.edge.ledger
        nights, reports, books = list(edge.nights), list(edge.reports), list(edge.books)
        recipe = ledger.champion(RECIPE)
        fallbacks = ledger.fallbacks(TABLE, kept=self.shelf.kept)
        limits = drift_limits(self._recipes, recipe)
        return Told(
            table=ledger.champion(TABLE),
            recipe=recipe,
            back_to=fallbacks[0].version if fallbacks else None,
            nights=nights[: -NIGHTS - 1 : -1],
            ledger=ledger.lines[: -NIGHTS - 1 : -1],
            alarms=list(edge.alarms)[: -NIGHTS - 1 : -1],
            reports=reports[: -NIGHTS - 1 : -1],
            limits=limits,
            money=money(books),
            series=series(nights, reports, books, limits),
            scenes=list(edge.scenes),
            demo=self._demo,
            registry=self._registry,
        )

    def watched(self) -> Watched:
        return Watched(
            state=self.state(),
            told=self.told(),
            recent=self._rows(most=ROWS),
            taken=self._rows(most=ROWS, taken=True),
            reasons=REASONS,
        )

    def shopper(self, name: str, *, by: str, k: int) -> Shopper:
        """Raises NoTable."""
        user = pseudonymised(name, self._key) if by == "name" else name
        made, popular = self.shelf.recommend(user, k, now=self._clock.now()), self.shelf.popular(k)
        return Shopper(
            user=user,
            version=made.version,
            path=made.path,
            explored=made.explored,
            history=[Bought(item=item, title=title) for item, title in self.shelf.history(user)],
            shown=made.places(),
            popular=popular.places(),
        )

    async def news(self) -> AsyncIterator[list[str]]:
        """First all of it, then what is new."""
        change, heard = self.edge.watch.change, self._heard()
        yield [event("all", (await asyncio.to_thread(self.watched)).model_dump_json())]
        while True:
            said = []
            if heard != self._heard():
                heard = self._heard()
                said.append(event("told", (await asyncio.to_thread(self.told)).model_dump_json()))
            since, change = change, self.edge.watch.change
            rows = {name: self._rows(since=since, most=LINES, taken=name == "taken") for name in ("recent", "taken")}
            parts = (f'"{name}":[{",".join(row.model_dump_json() for row in part)}]' for name, part in rows.items())
            said.append(event("rows", "{" + ",".join(parts) + "}"))
            yield [*said, event("state", self.state().model_dump_json())]

    def _rows(self, *, since: int = 0, most: int, taken: bool = False) -> list[Row]:
        rows = self.edge.watch.lists(since=since, most=most, taken=taken)
        return [row.model_copy(update={"titles": tuple(map(self.shelf.title, row.items))}) for row in rows]

    def _heard(self) -> tuple[object, ...]:
        edge = self.edge
        lines = newest(edge.ledger.lines, edge.nights, edge.alarms, edge.reports, edge.scenes, edge.books)
        return *lines, self.shelf.version


def _doing(edge: Edge) -> str:
    if (heart := edge.monitor) is None or not heart.doing:
        return ""
    return f"{heart.doing} for {max(0, SystemClock().now() - heart.since)} s"


def add_watching(
    app: FastAPI,
    edge: Edge,
    shelf: Shelf,
    *,
    clock: Clock,
    recipes: Path,
    registry: str,
    keys: Keys,
    pseudonym_key: bytes,
    errors: dict[int | str, dict[str, Any]],
    stopping: Callable[[], bool],
    visitor: str,
) -> None:
    """The page, and what it asks for. With a `visitor`'s token it is a demo's, and hears wishes."""
    page = Page(
        edge,
        shelf,
        clock=clock,
        recipes=recipes,
        registry=registry,
        pseudonym_key=pseudonym_key,
        demo=bool(visitor),
    )
    streams = Streams(stopping)
    add_page(app, FOLDER, pattern="batch", keys=keys, visitor=visitor)
    add_document(app, FOLDER.parent / "DESIGN.md")
    router = APIRouter(prefix="/v1", responses=errors)

    @router.get("/watch", tags=["watching"])
    def watch() -> Watched:  # in a thread, as it takes milliseconds
        """All that the page shows, since this service started."""
        return page.watched()

    @router.get("/stream", include_in_schema=False)
    async def stream() -> StreamingResponse:
        return streams.answer(page.news())

    @router.get("/shoppers/{user_id}", tags=["shoppers"])
    def shopper(user_id: User, asked: Annotated[Asked, Query()]) -> Shopper:
        """History, today's list, and popularity beside it. To look is not to show: nothing is logged."""
        return page.shopper(user_id, by=asked.by, k=asked.k)

    if visitor:

        @router.post("/wishes", status_code=202, tags=["demo"])
        def wish(wanted: WishRequest) -> dict[str, str]:
            """Ask the demo to show something; it does so when the virtual day is over."""
            edge.append([Entry(STORY, wanted.kind, wanted.model_dump_json().encode())])
            return {"status": "heard"}

    app.include_router(router)
