"""The release ledger, and changes of it that survive a crash at any point. The logs are real."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from pydantic import ValidationError

from infra.local import Kafka
from shared.clock import VirtualClock, monotonic, sleep
from shared.dependencies import DependencyUnavailable
from shared.eventlog import open_log
from shared.eventlog.port import Consumer, Entry, Fenced, LogUnavailable, Place, Topic, beginning
from shared.releases import (
    Command,
    Ledger,
    Rejected,
    Release,
    ReleaseManager,
    check_expected,
    entry,
    read_ledger,
)

RELEASES = Topic("shop.releases", 1)
COMMANDS = Topic("shop.commands", 1)


def line(action: str, version: str, key: str = "", *, state: str = "done", subject: str = "model") -> Release:
    return Release.model_validate(
        {"subject": subject, "action": action, "state": state, "version": version, "at": 7, "key": key}
        | {"who": "anna", "why": "", "artifact": f"file:///{version}", "digest": version * 64}
    )


def versions(lines: list[Release]) -> list[str]:
    return [one.version for one in lines]


# --- messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "a key", "x" * 101, "ключ"])
def test_a_key_that_could_not_stand_in_a_header_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="key"):
        Command(kind="rollback", who="anna", key=key)


def test_a_command_of_an_older_writer_can_be_read_and_names_neither_champion_nor_key() -> None:
    old = Command.model_validate_json('{"kind": "rollback", "who": "anna", "colour": "red"}')
    assert (old.expected_champion, old.key, old.version, old.force) == (None, None, None, False)


def test_a_release_of_an_older_writer_is_a_finished_change_of_the_model() -> None:
    old = Release.model_validate_json('{"action": "promote", "version": "3", "at": 1, "who": "anna", "why": ""}')
    assert (old.subject, old.state, old.key, old.figures) == ("model", "done", "", {})


def test_a_release_with_a_metric_that_is_no_number_can_be_read_again() -> None:
    """JSON has no NaN, and a line that cannot be read is a release that never happened."""
    written = line("promote", "1").model_copy(update={"figures": {"ap": 0.5, "recall": float("nan")}})
    assert Release.model_validate_json(written.model_dump_json()).figures == {"ap": 0.5}


def test_figures_that_are_no_figures_are_refused() -> None:
    with pytest.raises(ValidationError, match="figures"):
        Release.model_validate(line("promote", "1").model_dump() | {"figures": "good"})


# --- the ledger ----------------------------------------------------------------------------------------


def test_an_empty_ledger_has_no_champion() -> None:
    ledger: Ledger[Release] = Ledger()
    assert (ledger.champion(), ledger.version(), ledger.fallbacks(), ledger.intents()) == (None, "none", [], [])
    assert ledger.known_bad() == frozenset()


def test_the_champion_is_the_last_line_of_its_subject() -> None:
    ledger = Ledger([line("promote", "1"), line("publish", "monday", subject="table"), line("promote", "2")])
    assert (ledger.version(), ledger.version("table"), ledger.version("price")) == ("2", "monday", "none")
    assert versions(ledger.lines) == ["1", "monday", "2"]


def test_a_rollback_marks_the_version_that_it_left_as_bad() -> None:
    ledger = Ledger([line("promote", "1"), line("promote", "2"), line("rollback", "1")])
    assert (ledger.version(), ledger.known_bad()) == ("1", frozenset({"2"}))
    assert ledger.known_bad("table") == frozenset()


def test_a_rollback_to_the_version_in_force_marks_nothing() -> None:
    ledger = Ledger([line("promote", "1"), line("rollback", "1")])
    assert (ledger.version(), ledger.known_bad()) == ("1", frozenset())


def test_a_rollback_as_the_first_line_is_taken_as_it_stands() -> None:
    ledger = Ledger([line("rollback", "1")])
    assert (ledger.version(), ledger.known_bad()) == ("1", frozenset())


def test_a_withdrawal_leaves_no_champion_and_a_rollback_after_it_leaves_the_withdrawn_bad() -> None:
    ledger = Ledger([line("promote", "1"), line("promote", "2"), line("withdraw", "2")])
    assert (ledger.champion(), ledger.version(), ledger.known_bad()) == (None, "none", frozenset({"2"}))
    assert versions(ledger.fallbacks()) == ["1"]
    ledger.add(line("rollback", "1"))
    assert (ledger.version(), ledger.known_bad(), ledger.fallbacks()) == ("1", frozenset({"2"}), [])


def test_fallbacks_are_the_earlier_versions_newest_first_each_once_and_none_that_was_taken_back() -> None:
    ledger = Ledger(
        [
            *(line("promote", version) for version in ("1", "2", "1", "3", "4")),
            line("rollback", "3"),
            line("promote", "5"),
        ]
    )
    assert versions(ledger.fallbacks()) == ["3", "1", "2"]
    assert versions(ledger.fallbacks(kept={"2", "1"})) == ["1", "2"]
    assert ledger.fallbacks("table") == []


def test_a_line_that_comes_twice_under_one_key_counts_once() -> None:
    ledger = Ledger([line("promote", "1", "a"), line("promote", "2", "b"), line("promote", "1", "a")])
    assert (ledger.version(), versions(ledger.lines)) == ("2", ["1", "2"])


def test_lines_without_a_key_are_never_taken_for_one_another() -> None:
    ledger = Ledger([line("promote", "1"), line("promote", "2"), line("promote", "1")])
    assert ledger.version() == "1"
    assert ledger.by_key("") is None


def test_a_key_belongs_to_one_subject() -> None:
    ledger = Ledger([line("publish", "monday", "a", subject="table"), line("promote", "1", "a")])
    assert (ledger.version(), ledger.version("table")) == ("1", "monday")
    found = ledger.by_key("a", "table")
    assert found is not None
    assert found.version == "monday"
    assert ledger.by_key("a", "price") is None


def test_an_intent_changes_nothing_and_is_open_until_it_is_done_or_void() -> None:
    ledger = Ledger([line("promote", "1", "a"), line("promote", "2", "b", state="intent")])
    assert (ledger.version(), versions(ledger.intents()), ledger.by_key("b")) == ("1", ["2"], None)
    ledger.add(line("promote", "3", "c", state="intent"))
    ledger.add(line("promote", "2", "b", state="void"))
    assert (ledger.version(), versions(ledger.intents()), ledger.by_key("b")) == ("1", ["3"], None)
    ledger.add(line("promote", "3", "c"))
    assert (ledger.version(), ledger.intents()) == ("3", [])


def test_an_intent_of_another_subject_with_the_same_key_stays_open() -> None:
    ledger = Ledger([line("publish", "monday", "a", state="intent", subject="table"), line("promote", "1", "a")])
    assert versions(ledger.intents()) == ["monday"]


def test_an_intent_that_comes_after_its_end_is_not_open() -> None:
    ledger = Ledger([line("promote", "1", "a"), line("promote", "1", "a", state="intent")])
    assert ledger.intents() == []


def test_a_voided_key_may_be_used_again() -> None:
    """The command was redelivered: nothing was told about the first attempt yet."""
    ledger = Ledger([line("promote", "1", "a", state=state) for state in ("intent", "void", "intent", "done")])
    assert (ledger.version(), ledger.intents()) == ("1", [])


@pytest.mark.parametrize(("expected", "current"), [(None, "1"), (None, "none"), ("2", "1"), ("1", "none")])
def test_a_command_that_does_not_name_what_is_in_force_is_rejected_with_what_is(
    expected: str | None, current: str
) -> None:
    with pytest.raises(Rejected, match=f"version {current} is in force"):
        check_expected(expected, current)


def test_a_command_that_names_what_is_in_force_is_let_through() -> None:
    check_expected("1", "1")
    check_expected("none", "none")


# --- changes -------------------------------------------------------------------------------------------


class Crash(BaseException):
    """As kill -9 would."""


class World:
    """A monitor's manager, what it switched, and the faults that happen to it."""

    def __init__(self, url: str) -> None:
        self.log = open_log(url, clock=VirtualClock(1_000))
        self.log.create([RELEASES, COMMANDS])
        self.members: list[Consumer] = []
        self.in_force = "none"
        self.switched: list[str] = []
        self.refuses: Exception | None = None  # what `switch` raises instead of switching
        self.waiting: set[str] = set()  # versions that alone are refused; empty: all are
        self.crash = ""  # after "intent", "switch" or "done"
        self.after_switch: Callable[[], object] = lambda: None
        self.away: set[str] = set()  # states whose line cannot be appended
        self.lost: set[str] = set()  # states whose line is appended though the log says that it is away
        self.manager = self.restarted()

    def close(self) -> None:
        for member in self.members:
            with suppress(LogUnavailable):
                member.close()
        self.log.close()

    def restarted(self) -> ReleaseManager[Release]:
        return ReleaseManager(
            self.log, RELEASES, Release, clock=VirtualClock(5), append=self.append, switch=self.switch
        )

    def append(self, entries: list[Entry]) -> None:
        (state,) = {Release.model_validate_json(one.value).state for one in entries}
        if state in self.away:
            raise LogUnavailable("away")
        self.log.append(entries)
        if state in self.lost:
            raise LogUnavailable("the outcome is unknown")
        if state == self.crash:
            raise Crash

    def switch(self, to: Release) -> None:
        if self.refuses is not None and (not self.waiting or to.version in self.waiting):
            raise self.refuses
        self.switched.append(to.version)
        self.in_force = "none" if to.action == "withdraw" else to.version
        self.after_switch()
        if self.crash == "switch":
            raise Crash

    def promote(self, version: str, key: str, expected: str | None, *, force: bool = False) -> Release:
        return self.manager.promote(line("promote", version, key), expected=expected, force=force)

    def roll_back(
        self, key: str, expected: str | None, version: str | None = None, kept: set[str] | None = None
    ) -> Release:
        return self.manager.roll_back(who="anna", why="bad", key=key, expected=expected, version=version, kept=kept)

    def withdraw(self, key: str, expected: str | None) -> Release:
        return self.manager.withdraw(who="anna", why="worse", key=key, expected=expected)

    def lines(self) -> list[tuple[str, str, str]]:
        """Action, version and state of all lines that stand in the log."""
        with closing(self.log.reader(beginning([RELEASES]))) as reader:
            read = [Release.model_validate_json(record.value) for record in reader.poll(1_000, 0)]
        return [(one.action, one.version, one.state) for one in read]

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self.log, RELEASES, Release)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(f"sqlite:///{tmp_path}/log.db")
    yield world
    world.close()


def test_a_promotion_is_an_intent_a_switch_and_a_done_line(world: World) -> None:
    done = world.promote("1", "a", "none")
    assert world.lines() == [("promote", "1", "intent"), ("promote", "1", "done")]
    assert (done, world.switched) == (line("promote", "1", "a"), ["1"])
    assert world.ledger().champion() == done


def test_the_switch_is_given_a_line_with_everything_that_it_needs(world: World) -> None:
    given: list[Release] = []
    world.promote("1", "a", "none")
    world.promote("2", "b", "1")
    world.manager = ReleaseManager(
        world.log, RELEASES, Release, clock=VirtualClock(99), append=world.append, switch=given.append
    )
    world.roll_back("c", "2")
    (target,) = given
    assert (target.action, target.version, target.key, target.at) == ("rollback", "1", "c", 99)
    assert (target.artifact, target.digest, target.who, target.why) == ("file:///1", "1" * 64, "anna", "bad")


def test_a_promotion_of_the_champion_changes_nothing(world: World) -> None:
    first = world.promote("1", "a", "none")
    assert world.promote("1", "b", "1") == first
    assert world.switched == ["1"]
    assert len(world.lines()) == 2


def test_a_command_that_comes_again_is_answered_as_before_and_changes_nothing(world: World) -> None:
    for version, key, expected in (("1", "a", "none"), ("2", "b", "1"), ("3", "c", "2")):
        world.promote(version, key, expected)
    back = world.roll_back("d", "3")
    gone = world.withdraw("e", "2")
    before = world.lines()
    assert world.roll_back("d", "3") == back
    assert world.withdraw("e", "2") == gone
    assert world.promote("1", "a", "none") == line("promote", "1", "a")
    assert (world.lines(), world.in_force) == (before, "none")


@pytest.mark.parametrize("expected", [None, "2", "none"])
def test_a_command_that_expects_something_else_changes_nothing(world: World, expected: str | None) -> None:
    world.promote("1", "a", "none")
    changes: list[Callable[[], Release]] = [
        lambda: world.promote("3", "b", expected),
        lambda: world.roll_back("c", expected),
        lambda: world.withdraw("d", expected),
    ]
    for change in changes:
        with pytest.raises(Rejected, match="expected_champion"):
            change()
    assert (len(world.lines()), world.switched) == (2, ["1"])


def test_a_version_known_to_be_bad_is_promoted_only_by_force(world: World) -> None:
    world.promote("1", "a", "none")
    world.promote("2", "b", "1")
    world.roll_back("c", "2")
    with pytest.raises(Rejected, match="version 2 was rolled back or withdrawn"):
        world.promote("2", "d", "1")
    assert world.in_force == "1"
    world.promote("2", "d", "1", force=True)
    assert world.in_force == world.ledger().version() == "2"


def test_a_rollback_passes_over_what_was_taken_back_and_what_is_gone(world: World) -> None:
    expected = "none"
    for version in "1234":
        world.promote(version, f"p{version}", expected)
        expected = version
    assert world.roll_back("a", "4").version == "3"
    assert world.roll_back("b", "3", kept={"1", "4"}).version == "1"
    with pytest.raises(Rejected, match="no earlier version"):
        world.roll_back("c", "1", kept={"1", "4"})
    assert world.roll_back("d", "1").version == "2"
    with pytest.raises(Rejected, match="no earlier version"):
        world.roll_back("e", "2")


def test_a_rollback_to_a_named_version_takes_that_one_or_is_rejected(world: World) -> None:
    expected = "none"
    for version in "123":
        world.promote(version, f"p{version}", expected)
        expected = version
    assert world.roll_back("a", "3", version="1").version == "1"
    for version in ("3", "7", "1"):
        with pytest.raises(Rejected, match=f"no version {version} "):
            world.roll_back(f"b{version}", "1", version=version)


def test_the_first_model_can_be_withdrawn_and_once_only(world: World) -> None:
    world.promote("1", "a", "none")
    gone = world.withdraw("b", "1")
    assert (gone.action, gone.version, gone.at, gone.key, gone.why) == ("withdraw", "1", 5, "b", "worse")
    assert (world.in_force, world.ledger().version()) == ("none", "none")
    with pytest.raises(Rejected, match="no version is in force"):
        world.withdraw("c", "none")
    with pytest.raises(Rejected, match="no earlier version"):
        world.roll_back("d", "none")
    world.promote("2", "e", "none")
    assert world.in_force == "2"


def test_subjects_do_not_know_one_another(world: World) -> None:
    world.promote("1", "a", "none")
    world.manager.promote(line("publish", "monday", "a", subject="table"), expected="none")
    world.manager.promote(line("publish", "tuesday", "b", subject="table"), expected="monday")
    back = world.manager.roll_back(subject="table", who="anna", why="", key="c", expected="tuesday")
    world.manager.withdraw(subject="table", who="anna", why="", key="d", expected="monday")
    ledger = world.ledger()
    assert (back.version, ledger.version(), ledger.version("table")) == ("monday", "1", "none")


def test_a_switch_that_is_refused_voids_the_change_and_says_why(world: World) -> None:
    world.promote("1", "a", "none")
    world.refuses = ValueError("self-test failed: " + "x" * 500)
    with pytest.raises(Rejected, match="version 2: self-test failed"):
        world.promote("2", "b", "1")
    assert world.lines()[2:] == [("promote", "2", "intent"), ("promote", "2", "void")]
    ledger = world.ledger()
    assert (ledger.version(), ledger.intents(), world.in_force) == ("1", [], "1")


# --- crashes, and dependencies that are away -------------------------------------------------------------


@pytest.fixture
def two(world: World) -> World:
    """Version 1 was in force before version 2."""
    world.promote("1", "p1", "none")
    world.promote("2", "p2", "1")
    return world


CHANGES: dict[str, Callable[[World], Release]] = {
    "promote": lambda world: world.promote("3", "k", "2"),
    "rollback": lambda world: world.roll_back("k", "2"),
    "withdraw": lambda world: world.withdraw("k", "2"),
}
RESULT = {"promote": "3", "rollback": "1", "withdraw": "none"}


@pytest.mark.parametrize("after", ["intent", "switch", "done"])
@pytest.mark.parametrize("kind", CHANGES)
def test_after_a_crash_the_change_is_finished_once_by_the_process_that_comes_first(
    two: World, kind: str, after: str
) -> None:
    two.crash = after
    with pytest.raises(Crash):
        CHANGES[kind](two)
    two.crash = ""
    two.manager = two.restarted()
    finished = two.manager.recover()
    assert [one.state for one in finished] == ([] if after == "done" else ["done"])
    assert two.manager.recover() == []
    assert two.in_force == two.ledger().version() == RESULT[kind]
    assert two.ledger().intents() == []
    lines = two.lines()
    CHANGES[kind](two)  # the command is delivered once more
    assert two.lines() == lines
    assert [state for *_, state in lines] == ["intent", "done"] * 3


@pytest.mark.parametrize("after", ["intent", "switch"])
@pytest.mark.parametrize("kind", CHANGES)
def test_the_command_itself_finishes_what_it_began_without_a_second_intent(two: World, kind: str, after: str) -> None:
    two.crash = after
    with pytest.raises(Crash):
        CHANGES[kind](two)
    two.crash = ""
    assert CHANGES[kind](two).key == "k"
    assert [state for *_, state in two.lines()] == ["intent", "done"] * 3
    assert two.in_force == two.ledger().version() == RESULT[kind]


@pytest.mark.parametrize("state", ["intent", "done"])
@pytest.mark.parametrize("fault", ["away", "lost"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_log_that_refuses_a_line_or_takes_it_without_an_answer_is_tried_again(
    two: World, kind: str, fault: str, state: str
) -> None:
    setattr(two, fault, {state})
    with pytest.raises(LogUnavailable):
        CHANGES[kind](two)
    setattr(two, fault, set())
    assert CHANGES[kind](two).state == "done"
    assert two.in_force == two.ledger().version() == RESULT[kind]
    assert [one[:2] for one in two.lines() if one[2] == "done"][2:] == [
        (kind, "2" if kind == "withdraw" else RESULT[kind])
    ]


def test_a_void_line_that_the_log_refuses_is_written_at_the_next_start(two: World) -> None:
    two.refuses, two.away = ValueError("damaged"), {"void"}
    with pytest.raises(LogUnavailable):
        two.promote("3", "k", "2")
    two.away = set()
    (voided,) = two.manager.recover()
    assert (voided.state, voided.why) == ("void", "damaged")
    assert (two.ledger().intents(), two.ledger().version(), two.in_force) == ([], "2", "2")


AWAY = [DependencyUnavailable("MLflow is away"), OSError("the disk is full"), MemoryError()]


@pytest.mark.parametrize("away", AWAY, ids=lambda error: type(error).__name__)
def test_a_change_waits_for_a_dependency_and_the_same_command_finishes_it(two: World, away: Exception) -> None:
    two.refuses = away
    for _ in range(2):
        with pytest.raises(type(away)):
            two.promote("3", "k", "2")
    assert two.manager.recover() == []
    assert (two.in_force, len(two.ledger().intents()), two.lines()[4:]) == ("2", 1, [("promote", "3", "intent")])
    two.refuses = None
    assert two.promote("3", "k", "2").state == "done"
    assert (two.in_force, two.ledger().intents()) == ("3", [])


def test_a_dependency_that_is_away_does_not_hold_the_next_command_up(two: World) -> None:
    """The kill switch works although a promotion waits for MLflow; later the promotion is out of date."""
    two.refuses = DependencyUnavailable("MLflow is away")
    with pytest.raises(DependencyUnavailable):
        two.promote("3", "k", "2")
    two.waiting = {"3"}
    assert two.withdraw("stop", "2").state == "done"
    assert two.lines()[4:] == [
        ("promote", "3", "intent"),
        ("promote", "3", "void"),
        ("withdraw", "2", "intent"),
        ("withdraw", "2", "done"),
    ]
    two.refuses = None
    with pytest.raises(Rejected, match="expected_champion"):
        two.promote("3", "k", "2")
    assert two.manager.recover() == []
    assert two.ledger().version() == "none"


def test_another_command_finishes_an_open_change_first_and_is_then_out_of_date(two: World) -> None:
    two.crash = "intent"
    with pytest.raises(Crash):
        two.promote("3", "k", "2")
    two.crash = ""
    with pytest.raises(Rejected, match="version 3 is in force"):
        two.roll_back("other", "2")
    assert (two.in_force, two.ledger().version(), two.ledger().intents()) == ("3", "3", [])


def test_an_open_change_of_another_subject_is_left_alone(two: World) -> None:
    table = line("publish", "monday", "t", subject="table")
    two.crash = "intent"
    with pytest.raises(Crash):
        two.manager.promote(table, expected="none")
    two.crash = ""
    two.roll_back("k", "2")
    assert versions(two.ledger().intents()) == ["monday"]
    assert versions(two.manager.recover()) == ["monday"]


def test_recovery_goes_on_behind_a_change_that_has_to_wait(two: World) -> None:
    two.log.append([entry(RELEASES, line("publish", "monday", "t", state="intent", subject="table"))])
    two.log.append([entry(RELEASES, line("promote", "3", "k", state="intent"))])
    two.refuses, two.waiting = OSError("the disk is full"), {"monday"}
    assert versions(two.manager.recover()) == ["3"]
    assert versions(two.ledger().intents()) == ["monday"]


def test_recovery_without_a_log_says_so(two: World) -> None:
    two.crash = "intent"
    with pytest.raises(Crash):
        two.promote("3", "k", "2")
    two.crash, two.away = "", {"done"}
    with pytest.raises(LogUnavailable):
        two.manager.recover()


def test_the_lock_is_held_around_each_change_and_let_go(world: World) -> None:
    lock = threading.Lock()
    held: list[bool] = []

    def append(entries: list[Entry]) -> None:
        held.append(lock.locked())
        world.log.append(entries)

    manager = ReleaseManager(
        world.log, RELEASES, Release, clock=VirtualClock(5), append=append, switch=lambda _: None, lock=lambda: lock
    )
    world.log.append([entry(RELEASES, line("promote", "1", "a", state="intent"))])
    manager.recover()
    manager.promote(line("promote", "2", "b"), expected="1")
    manager.roll_back(who="anna", why="", key="c", expected="2")
    manager.withdraw(who="anna", why="", key="d", expected="1")
    assert held == [True] * 7
    assert not lock.locked()


def test_a_line_that_this_version_cannot_read_is_passed_over(world: World) -> None:
    world.promote("1", "a", "none")
    for value in (b"", b"\xff", b"[]", b"{}", line("promote", "2").model_dump_json().encode()[:-5]):
        world.log.append([Entry(RELEASES, "x", value)])
    later = line("promote", "3").model_dump_json().encode().replace(b'"done"', b'"paused"')
    world.log.append([Entry(RELEASES, "3", later)])
    assert world.promote("2", "b", "1").state == "done"
    assert world.manager.ledger().version() == "2"


def test_a_long_ledger_is_read_whole(world: World) -> None:
    world.log.append([entry(RELEASES, line("promote", str(n), f"k{n}")) for n in range(25_000)])
    ledger = world.manager.ledger()
    assert (len(ledger.lines), ledger.version()) == (25_000, "24999")
    assert ledger.by_key("k0") is not None


def test_an_entry_of_the_ledger_is_keyed_by_its_version() -> None:
    one = line("promote", "12", "a")
    assert entry(RELEASES, one) == Entry(RELEASES, "12", one.model_dump_json().encode())


# --- one writer, on both logs ----------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "kafka"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    broker: Kafka = request.getfixturevalue("broker")
    return f"{broker.url}/{uuid4().hex[:8]}"


def through(world: World, member: str) -> ReleaseManager[Release]:
    """As a monitor does it: each line is a commit of the commands' consumer, and a broker that is not ready yet is
    asked again (a broker that was killed answers before it knows the state of its transactions)."""
    until = monotonic() + 60
    consumer = None
    while consumer is None:
        try:
            consumer = world.log.consumer("monitor", [COMMANDS], member)
        except LogUnavailable:
            assert monotonic() < until
    world.members.append(consumer)
    while not consumer.owned:
        consumer.poll(0, 0.1)
        assert monotonic() < until

    def append(entries: list[Entry]) -> None:
        consumer.commit(entries, {Place(COMMANDS.name, 0): consumer.owned[Place(COMMANDS.name, 0)]})

    return ReleaseManager(world.log, RELEASES, Release, clock=VirtualClock(5), append=append, switch=world.switch)


def settles(world: World, version: str) -> None:
    """On Kafka a commit is seen a moment after it has returned."""
    until = monotonic() + 10
    while world.ledger().version() != version:
        assert monotonic() < until
        sleep(0.02)


def test_a_monitor_that_was_thought_dead_writes_nothing(url: str) -> None:
    world = World(url)
    with closing(world):
        zombie = through(world, "monitor")
        zombie.promote(line("promote", "1", "a"), expected="none")
        settles(world, "1")
        through(world, "monitor").promote(line("promote", "2", "b"), expected="1")
        settles(world, "2")
        with pytest.raises(Fenced):
            zombie.promote(line("promote", "3", "c"), expected="2")
        assert (world.ledger().version(), world.ledger().intents()) == ("2", [])


@pytest.mark.kill
@pytest.mark.slow
def test_a_broker_that_dies_during_a_change_leaves_it_to_the_next_monitor(broker: Kafka) -> None:
    world = World(f"{broker.url}/{uuid4().hex[:8]}")
    with closing(world):
        manager = through(world, "monitor")
        manager.promote(line("promote", "1", "a"), expected="none")
        settles(world, "1")
        world.after_switch = broker.kill
        try:
            with pytest.raises(LogUnavailable):
                manager.promote(line("promote", "2", "b"), expected="1")
        finally:
            broker.start()
        world.after_switch = lambda: None
        assert [one.version for one in through(world, "monitor").recover()] == ["2"]
        settles(world, "2")
        assert (world.in_force, world.ledger().intents()) == ("2", [])


def test_a_promotion_is_made_of_what_the_registry_says() -> None:
    class Version(NamedTuple):
        version: str = "4"
        artifact: str = "mlflow-artifacts:/4"
        digest: str = "d" * 64
        figures: dict[str, float] = {"ap": 0.7}  # noqa: RUF012  # a default of a named tuple

    line = Release.promotion(Version(), at=5, who="anna", why="better", key="k", subject="recipe")
    assert line.model_dump() == {
        "subject": "recipe",
        "action": "promote",
        "state": "done",
        **Version()._asdict(),
        "at": 5,
        "who": "anna",
        "why": "better",
        "key": "k",
    }
