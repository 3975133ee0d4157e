"""The messages: one definition for the API, the topics and the lake.

Money is in whole cents, time in whole seconds since the epoch (UTC). `user` is a keyed pseudonym
wherever a message has been accepted; a producer may send the name, which is replaced as the record is read.
"""

from datetime import date
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, field_validator

from recsys import config
from shared import releases
from shared.eventlog.port import Entry, Topic
from shared.messages import Message

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

Kind = Literal["view", "click", "cart", "purchase", "cancel"]
Path = Literal["table", "today", "popular", "expired"]
SOURCES = ("als", "linear", "repeat", "content", "popular")  # of candidates; the last one needs no history
Source = Literal["als", "linear", "repeat", "content", "popular"]

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["u-1001"])]
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.@+-]{0,253}$"  # a customer number, an e-mail address, a pseudonym
Name = Annotated[str, Field(pattern=NAME, examples=["u000017"])]  # of a shopper
Seconds = Annotated[int, Field(ge=0, lt=2**32, strict=True, examples=[1_767_225_600])]
Text = Annotated[str, Field(max_length=200)]
Day = Annotated[int, Field(ge=0, lt=2**32 // config.DAY)]  # since the epoch


def _business_date(text: str) -> str:
    """Raises ValueError: it is no date, or none that has a day before it that seconds can tell."""
    day = date.fromisoformat(text)
    if not date(1970, 1, 2) <= day < date(2106, 1, 1):
        raise ValueError("must be a date from 1970-01-02 to 2105-12-31")
    return str(day)


BusinessDate = Annotated[str, AfterValidator(_business_date)]  # YYYY-MM-DD

# How long the log keeps records: events and impressions for as long as the night may fail or an old table may serve,
# over a weekend at least; an erasure for ever, because a lake or a backup may be brought back.
EVENTS = Topic("recsys.events", config.PARTITIONS, days=30, least=3)  # key: user
IMPRESSIONS = Topic("recsys.impressions", config.PARTITIONS, days=30, least=3)  # key: user
ERASURES = Topic("recsys.erasures", config.PARTITIONS, compacted=True)  # key: user
CATALOGUE = Topic("recsys.catalogue", 1, compacted=True)  # key: item
DEAD = Topic("recsys.dead", 1, days=90)  # key: topic/partition/offset of the record refused
COMMANDS = Topic("recsys.commands", 1, days=90)  # key: kind
ALARMS = Topic("recsys.alarms", 1, days=365)  # key: kind
NIGHTS = Topic("recsys.nights", 1, days=365)  # key: date
REPORTS = Topic("recsys.reports", 1)  # key: day
RELEASES = Topic("recsys.releases", 1)  # key: version
STORY = Topic("recsys.story", 1, days=30)  # key: kind; what a demo tells the page, and the buttons pressed there
HEARTBEATS = Topic("recsys.heartbeats", 1, compacted=True)  # key: process
INPUTS = (EVENTS, IMPRESSIONS, ERASURES, CATALOGUE)  # what a night reads
TOPICS = (*INPUTS, DEAD, COMMANDS, ALARMS, NIGHTS, REPORTS, RELEASES, STORY, HEARTBEATS)


PERSONAL = ("user", "user_id", "id", "order", "order_id", "list_id")  # fields whose values a dead letter leaves out


class Event(Message):
    """Something that a shopper did with an item."""

    # [2.1] Deeds, not stars: few people rate, and all of them click and buy. A purchase is what the shop lives on;
    # a view says less, and only views and clicks of what was shown at all can exist.
    kind: Kind
    id: Id  # unique within a shopper
    user: Name
    item: Id
    at: Seconds
    quantity: Annotated[int, Field(ge=1, le=config.MAX_QUANTITY, strict=True)] = 1
    cents: Annotated[int, Field(ge=0, le=config.MAX_CENTS, strict=True)] = 0  # of one unit
    order: Id | None = None
    list_id: Id | None = None  # of the list that it came from
    position: Annotated[int, Field(ge=1, le=config.SERVED, strict=True)] | None = None


class Product(Message):
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


class Erasure(Message):
    """Everything that this shopper did before `at` is to be forgotten."""

    user: Name
    at: Seconds


class Impression(Message):
    """A list as it was shown. The server writes it, so no client can invent one."""

    list_id: Id
    user: Name
    at: Seconds
    version: str  # of the table
    path: str  # a Path, or one that a newer server knows
    items: tuple[str, ...]
    sources: tuple[str, ...]  # where each came from
    explored: bool = False  # the first `permuted` items stand in random order
    permuted: int = 0  # m: each of them stood on each of these slots with probability 1 / m
    support: tuple[str, ...] = ()  # those m, seen or not, as they were ranked before; older records do not say
    logged: bool = True  # false: the log took the list too late, so the same list_id before this record counts nowhere


class Item(Message):
    """One place of a list, in words."""

    item: str
    title: str
    reason: str
    because: str | None = None  # an item bought or viewed before that it goes with
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


class Wanted(releases.Wanted):
    """What a command is to do. A promote and a withdraw concern the recipe, a rollback the table."""

    kind: Literal["night", "train", "promote", "rollback", "withdraw"]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,40}$", examples=["2"])] | None = None


class Command(Wanted, releases.Command):
    """A command as it stands in the log."""


class Alarm(releases.Alarm):
    """Kinds: drift, clicks, gate, night, table, recipe, command."""

    at: Seconds


class Night(Message):
    """What came of a night."""

    date: BusinessDate
    at: Seconds
    version: str = ""  # published; empty: yesterday's table stays
    refused: str = ""  # by the gate, by the ledger, or the step that failed
    recipe: str = ""  # that ranked; `none`: the hand blend
    seconds: dict[str, float] = Field(default_factory=dict)  # by step
    figures: dict[str, float] = Field(default_factory=dict)


class Report(Message):
    """One day, judged after its night."""

    day: Day
    version: str
    lists: int
    clicks: int
    usual_clicks: float | None = None  # a list, mean of the same weekday's last four
    purchases: int
    drift: dict[str, float] = Field(default_factory=dict)
    drifted: tuple[str, ...] = ()


class Release(releases.Release):
    """A line of the ledger. Subjects: `table` and `recipe`."""

    recipe: str = ""  # of a table: what ranked it; `none`, or empty in older lines: the hand blend
    offsets: dict[str, dict[int, int]] = Field(
        default_factory=dict
    )  # of a table: by topic and partition, where its input ended
    at: Seconds


def entry(message: Alarm | Night | Release) -> Entry:
    """The message as a record of its topic."""
    if isinstance(message, Alarm):
        return Entry(ALARMS, message.kind, message.model_dump_json().encode())
    if isinstance(message, Night):
        return Entry(NIGHTS, message.date, message.model_dump_json().encode())
    return releases.entry(RELEASES, message)


class Books(Message):
    """What a demo knows of a day, as it has lived the same day with each way of recommending."""

    kind: Literal["books"] = "books"
    day: Day
    earned: dict[str, float]  # margin net of returns, EUR, by way of recommending; "none" is without any list

    @field_validator("earned")
    @classmethod
    def _every_way_of_the_page(cls, earned: dict[str, float]) -> dict[str, float]:
        if missing := {"none", "served", "popularity", "oracle"} - earned.keys():
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        return earned


class Wish(Message):
    """What a visitor of a demo wants to see."""

    kind: Literal["wish"] = "wish"
    wish: Literal["no input", "bad recipe"]
