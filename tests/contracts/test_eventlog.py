"""What `shared/eventlog/port.py` guarantees, and every log has to keep.

A log opened twice at one URL stands for two processes; where a process dies, it is a real one.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.checklist import ROOT
from shared.clock import VirtualClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import (
    Consumer,
    Entry,
    EventLog,
    Fenced,
    LogUnavailable,
    Place,
    Position,
    Reader,
    Record,
    Topic,
    beginning,
    partition_of,
)
from shared.eventlog.sqlite import SqliteLog
from tests.threads import at_once

IN = Topic("in", 4)
OUT = Topic("out", 2)
NEWEST = Topic("newest", 1, compacted=True)
NOWHERE = Topic("nowhere", 1)  # is never created
NO_BYTES: Any = object()
GROUP = "group"
LEASE = 0.4  # seconds, where a test waits for one to run out

URLS: dict[str, Callable[[Path], str]] = {
    "sqlite": lambda folder: f"sqlite:///{folder}/var/log.db",
}


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty log of its own for every test."""
    return URLS[request.param](tmp_path)


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
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.eventlog.sqlite.LEASE", LEASE)


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
    with closing(log.reader(beginning([topic]))) as reader:
        return drain(reader, sum(log.ends(topic).values()))


def drain(source: Reader | Consumer, count: int, *, limit: int = 1_000) -> list[Record]:
    """Polls until `count` records are there; fails after ten seconds."""
    records: list[Record] = []
    until = monotonic() + 10
    while len(records) < count:
        records += source.poll(limit, 0.1)
        assert monotonic() < until, f"{len(records)} of {count} records"
    return records


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


def at(offset: int, partition: int = 0, note: str = "") -> dict[Place, Position]:
    return {Place(IN.name, partition): Position(offset, note)}


def outside(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own, which has the port imported."""
    preamble = "import sys\nfrom shared.clock import SystemClock\nfrom shared.eventlog import open_log\n"
    preamble += "from shared.eventlog.port import *\nlog = open_log(sys.argv[1], clock=SystemClock())\n"
    command = [sys.executable, "-c", preamble + program, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], lines: int) -> list[str]:
    """Kills without warning once that many lines came; gives all that it said."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return [line for line in (*said, *rest.splitlines(keepends=True)) if line.endswith("\n")]


# --- topics and partitions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "partition"),
    [("", 0), ("123456789", 0xCBF43926 % 8), ("The quick brown fox jumps over the lazy dog", 0x414FA339 % 8)],
)
def test_the_partition_of_a_key_is_its_crc32(key: str, partition: int) -> None:
    assert partition_of(key, 8) == partition  # known values of CRC-32: state moves between logs and versions


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
    assert log.ends(IN) == {0: 0, 1: 0, 2: 3, 3: 0}
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
    max_examples=20,
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


def test_all_who_open_a_new_log_at_once_get_it(url: str) -> None:
    """SQLite turned away one in twenty."""
    for n in range(30):
        new = url.replace("log.db", f"{n}/log.db")
        for log in at_once(*[partial(open_log, new, clock=VirtualClock())] * 6):
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
    position = log.committed(GROUP, IN)[0]
    assert position.offset >= told[-1]
    assert position.note == f"k{position.offset - 1}"
    for key in "ab":
        assert values([r for r in everything(log, OUT) if r.key == key]) == list(range(position.offset))
    back = join("worker-0")  # under its fixed name: no lease to wait for
    assert back.owned[Place("in", 0)] == position
    assert values(back.poll(1, 0)) == [position.offset]


# --- a step is atomic ----------------------------------------------------------------------------


def test_a_commit_shows_its_records_and_its_position(log: EventLog, join: Callable[[str], Consumer]) -> None:
    fill(log, 3)
    worker = join("a")
    worker.commit([Entry(OUT, "k", b"7")], at(3, note="so far"))
    assert values(everything(log, OUT)) == [7]
    assert log.committed(GROUP, IN)[0] == worker.owned[Place("in", 0)] == Position(3, "so far")


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
    until = monotonic() + 20
    while [len(member.owned) for member in members] != list(sizes):
        assert monotonic() < until, [member.owned for member in members]
        for member in members:
            member.poll(0, 0.02)


def test_a_member_alone_owns_everything_from_the_start(join: Callable[[str], Consumer]) -> None:
    assert join("a").owned == dict.fromkeys(beginning([IN]), Position(0))


def test_what_a_group_never_committed_counts_as_zero(log: EventLog, join: Callable[[str], Consumer]) -> None:
    join("a")
    assert set(log.committed(GROUP, IN).values()) <= {Position(0)}
    assert log.committed("nobody", IN) == {}


def test_groups_do_not_disturb_one_another(log: EventLog, join: Callable[[str], Consumer]) -> None:
    fill(log, 3)
    join("a").commit([], at(3))
    with closing(log.consumer("others", [IN], "a")) as other:
        assert values(drain(other, 3)) == [0, 1, 2]


@pytest.mark.usefixtures("short_lease")
def test_members_share_the_partitions_and_each_belongs_to_one(join: Callable[[str], Consumer]) -> None:
    a, b = join("a"), join("b")
    share_out(a, b, sizes=[2, 2])
    assert set(a.owned) | set(b.owned) == set(beginning([IN]))


@pytest.mark.usefixtures("short_lease")
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


@pytest.mark.usefixtures("short_lease")
def test_what_the_dead_had_goes_to_the_living_when_the_lease_is_over(join: Callable[[str], Consumer]) -> None:
    join("dead")
    living = join("living")
    assert not living.owned
    share_out(living, sizes=[4])


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


# --- fencing -------------------------------------------------------------------------------------


def fenced(member: Consumer, log: EventLog, positions: dict[Place, Position]) -> None:
    """Its commit is refused, and nothing of it is written."""
    before = log.committed(GROUP, IN), log.ends(OUT)
    with pytest.raises(Fenced):
        member.commit([Entry(OUT, "k", b"lost")], positions)
    assert (log.committed(GROUP, IN), log.ends(OUT)) == before


@pytest.mark.usefixtures("short_lease")
def test_who_lost_its_claim_cannot_commit(log: EventLog, join: Callable[[str], Consumer]) -> None:
    slow = join("slow")
    sleep(LEASE + 0.05)
    quick = join("quick")
    fenced(slow, log, at(1))
    quick.commit([Entry(OUT, "k", b"1")], at(1))
    assert values(everything(log, OUT)) == [1]


def test_a_partition_never_owned_cannot_be_committed(log: EventLog, join: Callable[[str], Consumer]) -> None:
    join("owner")
    fenced(join("guest"), log, at(1))


@pytest.mark.usefixtures("short_lease")
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
    assert log.committed(GROUP, IN)[0] == Position(1)


@pytest.mark.usefixtures("short_lease")
def test_one_thought_dead_does_not_take_its_name_back(log: EventLog, join: Callable[[str], Consumer]) -> None:
    zombie, successor = join("worker-0"), join("worker-0")
    for _ in range(5):  # over a renewal or two
        sleep(LEASE / 4)
        successor.poll(0, 0)
        zombie.poll(0, 0)
    assert not zombie.owned
    successor.commit([], at(1))
    assert log.committed(GROUP, IN)[0] == Position(1)


def test_one_thought_dead_leaves_without_harm_to_its_successor(
    start: Callable[[], EventLog], join: Callable[[str], Consumer]
) -> None:
    zombie = start().consumer(GROUP, [IN], "worker-0")
    zombie.poll(0, 0)
    successor = join("worker-0")
    zombie.close()
    assert not join("other").owned
    successor.commit([], at(1))


@pytest.mark.usefixtures("short_lease")
def test_a_partition_lost_in_between_is_seen_gone_before_it_comes_back(
    log: EventLog, start: Callable[[], EventLog], join: Callable[[str], Consumer]
) -> None:
    """Else its owner would go on with what it remembers, and miss what the other one did."""
    fill(log, 3)
    slow = join("slow")
    assert values(slow.poll(1, 0)) == [0]
    sleep(LEASE + 0.05)
    quick = start().consumer(GROUP, [IN], "quick")
    quick.poll(1, 0)
    quick.commit([], at(2, note="by quick"))
    quick.close()
    slow.poll(1, 0)
    assert Place("in", 0) not in slow.owned
    assert values(slow.poll(1, 0)) == [2]
    assert slow.owned[Place("in", 0)] == Position(2, "by quick")


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
    """Somebody from outside holds the file, after it was made."""
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
