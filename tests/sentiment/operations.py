"""What an operator can do to a running sentiment, and what can go wrong meanwhile, in process and cheap."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from sentiment.artifact import Artifact
from sentiment.model import Linear
from sentiment.monitor import Monitor
from sentiment.monitor import Trained as Done
from sentiment.policy import Policy
from sentiment.schema import COMMANDS, RELEASES, Command
from sentiment.stream import Worker
from sentiment.train import Candidate
from shared.champion import digest_of
from shared.eventlog.port import Entry, Fenced, LogUnavailable
from shared.registry import Version
from shared.releases import NONE, Ledger, Release, read_ledger
from tests.sentiment.crowd import BRANDS, KEY, Crowd, Trained

VERSIONS = 3  # at the start; a retrain adds one


class Killed(BaseException):
    """The process dies here."""


def bundle(folder: Path) -> Path:
    """A linear model that has learnt next to nothing, in a moment."""
    folder.mkdir(parents=True)
    texts = [f"that is {word} {number}" for word in ("great", "terrible", "a plane") for number in range(20)]
    labels = ["positive"] * 20 + ["negative"] * 20 + ["neutral"] * 20
    artifact = Artifact(Linear.fit(texts, labels, seed=1), None, Policy())
    artifact.save(folder, texts=texts, reference=pl.DataFrame(), limits={})
    return folder


class Shelf:
    """What the monitor asks of a registry, without MLflow, which takes half a second to register a version."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._bundle, self._folder = bundle, folder
        self._known: list[Version] = []

    def add(self) -> Version:
        """The bundle, with a policy of its own."""
        made = self._folder / "made"
        shutil.copytree(self._bundle, made)
        (made / "policy.json").write_text(json.dumps({"sure": 0.4 + len(self._known) / 1_000}))
        digest = digest_of(made)
        made.rename(self._folder / digest)
        self._known.append(Version(str(len(self._known) + 1), f"shelf/{digest}", digest, {}))
        return self._known[-1]

    def versions(self) -> list[Version]:
        return self._known[::-1]

    def version(self, version: str) -> Version:
        return next(one for one in self._known if one.version == version)

    def tags(self, _: str) -> dict[str, str]:
        return {"gate": "passed", "as_of": "0"}

    def repair(self, _: str | None) -> bool:
        return True


class Operations:
    """A monitor and a worker on one log. Versions are one bundle, each with a policy of its own."""

    kinds = ("promote", "rollback", "withdraw", "retrain")

    def __init__(self, folder: Path, url: str = "") -> None:
        (folder / "world" / "models").mkdir(parents=True)  # the crowd begins with none
        nothing = Release(action="promote", version="0", at=0, who="tests", why="")
        self._crowd = Crowd(Trained(folder / "world", pl.DataFrame(), nothing), folder / "var", url, released=False)
        self._away, self._dies_after = False, ""
        self._registry = Shelf(bundle(folder / "bundle"), self._crowd.var / "models")
        for _ in range(VERSIONS):
            self._registry.add()
        self._dead: list[Monitor | Worker] = []
        self._monitor: Monitor | None = None
        self._worker: Worker | None = None
        self.restart()

    # --- what is done ---------------------------------------------------------------------------------

    def command(self, kind: str, *, version: str | None, expected: str | None, key: str) -> None:
        """To the log, as the gateway would write it."""
        wanted = Command.model_validate(
            {"kind": kind, "version": version, "who": "tests", "expected_champion": expected, "key": key}
        )
        self._crowd.log.append([Entry(COMMANDS, kind, wanted.model_dump_json().encode())])

    def step(self, kind: str) -> None:
        """A retrain, asked for by an operator; `train` is patched to register a bundle that is there."""
        assert kind == "retrain"
        self.command("retrain", version=None, expected=None, key=f"retrain-{len(self.versions())}")

    def crash(self, after: str) -> None:
        """The next change of the champion dies after its `intent` line, its `switch`, or its `done` line."""
        self._dies_after = after

    def outage(self, away: bool) -> None:
        self._away = away

    def restart(self) -> None:
        """Both processes are killed and started again."""
        self._drop()
        self._monitor = Monitor(
            self._crowd.log,
            self._crowd.lake,
            lambda: self._registry,  # type: ignore[arg-type,return-value]  # all of it that is used
            BRANDS,
            clock=self._crowd.clock,
            seed=1,
            fetch=lambda _, digest: self._crowd.var / "models" / digest,
            folder=self._crowd.var / "batch",
            recipe=None,
            secret=KEY,
        )
        self._monitor._train = self._prepared  # type: ignore[method-assign]  # no training
        champion = self._crowd.champion()
        self._worker = Worker(self._crowd.log, champion, self._crowd.reader, slot=0, clock=self._crowd.clock)
        self._wrap()

    def run(self) -> bool:
        """Both catch up; a crash or an outage ends that early."""
        if self._monitor is None or self._worker is None:
            self.restart()
        assert self._monitor is not None
        assert self._worker is not None
        try:
            for _ in range(3):
                while self._monitor.step() or self._monitor.busy:
                    pass
                self._worker.step(0.0)
                while self._worker.rebuilding:
                    self._worker.step(0.0)
        except (Killed, LogUnavailable, Fenced):
            self._drop()
            return False
        return True

    # --- what is so -----------------------------------------------------------------------------------

    def versions(self) -> list[str]:
        """That may be promoted."""
        return [version.version for version in self._registry.versions()]

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self._crowd.log, RELEASES, Release)

    def in_force(self, subject: str = "model") -> str:
        """The version by which the worker scores."""
        assert subject == "model"
        return NONE if self._worker is None else self._worker._champion.version or NONE

    def close(self) -> None:
        self._drop()
        for part in self._dead:
            part.close()
        self._crowd.close()

    # --- inside -----------------------------------------------------------------------------------------

    def _drop(self) -> None:
        """They are gone without a word; their files are closed at the end."""
        self._dies_after = ""
        self._dead += [part for part in (self._monitor, self._worker) if part is not None]
        self._monitor = self._worker = None

    def _prepared(self, *_: object, **__: object) -> Done:
        return Done(Candidate(self._registry.add(), ""), "")

    def _wrap(self) -> None:
        """Let the log be away, and the monitor die, where a test says so."""
        assert self._monitor is not None
        assert self._worker is not None
        for consumer in (self._monitor._commands, self._worker._consumer):
            for name in ("poll", "commit"):
                setattr(consumer, name, self._unless_away(getattr(consumer, name)))
        manager = self._monitor._releases
        append, switch = manager._append, manager._switch

        def dying_append(entries: list[Entry]) -> None:
            append(entries)
            state = json.loads(entries[-1].value).get("state") if entries else None
            if self._dies_after and self._dies_after == state:
                raise Killed

        def dying_switch(line: Release) -> None:
            switch(line)
            if self._dies_after == "switch":
                raise Killed

        manager._append, manager._switch = dying_append, dying_switch

    def _unless_away(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: object, **more: object) -> object:
            if self._away:
                raise LogUnavailable("away, for a test")
            return call(*given, **more)

        return checked
