"""The batch view: what it publishes, reopens and leaves alone, and that it may die anywhere."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import polars as pl
import pytest

from sentiment import batch as module
from sentiment import config
from sentiment.aggregates import counted
from sentiment.batch import Batch, date_of
from sentiment.config import DAY, HOUR, LATENESS, MINUTE
from sentiment.hours import HoursCorrupt, Manifest, Published, digest, publishing, read_hour, write_hour
from sentiment.mentions import Brands
from sentiment.monitor import entry
from sentiment.opinions import Reader, definition
from sentiment.schema import OPINIONS, POSTS, Counts, Opinion, Post, Tombstone
from sentiment.timeline import Point
from shared import lake as lake_module
from shared.eventlog.port import Entry, Fenced
from shared.privacy import pseudonym
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, post, quiet
from tests.sentiment.test_stream import BAD
from tests.threads import at_once

FIRST = TODAY // HOUR


def views(crowd: Crowd) -> tuple[dict[tuple[str, int], Counts], dict[tuple[str, int], Counts]]:
    """Both views, whole."""
    speed = {key: counts for key, (counts, *_) in crowd.minutes().items()}
    batch = {key: told.counts for rows in crowd.published().values() for key, told in counted(rows).items()}
    return speed, batch  # type: ignore[return-value]  # minutes() tells of more than it types


def test_with_the_same_model_and_nothing_late_both_views_are_equal(any_crowd: Crowd, world: Trained) -> None:
    any_crowd.send(quiet(world.posts))
    any_crowd.tick(TODAY + 2 * DAY + 2 * HOUR)
    any_crowd.stream()
    manifest = any_crowd.publish()
    assert len(manifest.hours) >= 47
    speed, batch = views(any_crowd)
    assert speed == batch
    assert sum(c.raw for c in batch.values()) > 500


def test_what_is_bad_or_said_twice_is_in_neither_view_and_nothing_is_lost(crowd: Crowd) -> None:
    good = post(id="good")
    crowd.post(good)
    crowd.log.append([Entry(POSTS, "p-1", value) for value, _ in BAD.values()])
    crowd.post(good)
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    speed, batch = views(crowd)
    assert speed == batch
    assert {key[0]: counts.raw for key, counts in batch.items()} == {"northair": 1, "*": 1}
    assert len(crowd.letters()) == len(BAD)  # by the worker alone: batch refuses the same ones


def test_only_hours_that_every_partition_has_passed_are_published(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + HOUR + LATENESS - 1)
    assert crowd.publish().hours == {}
    crowd.tick(TODAY + HOUR + LATENESS)
    assert set(crowd.publish().hours) == {FIRST}


def test_an_hour_without_posts_is_an_hour_too(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 5 * HOUR)
    assert set(crowd.publish().hours) == {FIRST, FIRST + 1, FIRST + 2, FIRST + 3}


def test_bots_are_removed_and_still_seen(crowd: Crowd) -> None:
    for number in range(config.BOT_REPEATS):
        crowd.post(post("leave @northair now", id=f"bot-{number}", author="bot", at=TODAY + number * MINUTE))
    for number in range(config.BOT_POSTS + 1):
        crowd.post(post(f"@northair is bad {number}", id=f"busy-{number}", author="busy", at=TODAY + 60 + number))
    crowd.post(post(id="human"))
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    rows = crowd.published()[FIRST].filter(brand="northair")
    assert dict(rows.group_by("author", "removed").len().select("author", "removed").iter_rows()) == {
        pseudonym("bot", KEY): "bot",
        pseudonym("busy", KEY): "bot",
        pseudonym("anna", KEY): None,
    }
    total = sum((told.counts for (brand, _), told in counted(rows).items() if brand == "northair"), Counts())
    assert total.raw == config.BOT_REPEATS + config.BOT_POSTS + 2
    assert total.opinions <= 1


def test_a_late_post_reopens_its_hour_the_next_night(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    before = crowd.publish().hours[FIRST]
    crowd.post(post("@northair is a joke", id="late"))
    crowd.stream()
    timeline = crowd.timeline()
    assert timeline.speed.late("northair", FIRST, before) == {"late"}
    crowd.publish()
    assert timeline.manifest().hours[FIRST].version == 1, "not before the night"
    crowd.tick(TODAY + DAY + HOUR)
    after = crowd.publish().hours[FIRST]
    assert (before.version, after.version) == (1, 2)
    assert timeline.speed.late("northair", FIRST, after) == set()
    assert read_hour(crowd.var / "batch", FIRST, 1).filter(brand="northair").height == 1
    assert crowd.published()[FIRST].filter(brand="northair").height == 2


def test_what_comes_after_a_week_is_kept_counted_as_expired_and_published_no_more(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + config.REOPEN + 2 * DAY)
    crowd.publish()
    crowd.post(post(id="ancient"))
    crowd.tick(TODAY + config.REOPEN + 3 * DAY)
    manifest = crowd.publish()
    assert manifest.hours[FIRST].version == 1
    assert manifest.expired == 1
    assert set(crowd.lake.read("posts")["id"]) == {"p-1"}
    assert dict(crowd.lake.read("uncounted").select("id", "why").iter_rows()) == {"ancient": "expired"}


def test_a_deletion_reopens_an_hour_of_any_age(crowd: Crowd) -> None:
    crowd.post(post(), post("@northair again", id="stays"))
    crowd.tick(TODAY + config.REOPEN + 2 * DAY)
    crowd.publish()
    crowd.post(Tombstone(id="p-1", at=crowd.clock.now()))
    crowd.tick(TODAY + config.REOPEN + 3 * DAY)
    manifest = crowd.publish()
    assert manifest.hours[FIRST].version == 2
    assert set(crowd.published()[FIRST]["post"]) == {"stays"}


def test_a_second_run_over_a_day_changes_nothing(crowd: Crowd, world: Trained) -> None:
    crowd.send(world.posts.filter(pl.col("at") < TODAY + DAY))
    crowd.tick(TODAY + DAY + 2 * HOUR)
    before = crowd.publish()
    batch = crowd.batch()
    while batch.step():
        pass
    for hour in before.hours:
        batch._publish(hour)
    after = batch.manifest
    assert {h: p.version for h, p in after.hours.items()} == {h: p.version for h, p in before.hours.items()}
    assert {h: p.digest for h, p in after.hours.items()} == {h: p.digest for h, p in before.hours.items()}


def test_it_may_die_between_file_and_manifest(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)

    class Died(Exception):
        pass

    def dies(*given: object) -> None:
        write_hour(*given)  # type: ignore[arg-type]  # handed on as they come
        raise Died

    batch = crowd.batch()
    monkeypatch.setattr(module, "write_hour", dies)
    with suppress(Died):
        while batch.step():
            pass
    monkeypatch.undo()
    assert Manifest.read(crowd.var / "batch").hours == {}
    crowd.leave(batch)
    # Without a manifest it is not known whether the file was ever named, so it is left as it is.
    assert {hour: line.version for hour, line in crowd.publish().hours.items()} == {FIRST: 2, FIRST + 1: 2}


def overheard(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the posts that it scores from now on."""
    scored: list[str] = []
    read = batch._reader.read

    def watched(post: Post, *given: object, **more: object) -> object:
        scored.append(post.id)
        return read(post, *given, **more)  # type: ignore[arg-type]  # handed on as they come

    monkeypatch.setattr(batch._reader, "read", watched)
    return scored


def test_what_the_stream_has_scored_at_its_best_is_not_scored_again(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.post(*(post("@northair is a joke", id=id) for id in ("best", "shed", "older", "other-words")))
    best = Opinion(
        id="best",
        at=TODAY + 60,
        text="@northair is a joke",
        label="positive",  # which it would never say again
        score=(0.1, 0.1, 0.8),
        model=crowd.world.release.version,
        definition=definition(BRANDS),
    )
    others: dict[str, dict[str, object]] = {
        "shed": {"mark": "shed"},
        "older": {"model": "0"},
        "other-words": {"text": "@northair is great"},
    }
    said = [best, *(best.model_copy(update={"id": id} | change) for id, change in others.items())]
    crowd.log.append([Entry(OPINIONS, opinion.id, opinion.model_dump_json().encode()) for opinion in said])
    crowd.tick(TODAY + 2 * HOUR)
    batch = crowd.batch()
    scored = overheard(batch, monkeypatch)
    while batch.step():
        pass
    assert sorted(scored) == sorted(others)
    labels = dict(crowd.published()[FIRST].filter(brand="northair").select("post", "label").iter_rows())
    assert labels == dict.fromkeys(others, "negative") | {"best": "positive"}


def test_the_pinned_model_scores_an_hour_again_only_if_it_is_another(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    batch = crowd.batch()
    while batch.step():
        pass
    scored = overheard(batch, monkeypatch)
    batch._publish(FIRST)
    assert scored == []
    batch._champion.version = "2"
    batch._publish(FIRST)
    assert scored == ["p-1"]
    assert batch.manifest.hours[FIRST].model == "2"


def test_a_damaged_file_is_named_with_what_to_do(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    (path,) = (crowd.var / "batch").glob(f"*/{FIRST}-1.parquet")
    path.write_bytes(b"PAR1")
    with pytest.raises(HoursCorrupt, match=f"{FIRST}-1"):
        read_hour(crowd.var / "batch", FIRST, 1)
    (crowd.var / "batch" / "manifest.json").write_text("{")
    with pytest.raises(HoursCorrupt, match="manifest"):
        Manifest.read(crowd.var / "batch")


def test_without_a_manifest_versions_go_on_so_that_no_reader_shows_what_it_knew(crowd: Crowd) -> None:
    """A damaged file's message tells an operator to delete the manifest."""
    crowd.post(post(), post("@northair again", id="stays"))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    reader = crowd.timeline()
    assert reader.counts("northair", FIRST, reader.manifest().hours[FIRST].version).raw == 2
    crowd.post(Tombstone(id="p-1", at=TODAY + 3 * HOUR))
    (crowd.var / "batch" / "manifest.json").unlink()
    crowd.tick(TODAY + 4 * HOUR)
    crowd.publish()
    version = reader.manifest().hours[FIRST].version
    assert (version, reader.counts("northair", FIRST, version).raw) == (2, 1)
    assert set(crowd.published()[FIRST]["post"]) == {"stays"}


def test_a_version_of_an_hour_that_is_a_path_is_a_damaged_manifest(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    path = crowd.var / "batch" / "manifest.json"
    about = json.loads(path.read_text())
    about["hours"][str(FIRST)][0] = "1/../../../lake/posts"
    path.write_text(json.dumps(about))
    with pytest.raises(HoursCorrupt, match="damaged"):
        Manifest.read(path.parent)


def test_a_post_that_is_nearly_too_late_is_taken_in_though_the_night_is_long(crowd: Crowd) -> None:
    """Written at eleven, it comes a week later at ten; and batch was down for two days after."""
    crowd.tick(TODAY + 11 * HOUR)
    crowd.post(post(at=TODAY + 11 * HOUR))
    crowd.tick(TODAY + 6 * DAY)
    crowd.publish()
    crowd.tick(TODAY + 7 * DAY + 10 * HOUR)
    crowd.post(post("@northair again", id="late", at=TODAY + 11 * HOUR))
    crowd.stream()
    crowd.tick(TODAY + 10 * DAY + HOUR)
    manifest = crowd.publish()
    assert set(crowd.published()[FIRST + 11]["post"]) == {"p-1", "late"}
    assert manifest.expired == 0
    assert crowd.timeline().speed.late("northair", FIRST + 11, manifest.hours[FIRST + 11]) == set()


def test_a_late_post_from_before_the_first_hour_opens_an_hour_for_itself(crowd: Crowd) -> None:
    crowd.tick(TODAY + 5 * HOUR)
    crowd.post(post(at=TODAY + 5 * HOUR))
    crowd.tick(TODAY + 8 * HOUR)
    crowd.publish()
    crowd.post(post("@northair began", id="early"))
    crowd.tick(TODAY + DAY + HOUR)
    crowd.publish()
    assert set(crowd.published()[FIRST]["post"]) == {"early"}


def test_what_has_expired_is_not_waited_for(crowd: Crowd) -> None:
    crowd.tick(TODAY + config.REOPEN + 2 * DAY)
    crowd.post(post())
    crowd.stream()
    assert len(crowd.opinions()) == 1
    assert crowd.mentions() == []


def test_hours_from_before_the_first_model_are_scored_once_there_is_one(world: Trained, tmp_path: Path) -> None:
    with closing(Crowd(world, tmp_path / "var", released=False)) as crowd:
        crowd.post(post())
        crowd.tick(TODAY + 2 * HOUR)
        crowd.stream()
        assert crowd.publish().hours[FIRST].model is None
        crowd.log.append([entry(world.release)])
        crowd.tick(TODAY + DAY + HOUR)
        assert crowd.publish().hours[FIRST].model == "1"
        assert crowd.published()[FIRST]["label"].to_list() == ["positive"] * 2


def test_a_night_waits_for_no_lull(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    crowd.post(Tombstone(id="p-1", at=TODAY + 2 * HOUR))
    crowd.tick(TODAY + DAY + 2 * HOUR)
    batch = crowd.batch()
    for number in range(30):  # a record comes before every step
        crowd.post(post(id=f"more-{number}", at=TODAY + DAY + 2 * HOUR))
        batch.step()
    assert batch.manifest.night == TODAY // DAY + 1
    assert crowd.published()[FIRST].height == 0


# --- two runs at once ---------------------------------------------------------------------------------


def test_a_run_beside_another_one_loses_none_of_its_hours(crowd: Crowd) -> None:
    """`batch --once` while the daemon is at work; the daemon was slow, and its manifest is an old one."""
    for hour in range(6):
        crowd.tick(TODAY + hour * HOUR)
        crowd.post(post(f"@northair is great {hour}", id=f"p-{hour}", at=TODAY + hour * HOUR))
    crowd.tick(TODAY + 7 * HOUR)
    crowd.stream()
    daemon = crowd.batch()
    daemon.step()  # the first hour
    once = crowd.batch()
    while once.step():
        pass
    whole = Manifest.read(crowd.var / "batch")
    crowd.leave(once)
    with pytest.raises(Fenced):
        daemon._publish(TODAY // HOUR + 1)
    assert Manifest.read(crowd.var / "batch") == whole
    crowd.leave(daemon)
    assert set(crowd.publish().hours) == {TODAY // HOUR + hour for hour in range(6)}
    for hour, line in whole.hours.items():  # no file that the manifest names was written over
        assert digest(read_hour(crowd.var / "batch", hour, line.version)) == line.digest


def test_a_change_that_starts_from_an_old_manifest_is_fenced(tmp_path: Path) -> None:
    with publishing(tmp_path, 0):
        Manifest(revision=1).write(tmp_path)
    for stale in (0, 2, None):
        with pytest.raises(Fenced, match="another run"), publishing(tmp_path, stale):
            pytest.fail("it was let in")
    (tmp_path / "manifest.json").write_text("{")
    with publishing(tmp_path, None):
        Manifest(revision=2).write(tmp_path)
    assert Manifest.read(tmp_path).revision == 2


def test_of_many_at_once_one_changes_the_manifest_at_a_time(tmp_path: Path) -> None:
    def change() -> int:
        done = 0
        while done < 20:
            before = Manifest.read(tmp_path)
            with suppress(Fenced), publishing(tmp_path, before.revision):
                hours = {**before.hours, before.revision: Published(1, None, "d", ())}
                before._replace(revision=before.revision + 1, hours=hours).write(tmp_path)
                done += 1
        return done

    at_once(change, change, change)
    manifest = Manifest.read(tmp_path)
    assert manifest.revision == 60
    assert set(manifest.hours) == set(range(60))


# --- tables of brands -----------------------------------------------------------------------------------


@contextmanager
def edited(crowd: Crowd) -> Iterator[None]:
    """A new name for a brand stands in brands.toml, and all processes begin again."""
    table = json.loads(json.dumps(BRANDS.table))
    table["northair"]["aliases"] = [*table["northair"]["aliases"], "blue birds"]
    before, crowd.reader = crowd.reader, Reader(Brands(table), secret=KEY)
    yield
    crowd.reader = before


def test_an_edit_of_the_brands_tells_of_hours_to_come_and_changes_no_old_one(crowd: Crowd) -> None:
    named, alias = "@northair is great", "the blue birds are great"
    crowd.post(post(named, id="named"), post(alias, id="alias"))
    crowd.tick(TODAY + 2 * HOUR + LATENESS)
    crowd.stream()
    before = crowd.publish()
    with edited(crowd):
        crowd.publish()
        crowd.tick(TODAY + 3 * HOUR)
        crowd.post(post(alias, id="new-alias", at=TODAY + 3 * HOUR))
        crowd.post(post(named, id="late"), post(alias, id="late-alias"), Tombstone(id="named", at=TODAY + 3 * HOUR))
        crowd.tick(TODAY + DAY + HOUR)
        crowd.stream()
        after = crowd.publish()
        assert after.hours[FIRST].version == 2
        assert set(crowd.published()[FIRST]["post"]) == {"late"}
        assert set(crowd.published()[FIRST + 3]["post"]) == {"new-alias"}
        assert after.hours[FIRST].aliases == before.hours[FIRST].aliases == BRANDS.version
        assert after.hours[FIRST + 3].aliases == crowd.reader.brands.version
        (crowd.var / "batch" / "manifest.json").write_text("{")  # all hours are published again
        crowd.publish()
        assert set(crowd.published()[FIRST]["post"]) == {"late"}
    crowd.publish()  # the edit is taken back
    assert set(crowd.published()[FIRST + 3]["post"]) == {"new-alias"}


def test_an_hour_of_an_older_manifest_is_linked_by_the_table_that_there_is(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    path = crowd.var / "batch" / "manifest.json"
    about = json.loads(path.read_text())
    about["hours"] = {hour: line[:4] for hour, line in about["hours"].items()}
    path.write_text(json.dumps(about))
    shutil.rmtree(crowd.var / "batch" / "aliases")
    assert Manifest.read(crowd.var / "batch").hours[FIRST].aliases == ""
    crowd.post(post("@northair again", id="late"))
    crowd.tick(TODAY + DAY + HOUR)
    assert crowd.publish().hours[FIRST].version == 2


# --- what a night and a request open --------------------------------------------------------------------


def opened(monkeypatch: pytest.MonkeyPatch, table: str) -> set[str]:
    """The event days of a table of which files are opened from now on."""
    seen: set[str] = set()
    read = lake_module.read_parquet

    def watched(path: Path) -> pl.DataFrame:
        if path.parent.parent.name == table:
            seen.add(path.parent.name.removeprefix("date="))
        return read(path)

    monkeypatch.setattr(lake_module, "read_parquet", watched)
    return seen


def lived(crowd: Crowd, days: int) -> None:
    """Days with three posts each, published now and then."""
    for day in range(days):
        crowd.tick(TODAY + day * DAY)
        crowd.post(*(post(f"@northair {day} {n}", id=f"p-{day}-{n}", at=TODAY + day * DAY) for n in range(3)))
        if day % 5 == 4:
            crowd.publish()


def test_a_deletion_opens_the_day_of_its_post_only(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(crowd, 10)
    crowd.post(Tombstone(id="p-8-0", at=TODAY))  # whatever time its producer gives it
    crowd.tick(TODAY + 10 * DAY + HOUR)
    batch = crowd.batch()
    batch._ingest.catch_up()
    seen = opened(monkeypatch, "posts")
    assert batch._deleted()[0] == {FIRST + 8 * 24}
    assert seen == {str(date_of((TODAY + 8 * DAY) // DAY))}
    crowd.leave(batch)
    crowd.publish()
    assert "p-8-0" not in set(crowd.published()[FIRST + 8 * 24]["post"])


def test_a_deletion_of_a_post_that_is_weeks_old_is_looked_for_from_the_newest_day_back(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(crowd, 20)
    crowd.post(Tombstone(id="p-5-0", at=TODAY + 19 * DAY))
    crowd.tick(TODAY + 20 * DAY + HOUR)
    batch = crowd.batch()
    batch._ingest.catch_up()
    seen = opened(monkeypatch, "posts")
    assert batch._deleted()[0] == {FIRST + 5 * 24}
    assert seen == {str(date_of((TODAY + day * DAY) // DAY)) for day in range(5, 20)}


def test_deletions_of_posts_that_the_lake_never_had_open_a_few_days_a_night(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(crowd, 9)
    crowd.publish()
    monkeypatch.setattr(module, "SEARCHED", 3)
    gone: dict[int, bool] = {}
    for night in range(6):
        crowd.post(Tombstone(id=f"never-{night}", at=TODAY))
        if night == 1:  # it waits until the days have been looked at for the one before
            crowd.post(Tombstone(id="p-1-0", at=TODAY + 9 * DAY))
        crowd.tick(TODAY + (9 + night) * DAY + HOUR)
        batch = crowd.batch()
        batch._ingest.catch_up()
        seen = opened(monkeypatch, "posts")
        batch._deleted()
        assert len(seen) <= 3
        crowd.leave(batch)
        crowd.publish()
        gone[night] = "p-1-0" not in set(crowd.published()[FIRST + 1 * 24]["post"])
    assert list(gone.values()) == [False] * 5 + [True]
    assert len(Manifest.read(crowd.var / "batch").search.waiting) < 6


def test_counts_are_kept_beside_the_mentions_and_no_request_counts_again(
    crowd: Crowd, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.send(quiet(world.posts).filter(pl.col("at") < TODAY + DAY))
    crowd.tick(TODAY + DAY)
    manifest = crowd.publish()

    def points() -> list[Point]:
        return list(crowd.timeline().points(manifest, "northair", since=TODAY, until=TODAY + DAY, step=600))

    with monkeypatch.context() as patched:
        patched.setattr("sentiment.timeline.read_hour", lambda *_: pytest.fail("mentions were read"))
        counted_once = points()
    assert sum(point.counts.raw for point in counted_once) > 50
    for path in (crowd.var / "batch").glob("*/*.counts"):  # as an older version left the hours, and damage
        path.unlink() if path.stem.endswith("1") else path.write_bytes(b"PAR1")
    assert points() == counted_once


def test_a_manifest_is_read_again_only_when_it_has_changed(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    timeline, read = crowd.timeline(), list[Path]()
    from_disk = Manifest.read

    def watched(folder: Path) -> Manifest:
        read.append(folder)
        return from_disk(folder)

    monkeypatch.setattr("sentiment.timeline.Manifest.read", watched)
    first = timeline.manifest()
    assert all(timeline.manifest() is first for _ in range(100))
    assert len(read) == 0
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    read.clear()
    assert len(timeline.manifest().hours) == len(first.hours) + 1
    assert len(read) == 1


def test_after_a_restart_the_speed_view_holds_only_what_batch_does_not_have(crowd: Crowd) -> None:
    for hour in range(30):
        crowd.tick(TODAY + hour * HOUR)
        crowd.post(post(f"@northair {hour}", id=f"p-{hour}", at=TODAY + hour * HOUR))
    crowd.stream()
    crowd.publish()
    crowd.post(post("@northair is late", id="late", at=TODAY))
    crowd.stream()
    speed = crowd.timeline().speed
    assert speed.hours("northair") == {FIRST, FIRST + 28, FIRST + 29}, "of the first one what came late"
    assert {hour for hours in speed._minutes.values() for hour in hours} == {FIRST + 28, FIRST + 29}


def test_a_night_that_looks_for_late_posts_opens_no_day(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(crowd, 10)
    crowd.tick(TODAY + 10 * DAY + HOUR)
    crowd.publish()
    crowd.post(post("@northair is late", id="late", at=TODAY + 9 * DAY))
    crowd.tick(TODAY + 11 * DAY + HOUR)
    batch = crowd.batch()
    batch._ingest.catch_up()
    seen = opened(monkeypatch, "posts")
    assert batch._late() == {FIRST + 9 * 24}
    assert seen == set()
    crowd.leave(batch)
    crowd.publish()
    assert "late" in set(crowd.published()[FIRST + 9 * 24]["post"])


def test_what_an_older_version_took_in_late_is_published_in_the_first_night(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    with monkeypatch.context() as older:
        older.setattr("sentiment.ingest.sealed", lambda *_: False)  # it noted no late posts
        crowd.post(post("@northair again", id="late"))
        crowd.ingest()
    path = crowd.var / "batch" / "manifest.json"
    about = json.loads(path.read_text())
    del about["erased"]
    path.write_text(json.dumps(about))
    crowd.tick(TODAY + DAY + HOUR)
    crowd.publish()
    assert set(crowd.published()[FIRST]["post"]) == {"p-1", "late"}
