"""The worker, in process, on a real log: what it scores, counts and refuses, and what survives when it dies."""

import json

import polars as pl
import pytest

from sentiment import config
from sentiment.config import DAY, HOUR, LATENESS, MINUTE
from sentiment.known_ids import sealed
from sentiment.opinions import Reader, seen
from sentiment.policy import decide
from sentiment.schema import ALARMS, ALL, MINUTES, OPINIONS, POSTS, Alarm, Counts, Tick, Tombstone
from sentiment.stream import LIMIT, Worker
from shared.eventlog.port import Entry, Fenced
from tests.sentiment.crowd import BRANDS, TODAY, Crowd, Trained, post, quiet

GOOD = post().model_dump()
MEGABYTE = "x" * 990_000  # nearly: a log takes no larger record
BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "message"),
    "nothing": (b"", "message"),
    "broken UTF-8": (b'{"kind": "post", "text": "\xff\xfe"}', "message"),
    "half a surrogate pair": (json.dumps(GOOD | {"text": "\ud800"}).encode(), "message"),
    "a list": (b"[1]", "message"),
    "very deep": (b"[" * 5_000, "message"),
    "an unknown kind": (json.dumps(GOOD | {"kind": "like"}).encode(), "message"),
    "an empty text": (json.dumps(GOOD | {"text": ""}).encode(), "text"),
    "blanks": (json.dumps(GOOD | {"text": " \n\t "}).encode(), "text"),
    "a text of a megabyte": (json.dumps(GOOD | {"text": MEGABYTE}).encode(), "text"),
    "no text": (json.dumps({k: v for k, v in GOOD.items() if k != "text"}).encode(), "text"),
    "a text that is a number": (json.dumps(GOOD | {"text": 7}).encode(), "text"),
    "an id with blanks": (json.dumps(GOOD | {"id": "a b"}).encode(), "id"),
    "another id than the key": (json.dumps(GOOD | {"id": "p-2"}).encode(), "id"),
    "the future": (json.dumps(GOOD | {"at": TODAY + config.MAX_AHEAD + 1}).encode(), "at"),
    "ancient times": (json.dumps(GOOD | {"at": TODAY - config.MAX_AGE - 1}).encode(), "at"),
    "before the epoch": (json.dumps(GOOD | {"at": -1}).encode(), "at"),
    "after the year 2106": (json.dumps(GOOD | {"at": 2**32}).encode(), "at"),
    "half a second": (json.dumps(GOOD | {"at": 0.5}).encode(), "at"),
}


@pytest.mark.parametrize(("value", "field"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_a_dead_letter_and_the_stream_goes_on(crowd: Crowd, value: bytes, field: str) -> None:
    crowd.log.append([Entry(POSTS, "p-1", value)])
    crowd.post(post(id="after"))
    crowd.stream()
    (letter,) = crowd.letters()
    assert letter.field == field
    assert letter.reason
    assert [opinion.id for opinion in crowd.opinions()] == ["after"]


ODD = {
    "only emoji": "😡😡😡",
    "control characters": "\x00\x01 @northair \x07 is great",
    "right to left": "‮@northair is great‬",
    "HTML and script": "<script>alert(1)</script> @northair is great",
    "an escape": "@northair can\\u2019t be better",
    "one letter": "a",
    "four thousand letters": "the app is good and the crew was nice " * 100,
    "the same word": "northair " * 400,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_get_an_opinion_and_are_kept_as_they_were_written(crowd: Crowd, text: str) -> None:
    crowd.post(post(text))
    crowd.stream()
    opinion = crowd.opinion("p-1")
    assert opinion.text == text
    assert opinion.score is not None
    assert crowd.letters() == []


REFUSED = [
    ("Das ist leider schon wieder kaputt, danke für nichts @northair", "language"),
    ("شركة سيئة جدا ولا أنصح بها أبدا @northair", "language"),
    ("השירות שלהם נוראי ואני לא אחזור לשם לעולם @northair", "language"),
    ("@northair " + "#win " * config.SPAM_TAGS, "spam"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_other_languages_and_spam_are_seen_and_not_counted(crowd: Crowd, text: str, why: str) -> None:
    crowd.post(post(text))
    crowd.stream()
    opinion = crowd.opinion("p-1")
    assert (opinion.why_not, opinion.label, opinion.score) == (why, None, None)
    assert crowd.mentions() == []


def test_opinions_are_what_model_and_policy_say(crowd: Crowd, world: Trained) -> None:
    posts = quiet(world.posts).head(150)
    crowd.send(posts)
    crowd.stream()
    artifact = crowd.champion()._load(crowd.var / "models" / world.release.digest)
    opinions = {opinion.id: opinion for opinion in crowd.opinions()}
    assert set(opinions) == set(posts["id"])
    for opinion in opinions.values():
        if opinion.why_not in ("language", "spam"):
            continue
        score = artifact.score(seen(opinion.text, BRANDS), "linear")
        assert opinion.score == score
        assert opinion.label == decide(score, artifact.policy).label
        assert (opinion.path, opinion.model, opinion.mark) == ("linear", "1", None)


def test_a_brand_is_counted_by_mention_and_all_together_by_post(crowd: Crowd) -> None:
    crowd.post(post("@northair is great, @voltcars too", id="both"), post("@northair works", id="one"))
    crowd.post(post("nothing to see", id="none"))
    crowd.stream()
    raw = {brand: counts.raw for (brand, _), (counts, *_) in crowd.minutes().items()}  # type: ignore[attr-defined]  # typed as object
    assert raw == {"northair": 2, "volt": 1, ALL: 2}


def test_a_repeat_is_counted_once_and_a_shared_text_is_one_opinion(crowd: Crowd) -> None:
    first = post("@northair is great")
    crowd.post(first, first, post("@northair is great", id="shared", author="bert", at=TODAY + 120))
    crowd.stream()
    counts = [counts for (brand, _), (counts, *_) in sorted(crowd.minutes().items()) if brand == "northair"]
    assert [c.raw for c in counts] == [1, 1]  # type: ignore[attr-defined]  # typed as object
    assert [c.opinions for c in counts] == [1, 0]  # type: ignore[attr-defined]  # typed as object
    assert len(crowd.opinions()) == 2


def test_a_post_after_its_hour_is_sealed_waits_for_batch(crowd: Crowd) -> None:
    crowd.tick(TODAY + HOUR + LATENESS - 1)
    crowd.post(post(id="in-time"))
    crowd.tick(TODAY + HOUR + LATENESS)
    crowd.post(post("@northair is great again", id="late"))
    crowd.stream()
    counts = [counts.raw for (brand, _), (counts, *_) in crowd.minutes().items() if brand == "northair"]  # type: ignore[attr-defined]  # typed as object
    assert counts == [1]
    assert crowd.speed().late("northair", TODAY // HOUR, None) == {"late"}
    assert {m.post: m.late for m in crowd.mentions() if m.brand == "northair"} == {"in-time": False, "late": True}


def test_one_silent_partition_seals_nothing(crowd: Crowd) -> None:
    """Posts of a slow partition still belong to the hour, however far the others have come."""
    crowd.clock.observe(TODAY + 5 * HOUR)
    posts = [post(id=f"p-{n}", at=TODAY + 5 * HOUR) for n in range(3)]
    crowd.post(*posts)
    crowd.stream()
    assert crowd.speed().watermark == 0


def test_a_post_ahead_of_time_moves_no_watermark(crowd: Crowd) -> None:
    crowd.tick(TODAY)
    crowd.post(post(id="ahead", at=TODAY + DAY))
    crowd.stream()
    assert crowd.speed().watermark == TODAY
    assert [letter.field for letter in crowd.letters()] == ["at"]


def test_open_minutes_are_told_before_their_hour_is_over(crowd: Crowd) -> None:
    worker = crowd.worker()
    crowd.post(post())
    crowd.work(worker)
    crowd.told(worker)
    assert ("northair", TODAY + MINUTE) in crowd.minutes()
    crowd.post(post("@northair is a joy", id="more"))
    crowd.work(worker)
    crowd.told(worker)
    assert crowd.minutes()["northair", TODAY + MINUTE][0].raw == 2  # type: ignore[attr-defined]  # typed as object


def test_a_deletion_takes_the_text_away(crowd: Crowd) -> None:
    crowd.post(post(), Tombstone(id="p-1", at=TODAY + 90))
    crowd.stream()
    assert [(opinion.kind, opinion.text) for opinion in crowd.opinions()][-1] == ("deleted", "")


def test_without_a_release_posts_are_seen_and_wait_for_an_opinion(world: Trained, tmp_path) -> None:  # type: ignore[no-untyped-def]  # pytest's own Path
    crowd = Crowd(world, tmp_path / "var", released=False)
    crowd.post(post())
    crowd.stream()
    assert (crowd.opinion("p-1").mark, crowd.opinion("p-1").label) == ("no-model", None)
    assert crowd.minutes()["northair", TODAY + MINUTE][0] == (1, 0, 0, 0)
    crowd.close()


def test_overload_is_shed_to_the_linear_path_and_marked(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact of this crowd has no other path, so what is chosen is what is looked at."""
    chosen: list[str] = []
    read = Reader.read

    def watched(self: Reader, *given: object, path: str, **more: object) -> object:
        chosen.append(path)
        return read(self, *given, path=path, **more)  # type: ignore[arg-type]  # handed on as they come

    monkeypatch.setattr(Reader, "read", watched)
    monkeypatch.setattr(config, "SHED_ABOVE", 50)
    monkeypatch.setattr(config, "SHED_BELOW", 10)
    monkeypatch.setattr("sentiment.stream.LOOK", 0.0)
    crowd.post(*(post(f"@northair {n}", id=f"p-{n}") for n in range(LIMIT * 8)))
    crowd.stream()
    assert chosen[0] == "linear"
    assert chosen[-1] == "transformer"


def test_a_model_that_cannot_be_loaded_leaves_the_one_before_and_says_so(crowd: Crowd, world: Trained) -> None:
    from sentiment.monitor import entry

    crowd.log.append([entry(world.release.model_copy(update={"version": "2", "digest": "0" * 64}))])
    crowd.post(post())
    crowd.stream()
    assert crowd.opinion("p-1").model == "1"
    (alarm,) = (Alarm.model_validate_json(record.value) for record in crowd.read(ALARMS))
    assert alarm.kind == "model"
    assert "version 1 goes on" in alarm.action


# --- what survives ------------------------------------------------------------------------------------


def everything(crowd: Crowd) -> tuple[object, ...]:
    """All that the stream leaves behind, without what hangs on when it did so."""
    hidden = {"offset"}
    opinions = {opinion.id: opinion.model_dump(exclude=hidden) for opinion in crowd.opinions()}
    assert len(opinions) == len(crowd.opinions()), "a post was scored twice"
    mentions = {(m.brand, m.post): m.model_dump(exclude=hidden) for m in crowd.mentions()}
    assert len(mentions) == len(crowd.mentions()), "a post was mentioned twice"
    speed = crowd.speed()
    late = {key: set(posts) for key, posts in speed._late.items()}
    return opinions, mentions, crowd.minutes(), late, speed.watermark


def fed(crowd: Crowd, world: Trained) -> None:
    crowd.send(world.posts.filter(pl.col("at") < TODAY + DAY))
    crowd.tick(TODAY + DAY + 2 * HOUR)


def test_a_worker_that_is_replaced_again_and_again_counts_the_same(
    any_crowd: Crowd, crowd: Crowd, world: Trained
) -> None:
    fed(crowd, world)
    crowd.stream()
    worker, posts = any_crowd.worker(), world.posts.filter(pl.col("at") < TODAY + DAY)
    for part in posts.iter_slices(60):
        any_crowd.send(part)
        any_crowd.rebuilt(worker)
        worker.step(0.0)
        any_crowd.leave(worker)
        worker = any_crowd.worker()
    any_crowd.tick(TODAY + DAY + 2 * HOUR)
    any_crowd.work(worker)
    any_crowd.told(worker)
    assert everything(any_crowd) == everything(crowd)


def test_a_repeat_from_before_a_restart_counts_once(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.stream()
    crowd.post(post())
    crowd.stream()
    assert [opinion.id for opinion in crowd.opinions()] == ["p-1"]
    assert len(crowd.mentions()) == 2, "of its brand, and of all brands"


def test_an_hour_that_is_open_is_counted_on_after_a_restart(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.stream()
    crowd.post(post("@northair is late again", id="p-2", at=TODAY + 61))
    crowd.stream()
    counts, _, _ = crowd.minutes()["northair", TODAY + 60]
    assert isinstance(counts, Counts)
    assert counts.raw == 2


@pytest.mark.parametrize("number", [2, 3])
def test_any_number_of_workers_counts_the_same(any_crowd: Crowd, crowd: Crowd, world: Trained, number: int) -> None:
    fed(crowd, world)
    crowd.stream()
    workers = [any_crowd.worker(slot=slot) for slot in range(number)]
    any_crowd.rebuilt(*workers)
    fed(any_crowd, world)
    any_crowd.work(*workers)
    for worker in workers:
        any_crowd.told(worker)
    assert everything(any_crowd) == everything(crowd)


def test_who_was_thought_dead_writes_nothing(crowd: Crowd) -> None:
    slow = crowd.worker()
    crowd.rebuilt(slow)
    crowd.post(post())
    records = slow._consumer.poll(LIMIT, 0.5)
    quick = Worker(crowd.log, crowd.champion(), crowd.reader, slot=0, clock=crowd.clock)
    crowd._open.append(quick)
    crowd.work(quick)
    before = len(crowd.read(OPINIONS)), len(crowd.read(MINUTES))
    for record in (record for record in records if record.topic == POSTS.name):
        slow._read(slow._sources[record.partition], record)
    with pytest.raises(Fenced):
        slow._commit({place for place in slow._consumer.owned if place.topic == POSTS.name})
    assert (len(crowd.read(OPINIONS)), len(crowd.read(MINUTES))) == before


def test_sealed_is_the_end_of_the_hour_and_the_lateness() -> None:
    hour = TODAY // HOUR
    assert not sealed(hour, TODAY + HOUR + LATENESS - 1)
    assert sealed(hour, TODAY + HOUR + LATENESS)


def test_a_post_of_a_megabyte_does_not_come_back_whole(crowd: Crowd) -> None:
    crowd.log.append([Entry(POSTS, "p-1", json.dumps(GOOD | {"text": MEGABYTE}).encode())])
    crowd.stream()
    assert len(crowd.letters()[0].model_dump_json()) < 5_000


@pytest.mark.parametrize("kind", ["post", "tick"])
def test_a_fast_clock_closes_no_hour_early(crowd: Crowd, kind: str) -> None:
    """It is as far ahead as may be; the hour stays open for as long as lateness allows by the log's clock."""
    now = TODAY + HOUR + LATENESS - MINUTE  # the hour before is sealed in a minute
    ahead = now + config.MAX_AHEAD
    crowd.tick(now)
    if kind == "tick":
        tick = Tick(at=ahead).model_dump_json().encode()
        crowd.log.append([Entry(POSTS, "tick", tick, n) for n in range(POSTS.partitions)])
    else:
        crowd.post(*(post(id=f"fast-{n}", at=ahead) for n in range(200)))
    crowd.post(post("@northair is great", id="p-late", at=TODAY + HOUR - 1))
    crowd.stream()
    found = [mention.late for mention in crowd.mentions() if mention.post == "p-late"]
    assert found
    assert not any(found)
