"""Work beside a loop, and the heartbeat that tells of it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from shared.background_job import EVERY, BackgroundJob, Heart, Heartbeat, _locks
from shared.clock import monotonic, sleep
from shared.eventlog.port import Entry, Topic

HEARTBEATS = Topic("shop.heartbeats", 1, compacted=True)


@pytest.fixture
def job() -> Iterator[BackgroundJob[int]]:
    job = BackgroundJob[int]()
    yield job
    job.close()


def ended(job: BackgroundJob[int]) -> Future[int]:
    until = monotonic() + 10
    while (done := job.finished()) is None:
        assert monotonic() < until
        sleep(0.002)
    return done


def test_without_work_nothing_is_finished(job: BackgroundJob[int]) -> None:
    assert (job.finished(), job.doing) == (None, "")


def test_work_runs_beside_the_loop_and_is_given_out_once(job: BackgroundJob[int]) -> None:
    go, where = threading.Event(), []

    def work() -> int:
        where.append(threading.current_thread())
        go.wait(10)
        return 7

    job.start("training", work)
    assert (job.finished(), job.doing) == (None, "training")
    go.set()
    assert ended(job).result() == 7
    assert (job.finished(), job.doing) == (None, "")
    assert where != [threading.current_thread()]


def test_what_the_work_raises_comes_with_the_result(job: BackgroundJob[int]) -> None:
    def work() -> int:
        raise OSError("the registry is away")

    job.start("training", work)
    with pytest.raises(OSError, match="the registry is away"):
        ended(job).result()


def test_one_piece_of_work_at_a_time_until_its_result_was_taken(job: BackgroundJob[int]) -> None:
    go = threading.Event()
    job.start("training", lambda: int(go.wait(10)))
    with pytest.raises(RuntimeError, match="training is under way"):
        job.start("judging", lambda: 2)
    go.set()
    assert ended(job).result() == 1
    job.start("judging", lambda: 2)
    assert ended(job).result() == 2


def test_closing_does_not_wait_and_the_next_work_of_the_kind_waits_in_its_own_thread(
    job: BackgroundJob[int],
) -> None:
    """A log that is away for a second ends the loop: its successor must answer commands, whatever is under way."""
    left, began, go = BackgroundJob[int](), threading.Event(), threading.Event()
    order = []

    def training() -> int:
        began.set()
        go.wait(10)
        order.append("orphan")
        return 1

    left.start("training", training)
    assert began.wait(10)
    at = monotonic()
    left.close()
    job.start("training", lambda: order.append("successor") or 2)  # type: ignore[func-returns-value]
    assert (monotonic() - at < 1, job.doing) == (True, "training")

    other = BackgroundJob[int]()
    other.start("looking a version up", lambda: 3)
    assert ended(other).result() == 3, "work of another kind does not wait"
    other.close()

    assert (job.finished(), order) == (None, [])
    go.set()
    assert ended(job).result() == 2
    assert order == ["orphan", "successor"]


def test_work_that_was_still_waiting_when_its_job_was_closed_is_not_done(job: BackgroundJob[int]) -> None:
    first, second, go, done = BackgroundJob[int](), BackgroundJob[int](), threading.Event(), []
    first.start("training", lambda: int(go.wait(10)))
    until = monotonic() + 10
    while not _locks["training"].locked():
        assert monotonic() < until
        sleep(0.002)
    second.start("training", lambda: done.append("second") or 1)  # type: ignore[func-returns-value]
    first.close()
    second.close()
    job.start("training", lambda: 3)
    go.set()
    assert (ended(job).result(), done) == (3, [])


def test_work_that_raised_keeps_no_other_from_beginning(job: BackgroundJob[int]) -> None:
    job.start("training", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        ended(job).result()
    job.start("training", lambda: 2)
    assert ended(job).result() == 2


# --- the heartbeat -----------------------------------------------------------------------------------------


class Clock:
    """Wall clock and monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.up = 1_000, 50.0

    def now(self) -> int:
        return self.wall

    def move(self, seconds: float) -> None:
        self.wall, self.up = self.wall + int(seconds), self.up + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("shared.background_job.SystemClock", lambda: clock)
    monkeypatch.setattr("shared.background_job.monotonic", lambda: clock.up)
    return clock


@pytest.fixture
def beat(clock: Clock) -> Callable[[str], Heartbeat | None]:  # noqa: ARG001  # the heart's own clock
    heart = Heart("monitor", HEARTBEATS)

    def told(doing: str) -> Heartbeat | None:
        entries: list[Entry] = heart.beat(doing)
        assert len(entries) < 2
        if not entries:
            return None
        assert (entries[0].topic, entries[0].key) == (HEARTBEATS, "monitor")
        return Heartbeat.model_validate_json(entries[0].value)

    return told


def test_it_beats_at_once_and_then_every_few_seconds(clock: Clock, beat: Callable[[str], Heartbeat | None]) -> None:
    assert beat("") == Heartbeat(process="monitor", doing="", since=1_000, at=1_000)
    assert beat("") is None
    clock.move(EVERY - 1)
    assert beat("") is None
    clock.move(1)
    assert beat("") == Heartbeat(process="monitor", doing="", since=1_000, at=1_005)
    assert beat("") is None


def test_new_work_is_told_at_once_with_its_beginning(clock: Clock, beat: Callable[[str], Heartbeat | None]) -> None:
    beat("")
    clock.move(2)
    assert beat("training") == Heartbeat(process="monitor", doing="training", since=1_002, at=1_002)
    assert beat("training") is None
    clock.move(EVERY)
    assert beat("training") == Heartbeat(process="monitor", doing="training", since=1_002, at=1_007)
    clock.move(1)
    assert beat("") == Heartbeat(process="monitor", doing="", since=1_008, at=1_008)
