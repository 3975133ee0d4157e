"""Parts of the worker by themselves: what is recalled, how far time is told of, which path a post takes."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sentiment import config, stream
from sentiment.config import DAY
from sentiment.schema import MENTIONS, POSTS, Mark, Mention
from sentiment.stream import LOOK, Desk, Source, Worker
from shared.dead_letters import Refused
from shared.eventlog.port import Entry, LogUnavailable, Place, Position, Record
from tests.sentiment.crowd import TODAY, Crowd, post

MENTION = Mention(
    brand="northair", post="p-1", author="a", at=TODAY, text=7, label="negative", aliases="t", partition=0, offset=0
)
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


def test_who_takes_a_partition_over_begins_with_nothing() -> None:
    source = Source(5)
    assert (source.offset, source.watermark, source.judged, source.told) == (5, 0, 0, -1)
    desk = Desk(5)
    assert (desk.offset, desk.watermark, desk.told, desk.minutes()) == (5, 0, -1, [])


def test_what_has_its_opinion_already_is_known_from_the_opinions_when_offsets_are_lost(crowd: Crowd) -> None:
    crowd.post(post(), post(id="p-2"))
    crowd.stream()
    worker = crowd.worker()
    crowd.rebuilt(worker)
    ends = crowd.log.ends(POSTS)
    judged = {number: worker._judged_until(Place(POSTS.name, number)) for number in ends}
    assert judged == ends
    assert sum(ends.values()) == 2


def test_once_an_hour_is_sealed_its_mentions_are_not_needed_to_build_the_state_again() -> None:
    desk = Desk(10, [TODAY] * POSTS.partitions)
    desk.count(MENTION, 7)
    assert json.loads(desk.note) == [desk.marks, 7]
    desk.close()
    assert json.loads(desk.note)[1] == 7, "the hour is open"
    desk.marks = [TODAY + 2 * DAY] * POSTS.partitions
    desk.close()
    assert json.loads(desk.note)[1] == 10


@pytest.mark.parametrize(
    ("now", "dirty", "watermark", "minutes", "seals"),
    [
        (9.0, True, 59, 0, 0),  # changed, and told of a moment ago
        (10.0, True, 59, 1, 0),  # a second later
        (10.0, False, 59, 0, 0),  # nothing has changed
        (9.0, True, 60, 1, 1),  # a minute is over: all that changed, at once
        (9.0, False, 60, 0, 1),
    ],
)
def test_open_minutes_are_told_once_a_second_and_before_time_goes_on(
    monkeypatch: pytest.MonkeyPatch, now: float, dirty: bool, watermark: int, minutes: int, seals: int
) -> None:
    desk = Desk(10, [watermark] * POSTS.partitions)
    desk.told = 0
    if dirty:
        desk.count(MENTION, 7)
    worker: Any = SimpleNamespace(_desks={3: desk}, _out=[], _emitted=10.0 - config.PROVISIONAL)
    monkeypatch.setattr(stream, "monotonic", lambda: now)
    moved = Worker._emit(worker)
    assert moved == ({Place(MENTIONS.name, 3)} if minutes + seals else set())
    kinds = [json.loads(entry.value)["kind"] for entry in worker._out]
    assert (kinds.count("minute"), kinds.count("seal")) == (minutes, seals)
    assert desk.told == watermark // 60
    assert bool(desk.dirty) == (dirty and not minutes)
    assert worker._emitted == (now if now == 10.0 and minutes else 10.0 - config.PROVISIONAL)


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
