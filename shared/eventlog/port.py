"""The interface of the event log. Offsets give the order.

What each implementation guarantees, and `tests/contracts/test_eventlog.py` holds it to:

order       records of one key stand in one partition, in the order of their append
durable     `append` and `commit` return after the records survive `kill -9` (SQLite: a power cut too)
atomic      a commit's records and its consumed offsets are written together, or not at all; they are seen
            when `commit` has returned (Kafka: a moment after it has, each partition for itself)
fencing     who lost its claim on a partition can no longer commit for it
patience    a member that polls every MAX_POLL_INTERVAL keeps its claims, however long its work takes in between
committed   readers see committed records only
replay      a reader may start at any offset, as often as it likes
complete    a `poll` with no records says that there are none: the end was reached
compacted   of a compacted topic at least the newest record of each key stays
start       records older than their topic's days are removed, the oldest first; the offsets of all others stay. A
            reader or member that stands before the first record left goes on there; `starts` gives its offset
pressure    `poll` returns at most what was asked for; nothing is pushed
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from shared.dependencies import DependencyUnavailable

# How keys are mapped to partitions. A log keeps the name of its scheme, and a log of another scheme is refused:
# a reader would look for a key in a partition that it never went to.
SCHEME = "murmur2"

DAY = 86_400  # seconds
COMPACTION_LAG = DAY  # seconds that a record of a compacted topic stays at least, so that who follows it sees it
MAX_RECORD = 1_040_000  # bytes of key and value, below the limit of a broker as it is delivered

MAX_POLL_INTERVAL = 300.0  # seconds without a poll after which a member counts as hung, and its claims lapse


class Topic(NamedTuple):
    name: str
    partitions: int
    compacted: bool = False
    days: int | None = None  # that a record is kept, by the time of its append; without: for ever
    least: int = 1  # days that it has to be kept, whatever the settings say


def for_ever(topics: Sequence[Topic]) -> list[Topic]:
    """The topics, whose records are kept for ever: as demos and replays need it, whose closing report reads them."""
    return [topic._replace(days=None) for topic in topics]


class Entry(NamedTuple):
    """A record to be appended; without a partition its key picks one."""

    topic: Topic
    key: str
    value: bytes
    partition: int | None = None


class Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    # Seconds since the epoch at which it was appended: by the broker's clock on Kafka, by the host's on the embedded
    # log, whose processes share one host; with a virtual clock by the appender's own.
    at: int


class Place(NamedTuple):
    topic: str
    partition: int


class Position(NamedTuple):
    """How far a group has come in a partition, and what it wants to remember of that moment."""

    offset: int  # of the next record
    note: str = ""


class LogUnavailable(DependencyUnavailable):
    """The log cannot take or give records now: away, locked or full."""


class Fenced(Exception):
    """Another member owns the partition by now; nothing was written."""


class RecordTooLarge(ValueError):
    """An entry is larger than a log takes; to try again does not help."""


class OtherScheme(ValueError):
    """The log was written with another mapping of keys to partitions."""

    def __init__(self, log: str) -> None:
        super().__init__(
            f"the log {log} maps keys to partitions in another way than this version, so a key would be looked for"
            " in the wrong one: start with an empty one (another --var folder, or another prefix in the URL) and ingest"
            " again"
        )


@lru_cache(maxsize=65_536)
def partition_of(key: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives a key; the same on every log, and for every client."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def is_misplaced(record: Record, topic: Topic) -> bool:
    """Whether a record stands in another partition than that of its key, so that its owner does not know the key."""
    return record.partition != partition_of(record.key, topic.partitions)


def check_size(entries: Sequence[Entry]) -> None:
    """Raises RecordTooLarge, naming topic and key; then nothing must be written."""
    for entry in entries:
        if (size := len(entry.key.encode()) + len(entry.value)) > MAX_RECORD:
            raise RecordTooLarge(
                f"a record of {entry.topic.name} has {size:,} bytes, and at most {MAX_RECORD:,} are taken"
            )


def _murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, as in Kafka's Java client.

    The client library has the same function, but takes 0.4 s to import; a contract test holds the two together.
    """
    hashed = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        mixed = word * 0x5BD1E995 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        hashed = hashed * 0x5BD1E995 & 0xFFFFFFFF ^ mixed
    if len(data) > whole:
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    hashed = (hashed ^ hashed >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return hashed ^ hashed >> 15


def beginning(topics: Sequence[Topic]) -> dict[Place, int]:
    """Where a reader of all that is left of the topics begins."""
    return {Place(topic.name, partition): 0 for topic in topics for partition in range(topic.partitions)}


class Reader(Protocol):
    """Follows partitions and belongs to no group."""

    @property
    def positions(self) -> Mapping[Place, int]: ...

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """At most `limit` records a partition; waits up to `timeout` seconds for the first."""
        ...

    def close(self) -> None: ...


class Consumer(Protocol):
    """One member of a group; the partitions of its topics are shared out among the members."""

    @property
    def owned(self) -> Mapping[Place, Position]:
        """The partitions owned now, with the position last committed. Changes within `poll` only.

        One that another member had in between is missing for a poll before it comes back, so that
        a caller that keeps state for it knows to drop that.
        """
        ...

    @property
    def positions(self) -> Mapping[Place, int]:
        """How far each partition owned has been polled."""
        ...

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """At most `limit` new records a partition owned; waits up to `timeout` seconds for the first."""
        ...

    def commit(self, entries: Sequence[Entry], positions: Mapping[Place, Position]) -> None:
        """Append the entries and move the positions in ONE atomic write.

        Raises:
            Fenced: a partition is no longer owned. After any error, drop all state and start afresh.
            RecordTooLarge: nothing was written.
            LogUnavailable: the log is away; nothing was written (Kafka: unknown; the member that joins next knows).
        """
        ...

    def close(self) -> None:
        """Leave the group at once."""
        ...


class EventLog(Protocol):
    def create(self, topics: Sequence[Topic]) -> None:
        """Make the topics that do not exist yet, and keep the records of all as long as they say from now on.

        Raises:
            OtherScheme: the log was written with another mapping of keys to partitions.
            ValueError: one exists with another number of partitions, which would move keys.
        """
        ...

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Append; gives (partition, offset) of each entry once all are durable.

        Raises:
            LogUnavailable: nothing was appended (Kafka: unknown). To append again does no
                harm, as every consumer knows a repeat.
            RecordTooLarge: nothing was appended.
        """
        ...

    def starts(self, topic: Topic) -> dict[int, int]:
        """By partition, the offset of the first record that is left; where none is, the end."""
        ...

    def ends(self, topic: Topic) -> dict[int, int]:
        """By partition, where a reader of everything stands: no next record comes before it."""
        ...

    def written(self, topic: Topic) -> dict[int, int]:
        """By partition, the end, with the steps that are under way: a reader at it has all that was done before."""
        ...

    def committed(self, group: str, topic: Topic) -> dict[int, Position]:
        """By partition, how far the group has come; partitions never committed are missing."""
        ...

    def reader(self, start: Mapping[Place, int]) -> Reader:
        """A reader of the places in `start`, from these offsets on."""
        ...

    def consumer(self, group: str, topics: Sequence[Topic], member: str) -> Consumer:
        """Join a group. `member` is a fixed name: who comes back under it takes over from its dead self."""
        ...

    def close(self) -> None: ...
