"""Recsys as the property test over releases sees it: a monitor, nights of prepared tables, and parts that fail."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import date as Date
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from uuid import uuid4

import numpy as np
import polars as pl

from recsys import table, train
from recsys.batch import Frozen, Nights, date_of
from recsys.config import DAY, HOUR
from recsys.features import NAMES
from recsys.monitor import Monitor
from recsys.recipe import Recipe
from recsys.schema import COMMANDS, RELEASES, TOPICS, Command, Release, TopK
from recsys.table import Extras, Manifest, Table
from recsys.train import Candidate
from shared.champion import digest_of
from shared.clock import VirtualClock, monotonic
from shared.eventlog import open_log
from shared.eventlog.port import Entry, EventLog, Fenced, LogUnavailable
from shared.lake import Lake
from shared.registry import Registry, UnknownVersion, Version
from shared.releases import Ledger, read_ledger

BEGIN = 1_767_225_600 // DAY * DAY + 2 * HOUR
PATIENCE = 30.0  # seconds that a run may take


class Crash(BaseException):
    """Stands for kill -9: nothing catches it."""


class FailingLog:
    """A log that can be away, and that ends its process after a step of a change."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.away = False
        self.crash = ""  # after which step of the next change: intent, switch or done

    def __getattr__(self, name: str) -> Any:
        if name in ("reader", "consumer", "ends", "committed"):
            self._check()
        made = getattr(self._log, name)
        return (lambda *given: FailingMember(self, made(*given))) if name in ("reader", "consumer") else made

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        self._check()
        states = [Release.model_validate_json(x.value).state for x in entries if x.topic == RELEASES]
        if self.crash == "switch" and "done" in states:
            self._die()
        written = self._log.append(entries)
        if self.crash and self.crash in states:
            self._die()
        return written

    def _check(self) -> None:
        if self.away:
            raise LogUnavailable("the log is away, for the test")

    def _die(self) -> None:
        self.crash = ""
        raise Crash


class FailingMember:
    """A reader, or a member of a group, of such a log."""

    def __init__(self, log: FailingLog, member: Any) -> None:
        self._log, self._member = log, member

    def __getattr__(self, name: str) -> Any:
        if name in ("poll", "commit"):
            self._log._check()
        return getattr(self._member, name)


class PreparedNights(Nights):
    """Nights whose table is a row: what is released, and how, is as ever."""

    def _sources(self, *_: Any, **__: Any) -> Any:
        return None, None

    def _ranked(self, *_: Any, **__: Any) -> Any:
        return None

    def _table(self, folder: Path, date: str, begun: Frozen, *given: Any) -> Table:
        bundle, making = given[2], folder / table.MAKING
        made = [self.tables / path.read_text() for path in [folder / "published"] if path.exists()]
        if made and made[0].is_dir():
            return Table.open(made[0])
        if not making.exists():
            manifest = Manifest(
                date=date,
                cut=begun.cut,
                recipe=bundle,
                bundle=bundle,
                recipe_digest=begun.digest,
                offsets=begun.offsets,
                tables={},
                files={},
                samples={},
            )
            one = np.zeros((1, 1))
            top = TopK(one.astype(np.int32), one.astype(np.int8), one[0].astype(bool), one[0].astype(np.int16))
            table.write(
                making,
                manifest,
                users=["ann"],
                top=top,
                history=np.full((1, 5), -1),
                scores=np.zeros((1, 10), np.float32),
                neighbours=np.full((1, 30), -1, np.int32),
                extras=Extras(["pen"], {"": [0]}, [0], [-1], [False], [False], [""]),
            )
        return Table.open(making)

    def _figures(self, *_: Any, **__: Any) -> dict[str, float]:
        return {
            **{"users": 1.0, "stored": 1.0, "fallbacks": 0.0, "for_sale": 1.0, "titled": 1.0},
            **{"input": 1.0, "input_usual": 1.0},
        }


class PreparedRegistry:
    """Versions of one bundle, in memory."""

    def __init__(self, bundle: Path) -> None:
        self._bundle, self._digest = bundle, digest_of(bundle)
        self.made: list[Version] = []

    def register(self) -> Version:
        made = Version(str(len(self.made) + 1), str(self._bundle), self._digest, {"ndcg": 0.5})
        self.made.append(made)
        return made

    def versions(self) -> list[Version]:
        return self.made[::-1]

    def version(self, version: str) -> Version:
        found = [one for one in self.made if one.version == version]
        if not found:
            raise UnknownVersion(f"no version {version}")
        return found[0]

    def tags(self, _: str) -> dict[str, str]:
        return {"gate": "passed"}

    def repair(self, _: str) -> bool:
        return False


class Operations:
    """In a folder and on a log of its own; `step` and `run` do what processes would, one after the other."""

    kinds = ("promote", "rollback", "withdraw", "retrain", "night", "rerun", "older")

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._clock = folder, VirtualClock(BEGIN)
        self._real = open_log(url, clock=self._clock)
        self._real.create(TOPICS)
        self._log = FailingLog(self._real)
        bundle = folder / "bundle"
        Recipe().save(
            bundle, matrix=np.ones((60, len(NAMES)), np.float32), reference=pl.DataFrame({"weekday": [0]}), limits={}
        )
        self._registry = PreparedRegistry(bundle)
        for _ in range(3):
            self._registry.register()
        self._fetch = lambda *_: bundle
        self._dates = [date_of(BEGIN)]
        self._monitor: Monitor | None = None
        self._dropped: list[Monitor] = []
        self._dead = False  # the monitor's process, until `restart`
        self._training = patch.object(train, "train", lambda *_, **__: Candidate(self._registry.register(), ""))
        self._training.start()

    def command(self, kind: str, *, version: str | None, expected: str | None, key: str) -> None:
        command = Command.model_validate(
            {"kind": kind, "version": version, "expected_champion": expected, "key": key, "who": "ann"}
        )
        self._log.append([Entry(COMMANDS, kind, command.model_dump_json().encode())])

    def step(self, kind: str) -> None:
        if kind == "retrain":
            return self.command("train", version=None, expected=None, key=uuid4().hex)
        date = Date.fromisoformat(self._dates[-1])
        if kind == "night":
            date += timedelta(days=1)
            self._clock.observe(self._clock.now() + DAY)
        elif kind == "older":
            date -= timedelta(days=1)
        self._dates = sorted({*self._dates, str(date)})
        with suppress(LogUnavailable, Crash):
            self._nights().run(str(date))

    def crash(self, after: str) -> None:
        self._log.crash = after

    def restart(self) -> None:
        """The old monitor is dropped without a word."""
        self._drop()
        self._dead, self._log.crash = False, ""

    def run(self) -> bool:
        until = monotonic() + PATIENCE
        try:
            if self._dead:
                return False
            self._monitor = self._monitor or self._new_monitor()
            while self._monitor.step():
                assert monotonic() < until, [thread.name for thread in threading.enumerate()]
        except (LogUnavailable, Fenced):
            self._drop()
            return False
        except Crash:
            self._drop()
            self._dead = True
            return False
        return True

    def outage(self, away: bool) -> None:
        self._log.away = away

    def versions(self) -> list[str]:
        return [version.version for version in self._registry.versions()]

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self._real, RELEASES, Release)

    def in_force(self, subject: str) -> str:
        if subject == "table":
            return table.current(self._folder / "tables") or "none"
        return self.ledger().version(subject)

    def close(self) -> None:
        self._training.stop()
        self._log.away, self._log.crash = False, ""
        self._drop()
        for monitor in self._dropped:
            monitor.close()
        self._real.close()

    def _drop(self) -> None:
        """As if its process had died; it is closed at the end, for the sake of its files only."""
        self._dropped += [] if self._monitor is None else [self._monitor]
        self._monitor = None

    def _nights(self) -> Nights:
        log = cast(EventLog, self._log)
        lake = Lake(self._folder / "recsys" / "lake")
        return PreparedNights(log, lake, clock=self._clock, var=self._folder, seed=0, key=b"k", fetch=self._fetch)

    def _new_monitor(self) -> Monitor:
        return Monitor(
            cast(EventLog, self._log),
            Lake(self._folder / "recsys" / "lake"),
            lambda: cast(Registry, self._registry),
            self._nights(),
            clock=self._clock,
            seed=0,
            fetch=self._fetch,
            pages=self._folder / "recsys" / "reports",
            weekly=False,
        )
