"""The nouns that flow. One definition serves the API, the topics and the lake.

Money is in whole cents, time in whole seconds since the epoch (UTC). On every topic `user` is a keyed
pseudonym: the edge replaces the name, and so must whoever writes to a topic.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys import config
from shared.eventlog.port import Topic

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

Kind = Literal["view", "click", "cart", "purchase", "cancel"]
Path = Literal["table", "today", "popular", "expired"]
SOURCES = ("als", "linear", "repeat", "content", "popular")  # of candidates; the last one knows everybody
Source = Literal["als", "linear", "repeat", "content", "popular"]

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["u-1001"])]
Seconds = Annotated[int, Field(ge=0, lt=2**32, strict=True, examples=[1_767_225_600])]
Text = Annotated[str, Field(max_length=200)]

EVENTS = Topic("recsys.events", config.PARTITIONS)  # key: user
IMPRESSIONS = Topic("recsys.impressions", config.PARTITIONS)  # key: user
ERASURES = Topic("recsys.erasures", config.PARTITIONS)  # key: user
CATALOGUE = Topic("recsys.catalogue", 1, compacted=True)  # key: item
DEAD = Topic("recsys.dead", 1)  # key: that of the record refused
COMMANDS = Topic("recsys.commands", 1)  # key: kind
ALARMS = Topic("recsys.alarms", 1)  # key: kind
NIGHTS = Topic("recsys.nights", 1)  # key: date
REPORTS = Topic("recsys.reports", 1)  # key: day
RELEASES = Topic("recsys.releases", 1)  # key: version
STORY = Topic("recsys.story", 1)  # key: kind; what a demo tells whoever watches, and hears from them
INPUTS = (EVENTS, IMPRESSIONS, ERASURES, CATALOGUE)  # what a night reads
TOPICS = (*INPUTS, DEAD, COMMANDS, ALARMS, NIGHTS, REPORTS, RELEASES, STORY)


class Noun(BaseModel):
    """A frozen record that says no to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(Noun):
    """Something that a shopper did with an item."""

    # [2.1] Deeds, not stars: few people rate, and all of them click and buy. A purchase is what the shop lives on;
    # a view says less, and only views and clicks of what was shown at all can exist.
    kind: Kind
    id: Id  # unique within a shopper
    user: Id
    item: Id
    at: Seconds
    quantity: Annotated[int, Field(ge=1, le=config.MAX_QUANTITY, strict=True)] = 1
    cents: Annotated[int, Field(ge=0, le=config.MAX_CENTS, strict=True)] = 0  # of one unit
    order: Id | None = None
    list_id: Id | None = None  # of the list that it came from
    position: Annotated[int, Field(ge=1, le=config.SERVED, strict=True)] | None = None


class Product(Noun):
    """An item as the catalogue has it from `at` on."""

    item: Id
    at: Seconds
    title: Text = ""
    category: Text = ""
    family: Text = ""  # of colours or sizes of one thing; empty: it has none
    seller: Text = ""
    small: bool = False  # the seller
    cents: Annotated[int, Field(ge=0, le=config.MAX_CENTS, strict=True)] = 0
    in_stock: bool = True


class Erasure(Noun):
    """Everything that this shopper did before `at` is to be forgotten."""

    user: Id
    at: Seconds


class Impression(Noun):
    """A list as it was shown. The server writes it, so no client can invent one."""

    list_id: Id
    user: Id
    at: Seconds
    version: str  # of the table
    path: Path
    items: tuple[str, ...]
    sources: tuple[str, ...]  # where each came from
    explored: bool = False  # the first `permuted` items stand in random order
    permuted: int = 0  # m: each of them stood on each of these slots with probability 1 / m


class Item(Noun):
    """One place of a list, in words."""

    item: str
    title: str
    reason: str
    because: str | None = None  # an item bought before that it goes with
    source: str


class Interactions(NamedTuple):
    """What is known at a cut. Users and items are numbered in the order of their ids."""

    cut: int  # seconds
    users: list[str]
    items: list[str]
    bought: pl.DataFrame  # user, item, at, cents, quantity, order: lines that stand, by user, item, at
    seen: pl.DataFrame  # user, item, at, kind: views, clicks, carts
    products: pl.DataFrame  # a row an item: title, category, family, seller, small, cents, in_stock, since


class Candidates(NamedTuple):
    """(user, item) pairs, by user, then by item; each scored by every source."""

    users: Ints  # (n,) numbers
    items: Ints  # (n,)
    scores: Floats  # (n, sources)


class Ranked(NamedTuple):
    """Candidates of each user, best first."""

    users: Ints  # (n,) ascending
    items: Ints  # (n,)
    scores: Floats  # (n,) descending within a user
    sources: Ints  # (n,) into SOURCES: the one that ranked it highest


class TopK(NamedTuple):
    """What is stored of each user."""

    # [1.1] Asked is an ordered list of things worth showing next, not a rating of each: so what is stored is an order,
    # and what it is judged by is what people go on to buy.
    items: NDArray[np.int32]  # (users, STORED)
    sources: NDArray[np.int8]  # (users, STORED)
    explored: NDArray[np.bool_]  # (users,)
    filled: NDArray[np.int16]  # (users,) how many came from popularity to fill the list up


class DeadLetter(Noun):
    """A record that could not be taken in, with the reason; the rest went on."""

    topic: str
    partition: int
    offset: int
    field: str
    value: str  # the first 200 characters
    reason: str


class Command(Noun):
    """What an operator wants done."""

    kind: Literal["night", "train", "promote", "rollback"]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,40}$", examples=["2"])] | None = None
    force: bool = False  # promote although the gate said no
    who: Id
    why: Text = ""


class Alarm(Noun):
    """Something a person should know, and what is done about it."""

    kind: Literal["drift", "clicks", "gate", "table", "recipe", "command"]
    at: Seconds
    message: str
    action: str


class Night(Noun):
    """What came of a night."""

    date: str
    at: Seconds
    version: str = ""  # published; empty: yesterday's table stays
    refused: str = ""  # by the gate
    recipe: str
    seconds: dict[str, float]  # by step
    figures: dict[str, float]


class Report(Noun):
    """One day, judged after its night."""

    day: int  # since the epoch
    version: str
    lists: int
    clicks: int
    usual_clicks: float | None = None  # a list, mean of the same weekday's last four
    purchases: int
    drift: dict[str, float]
    drifted: tuple[str, ...]


class Release(Noun):
    """A line of the ledger: what is in force from here on, who said so, why, and on what figures."""

    subject: Literal["table", "recipe"]
    action: Literal["publish", "promote", "rollback"]
    version: str
    recipe: str = ""  # of a table
    artifact: str = ""  # of a recipe: where its files are
    digest: str
    offsets: dict[str, dict[int, int]] = {}  # of a table: by topic and partition, where its input ended
    at: Seconds
    who: str
    why: str
    figures: dict[str, float]


def in_force(ledger: Sequence[Release], subject: str) -> Release | None:
    """The last word about tables, or about recipes."""
    return next((line for line in reversed(ledger) if line.subject == subject), None)


def before(ledger: Sequence[Release], now: str | None, kept: Sequence[str]) -> str | None:
    """The table that a rollback goes to: of those still kept, the last one published before `now` was."""
    published = [line.version for line in ledger if line.subject == "table" and line.action == "publish"]
    earlier = published[: max((place for place, version in enumerate(published) if version == now), default=0)]
    return next((version for version in reversed(earlier) if version in kept and version != now), None)


class Books(Noun):
    """What a demo knows of a day, as it has lived the same day with each way of recommending."""

    kind: Literal["books"] = "books"
    day: int  # since the epoch
    earned: dict[str, float]  # margin net of returns, EUR, by way; "none" is without any list


class Wish(Noun):
    """What a visitor of a demo wants to see."""

    kind: Literal["wish"] = "wish"
    wish: Literal["no input", "bad recipe"]
