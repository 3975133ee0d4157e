"""The log in Kafka: topics, groups and transactional ids under one prefix. Needs a broker from 2.5 on.

A step is a transaction, so its control markers take offsets too: the offsets that records get have gaps.
Whoever runs the broker sets `offsets.retention.minutes` high: a group whose offsets expire begins again.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka import errors as kafka_errors
from kafka.admin import MemberToRemove
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from shared.clock import Clock, monotonic, sleep
from shared.eventlog.port import Entry, Fenced, LogUnavailable, Place, Position, Record, Topic, partition_of

T = TypeVar("T")

SESSION = 6.0  # seconds a silent member keeps its partitions
JOIN = 3.0  # seconds that a poll waits at most for the others of the group to agree who owns what
ANSWER = 5.0  # seconds for the broker to answer
GIVE_UP = 9.0  # seconds after which a call ends, whatever became of it
TRANSACTION = 5.0  # seconds after which the broker ends a dead member's step
LEAVE = 2.0  # seconds to say goodbye
LOOK = 0.05  # seconds to wait for records that are known to be there
HELD = 5_000  # records of a partition fetched ahead

ETERNAL = str(2**63 - 1)
# The clock may be virtual, and months away from the broker's.
KEPT = {"retention.ms": "-1", "message.timestamp.before.max.ms": ETERNAL, "message.timestamp.after.max.ms": ETERNAL}

FENCED = (
    kafka_errors.CommitFailedError,  # of another generation of the group
    kafka_errors.FencedInstanceIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.ProducerFencedError,
    kafka_errors.UnknownMemberIdError,
)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call gives, or TimeoutError: some calls of the library wait for a dead broker for ever."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def _made(kind: Callable[..., T], **options: Any) -> T:
    """A client; one that finds no broker would leave its thread and its sockets behind."""
    networks: list[KafkaNetClient] = []

    def network(**config: Any) -> KafkaNetClient:
        networks.append(KafkaNetClient(**config))
        return networks[-1]

    try:
        return kind(kafka_client=network, **options)
    except BaseException:
        for opened in networks:
            opened.close()
        raise


@contextmanager
def _or_unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"{what}: {type(error).__name__} {error}") from error


def _record(place: Place, given: Any) -> Record:
    """Whoever else writes to the topic may leave out key and value, or send a key that is no text."""
    key, value = (given.key or b"").decode(errors="replace"), given.value or b""
    return Record(*place, given.offset, key, value, given.timestamp // 1000)


class _Tail:
    """Fetches ahead, and hands out in bites; each offset of a partition once."""

    def __init__(self, log: "KafkaLog", client: KafkaConsumer) -> None:
        self._log, self._client, self._prefix = log, client, log.prefix
        log.opened.add(self)
        self._held: dict[Place, deque[Record]] = {}
        self._next: dict[Place, int] = {}  # offset after the last record fetched

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """At most `limit` a partition; none only if the end was reached, which the broker is asked for."""
        until = monotonic() + timeout
        with _or_unavailable("the log cannot be read"):
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
        for partition, records in self._client.poll(_ms(timeout), max_records=2**31).items():
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
        return held[0].offset if held else int(self._client.position(self._partition(place), timeout_ms=_ms(ANSWER)))

    def _at_end(self) -> bool:
        ends = self._log.last(list(map(self._partition, self._held)))
        return all(self._position(place) >= ends[self._partition(place)] for place in self._held)

    def _partition(self, place: Place) -> TopicPartition:
        return TopicPartition(self._prefix + place.topic, place.partition)

    def _place(self, partition: TopicPartition) -> Place:
        return Place(partition.topic.removeprefix(self._prefix), partition.partition)


class KafkaReader(_Tail):
    def __init__(self, log: "KafkaLog", client: KafkaConsumer, start: Mapping[Place, int]) -> None:
        super().__init__(log, client)
        client.assign(list(map(self._partition, start)))
        for place, offset in start.items():
            self._begin(place, offset)

    @property
    def positions(self) -> dict[Place, int]:
        """Past control markers too, so that who has read everything stands at the end."""
        return {place: self._position(place) for place in self._held}


class _Moves(ConsumerRebalanceListener):
    """Remembers what rebalances did during a poll; there may be several."""

    def __init__(self, client: KafkaConsumer) -> None:
        self._client = client
        self.membership = client.group_metadata()  # of the assignment below; taken later, it may be of the next one
        self.assigned: set[TopicPartition] = set()
        self.kept: set[TopicPartition] = set()  # assigned all the time
        self.joining = self.moved = True

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002
        self.joining = True

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:  # noqa: ARG002
        self.kept, self.assigned, self.joining, self.moved = set(), set(), True, True

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.assigned, self.kept = set(assigned), self.kept & assigned
        self.membership = self._client.group_metadata()
        self.joining, self.moved = False, True


class KafkaMember(_Tail):
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
        left it, somebody else had it: it comes back with the next poll, so that the caller sees it gone.
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
        there = self._client.committed(self._partition(place), metadata=True, timeout_ms=_ms(GIVE_UP))
        return Position(0) if there is None else Position(there.offset, there.metadata)

    def _at_end(self) -> bool:
        if not self._held:  # nothing to be read: see that the broker is there
            self._log.last([self._partition(Place(self._topics[0].name, 0))])
        return super()._at_end()

    def commit(self, entries: Sequence[Entry], positions: Mapping[Place, Position]) -> None:
        for place in positions:
            if place not in self.owned:
                raise Fenced(f"{self._moves.membership.group_instance_id} does not own {place.topic}/{place.partition}")
        self._log.need(entry.topic for entry in entries)
        try:
            within(GIVE_UP, lambda: self._transact(entries, positions))
        except (KafkaError, TimeoutError) as error:
            # Whatever became of it: who joins next ends it first, and then asks where the group stands.
            self._abandon()
            if any(isinstance(cause, FENCED) for cause in (error, *error.args)):
                raise Fenced(f"{self._moves.membership.group_instance_id} lost its claim: {error!r}") from error
            raise LogUnavailable(f"the log refused a step: {error!r}") from error
        self.owned.update(positions)

    def _transact(self, entries: Sequence[Entry], positions: Mapping[Place, Position]) -> None:
        producer, membership = self._producer, self._moves.membership
        producer.begin_transaction()
        try:
            for entry in entries:
                self._log.send(producer, entry)
            if positions:
                offsets = {
                    self._partition(place): OffsetAndMetadata(*position, -1) for place, position in positions.items()
                }
                producer.send_offsets_to_transaction(offsets, membership)
            producer.commit_transaction()
        except BaseException:
            with suppress(KafkaError):  # fenced: there is nothing left to abort
                producer.abort_transaction()
            raise

    def _abandon(self) -> None:
        _end(self._producer)
        super().close()

    def close(self) -> None:
        """A static member that only falls silent would keep its partitions for the session."""
        membership = self._client.group_metadata()
        self._abandon()
        if membership.member_id:
            self._log.leave(membership)


def _end(producer: KafkaProducer) -> None:
    """At once: what is still in its buffer is given up, as who wrote it has been told."""
    producer._sender.force_close()  # `close` alone raises, and goes on sending, when the broker is away
    with suppress(KafkaError):
        producer.close(timeout=1)


class KafkaLog:
    """`address` is `host:port`, or `host:port/prefix`. Threads may share it."""

    def __init__(self, address: str, *, clock: Clock) -> None:
        logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it shouts at every attempt; what matters is raised
        servers, _, prefix = address.partition("/")
        self.prefix, self._clock = f"{prefix.strip('/').replace('/', '.')}." if prefix else "", clock
        self._common: dict[str, Any] = {
            "bootstrap_servers": servers.split(","),
            "bootstrap_timeout_ms": _ms(GIVE_UP),
            "request_timeout_ms": _ms(ANSWER),
            "reconnect_backoff_max_ms": 500,
        }
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self.opened: set[_Tail] = set()  # readers and members that nobody has closed yet
        self._known: set[str] = set()  # topics that exist
        self._producer: KafkaProducer | None = None
        with _or_unavailable(f"no broker at {servers}"):
            self._admin = _made(KafkaAdminClient, **self._common)
            # Another for the ends alone: a broker answers one request of a connection after the other, so
            # behind a reader's waiting fetch the question would wait, too.
            self._asker = self._make_consumer()

    def create(self, topics: Sequence[Topic]) -> None:
        there = self._partitions(topics)
        new = {
            self.prefix + topic.name: {
                "num_partitions": topic.partitions,
                "configs": KEPT | {"cleanup.policy": "compact" if topic.compacted else "delete"},
            }
            for topic in topics
            if topic.name not in there
        }
        if new:  # somebody else may be making them, too
            self._ask("topics cannot be made", lambda: self._admin.create_topics(new, raise_errors=False))
            self._ask("topics are not ready", lambda: self._admin.wait_for_topics(list(new), timeout_ms=_ms(ANSWER)))
            there = self._partitions(topics)
        for topic in topics:
            if there[topic.name] != topic.partitions:
                has = there[topic.name]
                raise ValueError(f"topic {topic.name} has {has} partitions, not {topic.partitions}: keys would move")

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        self.need(entry.topic for entry in entries)
        with _or_unavailable("the log refused a write"):
            producer = self._appender()
            try:
                until = monotonic() + GIVE_UP
                sent = [self.send(producer, entry) for entry in entries]
                done = [future.get(timeout=max(0.0, until - monotonic())) for future in sent]
            except KafkaError:
                with self._lock:  # what is still under way must not overtake what is appended next
                    if self._producer is producer:
                        self._producer = None
                _end(producer)
                raise
        return [(place.partition, place.offset) for place in done]

    def _appender(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = self._make_producer()
            return self._producer

    def _make_producer(self, **options: Any) -> KafkaProducer:
        return _made(
            KafkaProducer,
            **self._common,
            **options,
            acks="all",
            allow_auto_create_topics=False,
            delivery_timeout_ms=_ms(GIVE_UP - 1),
            max_block_ms=_ms(ANSWER),
            metrics_enabled=False,
        )

    def _make_consumer(self, **options: Any) -> KafkaConsumer:
        return _made(
            KafkaConsumer,
            **self._common,
            **options,
            allow_auto_create_topics=False,
            enable_auto_commit=False,
            fetch_max_wait_ms=100,  # a partition that was full has to wait for the fetch of the others
            isolation_level="read_committed",
            max_partition_fetch_bytes=256 * 1024,
            metrics_enabled=False,
            retry_backoff_ms=20,
        )

    def send(self, producer: KafkaProducer, entry: Entry) -> Any:
        """Hand an entry to a producer; gives the library's future."""
        topic, key, value, wanted = entry
        partition = partition_of(key, topic.partitions) if wanted is None else wanted
        at = self._clock.now() * 1000
        return producer.send(self.prefix + topic.name, value, key.encode(), partition=partition, timestamp_ms=at)

    def ends(self, topic: Topic) -> dict[int, int]:
        """As far as a reader gets: up to the first step that is under way."""
        self.need([topic])
        ends = self.last(self._places(topic))
        return {place.partition: end for place, end in ends.items()}

    def last(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        until = monotonic() + ANSWER
        with _or_unavailable("the log does not say where it ends"), self._asking:
            while True:
                try:
                    ends: dict[TopicPartition, int] = self._asker.end_offsets(places, timeout_ms=_ms(ANSWER))
                    return ends
                except KeyError as error:  # a partition whose leader the client has yet to learn, which it now does
                    if monotonic() > until:
                        raise TimeoutError(f"no leader of {error}") from error
                    sleep(LOOK)

    def committed(self, group: str, topic: Topic) -> dict[int, Position]:
        self.need([topic])
        ask = {(name := self.prefix + group): self._places(topic)}
        there = self._ask("the log does not say how far a group is", lambda: self._admin.list_group_offsets(ask))[name]
        return {p.partition: Position(at.offset, at.metadata) for p, at in there.items() if at.offset >= 0}

    def reader(self, start: Mapping[Place, int]) -> KafkaReader:
        with _or_unavailable("the log cannot be read"):
            return KafkaReader(self, self._make_consumer(auto_offset_reset="none"), start)

    def consumer(self, group: str, topics: Sequence[Topic], member: str) -> KafkaMember:
        self.need(topics)
        group = self.prefix + group
        name = f"{group}.{member}"
        with _or_unavailable(f"{name} cannot join"):
            producer = self._make_producer(
                transactional_id=name, transaction_timeout_ms=_ms(TRANSACTION), retry_backoff_ms=2
            )
            try:
                producer.init_transactions()  # ends what the dead self was at, and fences it
                client = self._make_consumer(
                    group_id=group,
                    group_instance_id=name,
                    auto_offset_reset="earliest",
                    session_timeout_ms=_ms(SESSION),
                    heartbeat_interval_ms=_ms(min(0.5, SESSION / 3)),
                )
                return KafkaMember(self, client, producer, topics)
            except (KafkaError, TimeoutError):
                _end(producer)
                raise

    def leave(self, membership: Any) -> None:
        """By member and name: who came back under the name keeps its own."""
        member = MemberToRemove(membership.member_id, membership.group_instance_id)
        with suppress(LogUnavailable):  # the session ends by itself
            self._ask("cannot leave", lambda: self._admin.remove_group_members(membership.group_id, [member]), LEAVE)

    def need(self, topics: Iterable[Topic]) -> None:
        """See that topics exist.

        Raises:
            LogUnavailable: one does not.
        """
        for topic in {topic for topic in topics if topic.name not in self._known}:
            if topic.name not in self._partitions([topic]):
                raise LogUnavailable(f"topic {topic.name!r} does not exist")

    def close(self) -> None:
        """With all that was opened from it: after a failure, too, no thread of it is left."""
        for tail in list(self.opened):
            tail.close()
        if self._producer is not None:
            _end(self._producer)
        self._asker.close()
        self._admin.close()

    def _places(self, topic: Topic) -> list[TopicPartition]:
        return [TopicPartition(self.prefix + topic.name, partition) for partition in range(topic.partitions)]

    def _partitions(self, topics: Sequence[Topic]) -> dict[str, int]:
        """By topic that exists, the number of its partitions."""
        names = [self.prefix + topic.name for topic in topics]
        found = self._ask("topics cannot be listed", lambda: self._admin.describe_topics(names))
        there = {x["name"].removeprefix(self.prefix): len(x["partitions"]) for x in found if not x["error_code"]}
        self._known |= there.keys()
        return there

    def _ask(self, what: str, call: Callable[[], T], patience: float = GIVE_UP) -> T:
        until = monotonic() + patience
        with _or_unavailable(what):
            while True:
                try:
                    return within(until - monotonic(), call)
                except KafkaError as error:  # such as a coordinator that is still being chosen
                    if not error.retriable or monotonic() > until:
                        raise
                    sleep(LOOK)
