"""A thread that ends says so, and is started again."""

import threading
from collections.abc import Callable, Iterator

import pytest

from shared.clock import monotonic, sleep
from shared.eventlog.port import LogUnavailable
from shared.supervised_thread import GIVE_UP, LONGEST_PAUSE, PAUSE, RETRY, STEADY, SupervisedThread


class Work:
    """Does as it is told at each beginning; then waits to be stopped."""

    def __init__(self, *raises: BaseException | None) -> None:
        self.raises = list(raises)
        self.begun = 0
        self.thread = SupervisedThread("counter", self)

    def __call__(self, stopping: threading.Event) -> None:
        self.begun += 1
        error = self.raises.pop(0) if self.raises else None
        if error is not None:
            raise error
        self.thread.healthy()
        stopping.wait()


@pytest.fixture
def run() -> Iterator[Callable[..., Work]]:
    started: list[Work] = []

    def start(*raises: BaseException | None) -> Work:
        started.append(Work(*raises))
        started[-1].thread.start()
        return started[-1]

    yield start
    for work in started:
        work.thread.stop()


def comes(look: Callable[[], object]) -> None:
    until = monotonic() + 10
    while not look():
        assert monotonic() < until
        sleep(0.002)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a thread would wait before it begins again, in seconds; it does not."""
    asked: list[float] = []
    wait = threading.Event.wait

    def short(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None or not threading.current_thread().name.startswith("counter"):
            return wait(event, timeout)
        asked.append(timeout)
        return wait(event, 0.001)

    monkeypatch.setattr(threading.Event, "wait", short)
    return asked


def test_work_that_goes_well_runs_once_in_a_thread_of_its_name(run: Callable[..., Work]) -> None:
    work = run()
    comes(lambda: work.begun)
    assert "counter" in {thread.name for thread in threading.enumerate()}
    assert (work.begun, work.thread.trouble, work.thread.failures, work.thread.fatal_reason()) == (1, "", 0, "")


def test_stop_ends_it_and_start_begins_again(run: Callable[..., Work]) -> None:
    work = run()
    comes(lambda: work.begun)
    work.thread.stop()
    assert work.thread._thread is not None
    assert not work.thread._thread.is_alive()
    work.thread.start()
    comes(lambda: work.begun == 2)


def test_one_that_never_started_can_be_stopped() -> None:
    Work().thread.stop()


@pytest.mark.parametrize("error", [LogUnavailable("away"), OSError("away"), MemoryError("away")])
def test_a_dependency_is_waited_for_and_is_no_failure(
    run: Callable[..., Work], pauses: list[float], error: Exception
) -> None:
    work = run(*[error] * 7)
    comes(lambda: work.begun == 8 and not work.thread.trouble)
    assert (pauses, work.thread.failures, work.thread.fatal_reason()) == ([RETRY] * 7, 0, "")


def test_while_it_waits_for_a_dependency_it_says_for_which(run: Callable[..., Work]) -> None:
    work = run(*[LogUnavailable("the log is away")] * 1_000)
    comes(lambda: work.thread.trouble)
    assert (work.thread.trouble, work.thread.fatal_reason()) == ("counter: the log is away", "")


@pytest.mark.usefixtures("pauses")
def test_an_outage_is_logged_once_and_its_end_too(run: Callable[..., Work], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shared.supervised_thread")
    away = [LogUnavailable(f"the log is away (request {n})") for n in range(7)]
    work = run(*away, OSError("the disk is full"), *away)
    comes(lambda: work.begun == 16 and not work.thread.trouble)
    comes(lambda: len(caplog.messages) == 3)
    assert caplog.messages == [
        "counter: the log is away (request 0), trying again until it answers",
        "counter: the disk is full, trying again until it answers",
        "counter goes on again",
    ]
    work.thread.healthy()
    assert len(caplog.messages) == 3


def test_a_failure_is_told_without_its_words_and_logged_with_them(
    run: Callable[..., Work], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.supervised_thread.PAUSE", 60.0)
    work = run(ValueError("hunter2"))
    comes(lambda: "hunter2" in caplog.text)
    assert work.thread.trouble == "thread counter ended: ValueError"
    assert (work.thread.failures, work.thread.fatal_reason()) == (1, "")


def test_it_begins_again_after_pauses_that_double(run: Callable[..., Work], pauses: list[float]) -> None:
    work = run(*[ValueError()] * 7)
    comes(lambda: work.begun == 8)
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE, 16 * PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_it_begins_again_for_ever(pauses: list[float]) -> None:
    """The pause must not grow until it is no number any more."""
    work = Work(*[ValueError()] * 3)
    work.thread.failures = 1_100
    work.thread.start()
    comes(lambda: work.begun == 4)
    work.thread.stop()
    assert pauses == [LONGEST_PAUSE] * 3


def test_after_five_failures_in_a_row_only_a_new_process_helps(run: Callable[..., Work], pauses: list[float]) -> None:
    work = run(*[ValueError()] * GIVE_UP)
    comes(lambda: work.begun == GIVE_UP + 1)
    assert len(pauses) == GIVE_UP == 5
    assert work.thread.fatal_reason().startswith("thread counter failed 5 times")
    fewer = run(*[ValueError()] * (GIVE_UP - 1))
    comes(lambda: fewer.begun == GIVE_UP)
    assert fewer.thread.fatal_reason() == ""


@pytest.mark.usefixtures("pauses")
def test_a_round_that_goes_well_ends_the_trouble_and_only_steady_work_ends_the_count(
    run: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = run(*[ValueError()] * 5)
    comes(lambda: work.begun == 6 and not work.thread.trouble)
    assert work.thread.failures == 5
    monkeypatch.setattr("shared.supervised_thread.monotonic", lambda: monotonic() + STEADY - 5)
    work.thread.healthy()
    assert work.thread.failures == 5
    monkeypatch.setattr("shared.supervised_thread.monotonic", lambda: monotonic() + STEADY + 1)
    work.thread.healthy()
    assert (work.thread.failures, work.thread.fatal_reason()) == (0, "")


def test_stop_does_not_wait_for_the_pause(run: Callable[..., Work], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.supervised_thread.PAUSE", 60.0)
    work = run(ValueError())
    comes(lambda: work.thread.trouble)
    began = monotonic()
    work.thread.stop()
    assert monotonic() - began < 5


def test_work_that_returns_before_it_is_stopped_is_a_failure(pauses: list[float]) -> None:
    thread = SupervisedThread("counter", lambda _: None)
    thread.start()
    comes(lambda: thread.failures > 2)
    thread.stop()
    assert thread.trouble == "thread counter ended: RuntimeError"
    assert pauses
