"""What `shared/eventlog/port.py` guarantees, and every log has to keep.

A log opened twice at one URL stands for two processes; where a process dies, it is a real one.
"""

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import OffsetAndMetadata
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.partitioner.default import murmur2

from infra.local import Kafka
from shared.checklist import ROOT
from shared.clock import Clock, SystemClock, VirtualClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.kafka import TRANSACTION, KafkaLog
from shared.eventlog.port import (
    DAY,
    MAX_RECORD,
    Consumer,
    Entry,
    EventLog,
    Fenced,
    LogUnavailable,
    OtherScheme,
    Place,
    Position,
    Reader,
    Record,
    RecordTooLarge,
    Topic,
    beginning,
    is_misplaced,
    partition_of,
)
from shared.eventlog.sqlite import TIDY, SqliteConsumer, SqliteLog
from tests.retention import shorten
from tests.threads import at_once

IN = Topic("in", 4)
OUT = Topic("out", 2)
NEWEST = Topic("newest", 1, compacted=True)
NOWHERE = Topic("nowhere", 1)  # is never created
NO_BYTES: Any = object()
GROUP = "group"
# Seconds, where a test waits for a claim to run out, or where members in one thread wait for one another.
SHORT = {"sqlite.LEASE": 0.4, "kafka.SESSION": 1.0, "kafka_members.JOIN": 0.4}
SILENT = 1.2  # seconds after which a claim has run out


@pytest.fixture(params=["sqlite", "kafka"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty log of its own for every test."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/var/log.db"
    broker: Kafka = request.getfixturevalue("broker")
    return f"{broker.url}/{uuid4().hex[:8]}"


@pytest.fixture
def start(url: str) -> Iterator[Callable[[], EventLog]]:
    """Opens the log once more, as another process would; closed after the test."""
    with ExitStack() as opened:

        def another() -> EventLog:
            log = opened.enter_context(closing(open_log(url, clock=VirtualClock(1_000))))
            log.create([IN, OUT, NEWEST])
            return log

        yield another


@pytest.fixture
def log(start: Callable[[], EventLog]) -> EventLog:
    return start()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in SHORT.items():
        monkeypatch.setattr(f"shared.eventlog.{name}", seconds)


@pytest.fixture
def join(start: Callable[[], EventLog]) -> Iterator[Callable[[str], Consumer]]:
    """A member of the group, in a process of its own, with the partitions that it gets at once."""
    with ExitStack() as joined:

        def member(name: str) -> Consumer:
            consumer = start().consumer(GROUP, [IN], name)
            joined.callback(consumer.close)
            consumer.poll(0, 0)
            return consumer

        yield member


def payload(number: int) -> bytes:
    return str(number).encode()


def fill(log: EventLog, count: int, *, topic: Topic = IN, partition: int = 0) -> None:
    log.append([Entry(topic, f"k{n}", payload(n), partition) for n in range(count)])


def everything(log: EventLog, topic: Topic) -> list[Record]:
    """All records of a topic, as a newcomer reads them."""
    ends = log.ends(topic)
    records: list[Record] = []
    with closing(log.reader(beginning([topic]))) as reader:
        until = monotonic() + 10
        while any(offset < ends[place.partition] for place, offset in reader.positions.items()):
            records += reader.poll(1_000, 0.1)
            assert monotonic() < until, reader.positions
    return records


def drain(source: Reader | Consumer, count: int, *, limit: int = 1_000) -> list[Record]:
    """Polls until `count` records are there; fails after ten seconds."""
    records: list[Record] = []
    until = monotonic() + 10
    while len(records) < count:
        records += source.poll(limit, 0.1)
        assert monotonic() < until, f"{len(records)} of {count} records"
    return records


def comes(look: Callable[[], object], expected: object) -> None:
    """A commit is durable when it returns; on Kafka it is seen a moment later."""
    until = monotonic() + 5
    while (seen := look()) != expected and monotonic() < until:
        sleep(0.01)
    assert seen == expected


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


def at(offset: int, partition: int = 0, note: str = "") -> dict[Place, Position]:
    return {Place(IN.name, partition): Position(offset, note)}


PREAMBLE = f"""
import sys
from shared.clock import SystemClock, sleep
from shared.eventlog import kafka, kafka_members, open_log, sqlite
from shared.eventlog.port import *
if "short" in sys.argv:
    {"; ".join(f"{name} = {seconds}" for name, seconds in SHORT.items())}
log = open_log(sys.argv[1], clock=SystemClock())
"""


def outside(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own, which has the port imported."""
    command = [sys.executable, "-c", PREAMBLE + program, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def member(url: str) -> Iterator[subprocess.Popen[str]]:
    """A member in a process of its own that owns everything, with a short claim.

    It says each change of what it owns, and how a commit went when it was told to make one.
    """
    program = """
import select
consumer = log.consumer("group", [Topic("in", 4)], "outside")
said = None
while True:
    consumer.poll(0, 0.05)
    owned = [(place.partition, *position) for place, position in sorted(consumer.owned.items())]
    if owned != said:
        print(owned, flush=True)
    said = owned
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.stdin.readline()
        try:
            consumer.commit([Entry(Topic("out", 2), "k", b"7")], {Place("in", 0): Position(7)})
            print("committed", flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
            break
"""
    with outside(program, url, "short") as process:
        yield process
        process.kill()


def owns(member: subprocess.Popen[str], owned: dict[Place, Position]) -> bool:
    return line(member) == str([(place.partition, *position) for place, position in sorted(owned.items())])


def kill_after(process: subprocess.Popen[str], lines: int) -> list[str]:
    """Kills without warning once that many lines came; gives all that it said."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return [line for line in (*said, *rest.splitlines(keepends=True)) if line.endswith("\n")]


# --- topics and partitions ---------------------------------------------------------------------


@given(st.text(), st.integers(1, 64))
def test_the_partition_of_a_key_is_that_of_kafka_s_default_partitioner(key: str, partitions: int) -> None:
    assert partition_of(key, partitions) == (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(
    ("key", "hashed"), [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)]
)
def test_the_partition_of_a_key_is_that_of_kafka_s_java_client(key: str, hashed: int) -> None:
    assert partition_of(key, 1_000) == (hashed & 0x7FFFFFFF) % 1_000  # values from the test of Kafka's Utils.murmur2


def test_a_log_of_another_scheme_is_refused_in_a_sentence_that_says_what_to_do(
    kind: str, log: EventLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedded, the file says its scheme; in Kafka, a topic beside those of the service does."""
    fill(log, 1)
    log.close()
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            db.execute("PRAGMA user_version = 0")
    else:
        monkeypatch.setattr("shared.eventlog.kafka.SCHEME", "newer")
    with (
        pytest.raises(OtherScheme, match=r"in another way than this version, .*: start with an empty one"),
        closing(open_log(url, clock=VirtualClock(1_000))) as old,
    ):
        old.create([IN])


def test_the_beginning_is_offset_zero_of_every_partition() -> None:
    assert beginning([OUT, NEWEST]) == {Place("out", 0): 0, Place("out", 1): 0, Place("newest", 0): 0}


def test_a_key_picks_its_partition_and_an_entry_may_overrule_it(log: EventLog) -> None:
    keys = [f"card-{n}" for n in range(50)]
    given = log.append([Entry(IN, key, b"") for key in keys])
    assert [partition for partition, _ in given] == [partition_of(key, IN.partitions) for key in keys]
    assert len({partition for partition, _ in given}) == IN.partitions
    elsewhere = (partition_of("tick", IN.partitions) + 1) % IN.partitions
    ((partition, _),) = log.append([Entry(IN, "tick", b"", elsewhere)])
    assert partition == elsewhere


def test_a_record_is_misplaced_in_any_partition_but_that_of_its_key(log: EventLog) -> None:
    log.append([Entry(IN, f"card-{n}", b"") for n in range(20)])
    log.append([Entry(IN, "tick", b"", partition) for partition in range(IN.partitions)])
    found = Counter(record.key for record in everything(log, IN) if is_misplaced(record, IN))
    assert found == {"tick": IN.partitions - 1}
    assert not is_misplaced(Record("newest", 0, 0, "anything", b"", 0), NEWEST)


def test_a_record_comes_back_as_it_was_appended(log: EventLog) -> None:
    entry = Entry(IN, "ключ\0 ", bytes(range(256)))
    ((partition, offset),) = log.append([entry])
    assert everything(log, IN) == [Record("in", partition, offset, entry.key, entry.value, 1_000)]


def test_making_a_topic_again_keeps_its_records(log: EventLog, start: Callable[[], EventLog]) -> None:
    fill(log, 3)
    start()  # creates again
    assert values(everything(log, IN)) == [0, 1, 2]


def test_ends_are_the_offsets_that_come_next(log: EventLog) -> None:
    assert log.ends(IN) == dict.fromkeys(range(4), 0)
    fill(log, 3, partition=2)
    assert log.ends(IN) == log.written(IN) == {0: 0, 1: 0, 2: 3, 3: 0}
    assert log.append([Entry(IN, "k", b"", 2)]) == [(2, 3)]


def test_a_topic_that_was_never_made_is_refused_everywhere(log: EventLog) -> None:
    for call in (
        lambda: log.append([Entry(NOWHERE, "k", b"")]),
        lambda: log.ends(NOWHERE),
        lambda: log.consumer(GROUP, [NOWHERE], "a"),
    ):
        with pytest.raises(LogUnavailable, match="nowhere"):
            call()


def test_the_newest_record_of_each_key_of_a_compacted_topic_stays(log: EventLog) -> None:
    for n in range(5):
        log.append([Entry(NEWEST, "a", payload(n)), Entry(NEWEST, "b", payload(-n))])
    assert {record.key: int(record.value) for record in everything(log, NEWEST)} == {"a": 4, "b": -4}


# --- order ---------------------------------------------------------------------------------------


@settings(
    max_examples=settings().max_examples // 5,  # a broker takes its time
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=9)), max_size=6), max_size=6))
def test_each_key_comes_back_in_the_order_of_its_appends(log: EventLog, batches: list[list[tuple[str, bytes]]]) -> None:
    begin = {Place(IN.name, partition): end for partition, end in log.ends(IN).items()}
    sent, got = defaultdict(list), defaultdict(list)
    for batch in batches:
        log.append([Entry(IN, key, value) for key, value in batch])
        for key, value in batch:
            sent[key].append(value)
    with closing(log.reader(begin)) as reader:
        for record in drain(reader, sum(map(len, batches)), limit=3):
            got[record.key].append(record.value)
    assert got == sent


def test_processes_and_threads_that_append_at_once_lose_nothing_and_keep_each_key_in_order(
    log: EventLog, url: str
) -> None:
    program = """
import threading
topic = Topic("in", 4)
def write(name):
    for n in range(40):
        log.append([Entry(topic, f"k{i}", f"{name} {n}".encode()) for i in range(3)])
        print(flush=True)
threads = [threading.Thread(target=write, args=[f"{sys.argv[2]}.{t}"]) for t in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    processes = [outside(program, url, str(n)) for n in range(3)]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0, 0]
    by_writer = defaultdict(list)
    records = everything(log, IN)
    for record in records:
        writer, number = record.value.decode().split()
        by_writer[writer, record.key].append(int(number))
    assert len(by_writer) == 3 * 2 * 3
    assert all(numbers == list(range(40)) for numbers in by_writer.values())
    for partition, end in log.ends(IN).items():
        assert [record.offset for record in records if record.partition == partition] == list(range(end))


def test_threads_that_share_a_log_are_told_where_their_own_records_stand(log: EventLog) -> None:
    def write(writer: int) -> list[tuple[tuple[int, int], int]]:
        return [(log.append([Entry(IN, "k", payload(n))])[0], n) for n in range(writer * 100, writer * 100 + 25)]

    told = chain.from_iterable(at_once(*(partial(write, writer) for writer in range(4))))
    assert sorted(told) == [((r.partition, r.offset), int(r.value)) for r in everything(log, IN)]


def test_all_who_open_a_new_log_at_once_get_it(kind: str, url: str) -> None:
    """SQLite turned away one in twenty."""

    def opened(new: str) -> EventLog:
        log = open_log(new, clock=VirtualClock())
        log.create([IN, OUT])
        return log

    for n in range(30 if kind == "sqlite" else 3):
        new = url.replace("log.db", f"{n}/log.db") if kind == "sqlite" else f"{url}-{n}"
        for log in at_once(*[partial(opened, new)] * 6):
            log.close()


# --- reading -------------------------------------------------------------------------------------


def test_a_reader_starts_wherever_and_as_often_as_it_likes(log: EventLog) -> None:
    fill(log, 10)
    for offset in (7, 0, 7, 10):
        with closing(log.reader({Place("in", 0): offset})) as reader:
            assert values(reader.poll(100, 0)) == list(range(offset, 10))


def test_a_reader_says_how_far_it_is(log: EventLog) -> None:
    fill(log, 5)
    with closing(log.reader({Place("in", 0): 1, Place("in", 3): 0})) as reader:
        reader.poll(2, 0)
        assert reader.positions == {Place("in", 0): 3, Place("in", 3): 0}


def test_who_has_read_everything_stands_at_the_end(log: EventLog, join: Callable[[str], Consumer]) -> None:
    worker = join("a")
    for n in range(3):
        worker.commit([Entry(OUT, "k", payload(n)), Entry(OUT, "l", payload(n))], at(n))
    with closing(log.reader(beginning([OUT]))) as reader:
        assert sorted(values(drain(reader, 6, limit=1))) == [0, 0, 1, 1, 2, 2]
        until = monotonic() + 5
        while {place.partition: offset for place, offset in reader.positions.items()} != log.ends(OUT):
            assert reader.poll(1, 0.01) == []
            assert monotonic() < until
        assert log.written(OUT) == log.ends(OUT)


def test_a_member_says_how_far_it_has_polled_and_stands_at_the_end_when_it_has_read_everything(
    log: EventLog, join: Callable[[str], Consumer]
) -> None:
    fill(log, 3)
    fill(log, 2, partition=3)
    member = join("a")
    drain(member, 5, limit=1)
    assert {place.partition: offset for place, offset in member.positions.items()} == log.ends(IN)
    member.commit([Entry(IN, "k", b"9", 2)], at(1))
    drain(member, 1)
    until = monotonic() + 5
    while {place.partition: offset for place, offset in member.positions.items()} != log.ends(IN):
        assert member.poll(1, 0.01) == []
        assert monotonic() < until


def test_an_empty_answer_means_that_there_was_nothing(log: EventLog) -> None:
    with closing(log.reader(beginning([IN]))) as reader:
        for n in range(30):
            fill(log, 1)
            assert values(reader.poll(10, 0)) == [0], n


def test_a_poll_gives_at_most_the_limit_of_each_partition(log: EventLog) -> None:
    fill(log, 5, partition=0)
    fill(log, 3, partition=1)
    with closing(log.reader(beginning([IN]))) as reader:
        counts = []
        while records := reader.poll(2, 0):
            counts.append(Counter(record.partition for record in records))
    assert all(count <= 2 for counter in counts for count in counter.values())
    assert sum(counts, Counter()) == {0: 5, 1: 3}


def test_a_reader_that_waits_is_woken_by_another_process(log: EventLog, start: Callable[[], EventLog]) -> None:
    with closing(log.reader(beginning([IN]))) as reader:
        writer = threading.Timer(0.1, fill, [start(), 1])
        writer.start()
        began = monotonic()
        assert values(reader.poll(10, 20)) == [0]
        assert 0.05 < monotonic() - began < 10
        writer.join()


def test_an_idle_poll_ends_when_its_time_is_up(log: EventLog) -> None:
    with closing(log.reader(beginning([IN]))) as reader:
        began = monotonic()
        assert reader.poll(10, 0.2) == []
        assert 0.2 <= monotonic() - began < 2


# --- durable -------------------------------------------------------------------------------------


@pytest.mark.kill
def test_what_was_appended_survives_kill_9(log: EventLog, url: str) -> None:
    program = """
n = 0
while True:
    (place,) = log.append([Entry(Topic("in", 4), f"k{n}", str(n).encode())])
    print(*place, n, flush=True)
    n += 1
"""
    told = [tuple(map(int, line.split())) for line in kill_after(outside(program, url), 50)]
    kept = {(record.partition, record.offset, int(record.value)) for record in everything(log, IN)}
    assert set(told) <= kept
    assert len(kept) <= len(told) + 1  # the one it was at


@pytest.mark.kill
def test_a_step_cut_by_kill_9_is_done_whole_or_not_at_all_and_is_taken_up_there(
    log: EventLog, url: str, join: Callable[[str], Consumer]
) -> None:
    fill(log, 2_000)
    program = """
consumer = log.consumer("group", [Topic("in", 4)], "worker-0")
while True:
    for record in consumer.poll(1, 1.0):
        outputs = [Entry(Topic("out", 2), "a", record.value), Entry(Topic("out", 2), "b", record.value)]
        after = Position(record.offset + 1, record.key)
        consumer.commit(outputs, {Place("in", 0): after})
        print(after.offset, flush=True)
"""
    told = [int(line) for line in kill_after(outside(program, url), 30)]
    back = join("worker-0")  # under its fixed name: no lease to wait for
    position = log.committed(GROUP, IN)[0]
    assert position.offset >= told[-1]
    assert position.note == f"k{position.offset - 1}"
    for key in "ab":
        assert values([r for r in everything(log, OUT) if r.key == key]) == list(range(position.offset))
    assert back.owned[Place("in", 0)] == position
    assert values(back.poll(1, 0)) == [position.offset]


# --- a step is atomic ----------------------------------------------------------------------------


def test_a_commit_shows_its_records_and_its_position(log: EventLog, join: Callable[[str], Consumer]) -> None:
    fill(log, 3)
    worker = join("a")
    worker.commit([Entry(OUT, "k", b"7")], at(3, note="so far"))
    comes(lambda: values(everything(log, OUT)), [7])
    comes(lambda: log.committed(GROUP, IN).get(0), Position(3, "so far"))
    assert worker.owned[Place("in", 0)] == Position(3, "so far")


@pytest.mark.parametrize("unwritable", [Entry(NOWHERE, "k", b""), Entry(OUT, "k", NO_BYTES)], ids=["topic", "value"])
def test_a_commit_that_fails_half_way_moves_nothing(
    log: EventLog, join: Callable[[str], Consumer], unwritable: Entry
) -> None:
    fill(log, 3)
    worker = join("a")
    with pytest.raises((LogUnavailable, TypeError)):
        worker.commit([Entry(OUT, "k", b"1"), unwritable], at(3))
    assert everything(log, OUT) == []
    assert log.committed(GROUP, IN).get(0, Position(0)) == worker.owned[Place("in", 0)] == Position(0)


def test_an_append_is_taken_whole_or_not_at_all(log: EventLog) -> None:
    with pytest.raises(LogUnavailable):
        log.append([Entry(OUT, "k", b"1"), Entry(NOWHERE, "k", b"")])
    fill(log, 2, topic=OUT)
    assert values(everything(log, OUT)) == [0, 1]


def test_a_consumer_reads_what_it_emits_into_its_own_topic(log: EventLog, join: Callable[[str], Consumer]) -> None:
    fill(log, 1)
    worker = join("a")
    assert values(drain(worker, 1)) == [0]
    worker.commit([Entry(IN, "k", b"1", 0)], at(1))
    assert values(worker.poll(10, 1)) == [1]


# --- groups --------------------------------------------------------------------------------------


def share_out(*members: Consumer, sizes: Sequence[int]) -> None:
    """Polls as the members would until each has its share."""
    until = monotonic() + 40  # seconds; a second or two on a machine that has nothing else to do
    while [len(member.owned) for member in members] != list(sizes):
        assert monotonic() < until, [member.owned for member in members]
        for member in members:
            member.poll(0, 0.02)


def test_a_member_alone_owns_everything_from_the_start(join: Callable[[str], Consumer]) -> None:
    assert join("a").owned == dict.fromkeys(beginning([IN]), Position(0))


def test_what_a_group_never_committed_counts_as_zero(log: EventLog, join: Callable[[str], Consumer]) -> None:
    join("a")
    assert set(log.committed(GROUP, IN).values()) <= {Position(0)}
    assert log.committed("unknown", IN) == {}


def test_groups_do_not_disturb_one_another(log: EventLog, join: Callable[[str], Consumer]) -> None:
    fill(log, 3)
    join("a").commit([], at(3))
    with closing(log.consumer("others", [IN], "a")) as other:
        assert values(drain(other, 3)) == [0, 1, 2]


@pytest.mark.usefixtures("short")
def test_members_share_the_partitions_and_each_belongs_to_one(join: Callable[[str], Consumer]) -> None:
    a, b = join("a"), join("b")
    share_out(a, b, sizes=[2, 2])
    assert set(a.owned) | set(b.owned) == set(beginning([IN]))


@pytest.mark.usefixtures("short")
def test_what_a_leaver_had_goes_to_those_who_stay_with_its_notes(
    log: EventLog, start: Callable[[], EventLog], join: Callable[[str], Consumer]
) -> None:
    fill(log, 5)
    leaver = start().consumer(GROUP, [IN], "leaver")
    leaver.poll(1, 0)
    leaver.commit([], at(2, note="two"))
    stays = join("stays")
    assert not stays.owned
    leaver.close()
    share_out(stays, sizes=[4])
    assert stays.owned[Place("in", 0)] == Position(2, "two")


def test_a_leaver_is_not_waited_for(start: Callable[[], EventLog], join: Callable[[str], Consumer]) -> None:
    leaver = start().consumer(GROUP, [IN], "leaver")
    leaver.poll(1, 0)
    leaver.close()
    assert len(join("next").owned) == 4  # at its first poll, with a lease of seconds


@pytest.mark.kill
@pytest.mark.usefixtures("short", "log")
def test_what_the_dead_had_goes_to_the_living_when_the_claim_has_run_out(
    member: subprocess.Popen[str], join: Callable[[str], Consumer]
) -> None:
    assert owns(member, dict.fromkeys(beginning([IN]), Position(0)))
    member.kill()
    killed, living = monotonic(), join("living")
    # A join that has taken longer than the claim, on a busy machine, comes after it.
    assert not living.owned or monotonic() - killed > min(SHORT.values())
    share_out(living, sizes=[4])


@pytest.mark.usefixtures("short")
def test_a_partition_kept_goes_on_from_its_next_record_while_other_members_come_and_go(
    log: EventLog, start: Callable[[], EventLog], join: Callable[[str], Consumer]
) -> None:
    for partition in range(4):
        fill(log, 6, partition=partition)
    stays, guest = join("stays"), start().consumer(GROUP, [IN], "guest")
    got = stays.poll(2, 5)  # and holds them, uncommitted
    while len(got) < 8:
        got += [r for r in stays.poll(2, 5) if sum(r.partition == x.partition for x in got) < 2]
    share_out(stays, guest, sizes=[2, 2])
    kept = set(stays.owned)
    guest.close()
    share_out(stays, sizes=[4])
    got = drain(stays, 2 * 4 + 2 * 6)
    for place in beginning([IN]):
        numbers = values([record for record in got if record.partition == place.partition])
        assert numbers == list(range(2 if place in kept else 0, 6))


def test_who_comes_back_under_its_name_goes_on_at_once_where_it_stopped(
    log: EventLog, join: Callable[[str], Consumer]
) -> None:
    fill(log, 5)
    died = join("worker-0")
    assert values(drain(died, 5)) == [0, 1, 2, 3, 4]
    died.commit([], at(3, note="three"))
    back = join("worker-0")
    assert back.owned[Place("in", 0)] == Position(3, "three")
    assert values(drain(back, 2)) == [3, 4]


# --- patience ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
def test_a_member_whose_work_takes_several_leases_keeps_its_claims_and_commits(
    log: EventLog, join: Callable[[str], Consumer]
) -> None:
    fill(log, 1)
    busy, other = join("busy"), join("other")
    had = dict(busy.owned)
    until = monotonic() + 3 * SILENT
    while monotonic() < until:
        other.poll(0, 0.05)
        assert not other.owned
    busy.commit([Entry(OUT, "k", b"1")], at(1))
    comes(lambda: values(everything(log, OUT)), [1])
    assert busy.owned == had | at(1)
    share_out(busy, other, sizes=[2, 2])


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds after which a member that does not poll counts as hung, and has lost its claims."""
    for log in ("sqlite", "kafka"):
        monkeypatch.setattr(f"shared.eventlog.{log}.MAX_POLL_INTERVAL", 1.5)
    return 1.5 + SILENT


@pytest.mark.usefixtures("short")
def test_a_member_that_does_not_poll_for_too_long_loses_its_claims(
    log: EventLog, hung: float, join: Callable[[str], Consumer]
) -> None:
    silent, other = join("silent"), join("other")
    began = monotonic()
    share_out(other, sizes=[4])
    assert monotonic() - began < hung + 3
    with pytest.raises(Fenced):
        silent.commit([Entry(OUT, "k", b"lost")], at(1))
    assert everything(log, OUT) == []
    other.commit([Entry(OUT, "k", b"1")], at(1))
    comes(lambda: values(everything(log, OUT)), [1])


# --- fencing -------------------------------------------------------------------------------------


def fenced(member: Consumer, log: EventLog, positions: dict[Place, Position]) -> None:
    """Its commit is refused, and nothing of it is written."""
    before = log.committed(GROUP, IN), everything(log, OUT)
    with pytest.raises(Fenced):
        member.commit([Entry(OUT, "k", b"lost")], positions)
    assert (log.committed(GROUP, IN), everything(log, OUT)) == before


@pytest.mark.kill
@pytest.mark.usefixtures("short")
def test_a_zombie_that_comes_back_cannot_commit(
    log: EventLog, member: subprocess.Popen[str], join: Callable[[str], Consumer]
) -> None:
    assert owns(member, dict.fromkeys(beginning([IN]), Position(0)))
    member.send_signal(signal.SIGSTOP)
    sleep(SILENT)
    quick = join("quick")
    share_out(quick, sizes=[4])
    assert member.stdin is not None
    member.stdin.write("commit\n")
    member.stdin.flush()
    member.send_signal(signal.SIGCONT)
    said = line(member)
    while said.startswith("["):  # it may poll before it commits, and see that it owns less
        said = line(member)
    assert said == "Fenced"
    quick = join("quick")
    share_out(quick, sizes=[4])
    quick.commit([Entry(OUT, "k", b"1")], at(1))
    comes(lambda: values(everything(log, OUT)), [1])


@pytest.mark.kill
@pytest.mark.usefixtures("short")
def test_what_another_member_had_in_between_is_missing_before_it_comes_back(
    log: EventLog, member: subprocess.Popen[str]
) -> None:
    """Else its owner would go on with what it remembers, and miss what the other one did."""
    fill(log, 3)
    everywhere = dict.fromkeys(beginning([IN]), Position(0))
    assert owns(member, everywhere)
    member.send_signal(signal.SIGSTOP)
    sleep(SILENT)
    quick = log.consumer(GROUP, [IN], "quick")
    share_out(quick, sizes=[4])
    quick.commit([], at(3, note="quick"))
    quick.close()
    member.send_signal(signal.SIGCONT)
    assert owns(member, {})
    assert owns(member, everywhere | at(3, note="quick"))


@pytest.mark.usefixtures("short")
def test_a_partition_never_owned_cannot_be_committed(log: EventLog, join: Callable[[str], Consumer]) -> None:
    join("owner")
    fenced(join("guest"), log, at(1))


@pytest.mark.usefixtures("short")
def test_one_lost_partition_holds_back_the_whole_step(log: EventLog, join: Callable[[str], Consumer]) -> None:
    a, b = join("a"), join("b")
    had = dict(a.owned)
    share_out(a, b, sizes=[2, 2])
    kept, lost = sorted(a.owned)[0], sorted(b.owned)[0]
    assert {kept, lost} <= set(had)
    fenced(a, log, {kept: Position(1), lost: Position(1)})


def test_a_successor_of_the_same_name_fences_the_one_thought_dead(
    log: EventLog, join: Callable[[str], Consumer]
) -> None:
    zombie, successor = join("worker-0"), join("worker-0")
    fenced(zombie, log, at(1))
    successor.commit([Entry(OUT, "k", b"1")], at(1))
    comes(lambda: log.committed(GROUP, IN).get(0), Position(1))


@pytest.mark.usefixtures("short")
def test_one_thought_dead_does_not_take_its_name_back(log: EventLog, join: Callable[[str], Consumer]) -> None:
    zombie, successor = join("worker-0"), join("worker-0")
    for _ in range(5):  # over a renewal or two
        sleep(0.1)
        successor.poll(0, 0)
        zombie.poll(0, 0)
    fenced(zombie, log, at(1))
    successor.commit([], at(1))
    comes(lambda: log.committed(GROUP, IN).get(0), Position(1))


@pytest.mark.usefixtures("short")
def test_one_thought_dead_leaves_without_harm_to_its_successor(
    start: Callable[[], EventLog], join: Callable[[str], Consumer]
) -> None:
    zombie = start().consumer(GROUP, [IN], "worker-0")
    zombie.poll(0, 0)
    successor = join("worker-0")
    zombie.close()
    assert not join("other").owned
    successor.commit([], at(1))


# --- the SQLite log: locked, full, broken ----------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def embedded(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteLog]:
    monkeypatch.setattr("shared.eventlog.sqlite.BUSY", 0.2)
    with closing(SqliteLog(str(path), clock=VirtualClock(1_000))) as log:
        log.create([IN, OUT])
        fill(log, 1)
        yield log


@pytest.fixture
def locked(embedded: SqliteLog, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process holds the file, after it was made."""
    assert embedded.ends(IN)[0] == 1
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN EXCLUSIVE")
        yield foreign


def test_a_locked_log_refuses_appends_and_takes_them_again(embedded: SqliteLog, locked: sqlite3.Connection) -> None:
    with pytest.raises(LogUnavailable, match="locked"):
        fill(embedded, 1)
    locked.execute("ROLLBACK")
    fill(embedded, 1)
    assert values(everything(embedded, IN)) == [0, 0]


def test_a_locked_log_refuses_a_step_and_the_next_member_takes_it_up(embedded: SqliteLog, path: Path) -> None:
    with closing(embedded.consumer(GROUP, [IN], "a")) as worker, closing(sqlite3.connect(path)) as foreign:
        assert values(worker.poll(10, 0)) == [0]
        foreign.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LogUnavailable, match="locked"):
            worker.commit([Entry(OUT, "k", b"1")], at(1))
        foreign.execute("ROLLBACK")
    with closing(embedded.consumer(GROUP, [IN], "a")) as worker:
        assert values(worker.poll(10, 0)) == [0]
        worker.commit([Entry(OUT, "k", b"1")], at(1))
    assert values(everything(embedded, OUT)) == [1]


def test_a_locked_log_can_be_read_but_neither_joined_nor_opened(
    embedded: SqliteLog, locked: sqlite3.Connection, path: Path
) -> None:
    assert locked.in_transaction
    assert values(everything(embedded, IN)) == [0]
    consumer = embedded.consumer(GROUP, [IN], "a")
    with pytest.raises(LogUnavailable, match="locked"):
        consumer.poll(1, 0)
    with pytest.raises(LogUnavailable, match="locked"):
        consumer.close()
    with pytest.raises(LogUnavailable, match="locked"):
        SqliteLog(str(path), clock=VirtualClock())


def test_a_full_log_refuses_appends_and_keeps_what_it_has(embedded: SqliteLog) -> None:
    (pages,) = embedded._connection.db.execute("PRAGMA page_count").fetchone()
    embedded._connection.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LogUnavailable, match="full"):
        embedded.append([Entry(IN, "k", bytes(100_000))])
    assert values(everything(embedded, IN)) == [0]
    embedded._connection.db.execute("PRAGMA max_page_count = 1000000")
    fill(embedded, 1)
    assert embedded.ends(IN)[0] == 2


def test_records_of_a_step_under_way_are_not_seen(embedded: SqliteLog) -> None:
    with closing(embedded.reader({Place("in", 0): 0})) as reader:
        assert values(reader.poll(10, 0)) == [0]
        with embedded._connection.write():
            embedded._connection.insert([Entry(IN, "k", b"5", 0)])
            assert reader.poll(10, 0) == []
        assert values(reader.poll(10, 0)) == [5]


def renewing() -> int:
    return sum("_keep_claims" in thread.name for thread in threading.enumerate())


@pytest.mark.usefixtures("short")
def test_no_thread_renews_the_claims_of_a_member_that_was_closed(embedded: SqliteLog) -> None:
    before = renewing()
    members = [embedded.consumer(GROUP, [IN], name) for name in "abc"]
    assert renewing() == before + 3
    for member in members:
        member.poll(0, 0)
        member.close()
    comes(renewing, before)


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_member_that_was_dropped_without_a_word_loses_its_claims(embedded: SqliteLog) -> None:
    before = renewing()
    dropped = embedded.consumer(GROUP, [IN], "dropped")
    dropped.poll(0, 0)
    assert len(dropped.owned) == 4
    del dropped
    gc.collect()
    comes(renewing, before)
    with closing(embedded.consumer(GROUP, [IN], "next")) as successor:
        share_out(successor, sizes=[4])


@pytest.mark.usefixtures("short")
def test_claims_are_renewed_again_after_the_file_was_locked(
    embedded: SqliteLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.eventlog.sqlite.BUSY", 0.05)
    with closing(embedded.consumer(GROUP, [IN], "busy")) as busy, closing(sqlite3.connect(path)) as foreign:
        busy.poll(0, 0)
        foreign.execute("BEGIN EXCLUSIVE")
        sleep(SHORT["sqlite.LEASE"])  # the renewals in between are refused
        foreign.execute("ROLLBACK")
        sleep(SHORT["sqlite.LEASE"])
        with closing(embedded.consumer(GROUP, [IN], "other")) as other:
            other.poll(0, 0)
            assert not other.owned


@pytest.mark.parametrize("what", ["no database", "a folder", "under a file"])
def test_a_path_that_holds_no_log_is_unavailable(tmp_path: Path, what: str) -> None:
    path = tmp_path / "log.db"
    if what == "no database":
        path.write_bytes(b"garbage " * 1_000)
    elif what == "a folder":
        path.mkdir()
    else:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "log.db"
    with pytest.raises(LogUnavailable, match=str(path)):
        SqliteLog(str(path), clock=VirtualClock())


def test_a_damaged_log_is_unavailable_to_every_reader(embedded: SqliteLog) -> None:
    with closing(embedded.reader({Place("in", 0): 0})) as reader:
        for table in ("records", "claims"):
            embedded._connection.db.execute(f"DROP TABLE {table}")
        for call in (
            lambda: reader.poll(1, 0),
            lambda: embedded.ends(IN),
            lambda: embedded.committed(GROUP, IN),
        ):
            with pytest.raises(LogUnavailable):
                call()


def test_an_idle_poll_does_not_spin(embedded: SqliteLog) -> None:
    looks: list[str] = []
    with closing(embedded.reader({Place("in", 0): 1})) as reader:
        reader._connection.db.set_trace_callback(looks.append)
        reader.poll(10, 0.5)
    assert 5 < len(looks) < 100  # one query a look, and one look in 10 ms


def test_a_log_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="carrier-pigeon://loft"):
        open_log("carrier-pigeon://loft", clock=VirtualClock())


# --- the Kafka log: steps under way, and a broker that is away -------------------------------------


@pytest.fixture
def kafka(broker: Kafka) -> Iterator[KafkaLog]:
    with closing(KafkaLog(f"127.0.0.1:{broker.port}/{uuid4().hex[:8]}", clock=VirtualClock(1_000))) as log:
        log.create([IN, OUT])
        yield log


@pytest.mark.parametrize("committed", [True, False])
def test_records_of_a_transaction_are_seen_when_it_is_committed(kafka: KafkaLog, committed: bool) -> None:
    producer = kafka._make_producer(transactional_id=uuid4().hex)
    producer.init_transactions()
    with closing(producer), closing(kafka.reader({Place("in", 0): 0})) as reader:
        producer.begin_transaction()
        kafka.send(producer, Entry(IN, "k", b"1", 0)).get(timeout=10)
        fill(kafka, 1)  # stands behind it, and waits
        assert kafka.ends(IN)[0] == 0
        assert kafka.written(IN)[0] == 2
        assert reader.poll(10, 0.2) == []
        producer.commit_transaction() if committed else producer.abort_transaction()
        assert values(drain(reader, 1 + committed)) == ([1, 0] if committed else [0])
        assert reader.poll(10, 0) == []
        assert reader.positions == {Place("in", 0): kafka.ends(IN)[0]} == {Place("in", 0): 3}


def test_a_virtual_clock_may_be_years_from_the_brokers(broker: Kafka) -> None:
    for now in (0, 10**10):
        with closing(KafkaLog(f"127.0.0.1:{broker.port}/{uuid4().hex[:8]}", clock=VirtualClock(now))) as log:
            log.create([IN])
            fill(log, 1)
            assert [record.at for record in everything(log, IN)] == [now]


def test_prefixes_keep_logs_of_one_broker_apart(broker: Kafka, kafka: KafkaLog) -> None:
    fill(kafka, 1)
    with closing(KafkaLog(f"127.0.0.1:{broker.port}/{uuid4().hex[:8]}", clock=VirtualClock())) as other:
        other.create([IN])
        assert everything(other, IN) == []


@pytest.mark.kill
@pytest.mark.slow
def test_half_a_step_that_times_out_while_the_broker_is_away_never_counts(broker: Kafka, kafka: KafkaLog) -> None:
    """Such a broker ends it without telling the partitions; the next step of that name would make it count."""
    fill(kafka, 1)
    fill(kafka, 1, partition=1)
    worker: Any = kafka.consumer(GROUP, [IN], "a")
    assert len(drain(worker, 2)) == 2
    producer = worker._producer
    producer.begin_transaction()
    for partition in range(OUT.partitions):
        kafka.send(producer, Entry(OUT, "k", b"half", partition)).get(5)
    offsets = {worker._partition(place): OffsetAndMetadata(1, "", -1) for place in [*at(1), *at(1, 1)]}
    producer.send_offsets_to_transaction(offsets, worker._moves.membership)
    broker.kill()
    sleep(TRANSACTION + 1)
    broker.start()
    worker._abandon()
    sleep(2.0)  # the broker has given it up
    with closing(kafka.consumer(GROUP, [IN], "a")) as worker:
        assert len(drain(worker, 2)) == 2
        worker.commit([Entry(OUT, "k", b"whole", 0)], at(1))
        assert [record.value for record in everything(kafka, OUT)] == [b"whole"]
    assert kafka.committed(GROUP, IN).keys() == {0}


@pytest.mark.kill
@pytest.mark.slow
def test_a_step_that_was_committed_counts_when_the_broker_dies_at_once(broker: Kafka, kafka: KafkaLog) -> None:
    """A broker that dies before it has told the partitions, and is the only one, never tells them."""
    for place in range(3):
        fill(kafka, 1)
        worker = kafka.consumer(GROUP, [IN], "a")
        assert len(drain(worker, 1)) == 1
        worker.commit([Entry(OUT, "k", b"%d" % place, place % OUT.partitions)], at(place + 1))
        broker.kill()
        broker.start()
        worker._abandon()
    with closing(kafka.consumer(GROUP, [IN], "a")):
        assert sorted(record.value for record in everything(kafka, OUT)) == [b"0", b"1", b"2"]
    assert {partition: at.offset for partition, at in kafka.committed(GROUP, IN).items()} == {0: 3}


@pytest.mark.kill
def test_while_the_broker_is_away_every_call_says_so_and_then_goes_on(broker: Kafka, kafka: KafkaLog) -> None:
    fill(kafka, 3)
    reader, worker, idle = kafka.reader({Place("in", 0): 0}), *(kafka.consumer(g, [IN], "a") for g in ("g", "h"))
    assert len(reader.poll(10, 0)) == len(worker.poll(10, 0)) == len(idle.poll(10, 0)) == 3
    broker.kill()

    def refused(call: Callable[[], object]) -> float:
        began = monotonic()
        with pytest.raises(LogUnavailable):
            call()
        return monotonic() - began

    calls = (
        lambda: fill(kafka, 1),
        lambda: kafka.create([NOWHERE]),
        lambda: kafka.ends(IN),
        lambda: kafka.committed("g", IN),
        lambda: kafka.consumer("g", [IN], "b"),
        lambda: kafka.reader({Place("in", 0): 0}),
        lambda: reader.poll(10, 0.1),
        lambda: idle.poll(10, 0.1),
        lambda: worker.commit([Entry(OUT, "k", b"1")], at(3)),
        lambda: KafkaLog(f"127.0.0.1:{broker.port}", clock=VirtualClock()),
    )
    try:
        assert max(at_once(*(partial(refused, call) for call in calls))) < 12
        for consumer in (idle, worker):
            consumer.close()
    finally:
        broker.start()
    fill(kafka, 1)
    assert len(drain(reader, 1)) == 1
    with closing(reader), closing(kafka.consumer("g", [IN], "a")) as worker:
        assert len(drain(worker, 4)) == 4  # nothing was committed
        worker.commit([Entry(OUT, "k", b"1")], at(4))
    comes(lambda: values(everything(kafka, OUT)), [1])
    comes(lambda: kafka.committed("g", IN), {0: Position(4)})


# --- what is kept ------------------------------------------------------------------------------


def test_starts_are_the_first_offsets_that_are_left(log: EventLog) -> None:
    assert log.starts(IN) == dict.fromkeys(range(4), 0)
    fill(log, 5, partition=2)
    assert log.starts(IN) == dict.fromkeys(range(4), 0)
    shorten(log, IN, {2: 3})
    assert log.starts(IN) == {0: 0, 1: 0, 2: 3, 3: 0}
    assert log.ends(IN) == {0: 0, 1: 0, 2: 5, 3: 0}


def test_where_all_has_gone_the_start_is_the_end_and_offsets_go_on(log: EventLog) -> None:
    fill(log, 5)
    shorten(log, IN, {0: 5})
    assert log.starts(IN)[0] == log.ends(IN)[0] == 5
    with closing(log.reader({Place("in", 0): 0})) as reader:
        assert reader.poll(10, 0.2) == []
        assert reader.positions == {Place("in", 0): 5}
        assert log.append([Entry(IN, "k", b"5", 0)]) == [(0, 5)]
        assert values(drain(reader, 1)) == [5]


def test_a_reader_before_the_start_goes_on_at_it(log: EventLog) -> None:
    fill(log, 5)
    shorten(log, IN, {0: 3})
    assert values(everything(log, IN)) == [3, 4]


def test_a_member_that_stands_before_the_start_goes_on_at_it(log: EventLog, join: Callable[..., Consumer]) -> None:
    fill(log, 6)
    member = join("a")
    assert len(drain(member, 6)) == 6
    member.commit([], at(2))
    shorten(log, IN, {0: 4})
    again = join("a")
    assert values(drain(again, 2)) == [4, 5]
    again.commit([], at(6))
    assert log.committed(GROUP, IN)[0] == Position(6)


def test_a_record_that_is_too_large_is_refused_and_nothing_of_its_batch_is_written(
    log: EventLog, join: Callable[..., Consumer]
) -> None:
    large = [Entry(OUT, "k", b"1"), Entry(OUT, "k", b"x" * (MAX_RECORD + 1))]
    with pytest.raises(RecordTooLarge, match=r"a record of out has 1,040,002 bytes, and at most 1,040,000 are taken"):
        log.append(large)
    fill(log, 1)
    member = join("a")
    drain(member, 1)
    with pytest.raises(RecordTooLarge):
        member.commit(large, at(1))
    assert everything(log, OUT) == []
    member.commit([Entry(OUT, "k", b"x" * (MAX_RECORD - 1))], at(1))  # it goes on, and this much is taken
    comes(lambda: len(everything(log, OUT)), 1)


def embedded_log(path: Path, clock: VirtualClock, topics: Sequence[Topic]) -> SqliteLog:
    log = SqliteLog(str(path / "log.db"), clock=clock)
    log.create(topics)
    return log


def test_embedded_records_go_once_they_are_older_than_their_topic_is_kept(tmp_path: Path) -> None:
    clock, topic = VirtualClock(0), Topic("kept", 1, days=2)
    with closing(embedded_log(tmp_path, clock, [topic])) as log:
        for day in range(20):
            clock.observe(day * DAY)
            log.append([Entry(topic, f"{n}", b"") for n in range(TIDY)])
        days = {record.at // DAY for record in everything(log, topic)}
        assert days == {17, 18, 19}  # two days, and what had not passed them when the last look was taken
        assert log.starts(topic) == {0: 17 * TIDY}
        assert log.ends(topic) == {0: 20 * TIDY}


def test_of_an_embedded_compacted_topic_only_the_newest_of_a_key_stays_after_a_day(tmp_path: Path) -> None:
    clock, topic = VirtualClock(0), Topic("newest", 1, compacted=True)
    with closing(embedded_log(tmp_path, clock, [topic])) as log:
        for day in range(10):
            clock.observe(day * DAY + day)
            log.append([Entry(topic, f"{n % 10}", str(day * TIDY + n).encode()) for n in range(TIDY)])
        records = everything(log, topic)
        assert len(records) <= 2 * TIDY + 10
        newest = {record.key: int(record.value) for record in records}
        assert newest == {f"{n % 10}": 9 * TIDY + n for n in range(TIDY - 10, TIDY)}
        assert log.ends(topic) == {0: 10 * TIDY}


@pytest.mark.parametrize("reopened", [False, True])
def test_embedded_records_of_a_quiet_topic_go_in_their_time_too(tmp_path: Path, reopened: bool) -> None:
    clock, quiet, newest = VirtualClock(0), Topic("kept", 2, days=2), Topic("newest", 1, compacted=True)
    topics = [quiet, newest, IN]
    with ExitStack() as opened:
        log = opened.enter_context(closing(embedded_log(tmp_path, clock, topics)))
        log.append([Entry(quiet, "k", b"", 0), Entry(quiet, "k", b"", 1), Entry(newest, "k", b"1")])
        log.append([Entry(newest, "k", b"2")])
        clock.observe(3 * DAY)
        if reopened:
            log = opened.enter_context(closing(embedded_log(tmp_path, clock, topics)))
        for _ in range(10):  # each sees to one partition, so that none waits long
            fill(log, 1)
        assert everything(log, quiet) == []
        assert log.starts(quiet) == {0: 1, 1: 1}
        assert [record.value for record in everything(log, newest)] == [b"2"]


def test_embedded_records_of_a_topic_without_an_end_stay(tmp_path: Path) -> None:
    clock = VirtualClock(0)
    with closing(embedded_log(tmp_path, clock, [IN])) as log:
        fill(log, TIDY)
        clock.observe(10_000 * DAY)
        fill(log, TIDY)
        assert log.starts(IN)[0] == 0


def test_topics_in_kafka_are_kept_as_long_as_they_say(broker: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """By the broker's time with the world's clock; with a virtual one it would remove what is months old to it."""
    topics = Topic("kept", 1, days=3), Topic("newest", 1, compacted=True), Topic("both", 1, compacted=True, days=1)
    prefix = uuid4().hex[:8]

    def configs(clock: Clock, *names: str) -> list[tuple[str, ...]]:
        with closing(KafkaLog(f"{broker.url.removeprefix('kafka://')}/{prefix}", clock=clock)) as log:
            log.create(topics)  # those that exist are given the same
            resources = [ConfigResource(ConfigResourceType.TOPIC, f"{prefix}.{topic.name}") for topic in topics]
            sleep(0.5)  # what was altered a moment ago is described a moment later
            (given,) = log._admin.describe_configs(resources).values()
        told = [given[f"{prefix}.{topic.name}"] for topic in topics]
        return [tuple(about[name]["value"] if name in about else "" for name in names) for about in told]

    when = "message.timestamp.type", "retention.ms"
    assert configs(VirtualClock(1_000), *when) == [("CreateTime", "-1")] * 3
    assert not caplog.messages
    assert configs(SystemClock(), *when) == [
        ("LogAppendTime", str(3 * DAY * 1000)),
        ("LogAppendTime", "-1"),
        ("LogAppendTime", str(DAY * 1000)),
    ]
    said = "was kept for -1 ms by the time of append, and from now on for"
    assert [message.split()[0] for message in caplog.messages if said in message] == ["kept", "both"]
    caplog.clear()
    assert configs(SystemClock(), "cleanup.policy") == [("delete",), ("compact",), ("compact,delete",)]
    # From a segment that is being written nothing is removed, and unless it is told to it takes a week.
    compaction = "segment.ms", "max.compaction.lag.ms"
    soon = str(DAY * 1000), str(2 * DAY * 1000)
    assert configs(SystemClock(), *compaction) == [("", ""), soon, soon]
    assert not caplog.messages  # nothing is changed without a word, and nothing said without a change


def test_a_member_is_closed_while_its_heartbeat_writes(tmp_path: Path) -> None:
    """Closed under the hands of another thread, SQLite would end the process."""
    log = open_log(f"sqlite:///{tmp_path}/log.db", clock=VirtualClock(0))
    topic = Topic("t", 1)
    log.create([topic])
    for number in range(20):
        member = log.consumer("g", [topic], f"m{number}")
        assert isinstance(member, SqliteConsumer)
        going = threading.Event()

        def beat(member: SqliteConsumer = member, going: threading.Event = going) -> None:
            going.set()
            with suppress(LogUnavailable, ValueError):
                for _ in range(100):
                    member._renew_at = 0
                    member.keep_claims()

        thread = threading.Thread(target=beat)
        thread.start()
        going.wait()
        member.close()
        thread.join()
    log.close()
