"""The embedded log against lists in memory, in random orders of events.

Members of a group work, stall, die, come back and leave while the clock runs on; each input record has to
be worked off exactly once: one record in `out` for each that a committed position has passed.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.clock import VirtualClock
from shared.eventlog.port import (
    Entry,
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
from shared.eventlog.sqlite import SqliteConsumer, SqliteLog

Opened = TypeVar("Opened", SqliteLog, SqliteConsumer)

IN, OUT, NOWHERE = Topic("in", 3), Topic("out", 2), Topic("nowhere", 1)
PLACES = [*beginning([IN])]
GROUP = "group"
NAMES = ("a", "b", "c")
LEASE = 6  # seconds, whole, so that the clock can stand exactly where one runs out

some = st.integers(0, 7)  # which of those that are there
limits = st.integers(0, 3)
partitions = st.lists(st.integers(0, IN.partitions - 1), min_size=1, max_size=5)


class Turn(NamedTuple):
    """What a member does when it is its turn."""

    after: int = 0  # seconds
    who: int = 0
    amounts: Sequence[int] = [0] * len(PLACES)  # by partition, of what it polled earlier: to commit now
    echo: bool = False  # writes into its own input, too
    breaks: bool = False  # its commit fails half way
    limit: int = 0  # of its poll


turns = st.lists(
    st.builds(
        Turn,
        after=st.sampled_from([0, 1, LEASE // 3, LEASE - 1, LEASE, LEASE + 1]),
        who=some,
        amounts=st.lists(limits, min_size=len(PLACES), max_size=len(PLACES)),
        echo=st.booleans(),
        breaks=st.sampled_from([False, False, True]),
        limit=limits,
    ),
    min_size=1,
    max_size=8,
)


class Member:
    """One life of a member, and what it may expect."""

    def __init__(self, name: str, consumer: SqliteConsumer) -> None:
        self.name, self.consumer = name, consumer
        self.renews_at = -math.inf  # the first poll after this changes what it owns
        self.next: dict[Place, int] = {}
        self.undone: dict[Place, list[Record]] = {}  # polled, not committed


class Claim(NamedTuple):
    holder: Member
    until: float


class Group(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now, self.boots = 100.0, 0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("shared.eventlog.sqlite.LEASE", LEASE)
        self.patch.setattr("shared.eventlog.sqlite.monotonic", lambda: self.now)
        self.patch.setattr("shared.eventlog.sqlite._keep_claims", lambda *_: None)  # it would run in real time
        self.patch.setattr("shared.eventlog.sqlite.boot_id", lambda: str(self.boots))
        self.folder = tempfile.TemporaryDirectory()
        self.log = hasty(SqliteLog(str(Path(self.folder.name, "log.db")), clock=VirtualClock(1_000)))
        self.log.create([IN, OUT])
        # What has to be true:
        self.records: dict[Place, list[Record]] = {place: [] for place in beginning([IN, OUT])}
        self.committed = dict.fromkeys(PLACES, Position(0))
        self.claims: dict[Place, Claim] = {}
        self.names: dict[str, float] = {}  # of members that count for the shares, and until when
        self.living: list[Member] = []
        # Who looks:
        self.witness = self.log.reader(beginning([IN, OUT]))
        self.seen: dict[Place, list[Record]] = {place: [] for place in self.records}
        self.readers: list[tuple[Reader, dict[Place, int]]] = []

    def teardown(self) -> None:
        for member in self.living:
            die(member)
        for reader in (self.witness, *(reader for reader, _ in self.readers)):
            reader.close()
        self.log.close()
        self.folder.cleanup()
        self.patch.undo()

    # --- the world goes on ---------------------------------------------------------------------------
    # Few rules with much in each: Hypothesis leaves out some in every run, and most that happens needs all.

    @initialize(partitions=partitions)
    def begin(self, partitions: list[int]) -> None:
        self.append(partitions)
        self.join("a")
        self.join("b")

    @rule(partitions=partitions)
    def append(self, partitions: list[int]) -> None:
        entries = [Entry(IN, f"k{n}", b"%d" % n, partition) for n, partition in enumerate(partitions)]
        assert self.log.append(entries) == self.written(entries)

    @rule(partition=st.integers(0, IN.partitions - 1), back=some)
    def replay(self, partition: int, back: int) -> None:
        """A reader begins anywhere, and goes on."""
        place = PLACES[partition]
        start = max(0, len(self.records[place]) - back)
        if len(self.readers) > 2:
            self.readers.pop(0)[0].close()
        self.readers.append((self.log.reader({place: start}), {place: start}))

    @precondition(lambda self: self.readers)
    @rule(which=some, limit=limits)
    def read(self, which: int, limit: int) -> None:
        reader, positions = self.readers[which % len(self.readers)]
        self.check(reader.poll(limit, 0), positions, limit)
        assert reader.positions == positions

    # --- the members ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.living) < 4)
    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        """A new member, one that was dead, or one under the name of a member that only seemed dead."""
        self.living.append(Member(name, hasty(self.log.consumer(GROUP, [IN], name))))

    @precondition(lambda self: self.living)
    @rule(turns=turns)
    def work(self, turns: list[Turn]) -> None:
        for turn in turns:
            self.take(turn)
            self.records_are_the_reference_in_order()
            self.positions_are_those_committed()

    def take(self, turn: Turn) -> None:
        """Commit some of what was polled earlier, and poll again."""
        self.now += turn.after
        member = self.living[turn.who % len(self.living)]
        amount = dict(zip(PLACES, turn.amounts, strict=True))
        work = {place: done for place, undone in member.undone.items() if (done := undone[: amount[place]])}
        if work:
            self.commit(member, work, echo=turn.echo, breaks=turn.breaks)
        self.poll(member, turn.limit)

    def commit(self, member: Member, work: dict[Place, list[Record]], *, echo: bool, breaks: bool) -> None:
        """One result a record; some of it goes into its own input, some breaks half way."""
        entries = [result(record) for done in work.values() for record in done]
        entries += [Entry(IN, "echo", b"echo")] if echo else []
        broken = [*entries, Entry(NOWHERE, "", b"")] if breaks else entries
        positions = {place: Position(done[-1].offset + 1, f"{member.name} {self.now}") for place, done in work.items()}
        if not all(self.holds(member, place) for place in work):
            with pytest.raises(Fenced):
                member.consumer.commit(broken, positions)
        elif breaks:
            with pytest.raises(LogUnavailable):
                member.consumer.commit(broken, positions)
        else:
            member.consumer.commit(entries, positions)
            self.written(entries)
            self.committed |= positions
            for place, done in work.items():
                del member.undone[place][: len(done)]
                self.claims[place] = Claim(member, self.now + LEASE)

    def poll(self, member: Member, limit: int) -> None:
        before = dict(member.consumer.owned)
        records = member.consumer.poll(limit, 0)
        if self.now < member.renews_at:
            assert member.consumer.owned == before
        else:
            self.claim(member, before)
        self.check(records, member.next, limit)
        for record in records:
            member.undone[Place(record.topic, record.partition)].append(record)

    @precondition(lambda self: self.living)
    @rule(who=some, partition=st.integers(0, IN.partitions - 1))
    def trespass(self, who: int, partition: int) -> None:
        """A member cannot move a partition that it does not hold, even beside one of its own."""
        member, foreign = self.living[who % len(self.living)], PLACES[partition]
        if not self.holds(member, foreign):
            own = {place: self.committed[place] for place in PLACES if self.holds(member, place)}
            with pytest.raises(Fenced):
                member.consumer.commit([Entry(OUT, "", b"stolen")], {**own, foreign: Position(0, "stolen")})

    @precondition(lambda self: self.living)
    @rule(who=some, neatly=st.booleans())
    def go(self, who: int, neatly: bool) -> None:
        member = self.living.pop(who % len(self.living))
        if not neatly:
            die(member)  # its claims stay until they run out, or it is back
            return
        member.consumer.close()
        self.claims = {place: claim for place, claim in self.claims.items() if claim.holder is not member}
        if all(claim.holder.name != member.name for claim in self.claims.values()):
            self.names.pop(member.name, None)

    @rule()
    def reboot(self) -> None:
        """All die, and the clock begins anew: leases of another boot are void."""
        while self.living:
            die(self.living.pop())
        self.claims = {place: Claim(claim.holder, -math.inf) for place, claim in self.claims.items()}
        self.names = {}
        self.now, self.boots = float(self.boots), self.boots + 1

    @rule(limit=st.integers(1, 3))
    def finish(self, limit: int) -> None:
        """Whatever happened, a member that is left alone can work off everything."""
        while self.living:
            die(self.living.pop())
        self.join("c")
        self.take(Turn(LEASE + 1))
        assert self.living[0].consumer.owned == self.committed
        while any(self.committed[place].offset < len(self.records[place]) for place in PLACES):
            self.take(Turn(amounts=[limit] * len(PLACES), limit=limit))
        with closing(self.log.reader(beginning([IN, OUT]))) as reader:
            anew = reader.poll(10_000, 0)
        assert sorted(anew) == sorted(record for records in self.records.values() for record in records)

    # --- what holds ----------------------------------------------------------------------------------

    @invariant()
    def records_are_the_reference_in_order(self) -> None:
        for record in self.witness.poll(10_000, 0):
            self.seen[Place(record.topic, record.partition)].append(record)
        assert self.seen == self.records
        for topic in (IN, OUT):
            ends = {partition: len(self.records[Place(topic.name, partition)]) for partition in range(topic.partitions)}
            assert self.log.ends(topic) == ends
        # What was worked off is what the positions have passed, each record once.
        done = [record.value for place, records in self.seen.items() if place.topic == OUT.name for record in records]
        passed = [record for place in PLACES for record in self.records[place][: self.committed[place].offset]]
        assert sorted(done) == sorted(result(record).value for record in passed)

    @invariant()
    def positions_are_those_committed(self) -> None:
        assert dict.fromkeys(range(IN.partitions), Position(0)) | self.log.committed(GROUP, IN) == {
            place.partition: position for place, position in self.committed.items()
        }
        for member in self.living:
            for place, position in member.consumer.owned.items():
                assert position == self.committed[place] or not self.holds(member, place)

    def check(self, records: list[Record], positions: dict[Place, int], limit: int) -> None:
        """Exactly the next ones of each partition."""
        for place, position in positions.items():
            polled = [record for record in records if (record.topic, record.partition) == place]
            assert polled == self.records[place][position : position + limit]
            positions[place] += len(polled)
        assert {Place(record.topic, record.partition) for record in records} <= positions.keys()

    def holds(self, member: Member, place: Place) -> bool:
        return place in self.claims and self.claims[place].holder is member

    def claim(self, member: Member, before: Mapping[Place, Position]) -> None:
        """What a member owns after a poll in which it looks after its claims."""
        owned = member.consumer.owned
        lost = {place for place in before if not self.holds(member, place)}
        if member.renews_at == -math.inf:  # a successor fences its dead self
            self.claims = {place: claim for place, claim in self.claims.items() if claim.holder.name != member.name}
        mine = {place for place in PLACES if self.holds(member, place)}
        free = {place for place in PLACES if place not in self.claims or self.claims[place].until < self.now}
        self.names = {name: until for name, until in self.names.items() if until >= self.now}
        self.names[member.name] = self.now + LEASE
        share = math.ceil(len(PLACES) / len(self.names))
        assert len(owned) == min(share, len(mine | free - lost))
        assert lost.isdisjoint(owned), "had by another member in between, and not seen gone"
        for place in before.keys() - owned.keys():
            del member.next[place], member.undone[place]
            if place not in lost:
                del self.claims[place]
        for place, position in owned.items():
            if place not in before:
                holder = self.claims.get(place)
                assert holder is None or holder.until < self.now, f"taken from {holder}, who is alive"
                member.next[place], member.undone[place] = position.offset, []
            self.claims[place] = Claim(member, self.now + LEASE)
        member.renews_at = self.now if lost else self.now + LEASE / 3

    def written(self, entries: list[Entry]) -> list[tuple[int, int]]:
        """The entries enter the reference; gives where they stand."""
        given = []
        for topic, key, value, wanted in entries:
            partition = partition_of(key, topic.partitions) if wanted is None else wanted
            records = self.records[Place(topic.name, partition)]
            given.append((partition, len(records)))
            records.append(Record(topic.name, partition, len(records), key, value, 1_000))
        return given


def result(record: Record) -> Entry:
    name = f"{record.partition}/{record.offset}"
    return Entry(OUT, name, name.encode())


def hasty(opened: Opened) -> Opened:
    """Without waiting for the disk: the power is not cut here."""
    opened._connection.db.execute("PRAGMA synchronous=OFF")
    return opened


def die(member: Member) -> None:
    """As the kernel ends a process: its connection goes, and it says nothing."""
    member.consumer._connection.close()


@pytest.mark.timeout(600)  # when it fails, making the failing case small takes its time
def test_a_group_does_what_lists_in_memory_do(proof: bool) -> None:
    tried = settings(stateful_step_count=40, derandomize=True, database=None, deadline=None)
    run_state_machine_as_test(
        Group, settings=settings(tried, max_examples=max(settings().max_examples, 200 if proof else 0))
    )
