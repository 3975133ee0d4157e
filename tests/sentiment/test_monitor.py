"""The monitor: commands, days, drift and quality, retraining, the guard-rail, and what it remembers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from typer.testing import CliRunner

from sentiment import monitor as monitor_module
from sentiment.__main__ import app
from sentiment.artifact import Artifact
from sentiment.config import BIN, DAY, HOUR
from sentiment.model import ModelCorrupt
from sentiment.monitor import GROUP, GUARD_COUNT, PLACE, Monitor, Retraining, _opinion, entry
from sentiment.report import Judge
from sentiment.schema import (
    ALARMS,
    ALL,
    COMMANDS,
    MINUTES,
    OPINIONS,
    RELEASES,
    REPORTS,
    Alarm,
    Command,
    Counts,
    Minute,
    Opinion,
    Report,
    Seal,
)
from sentiment.serve import answered
from sentiment.shares import FINAL
from shared.champion import digest_of
from shared.cli import claim
from shared.clock import monotonic, sleep
from shared.eventlog.port import Entry, Position, partition_of
from shared.registry import Registry, Unavailable
from shared.releases import Release
from tests.retention import shorten
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, open_registry, post


@pytest.fixture
def registry(world: Trained, tmp_path: Path) -> Registry:
    """A copy: what a test registers is seen by no other."""
    (tmp_path / "registry").mkdir()
    shutil.copy(world.var / "mlflow.db", tmp_path / "registry" / "mlflow.db")
    return open_registry(tmp_path / "registry")


@pytest.fixture
def watching(crowd: Crowd, registry: Registry) -> Iterator[Callable[[], Monitor]]:
    opened: list[Monitor] = []

    def another() -> Monitor:
        monitor = Monitor(
            crowd.log,
            crowd.lake,
            lambda: registry,
            BRANDS,
            clock=crowd.clock,
            seed=1,
            fetch=lambda _, digest: crowd.var / "models" / digest,
            folder=crowd.var / "batch",
            recipe=None,
            secret=KEY,
        )
        opened.append(monitor)
        return monitor

    yield another
    for monitor in opened:
        monitor.close()


def said(crowd: Crowd) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in crowd.read(ALARMS)]


def reports(crowd: Crowd) -> list[Report]:
    return [Report.model_validate_json(record.value) for record in crowd.read(REPORTS)]


def command(crowd: Crowd, monitor: Monitor, **about: object) -> None:
    """A command on the champion as it is, carried out to its end."""
    known = {"who": "anna", "expected_champion": crowd.ledger().version(), "key": uuid4().hex}
    wanted = Command.model_validate(known | about)
    crowd.log.append([Entry(COMMANDS, wanted.kind, wanted.model_dump_json().encode())])
    steps(monitor)


def steps(monitor: Monitor, *, seconds: float = 60.0) -> None:
    """Until what has begun beside the loop is over."""
    until = monotonic() + seconds
    monitor.step()
    while monitor.busy:
        assert monotonic() < until
        sleep(0.01)
        monitor.step()


def live(crowd: Crowd, posts: pl.DataFrame, days: int) -> None:
    """So many days are lived, published and audited a day later."""
    crowd.send(posts)
    crowd.tick(TODAY + days * DAY + HOUR)
    crowd.stream()
    truth = dict(posts.select("id", "label").iter_rows())
    crowd.publish()
    drawn = [audit for day in range(days) for audit in crowd.asked(TODAY // DAY + day) if audit.score is not None]
    crowd.log.append([answered(o, truth[o.post], known_at=min(o.at + DAY, crowd.clock.now())) for o in drawn])
    crowd.publish()


def test_a_closed_day_is_reported_with_what_was_dropped_and_audited(
    crowd: Crowd, world: Trained, watching: Callable[[], Monitor]
) -> None:
    live(crowd, world.posts, 2)
    monitor = watching()
    monitor.step()
    first, second = reports(crowd)
    assert (first.day, second.day) == (TODAY // DAY, TODAY // DAY + 1)
    opinions = [o for o in crowd.opinions() if o.at // DAY == first.day]
    assert first.posts == len(opinions)
    assert first.dropped["language"] == sum(o.why_not == "language" for o in opinions)
    assert first.version == "1"
    assert first.audits <= second.audits
    assert first.finals == ()
    shares = {final.brand: final for final in second.finals}
    assert all(final.day == first.day and final.audits >= FINAL for final in shares.values())
    truth = dict(world.posts.select("id", "label").iter_rows())
    timeline = crowd.timeline()
    voting = timeline.voting(timeline.manifest(), "northair", since=TODAY, until=TODAY + DAY)
    labels = [truth[post] for post in voting["post"]]
    northair = shares["northair"]
    assert northair.low[0] <= labels.count("negative") / len(labels) <= northair.high[0]
    monitor.step()
    assert len(reports(crowd)) == 2


def test_a_day_is_judged_once_its_last_opinions_are_in_the_lake(
    crowd: Crowd, world: Trained, watching: Callable[[], Monitor]
) -> None:
    crowd.send(world.posts)
    crowd.tick(TODAY + DAY + HOUR)
    crowd.publish()  # the hours, before any worker has said anything
    crowd.stream()
    monitor = watching()
    monitor.step()
    assert reports(crowd) == []
    crowd.publish()
    monitor.step()
    (report,) = reports(crowd)
    assert report.posts == sum(o.at // DAY == report.day and o.kind == "opinion" for o in crowd.opinions())


@pytest.mark.parametrize(
    ("error", "waits"),
    [(OSError(5, "Input/output error"), True), (Unavailable("the files of version 1 are gone"), False)],
    ids=["the disk is away", "no files of the version"],
)
def test_a_day_waits_for_the_disk_and_does_without_the_files_of_a_version(
    crowd: Crowd,
    world: Trained,
    watching: Callable[[], Monitor],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    waits: bool,
) -> None:
    live(crowd, world.posts, 1)
    monkeypatch.setattr(monitor_module, "RETRY", 0.0)
    monitor = watching()
    with monkeypatch.context() as away:

        def fails(*_: object) -> None:
            raise error

        away.setattr(Judge, "_distances", fails)
        monitor.step()
    assert [report.day for report in reports(crowd)] == ([] if waits else [TODAY // DAY])
    assert any("drift is not measured" in alarm.message for alarm in said(crowd)) is not waits
    monitor.step()
    assert [report.day for report in reports(crowd)] == [TODAY // DAY]


def test_a_second_monitor_on_the_machine_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with claim(tmp_path, "sentiment-monitor"):
        refused = CliRunner().invoke(app, ["--var", str(tmp_path), "monitor"])
    assert refused.exit_code == 2
    assert "sentiment-monitor is already running" in " ".join(refused.output.replace("│", " ").split())


def test_what_it_said_is_remembered_after_a_restart(
    crowd: Crowd, world: Trained, watching: Callable[[], Monitor]
) -> None:
    live(crowd, world.posts, 2)
    watching().step()
    before = said(crowd), reports(crowd)
    watching().step()
    assert (said(crowd), reports(crowd)) == before


def test_a_command_that_cannot_be_read_is_a_dead_letter(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    monitor = watching()
    crowd.log.append([Entry(COMMANDS, "x", b'{"kind": "explode", "who": "anna"}')])
    monitor.step()
    assert [letter.field for letter in crowd.letters()] == ["kind"]


def test_a_version_is_promoted_by_command_and_an_unknown_one_is_not(
    crowd: Crowd, world: Trained, registry: Registry, watching: Callable[[], Monitor]
) -> None:
    registry.register(world.var / "models" / world.release.digest, params={}, figures={}, tags={"gate": "passed"})
    monitor = watching()
    command(crowd, monitor, kind="promote", version="2", why="better")
    assert [(r.version, r.who, r.why) for r in crowd.releases()][-1] == ("2", "anna", "better")
    command(crowd, monitor, kind="promote", version="2", why="again")
    assert [r.version for r in crowd.releases()] == ["1", "2"], "promoting the champion changes nothing"
    assert "in force already" in said(crowd)[-1].message
    command(crowd, monitor, kind="promote", version="99")
    assert "no version 99" in said(crowd)[-1].message


def test_a_refused_version_is_released_by_force_only(
    crowd: Crowd, world: Trained, registry: Registry, watching: Callable[[], Monitor]
) -> None:
    registry.register(world.var / "models" / world.release.digest, params={}, figures={}, tags={"gate": "too bad"})
    monitor = watching()
    command(crowd, monitor, kind="promote", version="2")
    assert "too bad" in said(crowd)[-1].message
    assert len(crowd.releases()) == 1
    command(crowd, monitor, kind="promote", version="2", force=True)
    assert crowd.releases()[-1].version == "2"
    command(crowd, monitor, kind="rollback", why="it is worse")
    assert [(r.action, r.version) for r in crowd.releases()][-1] == ("rollback", "1")
    command(crowd, monitor, kind="rollback")
    assert "no earlier version" in said(crowd)[-1].message


def contrary(crowd: Crowd, world: Trained) -> Path:
    """The files of a version that says bad where the champion says good."""
    folder = crowd.var / "models" / world.release.digest
    made = crowd.var / "models" / "new"
    shutil.copytree(folder, made, copy_function=shutil.copy)
    good = Artifact.load(folder)
    bad = good._replace(linear=good.linear.swapped())
    texts = ["that is great", "that is terrible"] * 30
    bad.save(made, texts=texts, reference=pl.read_parquet(made / "reference.parquet"), limits={})
    digest = digest_of(made)
    return made.rename(crowd.var / "models" / digest)


def released(crowd: Crowd, registry: Registry, folder: Path) -> Release:
    version = registry.register(folder, params={}, figures={"macro_recall": 0.5}, tags={"gate": "skipped"})
    release = Release.promotion(version, at=TODAY, who="tests", why="another")
    crowd.log.append([entry(release)])
    return release


def test_a_release_that_contradicts_the_one_before_is_taken_back(
    crowd: Crowd, world: Trained, registry: Registry, watching: Callable[[], Monitor]
) -> None:
    released(crowd, registry, contrary(crowd, world))
    monitor = watching()
    moods = ("is great", "is terrible")
    crowd.post(*(post(f"@northair {moods[n % 2]} {n}", id=f"p-{n}") for n in range(GUARD_COUNT)))
    crowd.stream()
    steps(monitor)
    back = crowd.releases()[-1]
    assert (back.action, back.version) == ("rollback", "1")
    assert "contradicts version 1" in said(crowd)[-1].message


def test_a_release_that_agrees_stays(
    crowd: Crowd, world: Trained, registry: Registry, watching: Callable[[], Monitor]
) -> None:
    released(crowd, registry, crowd.var / "models" / world.release.digest)
    monitor = watching()
    crowd.post(*(post(f"@northair is great {n}", id=f"p-{n}") for n in range(GUARD_COUNT)))
    crowd.stream()
    steps(monitor)
    assert len(crowd.releases()) == 2
    assert said(crowd) == []


def test_the_guardrail_gives_up_when_the_version_before_cannot_be_read(
    crowd: Crowd, registry: Registry, watching: Callable[[], Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    released(crowd, registry, crowd.var / "models" / crowd.world.release.digest)
    crowd.stream()
    monitor = watching()
    monitor.step()
    crowd.post(*(post(f"@northair is great {n}", id=f"p-{n}") for n in range(3 * GUARD_COUNT)))
    crowd.stream()
    attempts = []

    def of_another_normaliser(folder: Path) -> Artifact:
        attempts.append(folder)
        raise ModelCorrupt("the model is of another normaliser")

    monkeypatch.setattr(Artifact, "load", of_another_normaliser)
    monkeypatch.setattr("sentiment.monitor.RETRY", 0.0)
    for _ in range(5):
        steps(monitor)
        assert len(monitor._guarded) <= GUARD_COUNT
    (told,) = said(crowd)
    assert (told.kind, len(attempts)) == ("guardrail", 1)
    assert "of another normaliser" in told.message
    assert len(crowd.releases()) == 2


def test_a_commanded_training_that_is_refused_leaves_the_planned_one(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    monitor = watching()
    monitor.step()
    monitor._retrain_on = 20_500
    command(crowd, monitor, kind="retrain")
    assert "no labels" in said(crowd)[-1].message
    assert monitor._retrain_on == 20_500


@pytest.mark.parametrize("note", ["{", '["x"]', '{"as_of": "yesterday"}'])
def test_a_note_that_cannot_be_read_is_an_alarm_and_the_monitor_goes_on(
    crowd: Crowd, watching: Callable[[], Monitor], note: str
) -> None:
    consumer = crowd.log.consumer(GROUP, [COMMANDS], "monitor")
    consumer.poll(1, 0.0)
    consumer.commit([], {PLACE: Position(0, note)})
    consumer.close()
    monitor = watching()
    command(crowd, monitor, kind="withdraw")
    assert [alarm.kind for alarm in said(crowd)] == ["monitor", "command"]
    assert crowd.releases()[-1].action == "withdraw"


def test_an_older_versions_note_begins_the_training_again(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    consumer = crowd.log.consumer(GROUP, [COMMANDS], "monitor")
    consumer.poll(1, 0.0)
    older = Retraining(as_of=TODAY, who="anna", why="asked for", key="k", expected="1")
    consumer.commit([], {PLACE: Position(0, older.model_dump_json())})
    consumer.close()
    steps(watching())
    assert [alarm.kind for alarm in said(crowd)] == ["gate"]


def test_without_positions_no_old_command_is_carried_out_again(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    old = Command(kind="withdraw", who="anna", key="old", expected_champion="1")
    crowd.log.append([Entry(COMMANDS, old.kind, old.model_dump_json().encode())])
    done = crowd.world.release.model_copy(update={"version": "1", "key": "k"})
    crowd.log.append([entry(done)])
    monitor = watching()
    steps(monitor)
    (told,) = said(crowd)
    assert (told.kind, "before offset 1 are not carried out" in told.message) == ("command", True)
    assert crowd.ledger().version() == "1"
    command(crowd, monitor, kind="withdraw", why="still wanted")
    assert crowd.ledger().version() == "none"
    assert len(said(crowd)) == 2


def test_an_opinion_in_another_partition_than_its_keys_is_not_guarded(crowd: Crowd) -> None:
    opinion = Opinion(id="p-1", at=TODAY, label="neutral", score=(0.1, 0.8, 0.1), path="linear", model="1")
    wrong = (partition_of("p-1", OPINIONS.partitions) + 1) % OPINIONS.partitions
    value = opinion.model_dump_json().encode()
    sent = [Entry(OPINIONS, "p-1", value, wrong), Entry(OPINIONS, "p-2", value), Entry(OPINIONS, "p-1", value)]
    crowd.log.append(sent)
    assert [read for record in crowd.read(OPINIONS) if (read := _opinion(record))] == [opinion]


def test_without_labels_it_says_what_is_missing_and_the_champion_goes_on(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    monitor = watching()
    command(crowd, monitor, kind="retrain")
    assert said(crowd)[-1].kind == "gate"
    assert "no labels" in said(crowd)[-1].message
    assert len(crowd.releases()) == 1


def test_a_promotion_names_the_files_and_the_figures(world: Trained, registry: Registry) -> None:
    made = Release.promotion(registry.version("1"), at=TODAY, who="anna", why="because")
    assert (made.digest, made.figures["macro_recall"]) == (
        world.release.digest,
        world.release.figures["macro_recall"],
    )
    assert RELEASES.name == entry(made).topic.name


def test_a_retrain_that_was_promised_is_owed_after_a_restart(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    alarm = Alarm(kind="drift", at=TODAY + 3 * DAY, message="distance has moved", action="retrain")
    crowd.log.append([entry(alarm)])
    monitor = watching()
    monitor.step()
    assert (monitor._retrain_on, monitor._drifted_since) == (TODAY // DAY + 3, TODAY + DAY)


def test_a_retrain_waits_until_what_has_drifted_is_labelled(
    crowd: Crowd, world: Trained, watching: Callable[[], Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    live(crowd, world.posts, 2)
    judge, begun = Judge.judge, list[int]()

    def drifting(*given: object, **options: object) -> Report:
        return judge(*given, **options).model_copy(update={"drifted": ("distance",)})  # type: ignore[arg-type]

    monkeypatch.setattr(Judge, "judge", drifting)
    monkeypatch.setattr(Monitor, "_start_training", lambda _, asked: begun.append(asked.as_of))
    watching().step()
    assert [alarm.at for alarm in said(crowd) if alarm.kind == "drift"] == [TODAY + DAY]
    assert begun == [TODAY + 2 * DAY]  # people say what a day's posts say on the day after


def test_a_crisis_that_came_late_is_judged_once_the_night_has_taken_it_in(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    crowd.tick(TODAY)
    crowd.post(post("@northair works"))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.publish()
    crowd.post(*(post(f"@northair is terrible {n}", id=f"late-{n}", author=f"x-{n}") for n in range(30)))
    crowd.stream()
    alarm = Alarm(
        kind="crisis", brand="northair", at=TODAY + 2 * HOUR, since=TODAY, usual=0.35, message="angry", action="called"
    )
    crowd.log.append([entry(alarm)])
    watching().step()
    assert len(said(crowd)) == 1, "batch has the hour, and not what came late"
    crowd.tick(TODAY + DAY + HOUR)
    crowd.stream()
    crowd.publish()
    watching().step()
    assert "confirmed" in {alarm.kind for alarm in said(crowd)}


def test_batch_has_one_word_on_a_crisis_and_says_what_it_was_about(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    crowd.post(*(post(f"@northair is terrible, worst crew {n}", id=f"p-{n}", author=f"x-{n}") for n in range(30)))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    alarm = Alarm(
        kind="crisis", brand="northair", at=TODAY + 2 * HOUR, since=TODAY, usual=0.35, message="angry", action="called"
    )
    crowd.log.append([entry(alarm)])
    monitor = watching()
    monitor.step()
    assert len(said(crowd)) == 1, "not before batch has the hours"
    crowd.publish()
    monitor.step()
    verdict = said(crowd)[-1]
    assert (verdict.kind, verdict.brand, verdict.since) == ("confirmed", "northair", TODAY)
    assert verdict.message == "northair: of 30 opinions without bots 30 are negative, most about service"
    monitor.step()
    watching().step()
    assert len(said(crowd)) == 2


def test_a_second_gap_is_told_by_a_monitor_that_started_after_the_first(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    """Of the seals that told the first one's time a compacted topic has kept only the last."""
    start, partition = TODAY // DAY * DAY, partition_of(ALL, MINUTES.partitions)
    first, second = (range(start + day * DAY + 10 * HOUR, start + day * DAY + 16 * HOUR) for day in (8, 10))

    def send(since: int, until: int, *, seals: bool) -> None:
        made: list[tuple[str, Minute | Seal]] = []
        for at in range(since, until, BIN):
            if at not in first and at not in second:
                made.append((f"*:{at}", Minute(brand=ALL, at=at, revision=at, counts=Counts(20))))
            if seals:
                made.append((f"seal:{partition}", Seal(partition=partition, at=at + BIN)))
        crowd.clock.observe(until)
        crowd.log.append([Entry(MINUTES, key, about.model_dump_json().encode(), partition) for key, about in made])

    send(start, first.stop, seals=True)
    steps(watching())
    send(first.stop, second.start, seals=False)
    assert [alarm.kind for alarm in said(crowd)] == ["gap"]
    shorten(crowd.log, MINUTES, {partition: crowd.log.ends(MINUTES)[partition]})
    send(start, second.start, seals=False)
    monitor = watching()
    steps(monitor)
    send(second.start, second.stop, seals=True)
    steps(monitor)
    assert [alarm.kind for alarm in said(crowd)] == ["gap", "gap"]


def test_what_nothing_says_is_usual_is_neither_confirmed_nor_retracted(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    """An alarm of an older version names no baseline, and after a restart the minutes may not tell it, either."""
    crowd.post(*(post(f"@northair is terrible, worst crew {n}", id=f"p-{n}", author=f"x-{n}") for n in range(30)))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    crowd.publish()
    alarm = Alarm(kind="crisis", brand="northair", at=TODAY + 2 * HOUR, since=TODAY, message="angry", action="called")
    crowd.log.append([entry(alarm)])
    for _ in range(2):
        monitor = watching()
        monitor.step()
        monitor.step()
    assert [one.kind for one in said(crowd)] == ["crisis"]


def test_a_level_that_a_person_accepts_is_noted_and_known_after_a_restart(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    crowd.tick(TODAY + HOUR)
    crowd.stream()
    monitor = watching()
    steps(monitor)
    command(crowd, monitor, kind="accept", brand="northair", why="they have changed the menu")
    told = said(crowd)[-1]
    assert (told.kind, told.brand, told.at) == ("accepted", "northair", TODAY + HOUR)
    again = watching()
    again.step()
    assert again._watch._brands["northair"].accepted == [told.at]
    command(crowd, again, kind="accept", brand="unknown")
    assert "no brand 'unknown'" in said(crowd)[-1].message
