"""Commands, releases and the release ledger: which version is in force, promotion, rollback, withdrawal.

The ledger is a topic. A change is three steps: an intent line that names the resolved target, the switch, and the
line that says it is done. After a crash the open intent is finished or voided, so that no command is carried out
twice or by half; a command that comes again is known by its key.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BeforeValidator, Field

from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Topic, beginning
from shared.messages import Message

if TYPE_CHECKING:  # messages are read where nothing may know the time
    from shared.clock import Clock

NONE = "none"  # the name of the champion when there is none

logger = logging.getLogger(__name__)

Operator = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["anna"])]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
# Bounded, so that a record with an absurd value is one that cannot be read, and not one that stops its reader.
VersionName = Annotated[str, Field(max_length=40)]
Seconds = Annotated[int, Field(ge=0, lt=2**32)]


class Wanted(Message):
    """What a command is to do. A service narrows `kind` and `version`.

    `expected_champion` is the version that the operator saw in force (`none` when there was none); a command that
    would change it is refused when that is no longer so. `key` makes a command that is sent twice count once.
    """

    kind: str
    version: str | None = None
    force: bool = False  # promote although the gate said no
    why: Annotated[str, Field(max_length=200, examples=["recall fell on Monday"])] = ""
    expected_champion: VersionName | None = None
    key: Key | None = None


class Command(Wanted):
    """What is to be done, and who asked for it: by HTTP that is the role of the caller's key, never what they say."""

    who: Operator


class Alarm(Message):
    """Something that an operator should know, and what is done about it."""

    kind: Annotated[str, Field(max_length=40)]  # a reader shows a kind that it does not know
    at: Seconds
    message: str
    action: str
    key: Annotated[str, Field(max_length=100)] = ""  # of the command that it answers, which is then done with


def _finite(figures: object) -> object:
    """Without the metrics that are no number: JSON has null for them, which would make the line unreadable."""
    return {k: v for k, v in figures.items() if v is not None} if isinstance(figures, dict) else figures


class Registered(Protocol):
    """What the registry says of a version; `shared.registry` has it, but takes seconds to import."""

    @property
    def version(self) -> str: ...
    @property
    def artifact(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def figures(self) -> dict[str, float]: ...


class Release(Message):
    """A line of the ledger: what is in force from here on, who said so, why, and on what metrics."""

    subject: str = "model"
    action: Literal["publish", "promote", "rollback", "withdraw"]
    state: Literal["intent", "done", "void"] = "done"
    version: VersionName  # in force from here on; for a withdrawal: the version that was withdrawn
    artifact: str = ""  # where its files are
    digest: str = ""
    at: Seconds
    who: str
    why: str
    figures: Annotated[dict[str, float], BeforeValidator(_finite)] = Field(default_factory=dict)
    key: Annotated[str, Field(max_length=100)] = ""  # of the command that led to it

    @classmethod
    def promotion(
        cls, version: Registered, *, at: int, who: str, why: str, key: str = "", subject: str = "model"
    ) -> Self:
        """The line that puts a version of the registry in force."""
        return cls(
            subject=subject,
            action="promote",
            version=version.version,
            artifact=version.artifact,
            digest=version.digest,
            at=at,
            who=who,
            why=why,
            figures=version.figures,
            key=key,
        )


Line = TypeVar("Line", bound=Release)


class Rejected(Exception):
    """A command that was not carried out; says why."""


class Ledger(Generic[Line]):
    """The release ledger, folded. It needs every line, not only the latest ones."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.lines: list[Line] = []  # those that are done, oldest first
        self._newest: dict[str, Line] = {}  # by subject
        self._done: dict[tuple[str, str], Line] = {}  # by key and subject
        self._open: dict[tuple[str, str], Line] = {}  # by key and subject, intents
        self._bad: dict[str, set[str]] = {}  # by subject
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        change = (line.key, line.subject)
        if change in self._done:  # it was written again
            return
        if line.state == "intent":
            self._open[change] = line
            return
        self._open.pop(change, None)
        if line.state == "void":
            return
        before = self.champion(line.subject)
        bad = self._bad.setdefault(line.subject, set())
        if line.action == "rollback" and before is not None and before.version != line.version:
            bad.add(before.version)
        elif line.action == "withdraw":
            bad.add(line.version)
        self.lines.append(line)
        self._newest[line.subject] = line
        if line.key:
            self._done[change] = line

    def champion(self, subject: str = "model") -> Line | None:
        """What is in force; None before the first release, and after a withdrawal."""
        newest = self._newest.get(subject)
        return None if newest is None or newest.action == "withdraw" else newest

    def version(self, subject: str = "model") -> str:
        """The version in force, or `none`."""
        champion = self.champion(subject)
        return NONE if champion is None else champion.version

    def known_bad(self, subject: str = "model") -> frozenset[str]:
        """Versions that were rolled back or withdrawn."""
        return frozenset(self._bad.get(subject, ()))

    def fallbacks(self, subject: str = "model", *, kept: Collection[str] | None = None) -> list[Line]:
        """What may stand in for the champion, best first: versions in force before it that were never taken back.

        `kept`: versions that still exist; without it, all do.
        """
        avoided = self.known_bad(subject) | {self.version(subject)}
        found: dict[str, Line] = {}  # by version
        for line in reversed(self.lines):
            if line.subject == subject and line.action != "withdraw" and line.version not in avoided:
                found.setdefault(line.version, line)
        return [line for version, line in found.items() if kept is None or version in kept]

    def by_key(self, key: str, subject: str = "model") -> Line | None:
        """What came of the command with this key; None if nothing has, yet."""
        return self._done.get((key, subject))

    def intents(self) -> list[Line]:
        """Changes that were begun and neither finished nor voided."""
        return list(self._open.values())


def read_ledger(log: EventLog, topic: Topic, line: type[Line]) -> Ledger[Line]:
    """The whole ledger as it stands in the log; lines that this version cannot read are left out.

    Raises:
        LogUnavailable: the log is away.
    """
    ledger: Ledger[Line] = Ledger()
    reader = log.reader(beginning([topic]))
    try:
        while records := reader.poll(10_000, 0.0):
            for record in records:
                try:
                    ledger.add(line.model_validate_json(record.value))
                except ValueError:  # named by the followers of the topic
                    continue
    finally:
        reader.close()
    return ledger


def entry(topic: Topic, line: Release) -> Entry:
    """The line as a record of its topic."""
    return Entry(topic, line.version, line.model_dump_json().encode())


def check_expected(expected: str | None, current: str) -> None:
    """Raises Rejected when a command does not say what it replaces, or something else is in force by now."""
    if expected is None:
        raise Rejected(f"the command does not name expected_champion; version {current} is in force")
    if expected != current:
        raise Rejected(f"expected_champion is {expected}, but version {current} is in force")


class ReleaseManager(Generic[Line]):
    """Changes what is in force. `switch` does it, and may be called again with the same line after a crash.

    What `switch` raises voids the change, unless it is the error of a dependency: then the intent stays open. The
    next change of the subject finishes it first, or gives it up, so that a dependency that is away does not hold an
    operator up. A `switch` that raises has changed nothing.

    `append` writes to the log, as the only writer of the ledger (a consumer's commit fences a writer that was thought
    dead); `lock` is held around each change where several processes may want one.
    """

    def __init__(
        self,
        log: EventLog,
        topic: Topic,
        line: type[Line],
        *,
        clock: "Clock",
        append: Callable[[list[Entry]], None],
        switch: Callable[[Line], None],
        lock: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._log, self._topic, self._line, self._clock = log, topic, line, clock
        self._append, self._switch, self._lock = append, switch, lock

    def ledger(self) -> Ledger[Line]:
        """As it stands in the log. Raises LogUnavailable."""
        return read_ledger(self._log, self._topic, self._line)

    def promote(self, line: Line, *, expected: str | None, force: bool = False) -> Line:
        """Put a version in force; the line in force is returned unchanged if it is that version already.

        Raises:
            Rejected: something else than `expected` is in force, or the version is known to be bad.
        """
        with self._lock():
            ledger = self._without_open_intents(line.key, line.subject)
            if (done := ledger.by_key(line.key, line.subject)) is not None:
                return done
            check_expected(expected, ledger.version(line.subject))
            champion = ledger.champion(line.subject)
            if champion is not None and champion.version == line.version:
                return champion
            if line.version in ledger.known_bad(line.subject) and not force:
                raise Rejected(f"version {line.version} was rolled back or withdrawn; `force` promotes it all the same")
            return self._carry_out(line)

    def roll_back(
        self,
        *,
        subject: str = "model",
        who: str,
        why: str,
        key: str,
        expected: str | None,
        version: str | None = None,
        kept: Collection[str] | None = None,
    ) -> Line:
        """To the latest earlier version that was never taken back, or to `version`, which must be one of those.

        Raises:
            Rejected: something else than `expected` is in force, or there is nothing good to go back to.
        """
        with self._lock():
            ledger = self._without_open_intents(key, subject)
            if (done := ledger.by_key(key, subject)) is not None:
                return done
            check_expected(expected, ledger.version(subject))
            good = [line for line in ledger.fallbacks(subject, kept=kept) if version in (None, line.version)]
            if not good:
                sought = f"version {version}" if version else "earlier version"
                raise Rejected(f"no {sought} that is good to go back to")
            change = {"action": "rollback", "at": self._clock.now(), "who": who, "why": why, "key": key}
            return self._carry_out(good[0].model_copy(update=change))

    def withdraw(self, *, subject: str = "model", who: str, why: str, key: str, expected: str | None) -> Line:
        """Take the version in force away without a successor: the service falls back to what needs no model.

        Raises:
            Rejected: something else than `expected` is in force, or nothing is.
        """
        with self._lock():
            ledger = self._without_open_intents(key, subject)
            if (done := ledger.by_key(key, subject)) is not None:
                return done
            check_expected(expected, ledger.version(subject))
            champion = ledger.champion(subject)
            if champion is None:
                raise Rejected("no version is in force")
            change = {"action": "withdraw", "at": self._clock.now(), "who": who, "why": why, "key": key}
            return self._carry_out(champion.model_copy(update=change))

    def recover(self) -> list[Line]:
        """Finish what a process that died had begun; gives the lines of it. Call it before anything else.

        An intent whose switch is refused for good is voided: what was in force stays. One whose switch has to wait
        for a dependency stays open.
        """
        ended = []
        with self._lock():
            for intent in self.ledger().intents():
                try:
                    ended.append(self._finish(intent))
                except LogUnavailable:
                    raise
                except DEPENDENCY_ERRORS as error:
                    logger.warning("%s of version %s has to wait: %s", intent.action, intent.version, error)
        return ended

    def _without_open_intents(self, key: str, subject: str) -> Ledger[Line]:
        """The ledger without an open change of the subject; `key` is of the change that comes now."""
        ledger = self.ledger()
        for intent in ledger.intents():
            if intent.subject == subject:
                ledger.add(self._finish(intent, give_up=intent.key != key))
        return ledger

    def _carry_out(self, line: Line) -> Line:
        intent = line.model_copy(update={"state": "intent"})
        self._append([entry(self._topic, intent)])
        ended = self._finish(intent)
        if ended.state == "void":
            raise Rejected(f"version {line.version}: {ended.why}")
        return ended

    def _finish(self, intent: Line, *, give_up: bool = False) -> Line:
        """Switch, and write the line that ends the intent. `give_up`: do not wait for a dependency."""
        try:
            self._switch(intent)
        except Exception as error:
            if isinstance(error, DEPENDENCY_ERRORS) and not give_up:
                raise
            ended = intent.model_copy(update={"state": "void", "why": str(error)[:200]})
        else:
            ended = intent.model_copy(update={"state": "done"})
        self._append([entry(self._topic, ended)])
        return ended
