"""Judges each day, raises alarms, trains weekly, and carries out operator commands."""

import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import date as Date
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import polars as pl
from pydantic import ValidationError
from scipy.special import pdtr

from recsys import config, dataset, table, train
from recsys.batch import Nights
from recsys.model import ModelCorrupt
from recsys.recipe import reference
from recsys.releases import RECIPE, TABLE, champion_folder
from recsys.report import judge
from recsys.schema import (
    ALARMS,
    COMMANDS,
    DEAD,
    HEARTBEATS,
    NIGHTS,
    PERSONAL,
    REPORTS,
    Alarm,
    Command,
    Night,
    Release,
    Report,
    entry,
)
from recsys.table import Busy, Table, TableCorrupt
from recsys.train import Candidate
from shared import drift
from shared.background_job import BackgroundJob, Heart
from shared.clock import Clock, monotonic
from shared.dead_letters import dead_letter, from_validation
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Fenced, LogUnavailable, Place, Position, Record, Topic
from shared.lake import Lake
from shared.registry import Corrupt, Registry, Version
from shared.releases import Rejected

GROUP = "recsys-monitor"
TRAIN_ON = 0  # weekday whose night is followed by a new recipe: Monday
FRESH = 4  # days after a training in which no weekly one is due: the other would learn from nearly the same
FEWER = 0.75  # of the usual clicks a list
CHANCE = 0.001  # that so few come all the same
PATIENCE = 60.0  # seconds that a command waits for a night or a rollback that is at work
SOON, RETRY = 0.1, 15.0  # seconds until a command that found the tables busy, or work that lacks a part, is tried again
HOLD = 7  # days after an alarm in which its kind is not raised again: once is enough to act on
WEEK_OVER = "the week is over"
WEEKLY = "train-day-"  # begins the keys of what the monitor trains by itself; the day follows
KEYS = 1_000  # latest commands whose keys are known

logger = logging.getLogger(__name__)


@dataclass
class Task:
    """A night to judge, or a command; its record stays uncommitted until it is done."""

    record: Record
    message: Night | Command
    again: float  # not to be tried before
    busy_since: float = 0.0  # when the tables were found locked
    act: Callable[[], bool] | None = None  # what is to be tried, if it is not the beginning
    out: list[Entry] = field(default_factory=list)  # what it says once it is done

    @property
    def heavy(self) -> bool:
        """Whether it may take minutes. Such tasks come one after the other, so that no result depends on timing."""
        return isinstance(self.message, Night) or self.message.kind not in ("rollback", "withdraw")

    @property
    def key(self) -> str:
        given = self.message.key if isinstance(self.message, Command) else None
        return given or f"{self.record.topic}-{self.record.offset}"


class Monitor:
    """`registry` opens MLflow, which may be away; `fetch` gives the folder of a recipe's artifact.

    `pages` is where evidently's reports go.
    """

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        registry: Callable[[], Registry],
        nights: Nights,
        *,
        clock: Clock,
        seed: int,
        fetch: Callable[[str, str], Path],
        pages: Path,
        weekly: bool = True,
    ) -> None:
        self._log, self._lake, self._open_registry, self._nights, self._clock = log, lake, registry, nights, clock
        self._seed, self._fetch, self._pages, self._weekly = seed, fetch, pages, weekly
        self._registry: Registry | None = None
        self._reports: dict[int, Report] = {}  # by day
        self._alarmed: dict[str, int] = {}  # kind -> day
        self._told: dict[tuple[str, str], int] = {}  # by kind and message of an alarm: when it was raised last
        self._trained = -FRESH  # day
        self._keys: set[str] = set()  # of commands that are done
        self._tasks: list[Task] = []
        self._next: dict[Place, int] = {}  # offsets behind what was read
        self._job: BackgroundJob[Callable[[], bool]] = BackgroundJob()
        self._working: Task | None = None  # what the job is for
        self._heart = Heart("monitor", HEARTBEATS)
        self._aliasing: BackgroundJob[bool] = BackgroundJob()
        self._alias_again = 0.0  # when MLflow's alias is to be looked at
        self._stale = ""  # version whose age has been said
        self._cut: dict[str, int] = {}  # of the version in force
        self._painters: list[BaseProcess] = []
        with suppress(Busy), nights.releases.changing():
            pass  # what was open is finished now, or by the process that holds the tables
        self._remember()
        self._placed = 0 in log.committed(GROUP, COMMANDS)  # whether the group has a position for the commands
        # Commands before this offset are not carried out.
        self._lost = 0 if self._placed else self._end_of_lost()
        self._consumer = log.consumer(GROUP, [NIGHTS, COMMANDS], "monitor")

    def step(self) -> bool:
        """Take in what is new, and go on with what is due; whether there was anything to do.

        Raises:
            LogUnavailable, Fenced: make another monitor, which begins where this one has committed.
        """
        records = self._consumer.poll(1, SOON if self._working else 0.0)
        self._begin_commands()
        for record in records:
            self._take(record)
        self._go_on()
        if not records:
            self._fresh()
        self._show_champion()
        # Only the monitor that owns the commands is the one that the page should tell of.
        if Place(COMMANDS.name, 0) in self._consumer.owned and (beat := self._heart.beat(self._job.doing)):
            self._log.append(beat)
        soon = monotonic() + 1.0
        return bool(records or self._working) or any(task.again < soon for task in self._tasks)

    def close(self) -> None:
        """Leave the group without waiting: a night that is under way goes on in its thread, a training for nothing."""
        self._job.close()
        self._aliasing.close()
        for painter in self._painters:
            painter.join()
        self._consumer.close()

    # --- what is known ------------------------------------------------------------------------------

    def _remember(self) -> None:
        """What an earlier monitor did and said. Raises LogUnavailable."""
        for record in self._all(REPORTS):
            with suppress(ValidationError):  # named by the followers of the topic
                report = Report.model_validate_json(record.value)
                self._reports[report.day] = report
        for record in self._all(ALARMS):
            with suppress(ValidationError):
                alarm = Alarm.model_validate_json(record.value)
                self._told[alarm.kind, alarm.message] = alarm.at
                self._alarmed[alarm.kind] = alarm.at // config.DAY - 1
                self._keys |= {alarm.key} - {""}  # a command that was answered stays answered
        committed = self._log.committed(GROUP, COMMANDS)
        for record in self._all(COMMANDS, since={n: max(0, at.offset - KEYS) for n, at in committed.items()}):
            if record.offset < committed.get(record.partition, Position(0)).offset:
                with suppress(ValidationError):
                    self._keys.add(Command.model_validate_json(record.value).key or "")
        lines = self._nights.releases.ledger().lines
        days = (line.key.removeprefix(WEEKLY) for line in lines if line.subject == RECIPE and line.who == "monitor")
        self._trained = max([self._trained, *(int(day) for day in days if day.isdecimal())])

    def _end_of_lost(self) -> int:
        """Without a position: the end of the commands if an earlier monitor has been at work, else 0."""
        ledger, carried_out = self._nights.releases.ledger(), bool(self._reports)
        for record in self._all(COMMANDS):
            with suppress(ValidationError):
                key = Command.model_validate_json(record.value).key or f"{record.topic}-{record.offset}"
                carried_out |= any(ledger.by_key(key, subject) is not None for subject in (TABLE, RECIPE))
        return self._log.ends(COMMANDS)[0] if carried_out else 0

    def _begin_commands(self) -> None:
        """Commit a position before the first command, so that a missing one means that it was lost."""
        place = Place(COMMANDS.name, 0)
        if (position := self._consumer.owned.get(place)) is None or place in self._next:
            return
        self._next[place] = max(position.offset, self._lost)
        if self._placed:
            return
        self._placed = True
        if not self._lost:
            return self._commit([])
        said = f"positions of the commands were lost; commands before offset {self._lost} are not carried out"
        self._raise(None, "command", said, action="send again what is still wanted")

    def _all(self, topic: Topic, *, since: Mapping[int, int] | None = None) -> Iterator[Record]:
        start = {Place(topic.name, n): (since or {}).get(n, 0) for n in range(topic.partitions)}
        with closing(self._log.reader(start)) as reader:
            while records := reader.poll(10_000, 0.0):
                yield from records

    def _mlflow(self) -> Registry:
        """Opened when it is needed first: it may be away, and what needs no registry must not wait for it."""
        if self._registry is None:
            self._registry = self._open_registry()
        return self._registry

    def _show_champion(self) -> None:
        """Repeat the ledger's word in MLflow, beside the loop: that may be away, and takes its time to say so."""
        if (ended := self._aliasing.finished()) is not None and (error := ended.exception()) is not None:
            logger.warning("MLflow's alias is not moved yet: %s", error)
            self._alias_again = monotonic() + RETRY
        elif self._alias_again <= monotonic() and not self._aliasing.doing:
            self._alias_again = math.inf
            ledger = self._nights.releases.ledger()
            if any(line.subject == RECIPE for line in ledger.lines):
                champion = ledger.champion(RECIPE)  # None after a withdrawal: then the alias is removed
                wanted = None if champion is None else champion.version
                self._aliasing.start("alias", lambda: self._mlflow().repair(wanted))

    # --- tasks -------------------------------------------------------------------------------------

    def _take(self, record: Record) -> None:
        self._clock.observe(record.at)
        if record.topic == COMMANDS.name and record.offset < self._lost:
            return
        self._next[Place(record.topic, record.partition)] = record.offset + 1
        schema = Night if record.topic == NIGHTS.name else Command
        try:
            task = Task(record, schema.model_validate_json(record.value), again=monotonic())
        except ValidationError as error:
            return self._commit([dead_letter(DEAD, record, from_validation(error), personal=PERSONAL)])
        if task.key in self._keys:
            return self._commit([])
        self._tasks.append(task)

    def _go_on(self) -> None:
        """End the job that has come to its end, and begin what may begin."""
        if self._working is not None and (ended := self._job.finished()) is not None:
            task, self._working = self._working, None
            task.act = lambda: ended.result()()
            self._attempt(task)
        for task in list(self._tasks):
            if task is not self._working and task.again <= monotonic() and not (task.heavy and self._working):
                self._attempt(task)

    def _attempt(self, task: Task) -> None:
        """Do a task, or begin a job for it; what cannot be done now is tried again, and stays uncommitted till then."""
        act, task.act = task.act or partial(self._begin, task), None
        try:
            if not act():
                return
        except (Fenced, LogUnavailable):
            raise
        except Busy as error:
            task.again, task.busy_since = monotonic() + SOON, task.busy_since or monotonic()
            if isinstance(task.message, Night) or monotonic() - task.busy_since <= PATIENCE:
                return
            self._refuse(task, error)
        except Exception as error:
            if isinstance(task.message, Command) and not isinstance(error, DEPENDENCY_ERRORS):
                self._refuse(task, error)
            else:
                return self._later(task, error)
        self._tasks.remove(task)
        self._keys.add(task.key)
        self._commit(task.out)

    def _begin(self, task: Task) -> bool:
        """Gives whether the task is done; else a job goes on with it."""
        if task.key in self._keys:  # the command was sent again while the first one was under way
            return True
        return self._judge(task, task.message) if isinstance(task.message, Night) else self._obey(task, task.message)

    def _work(self, task: Task, doing: str, work: Callable[[], Callable[[], bool]]) -> bool:
        """Begin a job; what `work` gives is called by the loop when it has ended."""
        logger.info("%s", doing)
        self._job.start(doing, work)
        self._working = task
        return False

    def _later(self, task: Task, error: Exception) -> None:
        """Say once what keeps a task from being done; what it has come to so far need not wait."""
        what = f"night of {task.message.date}" if isinstance(task.message, Night) else f"command {task.message.kind}"
        logger.warning("%s waits: %s", what, error, exc_info=not isinstance(error, DEPENDENCY_ERRORS))
        task.again = monotonic() + RETRY
        kind = "table" if isinstance(task.message, Night) else "command"
        self._raise(task, kind, f"{what} waits: {type(error).__name__}: {error}"[:500], action="tried again", once=True)
        out, task.out = task.out, []
        if out:
            self._commit(out)

    def _refuse(self, task: Task, error: Exception) -> None:
        assert isinstance(task.message, Command)
        kind = task.message.kind
        said = f"not promoted: {error}" if kind == "promote" else f"{kind} not carried out: {error}"
        self._raise(task, "command", said, action="nothing changed")

    def _raise(self, task: Task | None, kind: str, message: str, *, action: str, once: bool = False) -> None:
        """An alarm, told when its task is done, or at once without one.

        `once`: it tells of a state, unless it was told within a day; the others answer the command of the task.
        """
        now = self._clock.now()
        if once and now - self._told.get((kind, message), -config.DAY) < config.DAY:
            return
        self._told = {about: at for about, at in self._told.items() if now - at < config.DAY} | {(kind, message): now}
        logger.warning("%s: %s; %s", kind, message, action)
        answers = task.key if task is not None and isinstance(task.message, Command) and not once else ""
        alarm = entry(Alarm(kind=kind, at=now, message=message, action=action, key=answers))
        if task is None:
            self._commit([alarm])
        else:
            task.out.append(alarm)

    def _commit(self, out: list[Entry]) -> None:
        """Write, and move on to the first task of each topic that is not done."""
        undone: dict[Place, int] = {}
        for task in self._tasks:
            undone.setdefault(Place(task.record.topic, task.record.partition), task.record.offset)
        if positions := {place: Position(undone.get(place, offset)) for place, offset in self._next.items()}:
            self._consumer.commit(out, positions)
        elif out:
            self._log.append(out)

    # --- judging -----------------------------------------------------------------------------------

    def _fresh(self) -> None:
        # [5.3] A batch system fails in silence: the page looks as ever, only the lists are of yesterday's yesterday.
        # So age is watched, not errors.
        now = table.current(self._nights.tables)
        if now is None or now == self._stale:
            return
        if now not in self._cut:  # it is asked ten times a second, and never changes
            try:
                self._cut = {now: Table.open(self._nights.tables / now, verify=False).manifest.cut}
            except TableCorrupt as error:
                return self._raise(None, "table", str(error), action="roll back, or run the night again", once=True)
        if self._clock.now() - (cut := self._cut[now]) > config.STALE:
            self._stale = now
            hours = (self._clock.now() - cut) // config.HOUR
            action = "run tonight's night by hand; see its log"
            self._raise(None, "table", f"{now} is {hours} hours old", action=action)

    def _judge(self, task: Task, night: Night) -> bool:
        day = (Date.fromisoformat(night.date) - Date(1970, 1, 1)).days - 1
        if (report := self._reports.get(day)) is None:
            report = self._report(task, day)
            self._reports[day] = report
            task.out.append(Entry(REPORTS, str(day), report.model_dump_json().encode()))
            self._alarm_on(task, report)
        monday = Date.fromisoformat(night.date).weekday() == TRAIN_ON
        due = self._weekly and monday and (day == self._trained or day - self._trained >= FRESH)
        if not due and not (report.drifted and self._alarmed.get("drift") == day):
            return True
        self._trained = day
        why = WEEK_OVER if due else "the shop has changed"
        return self._train(task, who="monitor", why=why, key=f"{WEEKLY}{day}")

    def _report(self, task: Task, day: int) -> Report:
        version = table.current(self._nights.tables) or ""
        try:
            if version:
                Table.open(self._nights.tables / version)
        except TableCorrupt as error:
            self._raise(task, "table", str(error), action="roll back, or run the night again", once=True)
        before = [self._reports[each] for each in sorted(self._reports) if each < day]
        version = self._shown_most(day) or version
        recipe = self._recipe_of(version)
        try:
            folder = None if recipe is None else self._fetch(recipe.artifact, recipe.digest)
            return judge(self._lake, day, before, version=version, recipe=folder)
        except (ModelCorrupt, Corrupt) as error:
            said = f"drift of {dataset.day_of(day * config.DAY)} is not judged: {error}"
            self._raise(task, "recipe", said, action="train another recipe", once=True)
            return judge(self._lake, day, before, version=version, recipe=None)

    def _shown_most(self, day: int) -> str:
        """The table that most of the day's lists came from; empty without lists.

        It is judged, and not the one in force: a rollback or the night itself may have changed that since.
        """
        since, until = dataset.day_of(day * config.DAY), dataset.day_of((day + 1) * config.DAY)
        lists = dataset.impressions(self._lake, since=since, until=until)
        if lists.is_empty():
            return ""
        counts = lists.group_by("version").len().sort("len", "version", descending=True)
        return str(counts["version"][0])

    def _recipe_of(self, version: str) -> Release | None:
        """The line of the recipe that ranked a table; of the one in force for a table that the ledger does not know."""
        ledger = self._nights.releases.ledger()
        made = next((line for line in ledger.lines if (line.subject, line.version) == (TABLE, version)), None)
        if made is None:
            return ledger.champion(RECIPE)
        wanted = (RECIPE, made.recipe)
        return next((line for line in reversed(ledger.lines) if (line.subject, line.version) == wanted), None)

    def _alarm_on(self, task: Task | None, report: Report) -> None:
        if report.drifted and self._quiet("drift", report.day):
            self._alarmed["drift"] = report.day
            try:
                self._paint(report)
            except Exception:
                logger.exception("no drift report of day %d", report.day)
            moved = ", ".join(f"{name} {report.drift[name]:.2f}" for name in report.drifted)
            said = f"purchases moved two days running: {moved}"
            self._raise(task, "drift", said, action="a new recipe is trained now")
        if report.usual_clicks and report.lists and self._quiet("clicks", report.day):
            expected = report.usual_clicks * report.lists
            if pdtr(report.clicks, FEWER * expected) < CHANCE:  # Poisson: so many or fewer
                self._alarmed["clicks"] = report.day
                said = f"{report.clicks} clicks on {report.lists} lists, {expected:.0f} are usual on such a weekday"
                self._raise(task, "clicks", said, action="look at what the last night changed; roll back if in doubt")

    def _quiet(self, kind: str, day: int) -> bool:
        """Whether the kind may be raised again."""
        return day - self._alarmed.get(kind, -HOLD) >= HOLD

    def _paint(self, report: Report) -> None:
        """evidently's page, in a process of its own: it takes ten seconds, and what goes wrong there ends nothing."""
        if (recipe := self._recipe_of(report.version)) is None:
            return
        day = report.day
        usual, _ = reference(self._fetch(recipe.artifact, recipe.digest))
        date, following = (dataset.day_of(each * config.DAY) for each in (day, day + 1))
        rows = self._lake.read("events", since=date, until=following)
        products = dataset.catalogue(self._lake, cut=(day + 1) * config.DAY)
        today = train.watched(rows, products).filter(pl.col("weekday") == (day + 3) % 7)
        path = self._pages / f"drift-{date}.html"
        same = usual.filter(pl.col("weekday") == (day + 3) % 7)
        painter = multiprocessing.get_context("spawn").Process(
            target=drift.report, args=(same.drop("weekday"), today.drop("weekday"), path)
        )
        painter.start()
        os.setpriority(os.PRIO_PROCESS, painter.pid or 0, 10)  # the night goes first
        self._painters.append(painter)

    # --- acting ------------------------------------------------------------------------------------

    def _obey(self, task: Task, command: Command) -> bool:
        who, why = command.who, command.why or "asked for"
        releases = self._nights.releases
        if command.kind == "night":
            if releases.ledger().by_key(task.key, TABLE) is not None:
                return True
            date = self._tonight()

            def night() -> Callable[[], bool]:
                self._nights.run(date, who=who, why=why, afresh=True, undo=command.force, key=task.key)
                return lambda: True

            return self._work(task, f"running the night of {date}", night)
        if command.kind == "train":
            return self._train(task, who=who, why=why, key=task.key)
        if command.key is None:
            raise Rejected("the command has no key, so it could count twice")
        if command.kind == "promote":
            return self._promote(task, command, command.key)
        key, expected = command.key, command.expected_champion
        if command.kind == "rollback":
            releases.roll_back(who=who, why=why, key=key, expected=expected, version=command.version)
        else:
            releases.withdraw(who=who, why=why, key=key, expected=expected)
        self._alias_again = 0.0
        return True

    def _tonight(self) -> str:
        """Today's date, and never an earlier one than the table's: a command may have waited while a night went by."""
        if (now := table.current(self._nights.tables)) is not None:
            with suppress(TableCorrupt):
                self._clock.observe(Table.open(self._nights.tables / now, verify=False).manifest.cut)
        return str(dataset.day_of(self._clock.now()))

    def _promote(self, task: Task, command: Command, key: str) -> bool:
        def look_up() -> Callable[[], bool]:
            registry = self._mlflow()
            if command.version is None and not registry.versions():
                raise Rejected("the registry has no recipe")
            version = registry.version(command.version or registry.versions()[0].version)
            gate = registry.tags(version.version).get("gate", "it was never judged")
            return lambda: promoted(version, gate)

        def promoted(version: Version, gate: str) -> bool:
            if gate != "passed" and not command.force:
                raise Rejected(f"recipe {version.version}: {gate}")
            why = command.why or "asked for"
            line = Release.promotion(version, at=self._clock.now(), who=command.who, why=why, key=key, subject=RECIPE)
            return self._release(task, line, expected=command.expected_champion, force=command.force)

        return self._work(task, "looking a recipe up", look_up)

    def _train(self, task: Task, *, who: str, why: str, key: str) -> bool:
        ledger = self._nights.releases.ledger()
        if ledger.by_key(key, RECIPE) is not None:
            return True
        champion, expected = ledger.champion(RECIPE), ledger.version(RECIPE)
        as_of = self._clock.now() // config.DAY * config.DAY

        def learn() -> Callable[[], bool]:
            registry = self._mlflow()  # first: without it all would be for nothing
            folder, missing = champion_folder(champion, self._fetch)
            try:
                made = train.train(self._lake, registry, as_of=as_of, seed=self._seed, champion=folder, key=key)
            except DEPENDENCY_ERRORS:
                raise
            except Exception as error:
                return partial(self._not_trained, task, error)
            return partial(self._learnt, task, made, missing or made.uncompared, expected, who, why, key)

        return self._work(task, "training a recipe", learn)

    def _not_trained(self, task: Task, error: Exception) -> bool:
        self._raise(task, "recipe", f"no new recipe: {error}", action="the one in force goes on")
        return True

    def _learnt(
        self, task: Task, made: Candidate, uncompared: str, expected: str, who: str, why: str, key: str
    ) -> bool:
        version = made.version
        if uncompared:
            said = f"recipe {version.version} was not judged beside the champion: {uncompared}"
            self._raise(task, "recipe", said, action="the gate judged it alone", once=True)
        if made.refused:
            said = f"recipe {version.version} refused: {made.refused}"
            if why == WEEK_OVER:  # most weeks end in a tie, and that is no alarm; the registry keeps the reason
                logger.info("%s; the one in force goes on", said)
            else:
                self._raise(task, "recipe", said, action="the one in force goes on")
            return True
        line = Release.promotion(version, at=self._clock.now(), who=who, why=why, key=key, subject=RECIPE)
        try:
            return self._release(task, line, expected=expected)
        except Rejected as error:
            self._raise(task, "recipe", f"recipe {version.version} not promoted: {error}", action="promote it by hand")
            return True

    def _release(self, task: Task, line: Release, *, expected: str | None, force: bool = False) -> bool:
        try:
            done = self._nights.releases.promote(line, expected=expected, force=force)
        except Busy:
            task.act = partial(self._release, task, line, expected=expected, force=force)  # the same again, soon
            raise
        if done.key != line.key:
            self._raise(task, "command", f"recipe {line.version} is in force already", action="nothing changed")
        self._alias_again = 0.0
        logger.info("%s recipe %s: %s", done.action, done.version, done.why)
        return True
