"""The seam: no gap and no double count, whatever is read, published, late or killed at the same moment."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment.account import mentioned, seam
from sentiment.config import DAY, HOUR, LATENESS
from sentiment.schema import ALL, MINUTES, Tombstone
from sentiment.timeline import Speed
from shared.clock import monotonic, sleep
from shared.eventlog.port import Fenced, LogUnavailable, beginning
from tests.sentiment.crowd import TODAY, Crowd, Trained, as_post, post

SINCE, UNTIL = TODAY, TODAY + 2 * DAY + HOUR


def total(crowd: Crowd, step: int) -> int:
    """Everything that a timeline of the whole span gives, and what it says is still to come."""
    timeline = crowd.timeline()
    points = list(timeline.points(timeline.manifest(), ALL, since=SINCE, until=UNTIL, step=step))
    assert [point.at for point in points] == list(range(SINCE, UNTIL, step))
    return sum(point.counts.raw + sum(part.late_pending for part in point.parts) for point in points)


@pytest.mark.parametrize("hours", [0, 7, *(pytest.param(hours, marks=pytest.mark.slow) for hours in (24, 40, 48))])
def test_wherever_the_seam_lies_the_sum_is_the_same(crowd: Crowd, world: Trained, hours: int) -> None:
    crowd.send(world.posts.filter(pl.col("sent") < TODAY + hours * HOUR))
    crowd.tick(TODAY + hours * HOUR)
    crowd.stream()
    crowd.publish()  # published as far as this; the rest is the stream's
    crowd.send(world.posts.filter(pl.col("sent") >= TODAY + hours * HOUR))
    crowd.stream()
    expected = sum(len(posts) for (brand, _), posts in mentioned(crowd.log).items() if brand == ALL)
    assert {total(crowd, step) for step in (HOUR, DAY)} == {expected}
    recounted, wrong = seam(crowd.timeline(), crowd.log)
    assert recounted > 100
    assert wrong == 0


def test_a_step_that_straddles_the_seam_has_both_parts_marked(crowd: Crowd) -> None:
    crowd.post(post(id="early"), post("@northair is late", id="later", at=TODAY + 60))
    crowd.tick(TODAY + HOUR + LATENESS)
    crowd.post(post("@northair again", id="open", at=TODAY + HOUR + 900))
    crowd.stream()
    crowd.publish()
    timeline = crowd.timeline()
    (point,) = timeline.points(timeline.manifest(), "northair", since=TODAY, until=TODAY + 2 * HOUR, step=2 * HOUR)
    assert [(part.view, part.raw) for part in point.parts] == [("batch", 2), ("speed", 1)]
    assert point.counts.raw == 3
    assert point.corrected is None, "a half that may still change is not corrected"


def test_a_request_keeps_the_manifest_that_it_took(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 30 * 60)
    crowd.stream()
    timeline = crowd.timeline()
    taken = timeline.manifest()
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    (point,) = timeline.points(taken, "northair", since=TODAY, until=TODAY + HOUR, step=HOUR)
    assert [(part.view, part.raw) for part in point.parts] == [("speed", 1)]
    (point,) = timeline.points(timeline.manifest(), "northair", since=TODAY, until=TODAY + HOUR, step=HOUR)
    assert [(part.view, part.raw) for part in point.parts] == [("batch", 1)]


def test_speed_minutes_go_only_when_no_request_can_look_at_them(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    timeline = crowd.timeline()
    crowd.publish()
    timeline.manifest()
    assert timeline.speed.hours("northair")
    monkeypatch.setattr("sentiment.config.RETENTION", 0.0)
    sleep(0.01)
    timeline.manifest()
    assert timeline.speed.hours("northair") == set()


@contextmanager
def running(step: Callable[[], object], errors: list[BaseException]) -> Iterator[None]:
    """`step` again and again, in a thread of its own."""
    stopping = threading.Event()

    def run() -> None:
        try:
            while not stopping.is_set():
                step()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_readers_publishing_late_posts_and_deaths_at_once(any_crowd: Crowd, world: Trained, seed: int) -> None:
    """At any moment: no more than was sent, and no less than was counted before the reader asked."""
    chance, crowd = random.Random(seed), any_crowd
    errors: list[BaseException] = []
    posts = world.posts.filter(pl.col("at") < TODAY + DAY)
    worker, batch, looked = crowd.worker(), crowd.batch(), 0

    def score() -> None:
        nonlocal worker
        try:
            worker.step(0.01)
            dies = chance.random() < 0.1  # without a word, and comes back under the same name
        except (Fenced, LogUnavailable):  # as the command does: afresh, with nothing remembered
            dies = True
        if dies:
            dead, worker = worker, crowd.worker()
            crowd.leave(dead)

    def publish() -> None:
        nonlocal batch
        try:
            batch.step()
            dies = chance.random() < 0.1
        except (Fenced, LogUnavailable):
            dies = True
        if dies:
            dead, batch = batch, crowd.batch()
            crowd.leave(dead)

    timeline = crowd.timeline()
    reader = crowd.log.reader(beginning([MINUTES]))

    def look() -> None:
        nonlocal looked
        before = Counter(m.at // HOUR for m in crowd.mentions() if m.brand == ALL and not m.late)
        timeline.speed.take(reader.poll(5_000, 0.01))
        manifest = timeline.manifest()
        points = list(timeline.points(manifest, ALL, since=TODAY, until=TODAY + DAY, step=HOUR))
        after = {key: len(found) for key, found in mentioned(crowd.log).items() if key[0] == ALL}
        for point in points:
            assert len(point.parts) == 1, "an hour has one owner"
            served = point.counts.raw + sum(part.late_pending for part in point.parts)
            key = ALL, point.at // HOUR
            if point.parts[0].view == "batch":  # all that had come when it was published, scored by the stream or not
                sent = posts.filter(pl.col("at") // HOUR == key[1]).height
                assert before[key[1]] <= served <= sent
            else:
                assert served <= after.get(key, 0)
        looked += bool(before)

    with running(score, errors), running(publish, errors), running(look, errors):
        for part in posts.iter_slices(25):
            crowd.clock.observe(part["sent"][-1])
            crowd.post(*(as_post(row) for row in part.iter_rows(named=True)))
            sleep(chance.uniform(0, 0.02))
        crowd.tick(TODAY + DAY + 2 * HOUR)
        until = monotonic() + 90
        while not errors and (crowd.unread() or TODAY // HOUR + 23 not in timeline.manifest().hours):
            assert monotonic() < until, "it does not come to an end"
            sleep(0.05)
    if errors:
        raise errors[0]
    reader.close()
    crowd.tick(TODAY + 2 * DAY)
    crowd.leave(worker)
    crowd.leave(batch)
    crowd.stream()
    crowd.publish()
    assert looked > 2
    assert seam(crowd.timeline(), crowd.log)[1] == 0


def test_one_text_of_many_is_one_opinion_at_every_step(crowd: Crowd) -> None:
    crowd.post(*(post("@northair is terrible", id=f"a-{n}", author=f"x-{n}", at=TODAY + n) for n in range(100)))
    crowd.post(*(post(f"@northair is great {n}", id=f"b-{n}", author=f"y-{n}", at=TODAY + n) for n in range(50)))
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    timeline = crowd.timeline()
    manifest = timeline.manifest()
    (whole,) = timeline.points(manifest, "northair", since=TODAY, until=TODAY + HOUR, step=HOUR)
    first, _ = timeline.points(manifest, "northair", since=TODAY, until=TODAY + HOUR, step=HOUR // 2)
    assert whole.counts.opinions == 51
    assert whole.counted == first.counted
    assert timeline.voting(manifest, "northair", since=TODAY, until=TODAY + HOUR).height == 51


# --- one identity of a post ---------------------------------------------------------------------------


def agreed(crowd: Crowd) -> dict[tuple[str, int], int]:
    """The posts by brand and hour, as both views have them: what is late for the one is still to come in the other."""
    timeline = crowd.timeline()
    assert seam(timeline, crowd.log)[1] == 0
    return {key: len(posts) for key, posts in mentioned(crowd.log).items() if key[0] == "northair"}


def test_a_repeat_between_sealing_and_publication_is_none(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    crowd.post(post())  # the collector begins again, before batch has the hour
    crowd.stream()
    assert agreed(crowd) == {("northair", TODAY // HOUR): 1}
    assert crowd.speed().late("northair", TODAY // HOUR, None) == set()
    crowd.publish()
    crowd.post(post())  # and once more after that
    crowd.stream()
    assert agreed(crowd) == {("northair", TODAY // HOUR): 1}
    crowd.tick(TODAY + DAY + HOUR)
    assert crowd.publish().hours[TODAY // HOUR].version == 1
    assert len(crowd.opinions()) == 1


@pytest.mark.parametrize("first", [TODAY + 60, TODAY + 23 * HOUR + 3_000])
def test_an_id_with_another_time_is_the_first_post_still(crowd: Crowd, first: int) -> None:
    """The same day or the next one; its hour sealed, and the other one open."""
    second = first + 3 * HOUR
    crowd.tick(first)
    crowd.post(post(id="x", at=first))
    crowd.tick(second)
    crowd.post(post("@northair in other words", id="x", at=second))
    crowd.tick(second + 3 * HOUR)
    crowd.stream()
    crowd.publish()
    assert agreed(crowd) == {("northair", first // HOUR): 1}
    assert {row["post"]: row["at"] for rows in crowd.published().values() for row in rows.to_dicts()} == {"x": first}


def test_a_post_that_comes_after_its_deletion_counts_nowhere(crowd: Crowd) -> None:
    crowd.post(Tombstone(id="x", at=TODAY), post(id="x"), post(id="stays"))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    crowd.publish()
    assert agreed(crowd) == {("northair", TODAY // HOUR): 1}
    assert [opinion.kind for opinion in crowd.opinions() if opinion.id == "x"] == ["deleted"]


def test_an_id_that_comes_again_after_a_week_replaces_no_late_mention(crowd: Crowd) -> None:
    """Both are late, and batch is away: the compacted topic has to keep both."""
    now = TODAY + 2 * DAY
    crowd.tick(now)
    for later in (0, 200 * HOUR):
        crowd.tick(now + later)
        crowd.post(post("@northair again", id="a", at=now + later - 2 * HOUR))
        crowd.stream()
    crowd.tick(now + 230 * HOUR)
    crowd.stream()
    assert agreed(crowd) == {("northair", (now - 2 * HOUR + later) // HOUR): 1 for later in (0, 200 * HOUR)}


STEPS = st.one_of(
    st.tuples(st.just("post"), st.sampled_from("abc"), st.integers(0, 20)),  # id, and hours before now
    st.tuples(st.just("pass"), st.sampled_from([1, 2, 5, 30, 200]), st.just(0)),  # hours
    st.tuples(st.just("batch"), st.just(0), st.just(0)),
)


@pytest.mark.slow
@given(steps=st.lists(STEPS, min_size=4, max_size=10))
@settings(deadline=None, max_examples=10)
def test_repeats_at_any_time_are_the_same_in_both_views(
    world: Trained, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str | int, int]]
) -> None:
    """Across hours, days, sealing and publication; worker and batch begin afresh at every step."""
    with closing(Crowd(world, tmp_path_factory.mktemp("repeats") / "var")) as crowd:
        now, sent = TODAY + 2 * DAY, 0
        crowd.tick(now)
        for kind, what, hours in [*steps, ("pass", 30, 0), ("batch", 0, 0)]:
            if kind == "post":
                sent += 1
                crowd.post(post(f"@northair {sent}", id=str(what), at=now - hours * HOUR))
            elif kind == "pass":
                now += int(what) * HOUR
                crowd.tick(now)
            crowd.stream()  # ahead of batch: what only that has is in no mention
            if kind == "batch":
                crowd.publish()
            agreed(crowd)
        counted = sum(rows.filter(brand="northair").height for rows in crowd.published().values())
        assert counted == sum(agreed(crowd).values())


def test_of_each_key_of_the_minutes_the_newest_record_says_it_all(crowd: Crowd, world: Trained) -> None:
    """The topic is compacted, so a follower that begins late may find no others."""
    posts = world.posts.filter(pl.col("sent") < TODAY + 20 * HOUR)
    worker = crowd.worker()
    for part in posts.iter_slices(30):
        crowd.send(part)
        crowd.rebuilt(worker)
        crowd.work(worker)
        crowd.told(worker)
    crowd.post(post("@northair is late", id="late-1"), post("@northair is late again", id="late-2"))
    crowd.work(worker)
    crowd.told(worker)
    records = crowd.read(MINUTES)
    newest = {(record.partition, record.key): record for record in records}
    assert len(newest) < len(records)
    whole, compacted = Speed(), Speed()
    whole.take(records)
    compacted.take(sorted(newest.values(), key=lambda record: record.offset))
    assert compacted._minutes == whole._minutes
    assert compacted._late == whole._late
    assert compacted.marks == whole.marks
    assert {"late-1", "late-2"} <= compacted.late("northair", TODAY // HOUR, None)
