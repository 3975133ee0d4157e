"""Runs minutes of work beside a loop that must go on, such as training; and the heartbeat that reports it."""

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from shared.clock import SystemClock, monotonic
from shared.eventlog.port import Entry, Topic
from shared.messages import Message

EVERY = 5.0  # seconds between two heartbeats

Result = TypeVar("Result")

# One per kind of work, for the whole process: work that its loop has left must not run beside its successor.
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class Heartbeat(Message):
    """What a process is doing, told every few seconds; times are of the wall clock, in seconds."""

    process: str
    doing: str = ""  # empty: it waits for work
    since: int
    at: int


class BackgroundJob(Generic[Result]):
    """At most one piece of work at a time, in a thread of its own; the loop asks `finished` for its result.

    Of one kind (`doing`) at most one piece of work runs in a process, whichever job it is of; a second one waits in
    its own thread, so the loop never waits.
    """

    def __init__(self) -> None:
        self.doing = ""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="job")
        self._future: Future[Result] | None = None
        self._closed = threading.Event()

    def start(self, doing: str, work: Callable[[], Result]) -> None:
        """Raises RuntimeError while another piece of work is under way."""
        if self._future is not None:
            raise RuntimeError(f"{self.doing} is under way")
        self.doing, self._future = doing, self._executor.submit(self._run, _locks[doing], work)

    def finished(self) -> Future[Result] | None:
        """The work that has ended, once; its `result` raises what the work raised."""
        if self._future is None or not self._future.done():
            return None
        done, self._future, self.doing = self._future, None, ""
        return done

    def close(self) -> None:
        """Begin nothing more, without waiting: work that is under way goes on to its end, and its result is lost."""
        self._closed.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, lock: threading.Lock, work: Callable[[], Result]) -> Result:
        with lock:
            if self._closed.is_set():  # it was closed while this waited for the lock
                raise CancelledError
            return work()


class Heart:
    """Gives the heartbeat of a process when one is due."""

    def __init__(self, process: str, topic: Topic) -> None:
        self._process, self._topic, self._clock = process, topic, SystemClock()
        self._doing, self._since, self._next = "", self._clock.now(), 0.0

    def beat(self, doing: str) -> list[Entry]:
        """The record to be written: at once when `doing` changes, else every EVERY seconds."""
        if doing == self._doing and monotonic() < self._next:
            return []
        if doing != self._doing:
            self._doing, self._since = doing, self._clock.now()
        self._next = monotonic() + EVERY
        told = Heartbeat(process=self._process, doing=doing, since=self._since, at=self._clock.now())
        return [Entry(self._topic, self._process, told.model_dump_json().encode())]
