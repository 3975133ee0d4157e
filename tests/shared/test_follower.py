"""A follower reads on behind bad records, through outages, and says when its knowledge is whole."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local import Kafka
from shared.clock import VirtualClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Place, Record, Topic
from shared.follower import Follower, OnBatch, by_topic
from shared.messages import Message

IN = Topic("shop.events", 2)
MORE = Topic("shop.more", 1)


class Number(Message):
    n: int


class Knowledge:
    """What a service keeps of what it reads: begins anew with the thread, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.batches: list[int] = []  # sizes
        self.positions: Mapping[Place, int] = {}
        self.begun = 0
        self.fails: dict[int, Exception] = {}  # by number, what its handling raises
        self.hold = threading.Event()
        self.hold.set()

    def start(self) -> Mapping[Place, int]:
        self.begun += 1
        self.numbers = []
        return {}

    def take(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        self.hold.wait(10)
        read = [Number.model_validate_json(record.value).n for record in records]
        for n in read:
            if n in self.fails:
                raise self.fails[n]
        self.numbers += read
        self.batches.append(len(records))
        self.positions = dict(positions)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    log = open_log(f"sqlite:///{path}", clock=VirtualClock(1_000))
    log.create([IN, MORE])
    yield log
    log.close()


@pytest.fixture
def known() -> Knowledge:
    return Knowledge()


@pytest.fixture
def follow(log: EventLog, known: Knowledge) -> Iterator[Callable[..., Follower]]:
    with ExitStack() as started:

        def starts(on_batch: OnBatch = known.take, *topics: Topic, **options: object) -> Follower:
            options = {"start": known.start, "timeout": 0.02} | options
            follower = Follower("numbers", log, topics or [IN], on_batch, **options)  # type: ignore[arg-type]
            follower.start()
            started.callback(follower.stop)
            started.callback(known.hold.set)
            return follower

        yield starts


def write(log: EventLog, *values: int | bytes, topic: Topic = IN, partition: int = 0) -> None:
    encoded = [value if isinstance(value, bytes) else b'{"n": %d}' % value for value in values]
    log.append([Entry(topic, "k", value, partition) for value in encoded])


def comes(look: Callable[[], object], seconds: float = 10.0) -> None:
    until = monotonic() + seconds
    while not look():
        assert monotonic() < until
        sleep(0.005)


# --- reading -------------------------------------------------------------------------------------------


def test_it_reads_what_is_there_and_then_what_comes(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    write(log, 1, 2)
    write(log, 10, partition=1)
    follower = follow()
    comes(lambda: follower.caught_up)
    assert sorted(known.numbers) == [1, 2, 10]
    assert (follower.ready(), follower.warnings()) == ("", [])
    write(log, 3)
    comes(lambda: 3 in known.numbers)
    assert known.positions == {Place(IN.name, 0): 3, Place(IN.name, 1): 1}


def test_an_empty_log_is_caught_up_with_at_once(known: Knowledge, follow: Callable[..., Follower]) -> None:
    follower = follow()
    comes(lambda: follower.caught_up)
    assert known.positions == {Place(IN.name, 0): 0, Place(IN.name, 1): 0}


def test_before_it_has_caught_up_it_is_not_ready_and_names_its_topics(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    write(log, 1)
    known.hold.clear()
    follower = follow(known.take, IN, MORE)
    assert (follower.caught_up, follower.ready()) == (False, "still reading shop.events, shop.more")
    known.hold.set()
    comes(lambda: not follower.ready())


def test_it_starts_where_it_is_told_and_at_the_beginning_of_partitions_not_named(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    write(log, 1, 2, 3)
    write(log, 10, 11, partition=1)
    follower = follow(start=lambda: {Place(IN.name, 0): 2})
    comes(lambda: follower.caught_up)
    assert sorted(known.numbers) == [3, 10, 11]


def test_batches_are_as_large_as_the_limit_allows(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    write(log, *range(7))
    follower = follow(limit=3)
    comes(lambda: follower.caught_up)
    assert [size for size in known.batches if size] == [3, 3, 1]


def test_it_catches_up_while_others_write_without_pause(
    log: EventLog, path: Path, follow: Callable[..., Follower]
) -> None:
    """It has to pass the end that was there when it began, not the end of a log that never ends."""
    write(log, *range(50))
    stop = threading.Event()
    slow = threading.Event()

    def writes() -> None:
        other = open_log(f"sqlite:///{path}", clock=VirtualClock(1_000))
        for n in count(100):
            if stop.is_set():
                break
            write(other, n, n + 1, n + 2)
        other.close()

    def take(records: Sequence[Record], _: Mapping[Place, int]) -> None:
        slow.wait(0.01 * len(records))  # slower than the writer: it never gets to the end

    writer = threading.Thread(target=writes)
    writer.start()
    try:
        follower = follow(take, limit=5)
        comes(lambda: follower.caught_up)
        assert log.ends(IN)[0] > 60
    finally:
        stop.set()
        writer.join()


def test_each_round_is_called_with_or_without_records(follow: Callable[..., Follower]) -> None:
    rounds = count()
    follow(each_round=lambda: next(rounds))
    comes(lambda: next(rounds) > 10)


def test_age_is_that_of_the_last_look_at_the_log(
    follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = follow()
    comes(lambda: follower.caught_up)
    assert follower.age() < 5
    follower.stop()
    monkeypatch.setattr("shared.follower.monotonic", lambda: monotonic() + 60)
    assert 60 <= follower.age() < 70


# --- bad records ---------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_read_costs_only_itself(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower], caplog: pytest.LogCaptureFixture
) -> None:
    write(log, 1, b"\xff", 2, b'{"n": "Anna Example"}', 3)
    write(log, b"[]", 10, partition=1)
    follower = follow()
    comes(lambda: follower.caught_up)
    assert sorted(known.numbers) == [1, 2, 3, 10]
    assert known.positions == {Place(IN.name, 0): 5, Place(IN.name, 1): 2}
    first, second = sorted(follower.warnings())
    assert first.startswith("shop.events/0: 2 unreadable, last at offset 3 (n: Input should be a valid integer")
    assert second.startswith("shop.events/1: 1 unreadable, last at offset 0 (message: ")
    assert follower.ready() == ""
    assert len([record for record in caplog.records if "skipped" in record.message]) == 3
    assert "Anna" not in caplog.text + "".join(follower.warnings())
    assert follower.thread.failures == 0


def test_the_last_record_may_be_bad(log: EventLog, known: Knowledge, follow: Callable[..., Follower]) -> None:
    write(log, b"")
    follower = follow()
    comes(lambda: follower.caught_up)
    assert known.positions == {Place(IN.name, 0): 1, Place(IN.name, 1): 0}
    write(log, 1)
    comes(lambda: known.numbers == [1])


def test_an_error_of_the_handler_skips_the_record_that_caused_it(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    known.fails = {2: ZeroDivisionError("division of Anna by zero")}
    write(log, 1, 2, 3)
    follower = follow()
    comes(lambda: follower.caught_up)
    assert (known.numbers, follower.warnings()) == (
        [1, 3],
        ["shop.events/0: 1 unreadable, last at offset 1 (ZeroDivisionError)"],
    )


def test_a_batch_that_fails_as_a_whole_is_taken_one_by_one(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    def take(records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        if len(records) > 1:
            raise ValueError("too many")
        known.take(records, positions)

    write(log, 1, 2, 3)
    follower = follow(take)
    comes(lambda: follower.caught_up)
    assert (known.numbers, follower.warnings()) == ([1, 2, 3], [])
    assert [size for size in known.batches if size] == [1, 1, 1]


def test_the_positions_move_with_each_record_that_is_taken_alone(
    log: EventLog, follow: Callable[..., Follower]
) -> None:
    seen: list[tuple[int, int]] = []

    def take(records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        for record in records:
            Number.model_validate_json(record.value)
        seen.append((len(records), positions[Place(IN.name, 0)]))

    write(log, 1, b"", 2)
    follower = follow(take)
    comes(lambda: follower.caught_up)
    assert seen[:4] == [(1, 1), (0, 2), (1, 3), (0, 3)]


def test_a_dependency_is_waited_for_and_nothing_is_skipped(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.supervised_thread.RETRY", 0.02)
    known.fails = {2: OSError("the store is away")}
    write(log, 1, b"", 2, 3)  # the bad record makes it take them one by one
    follower = follow()
    comes(lambda: known.begun > 3)
    assert (follower.ready(), follower.thread.failures) == ("numbers: the store is away", 0)
    known.fails = {}
    comes(lambda: follower.caught_up)
    assert known.numbers == [1, 2, 3]
    assert follower.warnings()[0].startswith("shop.events/0: 1 unreadable, last at offset 1")


def test_an_error_without_a_record_is_a_failure_of_the_thread_and_not_of_the_records(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.supervised_thread.PAUSE", 0.01)
    broken = threading.Event()

    def round_() -> None:
        if broken.is_set():
            raise ValueError("a fault of ours")

    write(log, 1)
    follower = follow(each_round=round_)
    comes(lambda: follower.caught_up)
    broken.set()
    comes(lambda: follower.thread.failures > 1)
    assert follower.ready() == "thread numbers ended: ValueError"
    broken.clear()
    comes(lambda: not follower.ready())
    assert (known.numbers, follower.warnings()) == ([1], [])


def test_what_was_skipped_before_a_restart_is_not_counted_again(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.supervised_thread.PAUSE", 0.01)
    write(log, b"", 1, b"", 2)
    fail = threading.Event()

    def round_() -> None:
        if fail.is_set():
            fail.clear()
            raise ValueError

    follower = follow(each_round=round_)
    comes(lambda: follower.caught_up)
    before = follower.warnings()
    fail.set()
    comes(lambda: known.begun == 2 and follower.caught_up)
    assert (follower.warnings(), known.numbers) == (before, [1, 2])
    write(log, b"")
    comes(lambda: follower.warnings()[0].startswith("shop.events/0: 3 unreadable, last at offset 4"))


# --- readiness -----------------------------------------------------------------------------------------


def test_while_it_waits_for_its_restart_it_is_not_ready(
    follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.supervised_thread.PAUSE", 60.0)
    fail = threading.Event()
    follower = follow(each_round=lambda: 1 / 0 if fail.is_set() else None, serves_stale=True)
    comes(lambda: follower.caught_up)
    fail.set()
    comes(lambda: follower.thread.failures)
    assert (follower.caught_up, follower.ready()) == (False, "thread numbers ended: ZeroDivisionError")


@pytest.mark.parametrize("stale", [True, False])
def test_while_the_log_is_away_only_one_that_serves_stale_is_ready(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    follower = follow(serves_stale=stale)
    comes(lambda: follower.caught_up)

    def away(*_: object) -> None:
        raise LogUnavailable("the log is away")

    with monkeypatch.context() as outage:
        outage.setattr("shared.eventlog.sqlite.SqliteReader.poll", away)
        comes(lambda: follower.thread.trouble)
        sleep(0.3)
        assert follower.ready() == ("" if stale else "numbers: the log is away")
    write(log, 1)
    comes(lambda: follower.caught_up and known.numbers == [1])
    assert follower.ready() == follower.thread.trouble == ""


def test_one_that_serves_stale_is_not_ready_before_it_has_read_everything_once(
    follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise LogUnavailable("the log is away")

    monkeypatch.setattr("shared.eventlog.sqlite.SqliteLog.reader", away)
    follower = follow(serves_stale=True)
    comes(lambda: follower.thread.trouble)
    assert follower.ready() == "numbers: the log is away"


def test_once_stopped_it_reads_no_more_and_is_not_ready(
    log: EventLog, known: Knowledge, follow: Callable[..., Follower]
) -> None:
    follower = follow()
    comes(lambda: follower.caught_up)
    follower.stop()
    write(log, 1)
    sleep(0.1)
    assert (known.numbers, follower.caught_up) == ([], False)


# --- handlers by topic -----------------------------------------------------------------------------------


def test_each_record_goes_to_the_handler_of_its_topic_and_errors_concern_it_alone() -> None:
    took: list[tuple[str, bytes]] = []
    bad: list[tuple[bytes, str]] = []

    def number(record: Record) -> None:
        took.append(("n", record.value))
        int(record.value)

    on_batch = by_topic(
        {IN.name: number, MORE.name: lambda record: took.append(("more", record.value))},
        lambda record, error: bad.append((record.value, type(error).__name__)),
    )
    topics = [IN.name, MORE.name, IN.name, "shop.unknown", IN.name]
    records = [Record(topic, 0, n, "k", b"%d" % n, 0) for n, topic in enumerate(topics)]
    records[2] = records[2]._replace(value=b"two")
    on_batch(records, {})
    assert took == [("n", b"0"), ("more", b"1"), ("n", b"two"), ("n", b"4")]
    assert bad == [(b"two", "ValueError"), (b"3", "KeyError")]


def test_a_handlers_dependency_is_not_the_records_fault() -> None:
    def away(_: Record) -> None:
        raise LogUnavailable("away")

    with pytest.raises(LogUnavailable):
        by_topic({IN.name: away}, lambda *_: pytest.fail("counted"))([Record(IN.name, 0, 0, "k", b"", 0)], {})


def test_a_follower_by_topic_skips_what_a_handler_refuses(log: EventLog, known: Knowledge) -> None:
    skips: list[Callable[[Record, Exception], None]] = []

    def number(record: Record) -> None:
        known.numbers.append(Number.model_validate_json(record.value).n)

    write(log, 1, b"", 2)
    write(log, 3, topic=MORE)
    handlers = by_topic({IN.name: number, MORE.name: number}, lambda *of: skips[0](*of))
    follower = Follower("numbers", log, [IN, MORE], handlers, start=known.start, timeout=0.02)
    skips.append(follower.skip)
    follower.start()
    try:
        comes(lambda: follower.caught_up)
    finally:
        follower.stop()
    assert sorted(known.numbers) == [1, 2, 3]
    assert len(follower.warnings()) == 1


# --- Kafka -----------------------------------------------------------------------------------------------


@pytest.mark.kill
@pytest.mark.slow
def test_it_lives_through_the_death_of_a_broker(broker: Kafka, known: Knowledge) -> None:
    log = open_log(f"{broker.url}/{uuid4().hex[:8]}", clock=VirtualClock(1_000))
    log.create([IN])
    write(log, 1, b"", 2)
    follower = Follower("numbers", log, [IN], known.take, start=known.start)
    follower.start()
    try:
        comes(lambda: follower.caught_up, 30)
        assert known.numbers == [1, 2]
        broker.kill()
        comes(lambda: follower.thread.trouble, 30)
        assert follower.ready().startswith("numbers: ")
        broker.start()
        comes(lambda: follower.caught_up, 60)
        write(log, 3)
        comes(lambda: known.numbers == [1, 2, 3], 30)
        assert len(follower.warnings()) == 1
        assert "1 unreadable, last at offset 1" in follower.warnings()[0]
    finally:
        follower.stop()
        log.close()
