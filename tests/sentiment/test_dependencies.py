"""What the service depends on is away, damaged or lost: an alarm and another attempt, and never an end."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sentiment import batch as batch_module
from sentiment import monitor as monitor_module
from sentiment.batch import Batch
from sentiment.config import BRAND_PARTITIONS, DAY, HOUR
from sentiment.hours import Manifest
from sentiment.ingest import GROUP
from sentiment.monitor import Found, Monitor, entry
from sentiment.schema import ALARMS, COMMANDS, MENTIONS, MINUTES, OPINIONS, POSTS, Alarm, Command, Tombstone
from sentiment.stream import WORKERS, Worker
from shared.clock import monotonic, sleep
from shared.eventlog import open_log, sqlite
from shared.eventlog.port import Entry, EventLog, Fenced, Place, Position
from shared.lake import Lake, LakeCorrupt
from shared.registry import Registry
from tests.retention import shorten
from tests.sentiment import test_crisis
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, open_registry, post
from tests.sentiment.test_batch import views
from tests.sentiment.test_monitor import steps
from tests.sentiment.test_serve import serving

FIRST = TODAY // HOUR


class Away:
    """A registry that may be away."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self.away = registry, True

    def __call__(self) -> Registry:
        if self.away:
            raise ConnectionError("MLflow does not answer")
        return self._registry


@pytest.fixture
def mlflow(world: Trained, tmp_path: Path) -> Away:
    (tmp_path / "registry").mkdir()
    shutil.copy(world.var / "mlflow.db", tmp_path / "registry" / "mlflow.db")
    registry = open_registry(tmp_path / "registry")
    registry.register(world.var / "models" / world.release.digest, params={}, figures={}, tags={"gate": "passed"})
    return Away(registry)


@pytest.fixture
def watching(crowd: Crowd, mlflow: Away, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Monitor]]:
    monkeypatch.setattr(monitor_module, "RETRY", 0.0)
    opened: list[Monitor] = []

    def another() -> Monitor:
        opened.append(
            Monitor(
                crowd.log,
                crowd.lake,
                mlflow,
                BRANDS,
                clock=crowd.clock,
                seed=1,
                fetch=lambda artifact, digest: mlflow._registry.fetch(
                    artifact, digest=digest, into=crowd.var / "models"
                ),
                folder=crowd.var / "batch",
                recipe=None,
                secret=KEY,
            )
        )
        return opened[-1]

    yield another
    for monitor in opened:
        monitor.close()


def alarms(crowd: Crowd) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in crowd.read(ALARMS)]


def send(crowd: Crowd, **about: object) -> None:
    wanted = Command.model_validate({"who": "anna"} | about)
    crowd.log.append([Entry(COMMANDS, wanted.kind, wanted.model_dump_json().encode())])


def settled(monitor: Monitor) -> None:
    """Until its attempt at the alias is over."""
    steps(monitor)
    for _ in range(10):
        sleep(0.01)
        monitor.step()


# --- MLflow ------------------------------------------------------------------------------------------------


def test_without_mlflow_the_monitor_says_so_once_and_rolls_back_all_the_same(
    crowd: Crowd, mlflow: Away, world: Trained, watching: Callable[[], Monitor]
) -> None:
    second = mlflow._registry.version("2")
    made = world.release.model_copy(update={"version": "2", "artifact": second.artifact, "digest": second.digest})
    crowd.log.append([entry(made)])
    monitor = watching()
    settled(monitor)
    send(crowd, kind="rollback", key="b", expected_champion="2")
    send(crowd, kind="promote", version="2", key="p", expected_champion="1", force=True)
    send(crowd, kind="retrain", key="r")
    settled(monitor)
    assert [(line.action, line.version) for line in crowd.releases()][-1] == ("rollback", "1")
    said = [(alarm.kind, alarm.message) for alarm in alarms(crowd)]
    assert said.count(("monitor", "alias: MLflow does not answer")) == 1
    assert ("command", "command 1: promote waits: MLflow does not answer") in said
    assert ("gate", "the training that anna asked for waits: MLflow does not answer") in said
    again = watching()
    settled(again)
    assert len(alarms(crowd)) == len(said), "a restart repeats nothing"
    mlflow.away = False
    for _ in range(20):
        settled(again)
        if crowd.releases()[-1].key == "p" and again._aliased == "2" and again._noted is None:
            break
    assert (crowd.releases()[-1].key, mlflow._registry.alias("champion")) == ("p", "2")
    assert any("no labels" in alarm.message for alarm in alarms(crowd)), "the training was tried again, too"
    again = watching()
    settled(again)
    assert len(crowd.releases()) == 4, "nothing is carried out again"


def test_a_withdrawal_waits_for_no_mlflow_and_takes_the_alias_away(
    crowd: Crowd, mlflow: Away, watching: Callable[[], Monitor]
) -> None:
    mlflow.away = False
    monitor = watching()
    settled(monitor)
    assert mlflow._registry.alias("champion") == "1"
    send(crowd, kind="withdraw", key="w", expected_champion="1")
    settled(monitor)
    assert mlflow._registry.alias("champion") is None


def test_the_loop_never_waits_for_mlflow(crowd: Crowd, mlflow: Away, watching: Callable[[], Monitor]) -> None:
    asked: list[str] = []
    registry = mlflow._registry

    def slow() -> Registry:
        asked.append(threading.current_thread().name)
        return registry

    mlflow.__class__ = type("Slow", (Away,), {"__call__": lambda _: slow()})
    monitor = watching()
    send(crowd, kind="promote", version="2", key="p", expected_champion="1", force=True)
    send(crowd, kind="rollback", key="b", expected_champion="2")
    settled(monitor)
    assert [line.key for line in crowd.releases()][1:] == ["p", "b"]
    assert asked
    assert all(name.startswith("job") for name in asked)


def test_a_monitor_that_was_thought_dead_changes_nothing(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    first, second = watching(), watching()
    first.step()
    second.step()
    send(crowd, kind="withdraw", key="w", expected_champion="1")
    with pytest.raises(Fenced):
        first._obey(Command(kind="withdraw", who="anna", key="other", expected_champion="1"), "other", Found())
    second.step()
    assert [(line.action, line.key) for line in crowd.releases()][1:] == [("withdraw", "w")]


# --- the batch view ---------------------------------------------------------------------------------------------


def test_a_damaged_manifest_is_told_once_and_every_process_goes_on(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    crowd.publish()
    monitor = watching()
    monitor.step()
    span = {"from": TODAY, "to": TODAY + HOUR}
    with serving(crowd) as client:
        before = client.get("/v1/brands/northair/timeline", params=span).json()
        (crowd.var / "batch" / "manifest.json").write_text("{")
        assert client.get("/v1/brands/northair/timeline", params=span).json() == before
        for _ in range(3):
            monitor.step()
        told = [alarm for alarm in alarms(crowd) if "manifest.json is damaged" in alarm.message]
        assert [alarm.kind for alarm in told] == ["monitor"]
        assert monitor._view.hours
        manifest = crowd.publish()
        assert "manifest.json is damaged" in alarms(crowd)[-1].message
        after = client.get("/v1/brands/northair/timeline", params=span).json()
    assert set(manifest.hours) == {FIRST, FIRST + 1}
    assert {hour.version for hour in manifest.hours.values()} == {2}, "no file is written again"
    assert [part["raw"] for point in after["points"] for part in point["parts"]] == [1]
    assert Manifest.read(crowd.var / "batch").hours == manifest.hours


def test_while_the_view_is_made_anew_no_reader_sees_a_part_of_it(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 5 * HOUR)
    crowd.publish()
    (crowd.var / "batch" / "manifest.json").write_text("{")
    batch = crowd.batch()
    batch.step()
    assert len(batch.manifest.hours) == 1
    assert (crowd.var / "batch" / "manifest.json").read_text() == "{"
    while batch.step():
        pass
    assert len(Manifest.read(crowd.var / "batch").hours) == 4


def test_a_lake_that_takes_nothing_is_one_alarm_and_nothing_is_lost(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    write, full = Lake.write, [True]

    def full_disk(self: Lake, *given: Any, **more: Any) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        write(self, *given, **more)

    monkeypatch.setattr(Lake, "write", full_disk)
    monkeypatch.setattr(batch_module, "RETRY", 0.0)
    batch = crowd.batch()
    for _ in range(5):
        batch.step()
    (told,) = alarms(crowd)
    assert (told.kind, "No space left" in told.message) == ("lake", True)
    full[0] = False
    while batch.step():
        pass
    assert set(batch.manifest.hours) == {FIRST}
    assert set(crowd.published()[FIRST]["post"]) == {"p-1"}
    full[0] = True
    crowd.post(post(id="p-2"))
    for _ in range(5):
        batch.step()
    assert [alarm.message for alarm in alarms(crowd)] == [told.message] * 2, "an outage of months later is told, too"


def test_a_manifest_that_cannot_be_written_is_written_later(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 4 * HOUR)
    batch = crowd.batch()
    with monkeypatch.context() as full:

        def full_disk(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(Manifest, "write", full_disk)
        full.setattr(batch_module, "RETRY", 0.0)
        for _ in range(5):
            batch.step()
        assert batch.manifest.hours == {}
        assert len(alarms(crowd)) == 1
    batch._retry_at.clear()
    while batch.step():
        pass
    assert set(Manifest.read(crowd.var / "batch").hours) == {FIRST, FIRST + 1, FIRST + 2}


def test_a_record_that_the_lake_cannot_take_costs_itself_alone(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.post(post(), post("@northair breaks it", id="bad"), post(id="p-3"))
    crowd.tick(TODAY + 2 * HOUR)
    write = Lake.write

    def picky(self: Lake, table: str, rows: pl.DataFrame, *, batch: str) -> None:
        if table == "posts" and "bad" in rows["id"]:
            raise ValueError("no such row")
        write(self, table, rows, batch=batch)

    monkeypatch.setattr(Lake, "write", picky)
    crowd.publish()
    assert set(crowd.published()[FIRST]["post"]) == {"p-1", "p-3"}
    assert [(letter.topic, letter.reason) for letter in crowd.letters()] == [("sentiment.posts", "ValueError")]


def test_a_manifest_of_a_newer_version_is_read_without_what_is_new(crowd: Crowd) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    manifest = crowd.publish()
    path = crowd.var / "batch" / "manifest.json"
    about = json.loads(path.read_text())
    newer = {hour: [*published, "new"] for hour, published in about["hours"].items()}
    path.write_text(json.dumps(about | {"pace": 7, "hours": newer}))
    assert Manifest.read(crowd.var / "batch") == manifest


def test_a_worker_reads_positions_of_a_newer_version(crowd: Crowd) -> None:
    crowd.post(post())
    worker = crowd.worker()
    crowd.work(worker)
    notes = {place: json.loads(position.note) for place, position in worker._consumer.owned.items() if position.note}
    assert notes
    for place, note in notes.items():
        position = Position(worker._consumer.owned[place].offset, json.dumps([*note, "new"]))
        if place.topic == "sentiment.posts":
            worker._source(place, position)
        else:
            worker._desk(place, position)


def test_an_hour_that_cannot_be_published_holds_no_other_up(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in range(4):
        crowd.tick(TODAY + hour * HOUR)
        crowd.post(post(id=f"p-{hour}", at=TODAY + hour * HOUR))
    crowd.tick(TODAY + 5 * HOUR)
    count = Batch._count

    def fails(self: Batch, hour: int, *given: Any) -> Any:
        if hour == FIRST + 1:
            raise LakeCorrupt("a file of the lake cannot be read")
        return count(self, hour, *given)

    with monkeypatch.context() as broken:
        broken.setattr(Batch, "_count", fails)
        assert set(crowd.publish().hours) == {FIRST, FIRST + 2, FIRST + 3}
        (told,) = alarms(crowd)
        assert (told.kind, "cannot be read" in told.message) == ("lake", True)
    monkeypatch.setattr(batch_module, "RETRY", 0.0)
    assert set(crowd.publish().hours) == {FIRST, FIRST + 1, FIRST + 2, FIRST + 3}


def test_a_deletion_whose_hour_failed_in_the_night_is_seen_to_in_the_next(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.post(post())
    crowd.tick(TODAY + 2 * HOUR)
    crowd.publish()
    crowd.post(Tombstone(id="p-1", at=TODAY + 2 * HOUR))
    crowd.tick(TODAY + DAY + HOUR)
    count = Batch._count

    def fails(self: Batch, hour: int, *given: Any) -> Any:
        if hour == FIRST:
            raise LakeCorrupt("a file of the lake cannot be read")
        return count(self, hour, *given)

    with monkeypatch.context() as broken:
        broken.setattr(Batch, "_count", fails)
        crowd.publish()
    assert crowd.published()[FIRST].height == 2
    crowd.tick(TODAY + 2 * DAY + HOUR)
    crowd.publish()
    assert crowd.published()[FIRST].height == 0


# --- what a restart must not lose or repeat -------------------------------------------------------------------


def crisis(crowd: Crowd) -> None:
    """Two quiet weeks of minutes, and then a crisis."""
    made = test_crisis.records([(3_000.0, 0.35)] * 14 + [(6_000.0, 0.8)], from_hour=12)
    entries = []
    for record in made:
        said = json.loads(record.value)
        said["at"] += TODAY
        entries.append(Entry(MINUTES, "x", json.dumps(said).encode(), test_crisis.PARTITION))
        if said["kind"] == "seal":
            others = set(range(BRAND_PARTITIONS)) - {test_crisis.PARTITION}
            entries += [Entry(MINUTES, "x", json.dumps(said | {"partition": p}).encode(), p) for p in others]
    crowd.log.append(entries)


def verdict(crowd: Crowd, watching: Callable[[], Monitor], *, restart: bool) -> list[tuple[str, str]]:
    """All of the crisis was five bots, and people were happy: what is said of it once batch has the hours."""
    crisis(crowd)
    monitor = watching()
    for _ in range(12):
        monitor.step()
    alarm = next(alarm for alarm in alarms(crowd) if alarm.kind == "crisis")
    assert alarm.since is not None
    crowd.clock.observe(alarm.at)
    for hour in range(alarm.since // HOUR, alarm.at // HOUR + 1):
        crowd.tick(hour * HOUR)
        at, bots, people = hour * HOUR, range(120), range(20)
        crowd.post(
            *(post(f"@northair is awful {hour} {n}", id=f"b-{hour}-{n}", author=f"b{n % 5}", at=at + n) for n in bots),
            *(post(f"@northair is great {hour} {n}", id=f"g-{hour}-{n}", author=f"p{n}", at=at + n) for n in people),
        )
    crowd.tick(alarm.at + 3 * HOUR)
    crowd.publish()
    if restart:
        monitor = watching()
    for _ in range(12):
        monitor.step()
    assert len([a for a in alarms(crowd) if a.kind == "crisis"]) == 1
    return [(a.kind, a.message) for a in alarms(crowd) if a.kind in ("confirmed", "retracted")]


@pytest.mark.parametrize("restart", [False, True])
def test_batch_says_the_same_of_a_crisis_with_a_restart_and_without(
    crowd: Crowd, watching: Callable[[], Monitor], restart: bool
) -> None:
    ((kind, message),) = verdict(crowd, watching, restart=restart)
    assert kind == "retracted"
    assert "opinions without bots 0 are negative" in message


def lose_offsets(log: EventLog, group: str) -> None:
    """As `kafka-consumer-groups --delete` does."""
    with log._connection.write() as db:  # type: ignore[attr-defined]  # the embedded log's
        db.execute("DELETE FROM claims WHERE grp = ?", (group,))
        db.execute("DELETE FROM members WHERE grp = ?", (group,))


@pytest.mark.parametrize("group", [WORKERS, GROUP])
def test_offsets_that_are_lost_decide_nothing_twice(crowd: Crowd, group: str) -> None:
    crowd.clock.observe(TODAY + HOUR)
    crowd.post(*(post(f"@northair is great {n}", id=f"p-{n}", at=TODAY + 60 * n, author=f"a{n}") for n in range(40)))
    crowd.post(Tombstone(id="p-3", at=TODAY + 2_400))
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    manifest = crowd.publish()
    seen = len(crowd.opinions())
    lose_offsets(crowd.log, group)
    crowd.post(post("@northair is late", id="new", at=TODAY + 2 * HOUR))
    crowd.tick(TODAY + DAY + HOUR)
    crowd.stream()
    again = crowd.publish()
    assert len(crowd.opinions()) == seen + 1
    assert {m.post for m in crowd.mentions()} == {f"p-{n}" for n in range(40)} | {"new"}
    assert len(crowd.mentions()) == 2 * 41
    assert {h: again.hours[h].digest for h in list(manifest.hours)[1:]} == {
        h: p.digest for h, p in list(manifest.hours.items())[1:]
    }
    assert set(crowd.published()[FIRST]["post"]) == {f"p-{n}" for n in range(40)} - {"p-3"}
    rows = crowd.lake.read("opinions")
    assert rows["id"].n_unique() == rows.filter(kind="opinion").height
    speed, batch = views(crowd)
    assert speed["northair", TODAY] == batch["northair", TODAY]


def test_a_champion_that_cannot_be_read_is_told_and_trained_anew(
    crowd: Crowd, mlflow: Away, world: Trained, watching: Callable[[], Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.away = False
    shutil.copytree(world.var / "sentiment" / "lake", crowd.lake.folder, dirs_exist_ok=True)
    monkeypatch.setattr("sentiment.model.DEFINITION", "another")
    crowd.post(post())
    crowd.tick(TODAY + DAY + 2 * HOUR)
    crowd.stream()
    assert crowd.opinion("p-1").mark == "no-model"
    assert [alarm.kind for alarm in alarms(crowd)] == ["model"]
    crowd.tick(TODAY + DAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    steps(watching())
    last = crowd.releases()[-1]
    assert (last.action, last.version) == ("promote", "3")
    assert "version 1 is unusable" in last.why
    crowd.tick(TODAY + DAY + 3 * HOUR)
    assert crowd.publish().hours[FIRST].model == "3"
    assert crowd.published()[FIRST].filter(brand="northair")["label"].to_list() == ["positive"]


# --- long rebuilds -------------------------------------------------------------------------------------------


class SlowReplay:
    """A log whose records of a rebuild come more slowly than a lease lasts."""

    def __init__(self, log: EventLog, seconds: float) -> None:
        self._log, self._seconds = log, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, start: Mapping[Place, int]) -> Any:
        if {place.topic for place in start} & {POSTS.name, MENTIONS.name}:
            sleep(self._seconds)
        return self._log.reader(start)


def test_two_workers_whose_rebuild_outlasts_a_lease_make_progress(
    any_crowd: Crowd, crowd: Crowd, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LEASE", 0.4)
    crowd, quiet, posts = any_crowd, crowd, world.posts.filter(pl.col("at") < TODAY + HOUR)
    for each in (crowd, quiet):
        each.send(posts.head(posts.height // 2))
        each.stream()
        each.send(posts.tail(-(posts.height // 2)))
    quiet.stream()
    stopping, fenced, failed = threading.Event(), [0, 0], []

    def run(slot: int) -> None:
        log = open_log(crowd.url, clock=crowd.clock)
        while not stopping.is_set():
            slow: Any = SlowReplay(log, 1.0)  # 12 partitions: six seconds each if both own the half
            worker = Worker(slow, crowd.champion(), crowd.reader, slot=slot, clock=crowd.clock)
            try:
                while not stopping.is_set():
                    worker.step(0.05)
            except Fenced:
                fenced[slot] += 1
            except Exception as error:
                failed.append(error)
                break
            finally:
                worker.close()
        log.close()

    threads = [threading.Thread(target=run, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        until = monotonic() + 60.0
        while crowd.unread() and not failed and monotonic() < until:
            sleep(0.1)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert sum(fenced) <= 2
    crowd.stream()
    assert sorted(opinion.id for opinion in crowd.opinions()) == sorted(opinion.id for opinion in quiet.opinions())
    assert crowd.minutes() == quiet.minutes()


def test_what_is_built_counts_while_the_rest_is_still_to_be_built(crowd: Crowd, world: Trained) -> None:
    crowd.send(world.posts.filter(pl.col("at") < TODAY + HOUR))
    worker, partitions = crowd.worker(), [0]
    while not partitions[-1]:
        worker.step(0.0)
        partitions.append(len({record.partition for record in crowd.read(OPINIONS)}))
    assert partitions[-1] == 1
    assert worker.rebuilding


def test_a_log_that_has_let_go_of_what_is_counted_takes_nothing_from_worker_and_gateway(any_crowd: Crowd) -> None:
    """All before the last two days is gone; a new worker, a new gateway and batch go on as if it were there."""
    crowd = any_crowd
    crowd.tick(TODAY)
    crowd.post(*(post(f"@northair is great {n}", id=f"p-{n}", at=TODAY + n) for n in range(50)))
    crowd.tick(TODAY + 10 * DAY)
    crowd.stream()
    crowd.publish()
    before = {topic: crowd.log.ends(topic) for topic in (POSTS, MENTIONS, OPINIONS)}
    crowd.post(*(post(f"@northair is bad {n}", id=f"q-{n}", at=TODAY + 10 * DAY + n) for n in range(50)))
    for topic, ends in before.items():
        shorten(crowd.log, topic, ends)
    crowd.stream()
    crowd.tick(TODAY + 11 * DAY)
    crowd.stream()
    crowd.publish()
    counted = {hour: rows["post"].n_unique() for hour, rows in crowd.published().items() if rows.height}
    assert counted == {TODAY // HOUR: 50, (TODAY + 10 * DAY) // HOUR: 50}
    timeline = crowd.timeline()
    points = timeline.points(timeline.manifest(), "northair", since=TODAY, until=TODAY + 11 * DAY, step=11 * DAY)
    assert [point.counts.raw for point in points] == [100]
