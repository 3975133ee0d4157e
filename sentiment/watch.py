"""The latest posts for the page, and counts of what became of all posts.

All of it since this edge began to read, in bounded memory.
"""

from collections import Counter, OrderedDict, deque
from threading import Lock

from sentiment.config import LABELS
from sentiment.schema import Label, Opinion
from shared.clock import monotonic
from shared.messages import Message

RECENT = 400  # opinions kept
LATELY = 200  # posts that "lately shed" is of
NOW = 5.0  # seconds of real time that "now" covers


class Row(Message):
    """A post and what it says, as a line."""

    number: int  # since the start
    change: int  # of the last word on it
    id: str
    at: int
    text: str  # as it was written; empty once the author has deleted it
    gone: bool
    brands: tuple[str, ...]
    label: Label | None
    why_not: str | None  # language, spam, unsure, no-model or error
    sure: float | None  # the probability of the most probable label
    mark: str | None
    model: str | None


class Now(Message):
    """The last seconds, and the totals."""

    seconds: float  # since the start
    posts: int
    labels: dict[str, int]
    dropped: dict[str, int]  # not counted, by reason
    shed: int  # scored by the linear model for want of time
    shed_lately: int
    lately: int  # posts that this is of
    rate: float  # posts a second of real time


class Watch:
    """Fed by the edge's following thread, asked by others."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = monotonic()
        self._number = self._change = self._shown = 0
        self._recent: OrderedDict[str, Row] = OrderedDict()
        self._labels: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._shed = 0
        self._lately: deque[bool] = deque(maxlen=LATELY)
        self._counts: deque[tuple[float, int]] = deque(maxlen=100)  # when how many were scored

    # --- in ---------------------------------------------------------------------------------------

    def count(self, opinion: Opinion) -> None:
        """A post has been read, and not before."""
        with self._lock:
            self._number += 1
            if opinion.label is None:
                self._dropped[_why_not(opinion) or ""] += 1
            else:
                self._labels[opinion.label] += 1
                self._shed += opinion.mark == "shed"
                self._lately.append(opinion.mark == "shed")
            moment = monotonic()
            if self._counts and moment - self._counts[-1][0] < 0.05:
                self._counts[-1] = (self._counts[-1][0], self._counts[-1][1] + 1)
            else:
                self._counts.append((moment, 1))

    def show(self, opinion: Opinion) -> None:
        """It is among the latest, as a line."""
        with self._lock:
            self._change += 1
            self._shown += 1
            self._recent[opinion.id] = _row(opinion, self._shown, self._change)
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    def forget(self, id: str) -> None:
        """The author has deleted the post: a line says so, and shows none of it."""
        with self._lock:
            if (row := self._recent.get(id)) is not None:
                self._change += 1
                self._recent[id] = row.model_copy(update={"text": "", "gone": True, "change": self._change})

    # --- out --------------------------------------------------------------------------------------

    @property
    def change(self) -> int:
        """The number of the last thing seen."""
        return self._change

    def rows(self, *, since: int = 0, most: int = RECENT, negative: bool = False) -> list[Row]:
        """The latest posts of which something was said after change `since`, oldest first."""
        with self._lock:
            rows = [row for row in self._recent.values() if row.change > since]
        return [row for row in rows if not negative or row.label == "negative"][-most:]

    def now(self) -> Now:
        moment = monotonic()
        with self._lock:
            lately = sum(count for at, count in self._counts if at > moment - NOW)
            labels, dropped, flags, number = dict(self._labels), dict(self._dropped), list(self._lately), self._number
        return Now(
            seconds=moment - self._began,
            posts=number,
            labels={label: labels.get(label, 0) for label in LABELS},
            dropped=dropped,
            shed=self._shed,
            shed_lately=sum(flags),
            lately=len(flags),
            rate=lately / min(NOW, max(0.5, moment - self._began)),
        )


def _row(opinion: Opinion, number: int, change: int) -> Row:
    return Row(
        number=number,
        change=change,
        id=opinion.id,
        at=opinion.at,
        text=opinion.text,
        gone=False,
        brands=opinion.brands,
        label=opinion.label,
        why_not=_why_not(opinion),
        sure=max(opinion.score) if opinion.score else None,
        mark=opinion.mark,
        model=opinion.model,
    )


def _why_not(opinion: Opinion) -> str | None:
    """Why a post is not counted as an opinion; nothing if it is."""
    return None if opinion.label else opinion.why_not or opinion.mark or "no-model"
