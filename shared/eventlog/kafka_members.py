"""Readers of a log in Kafka, and members of a group, each with a transactional producer of its own."""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from shared.clock import monotonic
from shared.eventlog.kafka_calls import ANSWER, GIVE_UP, LOOK, end, milliseconds, or_unavailable, within
from shared.eventlog.port import Entry, Fenced, LogUnavailable, Place, Position, Record, Topic, check_size

if TYPE_CHECKING:
    from shared.eventlog.kafka import KafkaLog

JOIN = 3.0  # seconds that a poll waits at most for the others of the group to agree who owns what
HELD = 5_000  # records of a partition fetched ahead

FENCED = (  # found by name: a producer that is in an error state hands its cause on as text only
    kafka_errors.CommitFailedError,  # of another generation of the group
    kafka_errors.FencedInstanceIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.ProducerFencedError,
    kafka_errors.UnknownMemberIdError,
)


def _record(place: Place, given: Any) -> Record:
    """Other producers may leave out key and value, or send a key that is no text."""
    key, value = (given.key or b"").decode(errors="replace"), given.value or b""
    return Record(*place, given.offset, key, value, given.timestamp // 1000)


class Tail:
    """Fetches ahead, and hands out in bites; each offset of a partition once."""

    def __init__(self, log: "KafkaLog", client: KafkaConsumer) -> None:
        self._log, self._client, self._prefix = log, client, log.prefix
        log.opened.add(self)
        self._held: dict[Place, deque[Record]] = {}
        self._next: dict[Place, int] = {}  # offset after the last record fetched

    @property
    def positions(self) -> dict[Place, int]:
        """Past control markers too, so that a reader of everything is at the end."""
        return {place: self._position(place) for place in self._held}

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """At most `limit` a partition; none only if the end was reached, which the broker is asked for."""
        until = monotonic() + timeout
        with or_unavailable("the log cannot be read"):
            self._fetch(0.0 if any(self._held.values()) else timeout)
            while not (records := self._take(limit)):
                left = until - monotonic()
                if left <= 0 and (not limit or self._at_end()):
                    break
                if left < -GIVE_UP:
                    raise LogUnavailable("the log cannot be read: there are records, and they do not come")
                self._fetch(max(left, LOOK))
        return records

    def close(self) -> None:
        self._client.close(autocommit=False, timeout_ms=1_000)
        self._log.opened.discard(self)

    def _fetch(self, timeout: float) -> None:
        full = {self._partition(place) for place, held in self._held.items() if len(held) >= HELD}
        paused = self._client.paused()
        self._client.pause(*(full - paused))
        self._client.resume(*(paused - full))
        for partition, records in self._client.poll(milliseconds(timeout), max_records=2**31).items():
            place = self._place(partition)
            if place in self._held:
                new = [record for record in records if record.offset >= self._next[place]]
                self._held[place].extend(_record(place, record) for record in new)
                self._next[place] = new[-1].offset + 1 if new else self._next[place]

    def _take(self, limit: int) -> list[Record]:
        return [held.popleft() for held in self._held.values() for _ in range(min(limit, len(held)))]

    def _begin(self, place: Place, offset: int) -> None:
        self._held[place], self._next[place] = deque(), offset
        self._client.seek(self._partition(place), offset)

    def _position(self, place: Place) -> int:
        held = self._held[place]
        return (
            held[0].offset
            if held
            else int(self._client.position(self._partition(place), timeout_ms=milliseconds(ANSWER)))
        )

    def _at_end(self) -> bool:
        ends = self._log.last(list(map(self._partition, self._held)))
        return all(self._position(place) >= ends[self._partition(place)] for place in self._held)

    def _partition(self, place: Place) -> TopicPartition:
        return TopicPartition(self._prefix + place.topic, place.partition)

    def _place(self, partition: TopicPartition) -> Place:
        return Place(partition.topic.removeprefix(self._prefix), partition.partition)


class KafkaReader(Tail):
    def __init__(self, log: "KafkaLog", client: KafkaConsumer, start: Mapping[Place, int]) -> None:
        super().__init__(log, client)
        client.assign(list(map(self._partition, start)))
        for place, offset in start.items():
            self._begin(place, offset)


class _Moves(ConsumerRebalanceListener):
    """Remembers what rebalances did during a poll; there may be several."""

    def __init__(self, client: KafkaConsumer) -> None:
        self._client = client
        self.membership = client.group_metadata()  # of the assignment below; taken later, it may be of the next one
        self.assigned: set[TopicPartition] = set()
        self.kept: set[TopicPartition] = set()  # assigned all the time
        self.joining = self.moved = True

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002  # kafka-python calls it so
        self.joining = True

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:  # noqa: ARG002  # kafka-python calls it so
        self.kept, self.assigned, self.joining, self.moved = set(), set(), True, True

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.assigned, self.kept = set(assigned), self.kept & assigned
        self.membership = self._client.group_metadata()
        self.joining, self.moved = False, True


class KafkaMember(Tail):
    """A static member of a group, with a transactional producer of the same name.

    Fencing is the broker's: by the epoch of the transactional id, which a successor of the same name
    raises, and by the generation of the group in which the partitions were assigned.
    """

    def __init__(
        self, log: "KafkaLog", client: KafkaConsumer, producer: KafkaProducer, topics: Sequence[Topic]
    ) -> None:
        super().__init__(log, client)
        self._producer, self._topics = producer, topics
        self._moves = _Moves(client)
        names = [self._prefix + topic.name for topic in topics]
        client.subscribe(names, listener=self._moves)
        for name in names:  # who leads a group before it knows the topics shares out nothing, and begins again
            within(GIVE_UP, partial(client.partitions_for_topic, name))
        self.owned: dict[Place, Position] = {}

    def _fetch(self, timeout: float) -> None:
        """Sees a rebalance through: a commit while one is under way would be of the old generation."""
        until = monotonic() + JOIN
        super()._fetch(timeout)
        while self._moves.joining and monotonic() < until:
            super()._fetch(LOOK)
        if self._moves.moved:
            self._adopt()

    def _adopt(self) -> None:
        """Take what was assigned, from where the group stands.

        A kept partition goes on from its own next record. If the group stands elsewhere than this member
        left it, another member had it: it comes back with the next poll, so that the caller sees it gone.
        """
        moves = self._moves
        assigned = set(map(self._place, moves.assigned))
        stands = {place: self._stands(place) for place in assigned}
        kept = {place for place in map(self._place, moves.kept) if stands[place] == self.owned.get(place)}
        gone = set(self.owned) - kept
        for place in gone:
            del self.owned[place], self._held[place], self._next[place]
        for place in sorted(assigned - set(self.owned) - gone):
            self.owned[place] = stands[place]
            self._begin(place, stands[place].offset)
        moves.kept = set(map(self._partition, self.owned))
        moves.moved = bool(assigned & gone)

    def _stands(self, place: Place) -> Position:
        """Waits for a transaction that is about to move it."""
        there = self._client.committed(self._partition(place), metadata=True, timeout_ms=milliseconds(GIVE_UP))
        return Position(0) if there is None else Position(there.offset, there.metadata)

    def _at_end(self) -> bool:
        if not self._held:  # nothing to be read: see that the broker is there
            self._log.last([self._partition(Place(self._topics[0].name, 0))])
        return super()._at_end()

    def commit(self, entries: Sequence[Entry], positions: Mapping[Place, Position]) -> None:
        check_size(entries)
        for place in positions:
            if place not in self.owned:
                raise Fenced(f"{self._moves.membership.group_instance_id} does not own {place.topic}/{place.partition}")
        self._log.need(entry.topic for entry in entries)
        try:
            within(GIVE_UP, lambda: self._transact(entries, positions))
        except (KafkaError, TimeoutError) as error:
            # Whatever became of it: who joins next ends it first, and then asks where the group stands.
            self._abandon()
            if any(kind.__name__ in repr(error) for kind in FENCED):
                raise Fenced(f"{self._moves.membership.group_instance_id} lost its claim: {error!r}") from error
            raise LogUnavailable(f"the log refused a step: {error!r}") from error
        self.owned.update(positions)

    def _transact(self, entries: Sequence[Entry], positions: Mapping[Place, Position]) -> None:
        producer, membership = self._producer, self._moves.membership
        producer.begin_transaction()
        try:
            until = monotonic() + GIVE_UP
            sent = [self._log.send(producer, entry) for entry in entries]
            if positions:
                offsets = {
                    self._partition(place): OffsetAndMetadata(*position, -1) for place, position in positions.items()
                }
                producer.send_offsets_to_transaction(offsets, membership)
            # Each record has to be there first. A broker that has given the step up meanwhile refuses what comes too
            # late, and kafka-python 3.0.12 would drop it, take a new epoch, and call the step committed.
            for future in sent:
                future.get(timeout=max(0.0, until - monotonic()))
            producer.commit_transaction()
        except BaseException:
            with suppress(KafkaError):  # fenced: there is nothing left to abort
                producer.abort_transaction()
            raise

    def _abandon(self) -> None:
        end(self._producer)
        super().close()

    def close(self) -> None:
        """A static member that only falls silent would keep its partitions for the session."""
        membership = self._client.group_metadata()
        self._abandon()
        if membership.member_id:
            self._log.leave(membership)
