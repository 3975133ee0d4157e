"""Fraud's monitor and worker under random sequences of releases; see tests/release_sequences.py."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import pytest

from fraud import monitor, train
from fraud.monitor import Monitor
from fraud.schema import COMMANDS, RELEASES, Command
from fraud.stream import Worker
from fraud.train import Candidate
from shared.eventlog.port import Entry, EventLog, Fenced, LogUnavailable
from shared.lake import Lake
from shared.registry import Registry, UnknownVersion, Version
from shared.releases import NONE, Ledger, Release, read_ledger
from tests.fraud.bank import Bank, Trained, trained

STEPS = 400  # of the monitor, after which it must have come to rest


class Killed(BaseException):
    """kill -9."""


class Shelf:
    """A registry of prepared versions: the same bundle under several numbers."""

    def __init__(self, release: Release) -> None:
        self._release, self._versions = release, ["1"]

    def add(self) -> Version:
        self._versions.append(str(len(self._versions) + 1))
        return self.version(self._versions[-1])

    def version(self, version: str) -> Version:
        if version not in self._versions:
            raise UnknownVersion(f"no version {version}")
        return Version(version, self._release.artifact, self._release.digest, self._release.figures)

    def versions(self) -> list[Version]:
        return [self.version(version) for version in reversed(self._versions)]

    def tags(self, version: str) -> dict[str, str]:
        return {"gate": "passed"} if self.version(version) else {}

    def repair(self, champion: str | None) -> bool:
        return champion is not None


class Outage:
    """The log as monitor and worker see it; while it is away every write and every poll fails."""

    def __init__(self, log: EventLog) -> None:
        self.log, self.away, self.dies_after = log, False, ""

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.log, name)
        if name in ("consumer", "reader"):
            return lambda *given: _Wrapped(self, real(*given))
        return lambda *given, **about: self.call(real, *given, **about)

    def call(self, real: Callable[..., Any], *given: Any, **about: Any) -> Any:
        if self.away:
            raise LogUnavailable("an outage")
        return real(*given, **about)

    def commit(self, real: Callable[..., Any], entries: Sequence[Entry], *rest: Any) -> None:
        """A commit of a step of a release may be the last that its process does."""
        self.call(real, entries, *rest)
        states = [Release.model_validate_json(entry.value).state for entry in entries if entry.topic == RELEASES]
        if self.dies_after and self.dies_after in states:
            self.dies_after = ""
            raise Killed


class _Wrapped:
    def __init__(self, outage: Outage, real: Any) -> None:
        self._outage, self._real = outage, real

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name == "commit":
            return lambda *given: self._outage.commit(real, *given)
        return (lambda *given: self._outage.call(real, *given)) if name == "poll" else real


@cache
def prepared() -> Trained:
    """A world for callers that have none."""
    return trained(Path(mkdtemp()))


class Operations:
    """One monitor and one worker, in process."""

    kinds = ("promote", "rollback", "withdraw", "retrain")
    subjects = ("model",)

    def __init__(self, folder: Path, url: str, world: Trained | None = None) -> None:
        self.bank = Bank(folder, url)
        self._world = world or prepared()
        self._shelf = Shelf(self._world.release)
        self._outage = Outage(self.bank.log)
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(train, "train", lambda *_, **__: Candidate(self._shelf.add(), ""))
        self._patch.setattr(monitor, "RETRY", 0.0)
        self._monitors: list[Monitor] = []
        self._workers: list[Worker] = []
        self._dies_in_switch = False
        self._fit = False  # whether both may go on; what a step raises ends them
        self._retrainings = 0
        self.restart()

    def command(self, kind: str, *, version: str | None, expected: str | None, key: str) -> None:
        command = Command.model_validate(
            {"kind": kind, "version": version, "who": "op", "expected_champion": expected, "key": key}
        )
        self.bank.log.append([Entry(COMMANDS, kind, command.model_dump_json().encode())])

    def step(self, kind: str) -> None:
        """A retraining, which is an operator's command without an expectation."""
        assert kind == "retrain"
        self._retrainings += 1
        self.command(kind, version=None, expected=None, key=f"retraining-{self._retrainings}")

    def crash(self, after: str) -> None:
        """The next change dies after `intent`, `switch` or `done`."""
        self._outage.dies_after = after if after != "switch" else ""
        self._dies_in_switch = after == "switch"

    def restart(self) -> None:
        """Both are dropped as by kill -9, and others come."""
        self._outage.dies_after, self._dies_in_switch = "", False
        log, self._fit = cast(EventLog, self._outage), False
        with suppress(LogUnavailable, Fenced):
            self._monitors.append(
                Monitor(
                    log,
                    Lake(self.bank.var / "fraud" / "lake"),
                    cast(Registry, self._shelf),
                    clock=self.bank.clock,
                    seed=1,
                    fetch=self._fetch,
                    pages=self.bank.var / "pages",
                )
            )
            manager = self._monitors[-1]._manager
            real = manager._switch
            self._patch.setattr(manager, "_switch", lambda line: self._switch(real, line))
            self._workers.append(self.bank.worker_of(log, fetch=self._fetch, models=self._world.var / "models"))
            self._fit = True

    def _fetch(self, _: str, digest: str) -> Path:
        return self._world.var / "models" / digest

    def _switch(self, real: Callable[[Release], None], line: Release) -> None:
        real(line)
        if self._dies_in_switch:
            self._dies_in_switch = False
            raise Killed

    def run(self) -> bool:
        """Let both catch up; after an outage others come, as in the loops of the commands."""
        if not self._fit:
            self.restart()
        if not self._fit:
            return False
        try:
            for _ in range(STEPS):
                if not self._monitors[-1].step():
                    break
            else:
                raise AssertionError("the monitor does not come to rest")
            worker = self._workers[-1]
            worker.step(0.0)
            while worker.rebuilding:
                worker.step(0.0)
        except (LogUnavailable, Fenced):
            self._fit = False
            return False
        except Killed:
            return False
        return True

    def outage(self, away: bool) -> None:
        self._outage.away = away

    def versions(self) -> list[str]:
        return [version.version for version in self._shelf.versions()]

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self.bank.log, RELEASES, Release)

    def in_force(self, subject: str) -> str:
        return self._workers[-1]._champion.version or NONE if subject == "model" else NONE

    def close(self) -> None:
        self.outage(False)
        for monitor_ in self._monitors:
            monitor_.close()
        for worker in self._workers:
            worker.close()
        self._patch.undo()
        self.bank.log.close()
