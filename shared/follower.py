"""A thread that follows topics from an offset and hands on their records.

It belongs to no group, so it has nowhere to put a dead letter: a record that cannot be read is counted, logged once,
and named by `warnings`, and the thread goes on behind it.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from pydantic import ValidationError

from shared.clock import monotonic
from shared.dead_letters import Refused, from_validation
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import EventLog, Place, Reader, Record, Topic, beginning
from shared.supervised_thread import SupervisedThread

# Takes a batch, and where it ends. Either all of it is taken, or it raises before anything has changed.
OnBatch = Callable[[Sequence[Record], Mapping[Place, int]], None]

logger = logging.getLogger(__name__)


class Skipped(NamedTuple):
    """The records of a partition that could not be used."""

    records: int
    offset: int  # of the last one
    reason: str


class Follower:
    """Follows `topics` from where `start` says (else the beginning), which is asked at each new beginning.

    It has caught up once it has passed the end that the log had when it began, however much is written meanwhile.
    `serves_stale`: what is known stays good enough to answer from while the log is away.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        topics: Sequence[Topic],
        on_batch: OnBatch,
        *,
        start: Callable[[], Mapping[Place, int]] = dict,
        each_round: Callable[[], None] = lambda: None,
        serves_stale: bool = False,
        limit: int = 2_000,
        timeout: float = 0.25,
    ) -> None:
        self._log, self._topics, self._on_batch, self._start = log, topics, on_batch, start
        self._each_round, self._serves_stale = each_round, serves_stale
        self._limit, self._timeout = limit, timeout
        self._caught_up = self._ever_caught_up = False
        self._read_at = monotonic()
        self._skipped: dict[Place, Skipped] = {}
        self.thread = SupervisedThread(name, self._follow)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.thread.stop()

    @property
    def caught_up(self) -> bool:
        """Whether it has read all that the log held when it (last) began."""
        return self._caught_up

    def age(self) -> float:
        """Seconds since the log could be read last."""
        return monotonic() - self._read_at

    def ready(self) -> str:
        """Why nothing should be answered from what it knows; empty if all is well."""
        if self._caught_up or (self._serves_stale and self._ever_caught_up and not self.thread.failures):
            return ""
        return self.thread.trouble or f"still reading {', '.join(topic.name for topic in self._topics)}"

    def warnings(self) -> list[str]:
        """What was skipped, by partition."""
        return [
            f"{place.topic}/{place.partition}: {records} unreadable, last at offset {offset} ({reason})"
            for place, (records, offset, reason) in list(self._skipped.items())
        ]

    def skip(self, record: Record, error: Exception) -> None:
        """Count a record that cannot be used; without its content, which may name a person."""
        refused = from_validation(error) if isinstance(error, ValidationError) else error
        reason = f"{refused.field}: {refused.reason}" if isinstance(refused, Refused) else type(error).__name__
        place = Place(record.topic, record.partition)
        known = self._skipped.get(place, Skipped(0, -1, ""))
        if record.offset > known.offset:  # else it was counted before the thread began anew
            self._skipped[place] = Skipped(known.records + 1, record.offset, reason)
            logger.error("skipped %s/%s offset %s: %s", record.topic, record.partition, record.offset, reason)

    def _follow(self, stopping: threading.Event) -> None:
        start = beginning(self._topics) | dict(self._start())
        try:
            with closing(self._log.reader(start)) as reader:
                self._read_on(reader, start, stopping)
        finally:
            self._caught_up = False

    def _read_on(self, reader: Reader, start: Mapping[Place, int], stopping: threading.Event) -> None:
        ends = {Place(topic.name, n): end for topic in self._topics for n, end in self._log.ends(topic).items()}
        at = start
        while not stopping.is_set():
            records = reader.poll(self._limit, self._timeout)
            positions = dict(reader.positions)
            self._hand_on(records, at, positions)
            at = positions
            self._each_round()
            if not self._caught_up and all(offset >= ends[place] for place, offset in at.items()):
                self._caught_up = self._ever_caught_up = True
            self._read_at = monotonic()
            self.thread.healthy()

    def _hand_on(self, records: Sequence[Record], before: Mapping[Place, int], after: Mapping[Place, int]) -> None:
        """Hand on a batch; if that raises, one record after the other, so that one bad record costs only itself."""
        try:
            return self._on_batch(records, after)
        except DEPENDENCY_ERRORS:
            raise
        except Exception:
            if not records:
                raise
        at = dict(before)
        for record in records:
            at[Place(record.topic, record.partition)] = record.offset + 1
            try:
                self._on_batch([record], at)
            except DEPENDENCY_ERRORS:
                raise
            except Exception as error:
                self.skip(record, error)
                self._on_batch([], at)
        self._on_batch([], after)


def by_topic(handlers: Mapping[str, Callable[[Record], None]], on_bad: Callable[[Record, Exception], None]) -> OnBatch:
    """Hands each record to its topic's handler; what a handler raises concerns that record alone."""

    def on_batch(records: Sequence[Record], _: Mapping[Place, int]) -> None:
        for record in records:
            try:
                handlers[record.topic](record)
            except DEPENDENCY_ERRORS:
                raise
            except Exception as error:
                on_bad(record, error)

    return on_batch
