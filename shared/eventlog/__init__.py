"""The event log: topics, keys, partitions and offsets behind one interface; the URL picks the implementation."""

from shared.clock import Clock
from shared.eventlog.port import EventLog
from shared.eventlog.sqlite import SqliteLog


def open_log(url: str, *, clock: Clock) -> EventLog:
    """The log at `url`: `sqlite:///var/log.db`, `kafka://host:9092` or `kafka://host:9092/prefix`.

    Raises:
        ValueError: for a scheme that no log here speaks.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return SqliteLog(rest.removeprefix("/"), clock=clock)
    if scheme == "kafka":
        from shared.eventlog.kafka import KafkaLog  # who needs no server needs no client either

        return KafkaLog(rest, clock=clock)
    raise ValueError(f"log URL {url!r}: expected sqlite:///PATH or kafka://HOST:PORT")
