"""Event -> Features. One definition: the stream steps it, and training folds it over the lake.

Pure: no clock, no I/O. A `State` is all that one partition of the log has to remember.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from zlib import crc32

from fraud import config
from fraud.config import CARD_WINDOWS, DAY, HOUR, TERMINAL_WINDOWS
from fraud.order import Order
from fraud.schema import Cell, Event, Features, Label, Transaction
from fraud.terminals import Book, OpenHour, Visited, usable
from fraud.windows import MONTH, Card, Seen

NAMES: tuple[str, ...] = (
    "amount",
    "hour",
    "weekday",
    *(f"card_payments_{window}" for window in CARD_WINDOWS),
    *(f"card_amount_{window}" for window in CARD_WINDOWS),
    "amount_over_mean_7d",
    "amount_over_mean_30d",
    "amount_over_median",
    "amount_over_maximum",
    "card_large_1d",
    "card_large_7d",
    "card_since_payment",
    "card_same_device",
    "card_same_country",
    "card_new_device",
    "card_new_country",
    "card_frauds_30d",
    "card_since_fraud",
    *(f"terminal_payments_{window}" for window in TERMINAL_WINDOWS),
    *(f"terminal_frauds_{window}" for window in TERMINAL_WINDOWS),
    *(f"terminal_risk_{window}" for window in TERMINAL_WINDOWS),
    "terminal_since_fraud",
)

# A model, a snapshot and a lake are only of use to the definition that they were made with.
DEFINITION = hashlib.sha256(
    repr((1, NAMES, CARD_WINDOWS, TERMINAL_WINDOWS, config.HABIT, config.LARGE, config.BOOK_LAG)).encode()
).hexdigest()[:12]


class StepFailed(Exception):
    """Our own code has failed on an event; `cell` is the hour that it has closed all the same, if any."""

    def __init__(self, cell: Cell | None) -> None:
        super().__init__("an event cannot be taken in")
        self.cell = cell


def code(text: str | None, bits: int) -> int:
    """A short number for a device or country; 0 is the unknown."""
    return 0 if text is None else crc32(text.encode()) >> (32 - bits)


def needs(event: Event) -> int:
    """The last hour of the terminal book that an event looks at; -1: it does not look."""
    return usable(event.at) if isinstance(event, Transaction) else -1


class State:
    """One partition: its cards, its open hour, and the verdicts it has counted."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.watermark = 0  # the latest event time seen
        self.cards: dict[str, Card] = {}
        self.open = OpenHour()
        self.verdicts: dict[str, tuple[bool, int]] = {}  # identity -> fraud, known at

    def step(self, event: Event, book: Book) -> tuple[Features | None, Cell | None]:
        """Take one event in, in the order of offsets.

        Returns the features of a payment as it sees the past (None for what is no payment, and for
        one that comes too late to be placed), and the hour that this event has closed, if any.

        Raises:
            StepFailed: our own code has failed on the event. A payment has been taken in whole or not at all, and so
                has a label; a replay and training's fold come to the same state.
        """
        probe = False
        if isinstance(event, Transaction):
            if event.at < self.watermark - config.ALLOWED_LATENESS:
                return None, None
            probe = event.probe
        # A probe leaves no trace but on its own card: test traffic must not move the bank's time.
        cell = None if probe else self._advance(event.moment)
        try:
            if isinstance(event, Transaction):
                return self._pay(event, book), cell
            if isinstance(event, Label):
                self._learn(event)
        except Exception as error:
            raise StepFailed(cell) from error
        return None, cell

    def _advance(self, at: int) -> Cell | None:
        if at <= self.watermark:
            return None
        if at // DAY > self.watermark // DAY:  # once a day: it looks at every card
            silent = [name for name, card in self.cards.items() if card.last < at - config.SILENT]
            for name in silent:
                del self.cards[name]
        self.watermark = at
        return self.open.advance(at, self.partition)

    def _pay(self, event: Transaction, book: Book) -> Features:
        """First what is seen, then what is counted, last the features: what fails leaves nothing half counted."""
        card = self._card(event.card)
        device, country, cents = code(event.device, 32), code(event.country, 16), event.cents
        seen = card.see(event.at, device, country)
        visited = book.see(event.terminal, event.at)
        card.add(event.at, cents, device, country, median=seen.median)
        card.forget(self.watermark - config.ALLOWED_LATENESS - MONTH)
        if not event.probe:
            self.open.count(event.terminal, 1, 0)
        features = _vector(event, seen, visited)
        if not isfinite(sum(features)):  # JSON has no infinity, so the decision could not be read
            raise ValueError("a feature is not finite")
        return features

    def _card(self, card: str) -> Card:
        if card not in self.cards:
            self.cards[card] = Card()
        return self.cards[card]

    def _learn(self, label: Label) -> None:
        """Count a verdict once; one that contradicts the last takes its place from now on."""
        fraud, since = self.verdicts.get(label.identity, (False, 0))
        # First what can fail, so that a label is taken in whole or not at all.
        if label.fraud and not fraud:
            self._card(label.card).learn(label.at)
            self.open.count(label.terminal, 0, 1)
        elif fraud and not label.fraud:
            self._card(label.card).unlearn(since)
            self.open.count(label.terminal, 0, -1)
        if label.fraud != fraud or not since:
            self.verdicts[label.identity] = (label.fraud, label.at)
        while self.verdicts and next(iter(self.verdicts.values()))[1] < self.watermark - 4 * MONTH:
            del self.verdicts[next(iter(self.verdicts))]


def _vector(event: Transaction, seen: Seen, visited: Visited) -> Features:
    """In the order of NAMES."""
    cents, counts, (ten, hour, day, week, month) = event.cents, seen.counts, seen.cents
    return [
        cents / 100,
        event.at % DAY // HOUR,
        (event.at // DAY + 3) % 7,  # the epoch began on a Thursday; Monday is 0
        *counts,
        ten / 100,
        hour / 100,
        day / 100,
        week / 100,
        month / 100,
        cents * counts[3] / week if week else 0.0,
        cents * counts[4] / month if month else 0.0,
        cents / seen.median if seen.median else 0.0,
        cents / seen.maximum if seen.maximum else 0.0,
        *seen.large,
        seen.since,
        seen.same_device,
        seen.same_country,
        int(seen.same_device == 0 < counts[4]),
        int(seen.same_country == 0 < counts[4]),
        seen.frauds,
        seen.since_fraud,
        *visited.payments,
        *visited.frauds,
        *[known / paid if paid else 0.0 for known, paid in zip(visited.frauds, visited.payments, strict=True)],
        visited.since_fraud,
    ]


def fold(streams: Sequence[Iterable[Event]]) -> Iterator[tuple[int, Event, Features | None]]:
    """Replay partitions, each in offset order, as serving steps it; gives (partition, event, features).

    A payment whose features fail has none, as in serving.

    Raises:
        ValueError: a partition lacks the ticks that close the hours which a payment looks at.
    """
    book = Book()
    order: Order[Event] = Order(book)
    states = [State(partition) for partition in range(len(streams))]
    ahead = [iter(stream) for stream in streams]

    def queue(partition: int) -> None:
        """One event a partition is enough to choose from, and stays in the processor's cache."""
        event = next(ahead[partition], None)
        if event is not None:
            order.push(partition, event, at=event.at, needs=needs(event))

    for partition in range(len(ahead)):
        queue(partition)
    while (item := order.pop()) is not None:
        partition, event = item
        queue(partition)
        try:
            vector, cell = states[partition].step(event, book)
        except StepFailed as failed:
            vector, cell = None, failed.cell
        if cell is not None:
            book.add((cell,))
        yield partition, event, vector
    if len(order):
        raise ValueError(f"{len(order)} events wait for hours that no tick has closed")
