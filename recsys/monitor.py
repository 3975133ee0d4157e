"""Each day judged once its night is over, alarms and what follows, the weekly recipe; an operator's commands."""

import logging
import multiprocessing
import os
from collections.abc import Callable
from datetime import date as Date
from multiprocessing.process import BaseProcess
from pathlib import Path

import polars as pl
from pydantic import ValidationError
from scipy.special import pdtr

from recsys import config, dataset, table, train
from recsys.batch import Nights
from recsys.ingest import dead_letter, unreadable
from recsys.ledger import entry
from recsys.model import ModelCorrupt
from recsys.recipe import reference
from recsys.report import judge
from recsys.schema import COMMANDS, NIGHTS, REPORTS, Alarm, Command, Night, Release, Report, in_force
from recsys.table import Busy, Table, TableCorrupt
from shared import drift
from shared.clock import Clock, monotonic, sleep
from shared.eventlog.port import Entry, EventLog, Place, Position, beginning
from shared.lake import Lake, LakeCorrupt
from shared.registry import Corrupt, Registry, Unavailable, UnknownVersion, Version

TRAIN_ON = 0  # weekday whose night is followed by a new recipe: Monday
FRESH = 4  # days after a training in which no weekly one is due: the other would learn from nearly the same
FEWER = 0.75  # of the usual clicks a list
CHANCE = 0.001  # that so few come all the same
PATIENCE = 60.0  # seconds that a command waits for a night or a rollback that is at work
HOLD = 7  # days after an alarm in which its kind is not raised again: once is enough to act on

logger = logging.getLogger(__name__)


def promotion(version: Version, *, at: int, who: str, why: str) -> Release:
    """A line of the ledger that puts a recipe in force, from the next night on."""
    return Release(
        subject="recipe",
        action="promote",
        version=version.version,
        artifact=version.artifact,
        digest=version.digest,
        at=at,
        who=who,
        why=why,
        figures=version.figures,
    )


class Monitor:
    """`fetch` gives the folder of a recipe's artifact; `pages` is where evidently's reports go."""

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        registry: Registry,
        nights: Nights,
        *,
        clock: Clock,
        seed: int,
        fetch: Callable[[str, str], Path],
        pages: Path,
        weekly: bool = True,
    ) -> None:
        self._log, self._lake, self._registry, self._nights, self._clock = log, lake, registry, nights, clock
        self._seed, self._fetch, self._pages, self._weekly = seed, fetch, pages, weekly
        self._consumer = log.consumer("recsys-monitor", [NIGHTS, COMMANDS], "monitor")
        self._reports: list[Report] = []
        self._alarmed: dict[str, int] = {}  # kind -> day
        self._trained = -FRESH  # day
        self._stale = ""  # version whose age has been said
        self._painters: list[BaseProcess] = []
        self._out: list[Entry] = []
        self._remember()

    def step(self) -> bool:
        """Take the next night or command; whether there was one."""
        records = self._consumer.poll(1, 0.0)
        for record in records[:1]:
            self._clock.observe(record.at)
            try:
                if record.topic == NIGHTS.name:
                    self._judge(Night.model_validate_json(record.value))
                else:
                    self._obey(Command.model_validate_json(record.value))
            except ValidationError as error:
                self._out.append(dead_letter(record, unreadable(error)))
            self._commit({Place(record.topic, record.partition): Position(record.offset + 1)})
        if not records:
            self._fresh()
        return bool(records)

    def close(self) -> None:
        for painter in self._painters:
            painter.join()
        self._consumer.close()

    # --- what is known ------------------------------------------------------------------------------

    def _remember(self) -> None:
        reader = self._log.reader(beginning([REPORTS]))
        while records := reader.poll(10_000, 0.0):
            self._reports += [Report.model_validate_json(record.value) for record in records]
        reader.close()
        if (recipe := in_force(self._nights.ledger.lines(), "recipe")) is not None:
            self._registry.repair(recipe.version)

    def _recipe(self) -> Path | None:
        recipe = in_force(self._nights.ledger.lines(), "recipe")
        return None if recipe is None else self._fetch(recipe.artifact, recipe.digest)

    def _fresh(self) -> None:
        # [5.3] A batch system fails in silence: the page looks as ever, only the lists are of yesterday's yesterday.
        # So age is watched, not errors.
        now = table.current(self._nights.tables)
        if now is None or now == self._stale:
            return
        cut = Table.open(self._nights.tables / now, verify=False).manifest.cut
        if self._clock.now() - cut > config.STALE:
            self._stale = now
            hours = (self._clock.now() - cut) // config.HOUR
            self._raise("table", f"{now} is {hours} hours old", action="run tonight's night by hand; see its log")
            self._commit({})

    # --- judging -----------------------------------------------------------------------------------

    def _judge(self, night: Night) -> None:
        day = (Date.fromisoformat(night.date) - Date(1970, 1, 1)).days - 1
        if any(report.day == day for report in self._reports):
            return
        version = table.current(self._nights.tables) or ""
        try:
            if version:
                Table.open(self._nights.tables / version)
            report = judge(self._lake, day, self._reports, version=version, recipe=self._recipe())
        except TableCorrupt as error:
            return self._raise("table", str(error), action="roll back, or run the night again")
        except (LakeCorrupt, Corrupt, Unavailable) as error:
            return self._raise("table", f"{dataset.day_of(day * config.DAY)} is not judged: {error}", action="none")
        self._reports.append(report)
        self._out.append(Entry(REPORTS, str(day), report.model_dump_json().encode()))
        self._alarm_on(report)
        monday = Date.fromisoformat(night.date).weekday() == TRAIN_ON
        due = self._weekly and monday and day - self._trained >= FRESH
        if due or (report.drifted and self._alarmed.get("drift") == day):
            self._trained = day
            self._train(who="monitor", why="the week is over" if due else "the shop has changed")

    def _alarm_on(self, report: Report) -> None:
        if report.drifted and self._quiet("drift", report.day):
            self._alarmed["drift"] = report.day
            self._paint(report.day)
            moved = ", ".join(f"{name} {report.drift[name]:.2f}" for name in report.drifted)
            self._raise("drift", f"purchases moved two days running: {moved}", action="a new recipe is trained now")
        if report.usual_clicks and report.lists and self._quiet("clicks", report.day):
            expected = report.usual_clicks * report.lists
            if pdtr(report.clicks, FEWER * expected) < CHANCE:  # Poisson: so many or fewer
                self._alarmed["clicks"] = report.day
                said = f"{report.clicks} clicks on {report.lists} lists, {expected:.0f} are usual on such a weekday"
                self._raise("clicks", said, action="look at what the last night changed; roll back if in doubt")

    def _quiet(self, kind: str, day: int) -> bool:
        """Whether the kind may be raised again."""
        return day - self._alarmed.get(kind, -HOLD) >= HOLD

    def _raise(self, kind: str, message: str, *, action: str) -> None:
        alarm = Alarm.model_validate({"kind": kind, "at": self._clock.now(), "message": message, "action": action})
        logger.warning("%s: %s; %s", kind, message, action)
        self._out.append(entry(alarm))

    def _paint(self, day: int) -> None:
        """evidently's page for people, in a process of its own: it takes ten seconds that nobody should wait for."""
        folder = self._recipe()
        if folder is None:
            return
        usual, _ = reference(folder)
        rows = self._lake.read("events", since=dataset.day_of(day * config.DAY))
        today = train.watched(rows, self._lake.read("catalogue")).filter(pl.col("weekday") == (day + 3) % 7)
        path = self._pages / f"drift-{dataset.day_of(day * config.DAY)}.html"
        same = usual.filter(pl.col("weekday") == (day + 3) % 7)
        painter = multiprocessing.get_context("spawn").Process(
            target=drift.report, args=(same.drop("weekday"), today.drop("weekday"), path)
        )
        painter.start()
        os.setpriority(os.PRIO_PROCESS, painter.pid or 0, 10)  # the night goes first
        self._painters.append(painter)

    # --- acting ------------------------------------------------------------------------------------

    def _obey(self, command: Command) -> None:
        who, why = command.who, command.why or "asked for"
        try:
            if command.kind == "night":
                self._in_turn(lambda: self._nights.run(self._tonight(), who=who, why=why, afresh=True))
            elif command.kind == "train":
                self._train(who=who, why=why)
            elif command.kind == "promote":
                self._promote(command)
            else:
                self._in_turn(lambda: self._nights.ledger.roll_back(who=who, why=why, version=command.version))
        except (Busy, LookupError, TableCorrupt) as error:
            self._raise("command", f"{command.kind} not carried out: {error}", action="nothing changed")

    def _tonight(self) -> str:
        """Today's date, and never an earlier one than the table's: a command may have waited while a night went by."""
        if (now := table.current(self._nights.tables)) is not None:
            self._clock.observe(Table.open(self._nights.tables / now, verify=False).manifest.cut)
        return str(dataset.day_of(self._clock.now()))

    def _in_turn(self, act: Callable[[], object]) -> None:
        """After whoever holds the tables; raises Busy when that takes too long."""
        until = monotonic() + PATIENCE
        while True:
            try:
                act()
            except Busy:
                if monotonic() > until:
                    raise
                sleep(0.1)
            else:
                return

    def _promote(self, command: Command) -> None:
        try:
            version = self._registry.version(command.version or self._registry.versions()[0].version)
        except (UnknownVersion, IndexError) as error:
            return self._raise("command", f"not promoted: {error}", action="nothing changed")
        refused = self._registry.tags(version.version).get("gate", "it was never judged")
        if refused != "passed" and not command.force:
            return self._raise("command", f"recipe {version.version} not promoted: {refused}", action="nothing changed")
        self._release(promotion(version, at=self._clock.now(), who=command.who, why=command.why or "asked for"))

    def _train(self, *, who: str, why: str) -> None:
        as_of = self._clock.now() // config.DAY * config.DAY
        try:
            candidate = train.train(self._lake, self._registry, as_of=as_of, seed=self._seed, champion=self._recipe())
        except (train.NotEnough, LakeCorrupt, ModelCorrupt, Corrupt, Unavailable) as error:
            return self._raise("recipe", f"no new recipe: {error}", action="the one in force goes on")
        if candidate.refused:
            said = f"recipe {candidate.version.version} refused: {candidate.refused}"
            return self._raise("recipe", said, action="the one in force goes on")
        self._release(promotion(candidate.version, at=self._clock.now(), who=who, why=why))

    def _release(self, release: Release) -> None:
        try:
            self._registry.repair(release.version)
            self._fetch(release.artifact, release.digest)  # now, so that the night does not wait for the registry
        except (Corrupt, Unavailable, UnknownVersion) as error:
            return self._raise("command", f"not released: {error}", action="nothing changed")
        self._out.append(entry(release))
        logger.info("%s recipe %s: %s", release.action, release.version, release.why)

    def _commit(self, positions: dict[Place, Position]) -> None:
        out, self._out = self._out, []
        if positions:
            self._consumer.commit(out, positions)
        elif out:
            self._log.append(out)
