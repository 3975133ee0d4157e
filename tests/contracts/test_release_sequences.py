"""Whatever operators, nights and faults do to releases, and in which order: see tests/release_sequences.py.

The shared nouns go through it first, with a service of a few lines, which also shows that mistakes are found.
"""

import importlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local import WHERE, Kafka
from shared.champion import Champion, ChampionFollower, digest_of
from shared.clock import VirtualClock
from shared.eventlog import open_log
from shared.eventlog.port import Entry, LogUnavailable, Topic
from shared.releases import NONE, Ledger, Rejected, Release, ReleaseManager, read_ledger
from shared.settings import Settings
from tests.release_sequences import Command, Line, Operations, Step, check, folder, play, sequence, with_short_outages
from tests.servers import Toxiproxy, free_ports

RELEASES = Topic("toy.releases", 1)
SERVICES = ("fraud", "recsys", "sentiment")
ON_KAFKA = {"fraud": 2, "recsys": 1, "sentiment": 2}  # sequences: each takes a minute or more
FIVE = sum(ON_KAFKA.values())


class Crash(BaseException):
    """As kill -9 would."""


class Toy:
    """The smallest service: commands wait in a list, a manager carries them out, a follower obeys the ledger."""

    kinds = ("promote", "rollback", "withdraw", "retrain")

    def __init__(self, folder: Path, url: str) -> None:
        self._log = open_log(url, clock=VirtualClock(1))
        self._log.create([RELEASES])
        self._cache, self._digests = folder, dict[str, str]()
        for _ in range(3):
            self.step("retrain")
        self._waiting: deque[Command] = deque()
        self._refused: set[str] = set()  # keys of commands; the ledger has those of commands that were carried out
        self._crash, self._away, self._dead = "", False, False
        self._follower: ChampionFollower[str] | None = None
        self.restart()

    def manager(self) -> ReleaseManager[Release]:
        return ReleaseManager(
            self._log, RELEASES, Release, clock=VirtualClock(1), append=self._append, switch=self._switch
        )

    def command(self, kind: str, *, version: str | None, expected: str | None, key: str) -> None:
        self._waiting.append(Command(kind, version, expected, key))

    def step(self, kind: str) -> None:
        """Another version, ready to be promoted."""
        assert kind == "retrain"
        version, made = str(len(self._digests) + 1), self._cache / "made"
        made.mkdir()
        (made / "model").write_text(version)
        self._digests[version] = digest_of(made)
        made.rename(self._cache / self._digests[version])

    def crash(self, after: str) -> None:
        self._crash = after

    def restart(self) -> None:
        if self._follower is not None:
            self._follower.close()
        self._crash, self._dead, self._recovered = "", False, False
        self._champion = Champion(cache=self._cache, fetch=lambda _, digest: self._cache / digest, load=Path.read_text)
        self._champion._load = lambda folder: (folder / "model").read_text()
        self._follower = ChampionFollower(self._log, RELEASES, self._champion)

    def run(self) -> bool:
        if self._dead:
            return False
        try:
            try:
                if not self._recovered:
                    self.manager().recover()
                    self._recovered = True
                while self._waiting:
                    if not self.was_refused(self._waiting[0]):
                        try:
                            self.obey(self.manager(), self._waiting[0])
                        except Rejected:
                            self._refused.add(self._waiting[0].key)
                    self._waiting.popleft()
            except Crash:
                self._dead = True
            if not self._away and self._follower is not None:
                self._follower.poll()
        except LogUnavailable:
            return False
        return not self._dead

    def was_refused(self, command: Command) -> bool:
        return command.key in self._refused

    def obey(self, manager: ReleaseManager[Release], command: Command) -> None:
        kind, version, expected, key = command
        if kind == "promote":
            assert version is not None
            line = Release(action="promote", version=version, digest=self._digests[version], at=1, who="a", why="")
            manager.promote(line.model_copy(update={"key": key}), expected=expected)
        elif kind == "rollback":
            manager.roll_back(who="a", why="", key=key, expected=expected)
        else:
            manager.withdraw(who="a", why="", key=key, expected=expected)

    def outage(self, away: bool) -> None:
        self._away = away

    def versions(self) -> list[str]:
        return list(self._digests)

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self._log, RELEASES, Release)

    def in_force(self, subject: str) -> str:
        assert subject == "model"
        return self._champion.version or NONE

    def close(self) -> None:
        assert self._follower is not None
        self._follower.close()
        self._log.close()

    def _append(self, entries: list[Entry]) -> None:
        if self._away:
            raise LogUnavailable("away")
        self._log.append(entries)
        if self._crash == Release.model_validate_json(entries[-1].value).state:
            raise Crash

    def _switch(self, _: Release) -> None:
        if self._away:
            raise LogUnavailable("away")
        if self._crash == "switch":
            raise Crash


# --- the shared nouns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(4))
def test_the_shared_nouns_keep_every_promise(tmp_path: Path, block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        new = folder(tmp_path, seed)
        url = f"sqlite:///{new}/log.db"
        play(Toy(new, url), url, "toy", sequence(seed, Toy.kinds))


MISTAKES: dict[str, tuple[str, Callable[..., object]]] = {
    "a repeat is carried out": ("shared.releases.Ledger.by_key", lambda *_: None),
    "the repeat of a refused command is carried out": (f"{__name__}.Toy.was_refused", lambda *_: False),
    "what is expected does not matter": ("shared.releases.check_expected", lambda *_: None),
    "nothing is known to be bad": ("shared.releases.Ledger.known_bad", lambda *_: frozenset()),
    "what was begun never ends": ("shared.releases.ReleaseManager._finish", lambda _, intent, **__: intent),
    "the worker does not clear a champion": ("shared.champion.Champion.clear", lambda _: None),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    monkeypatch.setattr("tests.release_sequences.SETTLES", 0.2)
    monkeypatch.setattr(*MISTAKES[mistake])

    def tried() -> None:
        for seed in range(40):
            new = folder(tmp_path, seed)
            url = f"sqlite:///{new}/log.db"
            play(Toy(new, url), url, "toy", sequence(seed, Toy.kinds))

    with pytest.raises(AssertionError, match="after these steps of toy"):
        tried()


def table(action: str, version: str, key: str) -> Line:
    return Line("table", action, "done", version, key)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([table("publish", "2026-01-03-a", "1"), table("publish", "2026-01-02-b", "2")], "replaced the newer"),
        (
            [
                *(table("publish", f"2026-01-0{n}-a", str(n)) for n in (1, 2)),
                table("rollback", "2026-01-01-a", "3"),
                table("publish", "2026-01-02-b", "4"),
            ],
            "undid a rollback",
        ),
        ([table("publish", "2026-01-03-a", "1"), table("publish", "2026-01-03-a", "2")], "was in force"),
        ([Line("table", "publish", "intent", "2026-01-03-a", "1")], "never ended"),
    ],
)
def test_mistakes_of_nights_are_found(lines: list[Line], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check(lines, {}, {})


def test_a_sequence_is_that_of_its_seed() -> None:
    assert sequence(1, Toy.kinds) == sequence(1, Toy.kinds) != sequence(2, Toy.kinds)
    assert len(sequence(1, Toy.kinds)) == 20
    assert {type(step) for step in sequence(1, Toy.kinds)} == {Step}


# --- the services ----------------------------------------------------------------------------------------------


def operations(service: str, where: Path, url: str) -> Operations:
    made: Operations = importlib.import_module(f"tests.{service}.operations").Operations(where, url)
    return made


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.timeout(900)
def test_whatever_happens_to_releases_they_keep_every_promise(service: str, tmp_path: Path, sequences: int) -> None:
    for seed in range(sequences):
        new = folder(tmp_path, seed)
        url = f"sqlite:///{new}/log.db"
        running = operations(service, new / "service", url)
        play(running, url, service, sequence(seed, running.kinds))


class Wired:
    """Operations whose log is really away: the wire to the broker is cut."""

    def __init__(self, inner: Operations, wire: Toxiproxy) -> None:
        self._inner, self._wire = inner, wire

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def outage(self, away: bool) -> None:
        self._wire.cut() if away else self._wire.heal()


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    home = Settings().kafka_home
    if home is None:
        pytest.skip(f"needs Kafka. {WHERE}")
    port, controller = free_ports(2)
    with Toxiproxy(port) as proxy:
        broker = Kafka(home, tmp_path_factory.mktemp("broker"), port=port, controller=controller, advertised=proxy.port)
        broker.start()
        yield proxy
        broker.kill()


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to a broker that is away end sooner."""
    for module in ("kafka_calls", "kafka_members", "kafka"):
        monkeypatch.setattr(f"shared.eventlog.{module}.GIVE_UP", 4.0)
        monkeypatch.setattr(f"shared.eventlog.{module}.ANSWER", 2.0)


@pytest.mark.slow
@pytest.mark.usefixtures("_hasty")
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("service", SERVICES)
def test_they_do_so_on_kafka_while_its_wire_is_cut(
    service: str, tmp_path: Path, wire: Toxiproxy, pytestconfig: pytest.Config
) -> None:
    """Five sequences in all, of the three services together; with `--sequences N` about N."""
    proxy, wanted = wire, pytestconfig.getoption("sequences") or FIVE
    for seed in range(ON_KAFKA[service] * max(wanted // FIVE, 1)):
        new = folder(tmp_path, seed)
        url = f"kafka://127.0.0.1:{proxy.port}/{uuid4().hex[:8]}"
        running = operations(service, new / "service", url)
        steps = with_short_outages(sequence(seed, running.kinds, outages=1))
        play(Wired(running, proxy), url, service, steps)  # type: ignore[arg-type]
