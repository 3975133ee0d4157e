"""Removes the oldest records of a log, as their retention does."""

from collections.abc import Mapping

from kafka import TopicPartition

from shared.eventlog.kafka import KafkaLog
from shared.eventlog.port import EventLog, Topic
from shared.eventlog.sqlite import SqliteLog


def shorten(log: EventLog, topic: Topic, before: Mapping[int, int]) -> None:
    """Remove the records of each partition that stand before an offset."""
    if isinstance(log, KafkaLog):
        name = log.prefix + topic.name
        log._admin.delete_records({TopicPartition(name, n): offset for n, offset in before.items()})
        return
    assert isinstance(log, SqliteLog)
    with log._connection.write():
        streams = log._connection.streams(topic.name)
        for partition, offset in before.items():
            log._connection.remove_before(streams[partition], offset)
