"""Table lookup at request time: a row of the table, less the events since the table was built."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from recsys import config, table
from recsys.ingest import accept
from recsys.policy import REASONS, Policy, Rules, allowed, compose
from recsys.schema import CATALOGUE, ERASURES, EVENTS, SOURCES, Erasure, Event, Item, Product
from recsys.schema import Path as Way
from recsys.table import Table, TableCorrupt
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import EventLog, Place, Reader, Record

FOLLOWED = (EVENTS, ERASURES, CATALOGUE)
ROUNDS = 50  # polls of the log before others have their turn
TODAY = 20  # of a shopper's items today that a list is made from
LINEAR, POPULAR = SOURCES.index("linear"), SOURCES.index("popular")
EMPTY: frozenset[int] = frozenset()

OnBad = Callable[[Record, Exception], None]
logger = logging.getLogger(__name__)


class NoTable(Exception):
    """Nothing has been published yet."""


class Shown(NamedTuple):
    """A list, and how it came about."""

    items: list[str]
    titles: list[str]
    sources: list[str]
    because: list[tuple[str, str]]  # an item bought or viewed before that it goes with, and its title; empty if none
    did: list[str]  # what was done with that: bought or viewed; empty if none
    version: str
    path: Way
    explored: bool
    permuted: int  # m: the first m stand in random order
    support: list[str]  # those m, also beyond the list's end, as they were ranked before they were shuffled

    def places(self) -> list[Item]:
        """The list in words."""
        places = zip(self.items, self.titles, self.sources, self.because, self.did, strict=True)
        return [
            Item(item=item, title=title, reason=_reason(source, old, did), because=old[0] or None, source=source)
            for item, title, source, old, did in places
        ]


def _reason(source: str, because: tuple[str, str], did: str) -> str:
    item, title = because
    return f"Because you {did} {title or item}." if item and source != "repeat" else REASONS[source]


@dataclass(frozen=True, slots=True)
class Forbidden:
    """What a shopper is not shown: items bought since the cut, and items that are sold out. No request copies them."""

    bought: Collection[int]
    out: Collection[int]

    def __contains__(self, item: object) -> bool:
        return item in self.bought or item in self.out

    def __len__(self) -> int:
        """At most so many items."""
        return len(self.bought) + len(self.out)


class Since:
    """What happened after a version's input ended; made anew with each version.

    Erased shoppers and sold-out items are taken over from the version `before`, so that a switch does not read the
    whole catalogue again.
    """

    def __init__(self, made: Table, log: EventLog, *, key: bytes, on_bad: OnBad, before: "Since | None" = None) -> None:
        self.table, self._log, self._key, self._on_bad = made, log, key, on_bad
        offsets = made.manifest.offsets
        start = {Place(EVENTS.name, n): offsets.get(EVENTS.name, {}).get(n, 0) for n in range(EVENTS.partitions)}
        known = {} if before is None else before._reader.positions
        for topic in (ERASURES, CATALOGUE):
            start |= {place: known.get(place, 0) for place in (Place(topic.name, n) for n in range(topic.partitions))}
        extras = made.extras
        self.rules = Rules(extras.category, extras.family, extras.small, extras.new)
        self._reader: Reader = log.reader(start)
        self.bought: dict[str, dict[int, int]] = {}  # item -> when, by shopper
        self.today: dict[str, list[tuple[int, int]]] = {}  # (item, when) by shopper, latest last
        self.erased: dict[str, int] = {} if before is None else dict(before.erased)  # when
        self._erasures: dict[str, dict[int, int]] = {}  # partition -> offset of the latest, by shopper
        if before is not None:
            self._erasures |= {user: dict(offsets) for user, offsets in before._erasures.items()}
        self._known = offsets.get(ERASURES.name, {})  # by partition, where the erasures end that the night knew
        # Whose row is not shown.
        self.forgotten = {user for user, offsets in self._erasures.items() if self._is_new(offsets)}
        self._sold_out: set[str] = set() if before is None else set(before._sold_out)  # also what the table lacks
        self.out = {made.number[item] for item in self._sold_out if item in made.number}
        self.seen = made.manifest.cut  # the time up to which the log has been read
        self.read: Mapping[Place, int] = start  # how far, by partition

    def catch_up(self) -> None:
        """Take in what the log holds now; what is written meanwhile can wait."""
        ends = {Place(topic.name, n): end for topic in FOLLOWED for n, end in self._log.ends(topic).items()}
        while any(self._reader.positions[place] < end for place, end in ends.items()):
            if not self.follow():
                return  # a log may end in places that hold no record

    def follow(self) -> bool:
        """Take in what is new; whether there was any."""
        records = self._reader.poll(5_000, 0.0)
        for record in records:
            self.seen = max(self.seen, record.at)
            try:
                self._take(record)
            except DEPENDENCY_ERRORS:
                raise
            except Exception as error:  # the night writes the dead letter
                self._on_bad(record, error)
        self.read = dict(self._reader.positions)
        return bool(records)

    def _take(self, record: Record) -> None:
        message = accept(record, self._key)
        if isinstance(message, Erasure):
            self._erase(message.user, message.at, record)
        elif isinstance(message, Product):
            (self._sold_out.discard if message.in_stock else self._sold_out.add)(message.item)
            if (number := self.table.number.get(message.item)) is not None:
                (self.out.discard if message.in_stock else self.out.add)(number)
        elif isinstance(event := message, Event):
            number = self.table.number.get(event.item)
            at = min(event.at, record.at)  # a client's clock may be fast
            if number is None or event.kind == "cancel" or at <= self.erased.get(event.user, -1):
                return
            if event.kind == "purchase":
                self.bought.setdefault(event.user, {})[number] = at
            items = self.today.setdefault(event.user, [])
            items.append((number, at))
            del items[:-TODAY]

    def _erase(self, user: str, at: int, record: Record) -> None:
        """Forget what was done until then: topics come in any order, so later deeds may have been read already."""
        until = self.erased[user] = max(at, self.erased.get(user, 0))
        self.bought[user] = {item: when for item, when in self.bought.get(user, {}).items() if when > until}
        self.today[user] = [(item, when) for item, when in self.today.get(user, []) if when > until]
        self._erasures.setdefault(user, {})[record.partition] = record.offset
        if self._is_new(self._erasures[user]):
            self.forgotten.add(user)

    def _is_new(self, erasures: Mapping[int, int]) -> bool:
        """Whether the night did not know one of a shopper's erasures: by offset, as a late one may bear any time."""
        return any(offset >= self._known.get(partition, 0) for partition, offset in erasures.items())

    def close(self) -> None:
        self._reader.close()


class Shelf:
    """Follows the log and the pointer. A request holds one version from beginning to end.

    `key`: of the pseudonyms.
    """

    def __init__(self, log: EventLog, tables: Path, *, key: bytes) -> None:
        self._log, self._tables, self._key = log, tables, key
        self._since: Since | None = None
        self.on_bad: OnBad = lambda record, error: logger.warning("skipped %s: %s", record[:3], type(error).__name__)
        self.trouble = ""  # why the version that the pointer names is not the one shown

    @property
    def version(self) -> str:
        return self._since.table.version if self._since else ""

    @property
    def kept(self) -> list[str]:
        """The versions that a rollback may go to, oldest first."""
        return table.versions(self._tables)

    @property
    def seen(self) -> int:
        """The time of the latest record followed."""
        return self._since.seen if self._since else 0

    @property
    def catalogue(self) -> int:
        """The offset before which the catalogue has been read."""
        return self._since.read[Place(CATALOGUE.name, 0)] if self._since else 0

    @property
    def manifest(self) -> table.Manifest | None:
        return self._since.table.manifest if self._since else None

    def follow(self) -> None:
        """Catch up with the log, and with the pointer; raises LogUnavailable."""
        self.switch()
        if self._since is not None:
            for _ in range(ROUNDS):
                if not self._since.follow():
                    break

    def switch(self) -> None:
        """To the version that the pointer names, once it has proved itself and caught up; else the old one stays."""
        wanted = table.current(self._tables)
        if wanted is None or wanted == self.version:
            return
        try:
            made = Table.open(self._tables / wanted)
        except TableCorrupt as error:
            if self.trouble != str(error):
                logger.error("the table that the pointer names is not shown: %s", error)
            self.trouble = str(error)
            return
        since = Since(made, self._log, key=self._key, on_bad=self.on_bad, before=self._since)
        try:
            since.catch_up()
        except BaseException:
            since.close()
            raise
        old, self._since, self.trouble = self._since, since, ""
        if old is not None:
            old.close()

    def close(self) -> None:
        if self._since is not None:
            self._since.close()

    def recommend(self, user: str, k: int, *, now: int, context: str = "") -> Shown:
        """The list of a shopper (pseudonym), at most `k`.

        Raises:
            NoTable: nothing has been published.
        """
        since = self._since
        if since is None:
            raise NoTable("no table has been published yet: python -m recsys night")
        made = since.table
        forbidden = Forbidden(since.bought.get(user, EMPTY), since.out)
        row = -1 if user in since.forgotten else made.row(user)
        expired = now - made.manifest.cut > config.EXPIRED
        if expired:
            return self._popular(since, k, forbidden, context, "expired")
        if row >= 0:
            return self._stored(since, user, row, k, forbidden)
        if today := since.today.get(user):
            return self._today(since, [item for item, _ in today], k, forbidden)
        return self._popular(since, k, forbidden, context, "popular")

    def popular(self, k: int) -> Shown:
        """What a stranger is shown."""
        if (since := self._since) is None:
            raise NoTable("no table has been published yet: python -m recsys night")
        return self._popular(since, k, Forbidden(EMPTY, since.out), "", "popular")

    def history(self, user: str) -> list[tuple[str, str]]:
        """Items that the shopper (pseudonym) bought last, newest first, with their titles."""
        if (since := self._since) is None:
            raise NoTable("no table has been published yet: python -m recsys night")
        made, bought = since.table, since.bought.get(user, EMPTY)
        row = -1 if user in since.forgotten else made.row(user)
        lately = [item for item, _ in reversed(since.today.get(user, [])) if item in bought]
        items = dict.fromkeys([*lately, *(made.history(row) if row >= 0 else [])])
        return [(made.extras.items[item], made.extras.titles[item]) for item in items]

    def title(self, item: str) -> str:
        """Of an item of the version shown; empty if it has none."""
        if (since := self._since) is None or (number := since.table.number.get(item)) is None:
            return ""
        return since.table.extras.titles[number]

    def first(self, user: str) -> list[str]:
        """What was published for a shopper's first PERMUTED places, whatever happened since; empty without a row."""
        assert self._since is not None
        made = self._since.table
        row = made.row(user)
        return [made.extras.items[item] for item in made.items(row)[: config.PERMUTED] if item >= 0] if row >= 0 else []

    def _stored(self, since: Since, user: str, row: int, k: int, forbidden: Forbidden) -> Shown:
        made = since.table
        most = max(k, config.PERMUTED) + len(forbidden)  # no more can be needed
        stored, origins = made.items(row, most), made.sources(row, most)
        places = [place for place in allowed(stored, forbidden) if stored[place] >= 0]
        # What is left of the shuffled ones stands first, each on each place with the same chance; behind them the rest.
        support = [item for item in made.shuffled(user, row) if item not in forbidden]
        items, sources = [stored[place] for place in places[:k]], [origins[place] for place in places[:k]]
        history = dict.fromkeys(made.history(row), "bought")
        return _shown(since, items, sources, "table", history=history, support=support, k=k, forbidden=forbidden)

    def _today(self, since: Since, today: list[int], k: int, forbidden: Forbidden) -> Shown:
        """Item-to-item rows of what a shopper without a row did today, merged: the nearest of the latest first."""
        worth: dict[int, float] = {}
        for age, item in enumerate(reversed(today)):
            for rank, near in enumerate(since.table.neighbours[item].tolist()):
                if near >= 0:
                    worth[near] = worth.get(near, 0.0) + 1 / (1 + age) / (1 + rank)
        order = sorted(worth, key=lambda item: (-worth[item], item))
        order = [order[place] for place in allowed(order, forbidden)]
        items = [order[place] for place in compose(order, since.rules, Policy(), most=k)]
        bought = forbidden.bought
        history = {item: "bought" if item in bought else "viewed" for item in reversed(today)}
        return _shown(
            since, items, [LINEAR] * len(items), "today", history=history, support=[], k=k, forbidden=forbidden
        )

    def _popular(self, since: Since, k: int, forbidden: Forbidden, context: str, path: Way) -> Shown:
        popular = since.table.extras.popular
        shown = (item for item in popular.get(context, popular[""]) if item not in forbidden)
        items = list(islice(shown, k))
        return _shown(since, items, [POPULAR] * len(items), path, history={}, support=[], k=k, forbidden=forbidden)


def _shown(
    since: Since,
    items: list[int],
    sources: list[int],
    path: Way,
    *,
    history: Mapping[int, str],
    support: list[int],
    k: int,
    forbidden: Forbidden,
) -> Shown:
    """Filled up from popularity, never short of what the shop has; with names.

    `history`: what was done with each of the shopper's items, the latest first.
    """
    made = since.table
    if len(items) < k:
        listed, popular = set(items), made.extras.popular[""]
        rest = (item for item in popular if item not in listed and item not in forbidden)
        more = list(islice(rest, k - len(items)))
        items, sources = items + more, sources + [POPULAR] * len(more)
    names: list[str] = made.extras.items
    near: Mapping[int, set[int]] = {item: set(made.neighbours[item].tolist()) for item in history}
    titles = made.extras.titles
    with_it = [next((old for old in history if item in near[old]), -1) for item in items]
    return Shown(
        items=[names[item] for item in items],
        titles=[titles[item] for item in items],
        sources=[SOURCES[source] for source in sources],
        because=[("", "") if old < 0 else (names[old], titles[old]) for old in with_it],
        did=["" if old < 0 else history[old] for old in with_it],
        version=made.version,
        path=path,
        explored=bool(support),
        permuted=len(support),
        support=[names[item] for item in support],
    )
