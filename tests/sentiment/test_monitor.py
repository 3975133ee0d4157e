"""The monitor: commands, days, drift and quality, retraining, the guard-rail, and what it remembers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR
from sentiment.monitor import GUARD_COUNT, Monitor, entry, promotion
from sentiment.schema import ALARMS, COMMANDS, RELEASES, REPORTS, Alarm, Command, Release, Report
from sentiment.serve import audited
from shared.champion import digest_of
from shared.eventlog.port import Entry
from shared.registry import Registry
from tests.sentiment.crowd import BRANDS, TODAY, Crowd, Trained, open_registry, post


@pytest.fixture
def registry(world: Trained, tmp_path: Path) -> Registry:
    """A copy: what a test registers is nobody else's."""
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
            registry,
            BRANDS,
            clock=crowd.clock,
            seed=1,
            fetch=lambda _, digest: crowd.var / "models" / digest,
            folder=crowd.var / "batch",
            recipe=None,
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
    wanted = Command.model_validate({"who": "anna", **about})
    crowd.log.append([Entry(COMMANDS, wanted.kind, wanted.model_dump_json().encode())])
    monitor.step()


def live(crowd: Crowd, posts: pl.DataFrame, days: int) -> None:
    """So many days are lived, published and audited a day later."""
    crowd.send(posts)
    crowd.tick(TODAY + days * DAY + HOUR)
    crowd.stream()
    truth = dict(posts.select("id", "label").iter_rows())
    drawn = [o for o in crowd.opinions() if o.inclusion is not None]
    crowd.log.append([audited(o, truth[o.id], known_at=min(o.at + DAY, crowd.clock.now())) for o in drawn])
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
    monitor.step()
    assert len(reports(crowd)) == 2


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
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    monitor = watching()
    command(crowd, monitor, kind="promote", version="1", why="again")
    assert [(r.version, r.who, r.why) for r in crowd.releases()][-1] == ("1", "anna", "again")
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
    release = promotion(version, at=TODAY, who="tests", why="another")
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
    monitor.step()
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
    monitor.step()
    assert len(crowd.releases()) == 2
    assert said(crowd) == []


def test_without_labels_it_says_what_is_missing_and_the_champion_goes_on(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    monitor = watching()
    command(crowd, monitor, kind="retrain")
    assert said(crowd)[-1].kind == "gate"
    assert "no labels" in said(crowd)[-1].message
    assert len(crowd.releases()) == 1


def test_a_promotion_names_the_files_and_the_figures(world: Trained, registry: Registry) -> None:
    made = promotion(registry.version("1"), at=TODAY, who="anna", why="because")
    assert (made.digest, made.figures["macro_recall"]) == (
        world.release.digest,
        world.release.figures["macro_recall"],
    )
    assert RELEASES.name == entry(made).topic.name


def test_a_retrain_that_was_promised_is_owed_after_a_restart(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    alarm = Alarm(kind="drift", at=TODAY + 3 * DAY, message="distance has moved", action="retrain")
    crowd.log.append([entry(alarm)])
    monitor = watching()
    assert (monitor._retrain_on, monitor._drifted_since) == (TODAY // DAY + 3, TODAY + DAY)


def test_batch_has_one_word_on_a_crisis_and_says_what_it_was_about(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    crowd.post(*(post(f"@northair is terrible, worst crew {n}", id=f"p-{n}", author=f"x-{n}") for n in range(30)))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    alarm = Alarm(kind="crisis", brand="northair", at=TODAY + 2 * HOUR, since=TODAY, message="angry", action="called")
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
