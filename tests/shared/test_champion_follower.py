"""What decides is what the release ledger wants, or an earlier version that was never taken back, or nothing."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.champion import RETRY, Champion, ChampionFollower, digest_of
from shared.clock import VirtualClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Topic
from shared.releases import Release, entry

RELEASES = Topic("shop.releases", 1)


class World:
    """A ledger in a real log, and a registry of models that are words."""

    def __init__(self, folder: Path, log: EventLog) -> None:
        self.log, self.folder, self.cache = log, folder, folder / "cache"
        self.cache.mkdir()
        self.digests: dict[str, str] = {}
        self.away = False
        self.held: dict[str, threading.Event] = {}  # by version, what its fetch waits for
        self.fetched: list[str] = []
        self.loaded: list[str] = []
        self.champion = Champion(cache=self.cache, fetch=self.fetch, load=self.load)
        self.follower = ChampionFollower(log, RELEASES, self.champion)

    def register(self, version: str, words: str = "good", *, at_hand: bool = True) -> None:
        made = self.folder / "registry" / version
        made.mkdir(parents=True)
        (made / "model.txt").write_text(f"{words} {version}")
        self.digests[version] = digest_of(made)
        if at_hand:
            shutil.copytree(made, self.cache / self.digests[version])

    def fetch(self, artifact: str, digest: str) -> Path:
        self.fetched.append(artifact)
        if artifact in self.held:
            self.held[artifact].wait(10)
        if self.away:
            raise ConnectionError(f"no answer (request {len(self.fetched)})")
        shutil.copytree(self.folder / "registry" / artifact, self.cache / digest, dirs_exist_ok=True)
        return self.cache / digest

    def load(self, folder: Path) -> str:
        words = (folder / "model.txt").read_text()
        self.loaded.append(words)
        if words.startswith("bad"):
            raise ValueError("self-test failed")
        return words

    def release(self, action: str, version: str, *, digest: str | None = None, subject: str = "model") -> None:
        line = Release.model_validate(
            {"action": action, "version": version, "subject": subject, "artifact": version, "at": 1}
            | {"who": "anna", "why": "", "digest": self.digests.get(version, "") if digest is None else digest}
        )
        self.log.append([entry(RELEASES, line)])

    def decides(self) -> str | None:
        assert (self.champion.model is None) is (self.champion.version is None)
        return self.champion.version

    def settle(self, version: str | None) -> list[str]:
        """Polls until the version decides; gives all that was said."""
        said = self.follower.poll()
        until = monotonic() + 10
        while self.decides() != version:
            said += self.follower.poll()
            assert monotonic() < until, (self.decides(), said)
            sleep(0.005)
        return said


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    log = open_log(f"sqlite:///{tmp_path}/log.db", clock=VirtualClock(1))
    log.create([RELEASES])
    world = World(tmp_path, log)
    with closing(log), closing(world.follower):
        yield world
        for held in world.held.values():
            held.set()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Moves the clock of retries on."""
    moved = 0.0
    monkeypatch.setattr("shared.champion.monotonic", lambda: monotonic() + moved)

    def move() -> None:
        nonlocal moved
        moved += RETRY + 1

    return move


def test_before_the_first_release_nothing_decides(world: World) -> None:
    assert world.follower.poll() == []
    assert world.decides() is None
    assert world.follower.ledger.version() == "none"


def test_each_release_is_followed(world: World) -> None:
    for version in "12":
        world.register(version)
    for action, version in (("promote", "1"), ("promote", "2"), ("rollback", "1")):
        world.release(action, version)
        assert world.follower.poll() == []
        assert world.decides() == version
    assert world.champion.model == "good 1"
    assert world.follower.ledger.known_bad() == {"2"}
    assert world.fetched == []


def test_only_the_last_of_several_releases_is_loaded_and_only_once(world: World) -> None:
    for version in "12":
        world.register(version)
        world.release("promote", version)
    for _ in range(5):
        world.follower.poll()
    assert world.loaded == ["good 2"]


def test_releases_of_another_subject_are_not_its_own(world: World) -> None:
    world.register("1")
    world.release("promote", "1")
    world.release("publish", "monday", subject="table")
    assert (world.follower.poll(), world.decides()) == ([], "1")


def test_a_follower_of_another_subject_follows_that(world: World) -> None:
    world.register("1")
    world.register("9")
    world.release("promote", "9", subject="recipe")
    world.release("promote", "1")
    with closing(ChampionFollower(world.log, RELEASES, world.champion, subject="recipe")) as follower:
        follower.poll()
    assert world.decides() == "9"


def test_after_a_withdrawal_nothing_decides_until_the_next_release(world: World) -> None:
    for version in "12":
        world.register(version)
        world.release("promote", version)
    world.follower.poll()
    world.release("withdraw", "2")
    assert (world.follower.poll(), world.decides()) == ([], None)
    assert world.follower.poll() == []
    world.release("rollback", "1")
    assert (world.follower.poll(), world.decides()) == ([], "1")


def test_the_very_first_champion_is_waited_for(world: World) -> None:
    world.register("1", at_hand=False)
    world.release("promote", "1")
    assert (world.follower.poll(), world.decides()) == ([], "1")
    assert world.fetched == ["1"]


def test_files_of_the_next_are_fetched_while_the_old_one_goes_on(world: World) -> None:
    world.register("1")
    world.register("2", at_hand=False)
    world.release("promote", "1")
    world.follower.poll()
    world.held["2"] = threading.Event()
    world.release("promote", "2")
    for _ in range(3):
        assert (world.follower.poll(), world.decides()) == ([], "1")
    world.held["2"].set()
    assert world.settle("2") == []
    assert world.fetched == ["2"]


@pytest.mark.parametrize("damage", ["altered", "empty"])
def test_a_damaged_folder_is_fetched_beside_the_work_too(world: World, damage: str) -> None:
    """Decisions must not stop for as long as a registry takes to say that it is away."""
    world.register("1")
    world.register("2")
    world.release("promote", "1")
    world.follower.poll()
    kept = world.cache / world.digests["2"] / "model.txt"
    kept.unlink() if damage == "empty" else kept.write_text("damaged")
    world.held["2"] = threading.Event()
    world.release("promote", "2")
    began = monotonic()
    for _ in range(3):
        assert (world.follower.poll(), world.decides()) == ([], "1")
    assert monotonic() - began < 5
    world.held["2"].set()
    assert world.settle("2") == []
    assert world.fetched == ["2"]


def test_a_release_that_comes_while_another_is_fetched_takes_its_place(world: World) -> None:
    world.register("1")
    world.register("2", at_hand=False)
    world.register("3")
    world.release("promote", "1")
    world.follower.poll()
    world.held["2"] = threading.Event()
    world.release("promote", "2")
    world.follower.poll()
    world.release("promote", "3")
    assert (world.follower.poll(), world.decides()) == ([], "3")


def test_a_version_that_fails_its_self_test_is_told_once_and_tried_again(
    world: World, later: Callable[[], None]
) -> None:
    world.register("1")
    world.register("2", "bad")
    world.release("promote", "1")
    world.follower.poll()
    world.release("promote", "2")
    (said,) = world.follower.poll()
    assert said == "version 2: self-test failed"
    assert world.decides() == "1"
    for _ in range(3):
        assert world.follower.poll() == []
    assert world.loaded.count("bad 2") == 1
    later()
    assert world.follower.poll() == []
    assert world.loaded.count("bad 2") == 2
    assert world.decides() == "1"


def test_a_registry_that_is_away_is_told_once_and_what_it_lacked_decides_when_it_is_back(
    world: World, later: Callable[[], None]
) -> None:
    world.register("1")
    world.register("2", at_hand=False)
    world.release("promote", "1")
    world.follower.poll()
    world.away = True
    world.release("promote", "2")
    said: list[str] = []
    for attempt in (1, 2, 3):  # each fails with other words
        until = monotonic() + 10
        while len(world.fetched) < attempt:
            said += world.follower.poll()
            assert monotonic() < until
        for _ in range(10):
            said += world.follower.poll()
            sleep(0.005)
        assert len(world.fetched) == attempt
        later()
    assert said == ["version 2: 2 cannot be fetched: no answer (request 1)"]
    assert world.decides() == "1"
    world.away = False
    assert world.settle("2") == []


def test_what_failed_and_was_loaded_later_is_told_anew_when_it_fails_again(
    world: World, later: Callable[[], None]
) -> None:
    world.register("1")
    world.register("2", "bad")
    for action, version in (("promote", "1"), ("promote", "2")):
        world.release(action, version)
    assert world.follower.poll() == ["version 2: self-test failed"]
    load, world.champion._load = world.champion._load, lambda folder: folder.name
    later()
    assert (world.follower.poll(), world.decides()) == ([], "2")
    world.champion._load = load
    world.release("promote", "1")
    world.follower.poll()
    world.release("promote", "2")
    assert world.follower.poll() == ["version 2: self-test failed"]


def test_between_two_attempts_a_new_release_is_taken_at_once(world: World) -> None:
    world.register("1")
    world.register("2", "bad")
    world.register("3")
    for version in "12":
        world.release("promote", version)
        world.follower.poll()
    world.release("promote", "3")
    assert (world.follower.poll(), world.decides()) == ([], "3")


def test_a_version_that_was_taken_back_never_stands_in(world: World) -> None:
    """Files of 1 and 3 are missing; 2 is at hand, and was rolled back."""
    world.register("2")
    world.release("promote", "1", digest="1" * 64)
    world.release("promote", "2")
    world.release("rollback", "1", digest="0" * 64)
    world.release("promote", "3", digest="3" * 64)
    said = world.settle(None)
    assert [text.split(":")[0] for text in said] == ["version 3", "version 1"]
    assert "good 2" not in world.loaded


def test_a_version_that_is_rolled_back_stops_deciding_although_no_other_can_be_had(world: World) -> None:
    """Neither 1 nor 0 can be fetched: each is tried, and then the service's fallback decides, not the bad one."""
    world.register("0", at_hand=False)
    world.register("1", at_hand=False)
    world.register("2")
    world.away = True
    world.release("promote", "0")
    world.release("promote", "1")
    world.release("promote", "2")
    world.follower.poll()
    assert world.decides() == "2"
    world.release("rollback", "1")
    said = world.settle(None)
    assert [text.split(":")[0] for text in said] == ["version 1", "version 0"]
    assert sorted(world.fetched) == ["0", "1"]


def test_an_earlier_version_is_fetched_if_the_champion_cannot_be(world: World) -> None:
    world.register("1", at_hand=False)
    world.register("2", "bad")
    world.register("3")
    for version in "132":
        world.release("promote", version)
    world.release("rollback", "3")
    world.follower.poll()
    assert world.decides() == "3"
    world.release("withdraw", "3")
    world.follower.poll()
    world.register("4", "bad")
    world.release("promote", "4")
    loads = len(world.loaded)
    assert world.settle("1") == ["version 4: self-test failed"]
    assert world.loaded[loads:] == ["bad 4", "good 1"], "what failed is not loaded again while another is fetched"


@pytest.mark.parametrize("digest", ["", "../registry/1", "A" * 64, "1" * 63, "1" * 65])
def test_what_is_no_digest_names_no_folder(world: World, digest: str) -> None:
    world.register("1")
    world.release("promote", "1", digest=digest)
    (said,) = world.follower.poll()
    assert said.startswith("version 1: ")
    assert (world.decides(), world.loaded) == (None, [])


def test_a_line_that_cannot_be_read_is_told_once_and_passed_over(world: World) -> None:
    world.register("1")
    world.release("promote", "1")
    world.log.append([Entry(RELEASES, "2", b'{"version": "2"}')])
    assert world.follower.poll() == ["line 1 of shop.releases cannot be read"]
    assert (world.decides(), world.follower.poll()) == ("1", [])


def test_a_long_ledger_is_read_in_one_poll(world: World) -> None:
    world.register("1")
    line = Release(action="promote", version="0", digest="0" * 64, at=1, who="anna", why="")
    world.log.append([entry(RELEASES, line)] * 2_500)
    world.release("promote", "1")
    assert (world.follower.poll(), world.decides()) == ([], "1")


def test_without_the_log_it_says_so_and_goes_on_afterwards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register("1")
    world.release("promote", "1")

    def away(*_: object) -> None:
        raise LogUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr("shared.eventlog.sqlite.SqliteReader.poll", away)
        with pytest.raises(LogUnavailable):
            world.follower.poll()
    assert (world.follower.poll(), world.decides()) == ([], "1")
