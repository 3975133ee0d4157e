"""The latest lists for the page, with what shoppers did with them, and counts.

All of it since this edge started, in bounded memory.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from math import ceil
from threading import Lock

from recsys.schema import Event, Impression
from shared.clock import monotonic
from shared.messages import Message

OPEN = 5_000  # lists that a deed may still belong to
RECENT = 120  # lists kept of all, and of those that something came of
REPEATS = 20_000  # ids kept, as a client may say a thing twice
NOW = 5.0  # seconds of real time that "now" covers
PLACES = 10  # of a list that are told


class Seen:
    """A list that was shown, and what came of it."""

    __slots__ = ("bought", "change", "clicked", "impression", "number")

    def __init__(self, number: int, impression: Impression) -> None:
        self.number = self.change = number  # of the last word on it
        self.impression = impression
        self.clicked: set[int] = set()  # positions
        self.bought: set[int] = set()


class Row(Message):
    """A list, as a line."""

    number: int  # since the start
    change: int
    list_id: str
    at: int
    user: str  # pseudonym
    version: str
    path: str
    explored: bool
    length: int
    items: tuple[str, ...]  # the first places
    titles: tuple[str, ...]
    sources: tuple[str, ...]
    clicked: tuple[int, ...]  # positions
    bought: tuple[int, ...]


class Now(Message):
    """The last seconds, and the totals."""

    seconds: float  # since the start
    lists: int
    paths: dict[str, int]
    sources: dict[str, int]  # of the places shown
    clicks: int  # on lists
    purchases: int  # anywhere in the shop
    by_list: int  # of them, of an item of a list
    rate: float  # lists a second
    p50: float | None  # seconds, of the requests answered lately
    p99: float | None
    requests: int  # that these two are of
    unlogged: int  # lists that the log did not take
    unanswered: int  # requests without a list


class Watch:
    """Fed by the edge: `saw` and `heard` by its following thread, the others by its event loop."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = monotonic()
        self._number = self._change = 0
        self._open: OrderedDict[str, Seen] = OrderedDict()
        self._recent: deque[Seen] = deque(maxlen=RECENT)
        self._taken: OrderedDict[str, Seen] = OrderedDict()
        self._early: OrderedDict[str, list[Event]] = OrderedDict()  # by lists that have not been seen yet
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._paths: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._deeds: Counter[str] = Counter()
        self._counts: deque[tuple[float, int]] = deque(maxlen=100)  # when how many lists were shown
        # Appended to without a lock, so that no request waits for who looks on.
        self._answers: deque[float] = deque(maxlen=1_000)
        self._unlogged = self._unanswered = 0

    # --- in ---------------------------------------------------------------------------------------

    def answered(self, seconds: float, *, logged: bool) -> None:
        """A request got its list after so long."""
        self._answers.append(seconds)
        self._unlogged += not logged

    def failed(self) -> None:
        """A request got none."""
        self._unanswered += 1

    def saw(self, impressions: Sequence[Impression]) -> None:
        """These lists have been shown."""
        with self._lock:
            for impression in impressions:
                if impression.list_id in self._open or not impression.logged:
                    continue
                self._number += 1
                self._change += 1
                seen = self._open[impression.list_id] = Seen(self._number, impression)
                seen.change = self._change
                self._recent.append(seen)
                self._paths[impression.path] += 1
                self._sources.update(impression.sources)
                for event in self._early.pop(impression.list_id, ()):
                    self._mark(seen, event)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            if impressions:
                self._counts.append((monotonic(), len(impressions)))

    def heard(self, events: Sequence[Event]) -> None:
        """Shoppers did this; a thing said again counts once."""
        with self._lock:
            for event in events:
                if (event.user, event.id) in self._said:
                    continue
                self._said[event.user, event.id] = None
                if event.kind in ("click", "purchase"):
                    self._enter(event)
            while len(self._said) > REPEATS:
                self._said.popitem(last=False)

    def _enter(self, event: Event) -> None:
        if event.list_id is None:
            self._deeds["alone"] += event.kind == "purchase"
            return
        self._deeds[event.kind] += 1
        if (seen := self._open.get(event.list_id)) is not None:
            return self._mark(seen, event)
        # A log gives no order across topics: a deed may come before its list.
        self._early.setdefault(event.list_id, []).append(event)
        while len(self._early) > OPEN:
            self._early.popitem(last=False)

    def _mark(self, seen: Seen, event: Event) -> None:
        if event.position is None or seen.impression.user != event.user:
            return
        self._change += 1
        seen.change = self._change
        (seen.bought if event.kind == "purchase" else seen.clicked).add(event.position)
        self._taken[seen.impression.list_id] = seen
        while len(self._taken) > RECENT:
            self._taken.popitem(last=False)

    # --- out --------------------------------------------------------------------------------------

    @property
    def change(self) -> int:
        """The number of the last thing seen."""
        return self._change

    def lists(self, *, since: int = 0, most: int = RECENT, taken: bool = False) -> list[Row]:
        """The latest lists of which something was said after change `since`, oldest first; without titles."""
        with self._lock:
            kept = list(self._taken.values()) if taken else list(self._recent)
            newest = sorted((seen for seen in kept if seen.change > since), key=lambda seen: seen.number)[-most:]
            return [_row(seen) for seen in newest]

    def now(self) -> Now:
        moment = monotonic()
        with self._lock:
            lately = sum(count for at, count in self._counts if at > moment - NOW)
            paths, sources, deeds, number = dict(self._paths), dict(self._sources), dict(self._deeds), self._number
        answers = sorted(self._answers.copy())
        return Now(
            seconds=moment - self._began,
            lists=number,
            paths=paths,
            sources=sources,
            clicks=deeds.get("click", 0),
            purchases=deeds.get("purchase", 0) + deeds.get("alone", 0),
            by_list=deeds.get("purchase", 0),
            rate=lately / min(NOW, max(0.5, moment - self._began)),
            p50=answers[len(answers) // 2] if answers else None,
            p99=answers[min(len(answers) - 1, ceil(0.99 * len(answers)))] if answers else None,
            requests=len(answers),
            unlogged=self._unlogged,
            unanswered=self._unanswered,
        )


def _row(seen: Seen) -> Row:
    known = seen.impression
    return Row(
        number=seen.number,
        change=seen.change,
        list_id=known.list_id,
        at=known.at,
        user=known.user,
        version=known.version,
        path=known.path,
        explored=known.explored,
        length=len(known.items),
        items=known.items[:PLACES],
        titles=(),
        sources=known.sources[:PLACES],
        clicked=tuple(sorted(seen.clicked)),
        bought=tuple(sorted(seen.bought)),
    )
