"""Parts of the worker by themselves: what is recalled, how far time is told of, which path a post takes."""

from types import SimpleNamespace
from typing import Any

import pytest

from sentiment import config, stream
from sentiment.schema import MENTIONS, POSTS, Mark
from sentiment.stream import LOOK, Source, Worker
from shared.dead_letters import Refused
from shared.eventlog.port import Entry, LogUnavailable, Place, Position, Record

RECORDS = [Record("sentiment.posts", 0, n, "p", b"", 0) for n in range(3)]


def test_what_raises_when_it_is_recalled_has_raised_before_and_is_passed_over() -> None:
    taken = []

    def take(record: Record) -> None:
        taken.append(record.offset)
        if record.offset == 0:
            raise Refused("text", "", "too long")
        if record.offset == 1:
            raise ZeroDivisionError

    worker: Any = SimpleNamespace()
    Worker._recall(worker, take, RECORDS)
    assert taken == [0, 1, 2]


def test_what_is_away_ends_a_recall() -> None:
    def away(_: Record) -> None:
        raise LogUnavailable("away")

    worker: Any = SimpleNamespace()
    with pytest.raises(LogUnavailable):
        Worker._recall(worker, away, RECORDS)


def test_every_partition_of_mentions_is_told_of_each_new_minute_once() -> None:
    ahead, behind = Source(0, watermark=180), Source(0, watermark=59)
    worker: Any = SimpleNamespace(_sources={2: ahead, 5: behind}, _out=[])
    behind.told = 0
    assert Worker._mark(worker) == {Place(POSTS.name, 2)}
    mark = Mark(source=2, at=180).model_dump_json().encode()
    assert worker._out == [Entry(MENTIONS, "mark", mark, number) for number in range(MENTIONS.partitions)]
    assert (ahead.told, behind.told) == (3, 0)
    worker._out = []
    assert Worker._mark(worker) == set()
    ahead.watermark, behind.watermark = 239, 60
    assert Worker._mark(worker) == {Place(POSTS.name, 5)}
    assert {Mark.model_validate_json(entry.value).at for entry in worker._out} == {60}
    assert behind.told == 1


class Looks:
    """A worker that is asked which path a post takes, at times of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.lags, self.asked = 100.0, list[int](), 0
        owned = {
            Place(POSTS.name, 0): Position(10),
            Place(POSTS.name, 1): Position(5),
            Place(MENTIONS.name, 0): Position(1),
        }
        load = SimpleNamespace(path="transformer", choose=self.lags.append)
        self.worker: Any = SimpleNamespace(
            _looked=100.0 - LOOK,
            _load=load,
            _log=SimpleNamespace(ends=self._ends),
            _consumer=SimpleNamespace(owned=owned),
            _sources={1: SimpleNamespace(offset=8)},
        )
        monkeypatch.setattr(stream, "monotonic", lambda: self.now)

    def _ends(self, topic: object) -> dict[int, int]:
        assert topic is POSTS
        self.asked += 1
        return {0: 15, 1: 7, 2: 1_000}

    def look(self, now: float) -> str:
        self.now = now
        return str(Worker._path(self.worker))


def test_what_waits_is_counted_of_one_s_own_partitions_from_where_the_worker_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    assert looks.look(100.0) == "transformer"
    assert looks.lags == [5], "five of the first; the second is further than the log's end, as it was read meanwhile"


def test_the_log_is_asked_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    for now, asked in (
        (100.0, 1),
        (100.0 + LOOK - 0.01, 1),
        (100.0 + LOOK, 2),
        (100.5 + LOOK, 2),
        (100.0 + 2 * LOOK, 3),
    ):
        looks.look(now)
        assert looks.asked == asked
    assert config.SHED_BELOW < config.SHED_ABOVE
