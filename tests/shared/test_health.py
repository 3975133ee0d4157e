"""Readiness and liveness say why not, in the first words that matter."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.clock import VirtualClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import Entry, EventLog, Topic
from shared.follower import Follower
from shared.health import LOOP_STALLED, Health
from shared.supervised_thread import GIVE_UP, SupervisedThread

ANSWERS, PAGE = Topic("shop.answers", 1), Topic("shop.page", 1)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = open_log(f"sqlite:///{tmp_path}/log.db", clock=VirtualClock(1_000))
    log.create([ANSWERS, PAGE])
    yield log
    log.close()


def follower(log: EventLog, topic: Topic) -> Follower:
    def take(records: object, _: object) -> None:
        for record in records:  # type: ignore[attr-defined]
            int(record.value)

    return Follower(topic.name, log, [topic], take, timeout=0.01)


@pytest.fixture
def needed(log: EventLog) -> Iterator[Follower]:
    needed = follower(log, ANSWERS)
    yield needed
    needed.stop()


@pytest.fixture
def shown(log: EventLog) -> Iterator[Follower]:
    shown = follower(log, PAGE)
    yield shown
    shown.stop()


def comes(look: Callable[[], object]) -> None:
    until = monotonic() + 10
    while not look():
        assert monotonic() < until
        sleep(0.005)


def test_it_is_ready_when_what_answers_need_has_been_read(needed: Follower) -> None:
    health = Health(needed=[needed])
    assert health.ready() == "still reading shop.answers"
    needed.start()
    comes(lambda: not health.ready())
    assert (health.warnings(), health.live()) == ([], "")


def test_what_only_stands_on_the_page_is_a_warning_with_its_age(needed: Follower, shown: Follower) -> None:
    health = Health(needed=[needed], shown=[shown])
    needed.start()
    comes(lambda: not health.ready())
    assert health.warnings() == ["page: still reading shop.page (0 s old)"]
    shown.start()
    comes(lambda: not health.warnings())
    shown.stop()
    shown._read_at -= 90
    assert health.warnings() == ["page: still reading shop.page (90 s old)"]
    assert health.ready() == ""


def test_records_that_were_skipped_are_warnings_and_no_reason_not_to_be_ready(
    log: EventLog, needed: Follower, shown: Follower
) -> None:
    health = Health(needed=[needed], shown=[shown])
    log.append([Entry(ANSWERS, "k", b"one"), Entry(PAGE, "k", b"one"), Entry(PAGE, "k", b"two")])
    needed.start()
    shown.start()
    comes(lambda: needed.caught_up and shown.caught_up)
    assert health.warnings() == [
        "shop.answers/0: 1 unreadable, last at offset 0 (ValueError)",
        "shop.page/0: 2 unreadable, last at offset 1 (ValueError)",
    ]
    assert health.ready() == ""


def test_a_thread_in_trouble_is_a_reason_not_to_be_ready(needed: Follower) -> None:
    thread = SupervisedThread("ticks", lambda _: None)
    health = Health(needed=[needed], threads=[thread])
    needed.start()
    comes(lambda: not health.ready())
    thread.trouble = "ticks: the log is away"
    assert health.ready() == "ticks: the log is away"
    assert health.live() == ""


def test_the_service_may_add_a_reason_of_its_own_which_comes_last(needed: Follower) -> None:
    health = Health(needed=[needed], service=lambda: "no table yet")
    assert health.ready() == "still reading shop.answers"
    needed.start()
    comes(lambda: health.ready() == "no table yet")


def test_a_loop_without_a_heartbeat_is_not_live(needed: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(needed=[needed], beat=1_000.0)
    for now, said in ((1_000.0, ""), (1_000.0 + LOOP_STALLED, ""), (1_031.0, "the event loop has not run for 31 s")):
        monkeypatch.setattr("shared.health.monotonic", lambda now=now: now)
        assert health.live() == said
    health.beat = 1_031.0
    assert health.live() == ""


@pytest.mark.parametrize("where", ["needed", "shown", "threads"])
def test_a_thread_that_failed_too_often_is_not_live(needed: Follower, shown: Follower, where: str) -> None:
    thread = SupervisedThread("ticks", lambda _: None)
    health = Health(needed=[needed], shown=[shown], threads=[thread])
    dying = {"needed": needed.thread, "shown": shown.thread, "threads": thread}[where]
    dying.failures = GIVE_UP - 1
    assert health.live() == ""
    dying.failures = GIVE_UP
    assert health.live().startswith(f"thread {dying.name} failed 5 times")
