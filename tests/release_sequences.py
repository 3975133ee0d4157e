"""Random sequences of what operators, nights and faults do to releases, and what has to hold all the while."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shared.clock import VirtualClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import LogUnavailable, Topic, beginning
from shared.releases import Ledger

LENGTH = 20
SETTLES = 40.0  # seconds until what serves is what the ledger says; a broker that was away takes its time
COMMANDS = ("promote", "rollback", "withdraw")
FAULTS = ("crash", "restart", "outage", "back")


class Operations(Protocol):
    """One service in process, with its monitor and what serves: tests/<service>/operations.py."""

    @property
    def kinds(self) -> Sequence[str]: ...
    def command(self, kind: str, *, version: str | None, expected: str | None, key: str) -> None: ...
    def step(self, kind: str) -> None: ...
    def crash(self, after: str) -> None: ...
    def restart(self) -> None: ...
    def run(self) -> bool:
        """Let all do what there is to do; False if an outage or a crash ended it early."""
        ...

    def outage(self, away: bool) -> None: ...
    def versions(self) -> list[str]: ...
    def ledger(self) -> Ledger[Any]: ...
    def in_force(self, subject: str) -> str: ...
    def close(self) -> None: ...


class Step(NamedTuple):
    """`pick` chooses among what there is when it is taken: a version, an earlier command, a place to crash."""

    kind: str  # one of the service's, one of FAULTS, or "again": an earlier command, word for word
    pick: int
    stale: bool = False  # the command expects another champion than there is


class Command(NamedTuple):
    kind: str
    version: str | None
    expected: str | None
    key: str


class Line(NamedTuple):
    subject: str
    action: str
    state: str
    version: str
    key: str


def sequence(seed: int, kinds: Sequence[str], *, length: int = LENGTH, outages: int = 2) -> list[Step]:
    """`outages`: how likely they are beside the weight 3 of a rollback."""
    chance = random.Random(seed)
    weights = dict.fromkeys(kinds, 3) | {"promote": 6, "withdraw": 1, "again": 4, "crash": 3, "restart": 2}
    weights |= {"outage": outages, "back": outages}
    drawn = chance.choices(list(weights), list(weights.values()), k=length)
    return [Step(kind, chance.randrange(1_000), chance.random() < 0.2) for kind in drawn]


def with_short_outages(steps: Sequence[Step]) -> list[Step]:
    """One step each, where every step without a log takes seconds."""
    short = list(steps)
    for n in range(len(short) - 2):
        if short[n].kind == "outage":
            short[n + 2] = short[n + 2]._replace(kind="back")
            if short[n + 1].kind == "outage":
                short[n + 1] = short[n + 1]._replace(kind="again")
    return short


def play(operations: Operations, url: str, service: str, steps: Sequence[Step]) -> None:
    """Take the steps, and look after each; raises AssertionError that tells the shortest prefix that fails."""
    player = Player(operations, url, service)
    try:
        for number, step in enumerate([*steps, Step("end", 0)]):
            try:
                player.take(step, number)
            except AssertionError as error:
                taken = "\n".join(f"  {n:2} {step}" for n, step in enumerate(steps[: number + 1]))
                raise AssertionError(
                    f"{error}\nafter these steps of {service}:\n{taken}\nlines:\n{player.told()}"
                ) from error
    finally:
        operations.close()


class Player:
    def __init__(self, operations: Operations, url: str, service: str) -> None:
        self._operations, self._url, self._topic = operations, url, Topic(f"{service}.releases", 1)
        # Recsys changes a table and the recipe that the nights use; the others one model.
        tables = "night" in operations.kinds
        self._subjects = ("table", "recipe") if tables else ("model",)
        self._subject_of = dict.fromkeys(COMMANDS, "recipe" if tables else "model")
        self._subject_of["rollback"] = self._subjects[0]
        self._sent: dict[str, Command] = {}
        self._handled: set[str] = set()  # keys of commands that were carried out, or refused, before all else went on
        self._away = self._may_have_died = False
        self._lines: list[Line] = []

    def take(self, step: Step, number: int) -> None:
        calm = not (self._away or self._may_have_died)
        before = self._lines
        sent = self._do(step, number)
        self._run()
        if self._away:
            return
        self._settle()
        self._lines = self._read()
        check(self._lines, self._sent, self._subject_of)
        if calm and sent is not None:
            self._check_effect(sent, before, step)
            self._handled.add(sent.key)

    def told(self) -> str:
        return "\n".join(f"  {line}" for line in self._lines)

    # --- doing -------------------------------------------------------------------------------------------

    def _do(self, step: Step, number: int) -> Command | None:
        """Gives the command that was sent."""
        operations = self._operations
        match step.kind:
            case "crash":
                operations.crash(("intent", "switch", "done")[step.pick % 3])
                self._may_have_died = True
            case "restart":
                self._restart()
            case "outage" | "back" | "end":
                operations.outage(step.kind == "outage")
                self._away = step.kind == "outage"
                if step.kind == "end":
                    self._restart()
            case "again" if not self._sent:
                pass
            case "again":
                return self._send(self._earlier(step))
            case "promote" | "rollback" | "withdraw":
                return self._send(self._command(step, number))
            case _:
                self._unless_away(lambda: operations.step(step.kind))
        return None

    def _command(self, step: Step, number: int) -> Command:
        known = self._operations.versions()
        version = known[step.pick % len(known)] if step.kind == "promote" else None
        current = in_force(self._lines, self._subject_of[step.kind])
        return Command(step.kind, version, "another" if step.stale else current, f"key-{number}")

    def _earlier(self, step: Step) -> Command:
        """Rather one that would be carried out if its key were not known."""
        sent = list(self._sent.values())
        current = {kind: in_force(self._lines, subject) for kind, subject in self._subject_of.items()}
        likely = [command for command in sent if command.expected == current[command.kind]]
        return (likely or sent)[step.pick % len(likely or sent)]

    def _send(self, command: Command) -> Command:
        kind, version, expected, key = command
        self._sent[key] = command
        until = monotonic() + SETTLES
        while True:  # a client that got no answer sends it again
            try:
                self._operations.command(kind, version=version, expected=expected, key=key)
            except LogUnavailable:
                if not self._away and monotonic() < until:
                    continue
                if not self._away:
                    raise
            return command

    def _restart(self) -> None:
        self._may_have_died = False
        self._unless_away(self._operations.restart)

    def _run(self) -> bool:
        try:
            return self._operations.run()
        except LogUnavailable:
            return False

    def _unless_away(self, act: Callable[[], None]) -> None:
        try:
            act()
        except LogUnavailable:
            if not self._away:
                raise

    def _settle(self) -> None:
        """Until what serves is what the ledger says, with nothing half done; a dead one is restarted first."""
        if self._may_have_died:
            self._restart()
        until = monotonic() + SETTLES
        while True:
            at_rest = self._run()
            ledger = self._operations.ledger()
            serving = {subject: self._operations.in_force(subject) for subject in self._subjects}
            wanted = {subject: ledger.version(subject) for subject in self._subjects}
            if at_rest and serving == wanted and not ledger.intents():
                break
            assert monotonic() < until, f"in force is {serving}, the ledger says {wanted}, open: {ledger.intents()}"
            sleep(0.05)

    # --- looking -----------------------------------------------------------------------------------------

    def _read(self) -> list[Line]:
        """The ledger as it stands in the log, whatever a service makes of it."""
        lines = []
        with (
            closing(open_log(self._url, clock=VirtualClock())) as log,
            closing(log.reader(beginning([self._topic]))) as reader,
        ):
            while records := reader.poll(1_000, 0.0):
                for record in records:
                    given = json.loads(record.value)
                    lines.append(Line(*(given.get(name, "") for name in Line._fields)))
        return lines

    def _check_effect(self, command: Command, before: list[Line], step: Step) -> None:
        """A command alone, with everything at work: it does what it says, or nothing if it is stale or a repeat.

        A key that was handled is done, also when its command was refused: it is not carried out when it has become
        true meanwhile. Whether a command that came with a fault was handled is not known here.
        """
        subject = self._subject_of[command.kind]
        was, now = in_force(before, subject), in_force(self._lines, subject)
        mine = [line for line in self._lines[len(before) :] if line.key == command.key and line.state == "done"]
        bad = taken_back(before, subject)
        handled = command.key in self._handled or any(line.key == command.key for line in before)
        if step.kind == "again" and handled:
            assert not mine, f"the repeat of {command} was carried out"
        elif step.kind == "again" and not mine:
            assert now == was, f"the repeat of {command} led to {now}"
        elif command.expected != was:
            assert not mine, f"{command} was carried out, and {was} was in force"
        elif command.kind == "promote":
            assert now == (was if command.version in bad else command.version), f"{command} led to {now}"
        elif command.kind == "withdraw":
            assert now == "none", f"{command} led to {now}"
        else:
            good = [line.version for line in done(before, subject) if line.version not in bad | {was}]
            assert now in ([was] if not good else [good[-1], was] if subject == "table" else [good[-1]]), (
                f"{command} led to {now}, and {good} were good"
            )


def done(lines: Sequence[Line], subject: str) -> list[Line]:
    """What was in force, in its order; withdrawals are left out."""
    return [line for line in lines if (line.subject, line.state) == (subject, "done") and line.action != "withdraw"]


def in_force(lines: Sequence[Line], subject: str) -> str:
    last = [line for line in lines if (line.subject, line.state) == (subject, "done")][-1:]
    return last[0].version if last and last[0].action != "withdraw" else "none"


def taken_back(lines: Sequence[Line], subject: str) -> set[str]:
    return {before for before, line in changes(lines, subject) if line.action in ("rollback", "withdraw")}


def changes(lines: Sequence[Line], subject: str) -> Iterator[tuple[str, Line]]:
    """Each finished change, and what was in force before it."""
    before = "none"
    for line in lines:
        if (line.subject, line.state) == (subject, "done"):
            yield before, line
            before = "none" if line.action == "withdraw" else line.version


def check(lines: Sequence[Line], sent: dict[str, Command], subject_of: dict[str, str]) -> None:
    """What holds for every ledger. The fold is written anew here, so that it does not share the services' mistakes."""
    keys = [(line.subject, line.key) for line in lines if line.state == "done" and line.key]
    assert len(keys) == len(set(keys)), f"a key was carried out twice: {sorted(keys)}"
    for subject in {line.subject for line in lines}:
        bad: set[str] = set()
        for before, line in changes(lines, subject):
            if line.action == "withdraw":
                assert line.version == before, f"{line} withdrew what was not in force"
            else:
                assert line.version != before, f"{line} put in force what was in force"
                assert line.version not in bad, f"{line} put in force what was taken back"
            command = sent.get(line.key)
            if command is not None and subject_of[command.kind] == subject:
                assert command.expected == before, f"{line}, but {command} came when {before} was in force"
                assert command.kind == line.action, f"{line} came of {command}"
            if line.action == "publish":
                date, replaced = day(line.version), day(before)
                assert before == "none" or date >= replaced, f"{line} replaced the newer {before}"
                assert date not in {day(version) for version in bad}, f"{line} undid a rollback"
            if line.action in ("rollback", "withdraw"):
                bad.add(before)
    ended = {(line.subject, line.key) for line in lines if line.state in ("done", "void")}
    begun = {(line.subject, line.key) for line in lines if line.state == "intent"}
    assert begun <= ended, f"begun and never ended: {begun - ended}"


def day(table: str) -> str:
    """The date of a table's version."""
    return table.rpartition("-")[0]


def folder(base: Path, seed: int) -> Path:
    made = base / f"seed-{seed}"
    made.mkdir()
    return made
