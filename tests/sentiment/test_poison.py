"""Records that cannot be used, on every topic: only it is lost, for every reader."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from sentiment.artifact import Artifact
from sentiment.config import BRAND_PARTITIONS, HOUR, POST_PARTITIONS
from sentiment.edge import Edge
from sentiment.mentions import Brands
from sentiment.monitor import Monitor, entry
from sentiment.schema import (
    ALARMS,
    AUDITS,
    COMMANDS,
    CORRECTIONS,
    MENTIONS,
    MINUTE,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    REPORTS,
    STORY,
    TOPICS,
    Alarm,
    Opinion,
    Tick,
)
from shared.clock import monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import Entry, Topic, partition_of
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, post
from tests.sentiment.test_serve import serving, until
from tests.sentiment.test_stream import MEGABYTE

POISON = {
    "no JSON": b"{",
    "nothing": b"",
    "a number": b"7",
    "another kind": b'{"kind": "like", "at": 1}',
    "an index that is none": b'{"kind": "mark", "source": 99, "at": 1}',
    "a partition that is none": b'{"kind": "seal", "partition": -9, "at": 1}',
    "numbers that JSON has not": b'{"id": "x", "post": "x", "at": 1, "score": [NaN, Infinity, 1]}',
    "half a surrogate pair": b'{"id": "\\ud800", "text": "\\ud800", "message": "\\ud800"}',
}


def poisoned(crowd: Crowd, *topics: Topic) -> int:
    """Every kind of poison in every partition; gives how many records that are."""
    entries = [
        Entry(topic, "x", value, partition)
        for topic in topics
        for partition in range(topic.partitions)
        for value in POISON.values()
    ]
    crowd.log.append(entries)
    return len(entries)


def monitor(crowd: Crowd) -> Monitor:
    def registry() -> Any:
        raise ConnectionError("MLflow is away")

    return Monitor(
        crowd.log,
        crowd.lake,
        registry,
        BRANDS,
        clock=crowd.clock,
        seed=1,
        fetch=lambda _, digest: crowd.var / "models" / digest,
        folder=crowd.var / "batch",
        recipe=None,
        secret=KEY,
    )


def test_no_record_on_any_topic_stops_worker_batch_or_monitor(crowd: Crowd) -> None:
    crowd.post(post(id="before"))
    poisoned(crowd, *TOPICS)
    crowd.post(post("@northair is awful", id="after"))
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    with closing(monitor(crowd)) as watching:
        for _ in range(len(POISON) + 1):  # a command a step
            watching.step()
    crowd.stream()
    assert {m.post for m in crowd.mentions()} == {"before", "after"}
    assert set(crowd.published()[TODAY // HOUR]["post"]) == {"before", "after"}
    places = {(letter.topic, letter.partition, letter.offset) for letter in crowd.letters()}
    count = {topic.name: sum(place[0] == topic.name for place in places) for topic in TOPICS}
    assert count[POSTS.name] == POST_PARTITIONS * len(POISON)
    assert count[MENTIONS.name] == BRAND_PARTITIONS * len(POISON)
    assert count[OPINIONS.name] == POST_PARTITIONS * len(POISON)
    assert count[AUDITS.name] == count[CORRECTIONS.name] == count[COMMANDS.name] == len(POISON)
    assert len(places) == len(crowd.letters()), "a record has one letter"


def test_poison_of_the_releases_is_an_alarm_and_the_champion_goes_on(crowd: Crowd) -> None:
    poisoned(crowd, RELEASES)
    crowd.post(post())
    crowd.stream()
    assert crowd.opinion("p-1").model == "1"
    alarms = [Alarm.model_validate_json(record.value) for record in crowd.read(ALARMS)]
    assert {alarm.kind for alarm in alarms} == {"model"}
    assert "cannot be read" in alarms[0].message


def test_the_gateway_goes_on_behind_every_record_and_names_it(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.stream()
    with serving(crowd) as client:
        poisoned(crowd, MINUTES, OPINIONS, AUDITS, ALARMS, RELEASES, REPORTS, STORY)
        crowd.post(post("@northair is late", id="p-2"))
        crowd.stream()
        crowd.log.append([entry(Alarm(kind="of a newer version", at=TODAY, message="m", action="a"))])
        until(lambda: len(client.get("/v1/opinions").json()) == 2)
        until(lambda: client.get("/v1/alarms").json())
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        named = {warning.partition("/")[0] for warning in ready.json()["warnings"]}
        assert {MINUTES.name, OPINIONS.name, RELEASES.name, ALARMS.name, REPORTS.name} <= named
        assert client.get("/health/live").status_code == 200
        assert client.get("/v1/watch").status_code == 200
    with serving(crowd) as client:  # nor does a restart
        assert len(client.get("/v1/opinions").json()) == 2


def test_a_record_of_a_newer_version_is_read_without_what_is_new(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.stream()
    with serving(crowd) as client:
        newer = json.loads(crowd.read(OPINIONS)[0].value) | {"id": "new", "aspects": []}
        crowd.log.append([Entry(OPINIONS, "new", json.dumps(newer).encode())])
        until(lambda: {o["id"] for o in client.get("/v1/opinions").json()} == {"p-1", "new"})


def test_an_opinion_that_its_key_does_not_find_is_not_shown(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.stream()
    value = crowd.read(OPINIONS)[0].value
    wrong = (partition_of("p-1", POST_PARTITIONS) + 1) % POST_PARTITIONS
    other = json.dumps(json.loads(value) | {"id": "p-2"}).encode()
    with serving(crowd) as client:
        crowd.log.append([Entry(OPINIONS, "p-1", value, wrong), Entry(OPINIONS, "p-1", other)])
        until(lambda: len(client.get("/health/ready").json()["warnings"]) == 2)
        assert [opinion["id"] for opinion in client.get("/v1/opinions").json()] == ["p-1"]


# --- in another partition than that of the key ----------------------------------------------------------


def test_a_record_in_another_partition_than_its_keys_is_a_dead_letter(crowd: Crowd) -> None:
    wrong = (partition_of("p-1", POST_PARTITIONS) + 1) % POST_PARTITIONS
    crowd.log.append([Entry(POSTS, "p-1", post().model_dump_json().encode(), wrong)])
    crowd.post(post(id="p-2"))
    crowd.stream()
    (record,) = [record for record in crowd.read(MENTIONS) if record.key == "northair"]
    other = (record.partition + 1) % BRAND_PARTITIONS
    crowd.log.append([Entry(MENTIONS, "northair", record.value, other)])
    opinion = crowd.opinion("p-2").model_copy(update={"id": "p-1"})
    crowd.log.append([Entry(OPINIONS, "p-1", opinion.model_dump_json().encode(), wrong)])
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    assert {(letter.topic, letter.partition) for letter in crowd.letters()} == {
        (POSTS.name, wrong),
        (MENTIONS.name, other),
        (OPINIONS.name, wrong),
    }
    assert [counts[0] for (brand, _), (counts, *_) in crowd.minutes().items() if brand == "northair"] == [1]  # type: ignore[index]  # typed as object
    assert set(crowd.published()[TODAY // HOUR]["post"]) == {"p-2"}


def test_a_dead_letter_keeps_nothing_that_a_person_wrote(crowd: Crowd) -> None:
    about = post().model_dump()
    bad = [about | {"text": MEGABYTE}, about | {"author": "Jane Doe, jane@doe.org"}, about | {"at": "Jane Doe"}]
    bad += [about | {"at": "@jane_doe"}, about | {"kind": "jane@doe.org"}, about | {"id": "+44 7700 900123"}]
    crowd.log.append([Entry(POSTS, "p-1", json.dumps(line).encode()) for line in bad])
    crowd.stream()
    text, author, at, *named = crowd.letters()
    assert [(letter.field, letter.value) for letter in named] == [
        ("at", "[handle]"),
        ("message", ""),
        ("id", "[phone number]"),
    ]
    assert "[e-mail address]" in named[1].reason
    assert (text.field, text.value, author.field, author.value) == ("text", "", "author", "")
    assert (at.field, at.value) == ("at", "Jane Doe"), "of what is no person's it says the value"
    assert max(len(letter.model_dump_json()) for letter in crowd.letters()) < 1_000


# --- a post that the model or the linking cannot take ------------------------------------------------------


def breaking(monkeypatch: pytest.MonkeyPatch, word: str, error: Exception) -> None:
    found, score = Brands.found, Artifact.score

    def picky(self: Brands, text: str) -> tuple[str, ...]:
        if word in text and isinstance(error, KeyError):
            raise error
        return found(self, text)

    def picky_score(self: Artifact, text: str, path: Any) -> Any:
        if word in text:
            raise error
        return score(self, text, path)

    monkeypatch.setattr(Brands, "found", picky)
    monkeypatch.setattr(Artifact, "score", picky_score)


@pytest.mark.parametrize("error", [KeyError("mobi̇le"), ValueError("a score of nan"), RuntimeError("onnx")])
def test_a_post_that_cannot_be_scored_is_marked_and_counts_nowhere_until_it_can(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    crowd.post(post("@northair breaks it", id="bad"), post("@northair is great", id="good"))
    crowd.tick(TODAY + 2 * HOUR)
    with monkeypatch.context() as broken:
        breaking(broken, "breaks", error)
        crowd.stream()
        crowd.publish()
        bad = crowd.opinion("bad")
        assert (bad.mark, bad.label, bad.score, bad.brands, bad.text) == (
            "error",
            None,
            None,
            (),
            "@northair breaks it",
        )
        assert {mention.post for mention in crowd.mentions()} == {"good"}
        assert set(crowd.published()[TODAY // HOUR]["post"]) == {"good"}
        assert crowd.letters() == []
    with serving(crowd) as client:
        assert 'sentiment_not_counted_total{why="error"} 1.0' in client.get("/metrics").text
        assert client.get("/v1/watch").json()["state"]["now"]["dropped"] == {"error": 1}
    batch = crowd.batch()
    batch._publish(TODAY // HOUR)  # whenever the hour is published again, it is tried again
    assert set(crowd.published()[TODAY // HOUR]["post"]) == {"good", "bad"}


def test_a_dependency_that_is_away_marks_nothing(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.post(post("@northair breaks it", id="bad"))
    with monkeypatch.context() as broken:
        breaking(broken, "breaks", OSError("the disk is full"))
        worker = crowd.worker()
        with pytest.raises(OSError, match="disk"):
            crowd.work(worker)
        crowd.leave(worker)
    assert crowd.opinions() == []
    crowd.stream()
    assert crowd.opinion("bad").mark is None


# --- readiness -----------------------------------------------------------------------------------------------


@contextmanager
def writing(crowd: Crowd, rate: float) -> Iterator[None]:
    """Opinions, so many a second."""
    stopping = threading.Event()

    def write() -> None:
        with closing(open_log(crowd.url, clock=crowd.clock)) as log:
            number = 0
            while not stopping.wait(1 / rate):
                said = Opinion(id=f"r-{number}", at=TODAY, label="neutral", score=(0.1, 0.8, 0.1), path="linear")
                log.append([Entry(OPINIONS, said.id, said.model_dump_json().encode())])
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_it_is_ready_while_posts_keep_coming(crowd: Crowd, rate: float) -> None:
    with writing(crowd, rate):
        sleep(0.3)
        edge = Edge(
            crowd.log, crowd.champion(), folder=crowd.var / "batch", clock=crowd.clock, metrics=CollectorRegistry()
        )
        began = monotonic()
        edge.start()
        until(lambda: edge.caught_up, seconds=10)
        assert monotonic() - began < 10
        edge.stop()


def test_nothing_is_counted_twice_when_the_log_comes_back(crowd: Crowd) -> None:
    crowd.post(*(post(f"@northair {n}", id=f"p-{n}") for n in range(20)))
    crowd.stream()
    edge = Edge(crowd.log, crowd.champion(), folder=crowd.var / "batch", clock=crowd.clock, metrics=CollectorRegistry())
    edge.opinions.clear()
    for _ in range(2):  # the thread ends and begins again
        edge.start()
        until(lambda: edge.caught_up)
        edge.needed.stop()
        edge.shown.stop()
        edge.opinions.clear()  # as if they had been too many to be kept
    assert edge.watch.now().posts == 20
    edge.stop()


def test_a_tick_ahead_of_time_is_a_dead_letter(crowd: Crowd) -> None:
    """It would seal every hour that is still to come, and no post would be counted again."""
    tick = Tick(at=2**32 - 1).model_dump_json().encode()
    crowd.log.append([Entry(POSTS, "tick", tick, partition) for partition in range(POSTS.partitions)])
    crowd.post(post("@northair is late", id="p-1", at=TODAY + 60))
    crowd.stream()
    assert [letter.field for letter in crowd.letters()] == ["at"] * POSTS.partitions
    assert {mention.post for mention in crowd.mentions()} == {"p-1"}


def test_an_opinion_on_a_post_that_the_log_does_not_have_hides_no_posts(crowd: Crowd) -> None:
    """Without a committed position the opinions say how far the posts were judged."""
    number = partition_of("far", OPINIONS.partitions)
    far = Opinion(id="far", at=TODAY, partition=number, offset=2**40)
    crowd.log.append([Entry(OPINIONS, far.id, far.model_dump_json().encode())])
    ids = [name for n in range(100) if partition_of(name := f"p-{n}", POSTS.partitions) == number]
    crowd.post(*(post("@northair is late", id=name, at=TODAY + 60) for name in ids))
    crowd.stream()
    assert {opinion.id for opinion in crowd.opinions()} >= set(ids)


@pytest.mark.parametrize("counts", [[10**400, 0, 0, 0], [0, -1, 0, 0]])
def test_counts_that_are_absurd_cannot_be_read(counts: list[int]) -> None:
    minute = {"kind": "minute", "brand": "northair", "at": TODAY, "revision": 1, "counts": counts}
    with pytest.raises(ValidationError):
        MINUTE.validate_python(minute)
