"""The log on Kafka: topics, groups and transactional ids under one prefix. Needs a broker from 3.0 on.

A step is a transaction, so its control markers take offsets too: the offsets that records get have gaps.
The operator of the broker sets `offsets.retention.minutes` high: a group whose offsets expire begins again.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import (
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove, OffsetSpec, TransactionState
from kafka.errors import KafkaError, TransactionalIdNotFoundError
from kafka.structs import ConsumerGroupMetadata

from shared.clock import Clock, SystemClock, monotonic, sleep
from shared.eventlog.kafka_calls import ANSWER, GIVE_UP, LOOK, T, end, made, milliseconds, or_unavailable, within
from shared.eventlog.kafka_members import KafkaMember, KafkaReader, Tail
from shared.eventlog.port import (
    COMPACTION_LAG,
    DAY,
    MAX_POLL_INTERVAL,
    SCHEME,
    Entry,
    LogUnavailable,
    OtherScheme,
    Place,
    Position,
    Topic,
    check_size,
    partition_of,
)

logger = logging.getLogger(__name__)

SESSION = 6.0  # seconds a silent member keeps its partitions
TRANSACTION = 5.0  # seconds after which the broker ends a dead member's step
LEAVE = 2.0  # seconds to say goodbye

ENDING = (TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT)

ETERNAL = str(2**63 - 1)


class KafkaLog:
    """`address` is `host:port`, or `host:port/prefix`. Threads may share it."""

    def __init__(self, address: str, *, clock: Clock) -> None:
        logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it shouts at every attempt; what matters is raised
        servers, _, prefix = address.partition("/")
        self.prefix, self._clock = f"{prefix.strip('/').replace('/', '.')}." if prefix else "", clock
        self._common: dict[str, Any] = {
            "bootstrap_servers": servers.split(","),
            "bootstrap_timeout_ms": milliseconds(GIVE_UP),
            "request_timeout_ms": milliseconds(ANSWER),
            "reconnect_backoff_max_ms": 500,
        }
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self.opened: set[Tail] = set()  # readers and members that are not closed yet
        self._known: dict[str, int] = {}  # partitions of the topics that exist
        self._producer: KafkaProducer | None = None
        with or_unavailable(f"no broker at {servers}"):
            self._admin = made(KafkaAdminClient, **self._common)
            # Another for the ends alone: a broker answers one request of a connection after the other, so
            # behind a reader's waiting fetch the question would wait, too.
            self._asker = self._make_consumer()

    def create(self, topics: Sequence[Topic]) -> None:
        # The scheme stands in the name of an empty topic beside those of a service, which is made before them.
        schemes = [Topic(name, 1) for name in sorted({f"{t.name.partition('.')[0]}.scheme.{SCHEME}" for t in topics})]
        there = self._partitions([*schemes, *topics])
        for scheme in schemes:
            service = scheme.name.partition(".")[0]
            if scheme.name not in there and any(name.partition(".")[0] == service for name in there):
                raise OtherScheme(f"{self.prefix}{service}.* in Kafka")
        self._make([scheme for scheme in schemes if scheme.name not in there])
        self._make([topic for topic in topics if topic.name not in there])
        self._configure([topic for topic in topics if topic.name in there])
        there = self._partitions(topics)
        for topic in topics:
            if there[topic.name] != topic.partitions:
                has = there[topic.name]
                raise ValueError(f"topic {topic.name} has {has} partitions, not {topic.partitions}: keys would move")

    def _make(self, topics: Sequence[Topic]) -> None:
        """Make topics; another process may be making them at the same moment."""
        new = {
            self.prefix + topic.name: {
                "num_partitions": topic.partitions,
                "configs": self._configs(topic),
            }
            for topic in topics
        }
        if new:
            self._ask("topics cannot be made", lambda: self._admin.create_topics(new, raise_errors=False))
            self._ask(
                "topics are not ready", lambda: self._admin.wait_for_topics(list(new), timeout_ms=milliseconds(ANSWER))
            )

    def _configure(self, topics: Sequence[Topic]) -> None:
        """Give topics that exist the configuration of this version."""
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, self.prefix + topic.name, self._configs(topic)) for topic in topics
        ]
        if not resources:
            return
        for name, kept in self._kept([topic.name for topic in topics]).items():
            (wanted,) = (self._configs(topic)["retention.ms"] for topic in topics if topic.name == name)
            if wanted != kept:  # by another version, or a process with other settings
                said = "%s was kept for %s ms by the time of append, and from now on for %s (-1: for ever)"
                logger.warning(said, name, kept, wanted)
        self._ask("topics cannot be configured", lambda: self._admin.alter_configs(resources))

    def _kept(self, names: Sequence[str]) -> dict[str, str]:
        """By topic, its `retention.ms`."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, self.prefix + name) for name in names]
        (given,) = self._ask(
            "the configuration of topics is not told", lambda: self._admin.describe_configs(resources)
        ).values()
        return {name: given[self.prefix + name]["retention.ms"]["value"] for name in names}

    def _configs(self, topic: Topic) -> dict[str, str]:
        """With a virtual clock, records carry its time, and the broker, which has the world's, removes none of them."""
        wall = isinstance(self._clock, SystemClock)
        policies = ["compact"] * topic.compacted + ["delete"] * (not topic.compacted or topic.days is not None)
        # From the segment that is being written nothing is removed, and unless it is told to it lasts for a week.
        lag = COMPACTION_LAG * 1000
        compaction = {"segment.ms": str(lag), "max.compaction.lag.ms": str(2 * lag)}
        return (compaction if wall and topic.compacted else {}) | {
            "cleanup.policy": ",".join(policies),
            "retention.ms": str(topic.days * DAY * 1000) if wall and topic.days is not None else "-1",
            "min.compaction.lag.ms": str(lag),
            "message.timestamp.type": "LogAppendTime" if wall else "CreateTime",
            "message.timestamp.before.max.ms": ETERNAL,
            "message.timestamp.after.max.ms": ETERNAL,
        }

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        check_size(entries)
        self.need(entry.topic for entry in entries)
        with or_unavailable("the log refused a write"):
            producer = self._appender()
            try:
                until = monotonic() + GIVE_UP
                sent = [self.send(producer, entry) for entry in entries]
                done = [future.get(timeout=max(0.0, until - monotonic())) for future in sent]
            except KafkaError:
                with self._lock:  # what is still under way must not overtake what is appended next
                    if self._producer is producer:
                        self._producer = None
                end(producer)
                raise
        return [(place.partition, place.offset) for place in done]

    def _appender(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = self._make_producer()
            return self._producer

    def _make_producer(self, **options: Any) -> KafkaProducer:
        return made(
            KafkaProducer,
            **self._common,
            **options,
            acks="all",
            allow_auto_create_topics=False,
            delivery_timeout_ms=milliseconds(GIVE_UP - 1),
            max_block_ms=milliseconds(ANSWER),
            metrics_enabled=False,
        )

    def _make_consumer(self, **options: Any) -> KafkaConsumer:
        return made(
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

    def starts(self, topic: Topic) -> dict[int, int]:
        self.need([topic])
        starts = self._at_edge(
            "the log does not say where it begins", self._places(topic), KafkaConsumer.beginning_offsets
        )
        return {place.partition: start for place, start in starts.items()}

    def ends(self, topic: Topic) -> dict[int, int]:
        """As far as a reader gets: up to the first step that is under way."""
        self.need([topic])
        ends = self.last(self._places(topic))
        return {place.partition: end for place, end in ends.items()}

    def written(self, topic: Topic) -> dict[int, int]:
        self.need([topic])
        places = dict.fromkeys(self._places(topic), OffsetSpec.LATEST)  # read uncommitted, as no consumer of ours does
        ends = self._ask("the log does not say where it ends", lambda: self._admin.list_partition_offsets(places))
        return {place.partition: end.offset for place, end in ends.items()}

    def last(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._at_edge("the log does not say where it ends", places, KafkaConsumer.end_offsets)

    def _at_edge(
        self, what: str, places: Sequence[TopicPartition], ask: Callable[..., dict[TopicPartition, int]]
    ) -> dict[TopicPartition, int]:
        with or_unavailable(what):
            if not self._asking.acquire(timeout=ANSWER):  # held by another thread, which waits for the broker, too
                raise TimeoutError("the broker does not answer")
            try:
                return self._offsets(places, ask)
            finally:
                self._asking.release()

    def _offsets(
        self, places: Sequence[TopicPartition], ask: Callable[..., dict[TopicPartition, int]]
    ) -> dict[TopicPartition, int]:
        until = monotonic() + ANSWER
        while True:
            try:
                return ask(self._asker, places, timeout_ms=milliseconds(ANSWER))
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
        with or_unavailable("the log cannot be read"):
            return KafkaReader(self, self._make_consumer(auto_offset_reset="earliest"), start)

    def consumer(self, group: str, topics: Sequence[Topic], member: str) -> KafkaMember:
        self.need(topics)
        group = self.prefix + group
        name = f"{group}.{member}"
        committed = self._was_committed(name)
        with or_unavailable(f"{name} cannot join"):
            producer = self._make_producer(
                transactional_id=name, transaction_timeout_ms=milliseconds(TRANSACTION), retry_backoff_ms=2
            )
            try:
                producer.init_transactions()  # ends what the dead self was at, and fences it
                within(GIVE_UP, lambda: self._end_for_good(producer, group, topics, committed=committed))
                client = self._make_consumer(
                    group_id=group,
                    group_instance_id=name,
                    auto_offset_reset="earliest",
                    session_timeout_ms=milliseconds(SESSION),
                    max_poll_interval_ms=milliseconds(MAX_POLL_INTERVAL),
                    heartbeat_interval_ms=milliseconds(min(0.5, SESSION / 3)),
                )
                return KafkaMember(self, client, producer, topics)
            except (KafkaError, TimeoutError):
                end(producer)
                raise

    def _was_committed(self, name: str) -> bool:
        """Whether the last transaction of this name was committed; waits for one that the broker is about to end."""

        def ask() -> TransactionState:
            try:
                return TransactionState(self._admin.describe_transactions([name])[name].state)
            except TransactionalIdNotFoundError:
                return TransactionState.EMPTY

        until = monotonic() + GIVE_UP
        while (state := self._ask(f"the broker does not say how {name} ended", ask)) in ENDING and monotonic() < until:
            sleep(LOOK)
        return state is TransactionState.COMPLETE_COMMIT

    def _end_for_good(self, producer: KafkaProducer, group: str, read: Sequence[Topic], *, committed: bool) -> None:
        """End the last transaction once more, and as the broker did, wherever the dead self may have written: in the
        group's offsets, and in topics that it did not read.

        A broker that comes back, and is the only one, ends a transaction without a marker in its partitions
        (4.3.1: "likely deleted already"). Their readers would wait for ever, and the next marker of this producer
        would decide: an abort takes back what was committed, a commit makes count what was given up.
        """
        step: Any = producer._transaction_manager  # the public way would be a record to each
        producer.begin_transaction()
        for name in self._known.keys() - {topic.name for topic in read}:
            for partition in range(self._known[name]):
                step.maybe_add_partition_to_transaction(TopicPartition(self.prefix + name, partition))
        producer.send_offsets_to_transaction({}, ConsumerGroupMetadata(group))  # none: what counts is their partition
        if committed:
            producer.commit_transaction()
        else:
            producer.abort_transaction()

    def leave(self, membership: Any) -> None:
        """By member and name: a member that came back under the name keeps its own."""
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
            end(self._producer)
        self._asker.close()
        self._admin.close()

    def _places(self, topic: Topic) -> list[TopicPartition]:
        return [TopicPartition(self.prefix + topic.name, partition) for partition in range(topic.partitions)]

    def _partitions(self, topics: Sequence[Topic]) -> dict[str, int]:
        """By topic that exists, the number of its partitions."""
        names = [self.prefix + topic.name for topic in topics]
        found = self._ask("topics cannot be listed", lambda: self._admin.describe_topics(names))
        there = {x["name"].removeprefix(self.prefix): len(x["partitions"]) for x in found if not x["error_code"]}
        self._known |= there
        return there

    def _ask(self, what: str, call: Callable[[], T], patience: float = GIVE_UP) -> T:
        until = monotonic() + patience
        with or_unavailable(what):
            while True:
                try:
                    return within(until - monotonic(), call)
                except KafkaError as error:  # such as a coordinator that is still being chosen
                    if not error.retriable or monotonic() > until:
                        raise
                    sleep(LOOK)
