"""Monitors drift and label-based quality, raises alarms, retrains, releases, and carries out operator commands.

The monitor takes the topics into the lake, judges each event day once it is closed, and alone writes
the ledger of releases. A dependency that is away is an alarm and another attempt, never an end. Training
and questions to MLflow run beside the loop; in the loop, only a rollback looks for the files of the version that it
goes to, which are at hand as a rule.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import ValidationError

from fraud import config, train
from fraud.artifact import Artifact
from fraud.ingest import DECISION_COLUMNS, Ingest, dead_letter, unexpected
from fraud.model import ModelCorrupt
from fraud.report import Judge, date_of
from fraud.schema import ALARMS, COMMANDS, HEARTBEATS, RELEASES, REPORTS, Alarm, Command, Report
from fraud.train import Candidate
from shared import releases
from shared.background_job import BackgroundJob, Heart
from shared.clock import Clock, monotonic, sleep
from shared.dead_letters import from_validation
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Fenced, LogUnavailable, Place, Position, beginning
from shared.lake import Lake, LakeCorrupt
from shared.registry import Corrupt, Registry, Version
from shared.releases import NONE, Ledger, Rejected, Release, ReleaseManager, check_expected

# A model can learn a new tactic once a week of it has labels: the week itself, the week that
# calibrates and judges, and the days until labels are complete.
LEARNABLE = 14 + config.MATURITY // config.DAY  # days
GUARD_COUNT = 500  # decisions of a new version before its share of stopped payments is believed
GUARD_LEAST = 0.001  # of payments are declined usually, at least: where none were, one would already be too many
GUARD_FACTOR = 5.0  # times the usual share of declined payments; a night's is up to three times a day's
RETRY = 30.0  # seconds before a dependency that is away is asked again
REMEMBERED = 1_000  # commands before the last one that are known by their key
REPORTED = 400  # reports before the last one that are known
GUARDED = {name: DECISION_COLUMNS[name] for name in ("at", "action", "model")}  # columns
LOOK = 0.02  # seconds between two looks at work beside the loop

logger = logging.getLogger(__name__)


def entry(message: Alarm | Release | Report) -> Entry:
    """The message as a record of its topic."""
    if isinstance(message, Alarm):
        return Entry(ALARMS, message.kind, message.model_dump_json().encode())
    if isinstance(message, Release):
        return releases.entry(RELEASES, message)
    return Entry(REPORTS, str(message.day), message.model_dump_json().encode())


class Retraining(NamedTuple):
    """A training that is under way, and what is to be done with its result."""

    as_of: int
    champion: str  # the version that it has to beat, and that it may replace
    who: str
    why: str
    key: str
    again: int | None  # the day of the next attempt if nothing comes of this one
    offset: int | None  # of the command that asked for it


class Trained(NamedTuple):
    """What a training has given, and what has to be said about it."""

    candidate: Candidate
    remark: str


class Promotion(NamedTuple):
    """A command to promote whose version has to be looked up in the registry."""

    offset: int
    command: Command
    key: str


class Monitor:
    """`fetch` gives the folder of a release's artifact; `pages` is where evidently's reports go."""

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        registry: Registry,
        *,
        clock: Clock,
        seed: int,
        fetch: Callable[[str, str], Path],
        pages: Path,
    ) -> None:
        self._log, self._lake, self._registry, self._clock = log, lake, registry, clock
        self._seed, self._fetch = seed, fetch
        self._days = Judge(lake, fetch=fetch, pages=pages)
        self._ingest = Ingest(log, lake, member="monitor")
        self._taken: dict[Place, Position] = {}  # in the lake, and not yet judged
        self._retry_at = -math.inf  # when the lake may be tried again
        self._commands = log.consumer("fraud-monitor", [COMMANDS], "monitor")
        self._manager = ReleaseManager(log, RELEASES, Release, clock=clock, append=self._append, switch=self._prepare)
        self._active = False  # whether it owns the commands, and so the ledger
        self._next = 0  # offset of the next command
        self._handled_until = 0  # offset behind the last command that was handled or begun, also before a restart
        self._unfinished: set[int] = set()  # offsets of commands that were begun
        self._handled: dict[str, None] = {}  # keys of the last commands, the oldest first
        self._training: BackgroundJob[Trained] = BackgroundJob()
        self._retraining: Retraining | None = None
        self._errands: BackgroundJob[Callable[[], None]] = BackgroundJob()  # what asks the registry; what then follows
        self._errand_retry_at = -math.inf
        self._errand_turn = 0  # errands that have failed since one has not: the next one is another's turn
        self._promotions: deque[Promotion] = deque()
        self._alias: str | None = None  # the version that MLflow's alias has to be moved to
        self._unchecked = True  # whether this code can use the champion
        self._heart = Heart("monitor", HEARTBEATS)
        self._ledger: Ledger[Release] = Ledger()
        self._reports: deque[Report] = deque(maxlen=REPORTED)
        self._retrain_on: int | None = None
        self._alarmed: set[str] = set()  # kinds, since the last release
        self._alarmed_at: dict[tuple[str, str], int] = {}  # by kind and message: when it was raised last
        self._guarded_against: set[str] = set()  # versions with a guardrail alarm since the last release
        self._counts: dict[str, tuple[int, int]] = {}  # by version: decisions since its release, and declined ones
        self._fresh = pl.DataFrame(schema=GUARDED)  # of open hours
        self._out: list[Entry] = []

    def step(self) -> bool:
        """Ingest, judge, command; whether there was anything to do.

        Raises:
            Fenced, LogUnavailable: nothing was written; make a new monitor. So after any other error, of which there
                is an alarm.
        """
        if not self._activate():
            return False
        try:
            return self._work()
        except (Fenced, LogUnavailable):
            raise
        except Exception as error:
            said = f"the monitor has failed: {type(error).__name__}: {_words(error)}"
            self._alarm_daily("monitor", said, action="it begins afresh")
            self._append([])
            raise

    def _work(self) -> bool:
        if beat := self._heart.beat(self._training.doing or self._days.painting.doing):
            self._log.append(beat)
        ended = self._attend()
        took = self._take_in()
        obeyed = self._listen()
        self._append([])
        if ended or took or obeyed:
            return True
        if self._training.doing or self._errands.doing:
            sleep(LOOK)
            return True
        return False

    def close(self) -> None:
        """Leave; waits for the work beside the loop."""
        with ExitStack() as closed:  # each, whatever the others raise
            for part in (self._commands, self._ingest.consumer, self._days, self._errands, self._training):
                closed.callback(part.close)

    # --- what is known -------------------------------------------------------------------------------

    def _activate(self) -> bool:
        """Whether this monitor owns the commands; when it comes to, finish what a dead one had begun."""
        place = Place(COMMANDS.name, 0)
        if not self._active:
            self._commands.poll(0, 0.0)
        if place not in self._commands.owned:
            if self._active:
                raise Fenced("another monitor has taken over")
            return False
        if not self._active:
            self._active, self._next = True, self._first_command(self._commands.owned[place])
            for line in self._manager.recover():
                logger.info("%s of version %s was under way: %s", line.action, line.version, line.state)
            self._remember()
        return True

    def _first_command(self, position: Position) -> int:
        """Offset of the first command to be carried out: none that was sent before the group's position was lost.

        The note of a position says which commands behind it were handled: one that was refused, and has become true
        meanwhile, is not carried out. It also tells a position at the beginning from a lost one.
        """
        if position.note.startswith("["):
            self._handled_until, *unfinished = json.loads(position.note)
            self._unfinished = set(unfinished)
            return position.offset
        if position.offset:
            self._handled_until = position.offset
            return position.offset
        end = self._log.ends(COMMANDS)[0]
        if not end or not (self._has_reported() or any(line.key for line in self._manager.ledger().lines)):
            return 0
        said = f"positions of the commands were lost; commands before offset {end} are not carried out"
        self._raise("command", self._clock.now(), said, action="send again what is still wanted")
        self._handled_until = end
        return end

    def _has_reported(self) -> bool:
        """By what can be read: who joins a group in Kafka leaves a marker in every topic, which moves its end."""
        with closing(self._log.reader(beginning([REPORTS]))) as reader:
            while records := reader.poll(10_000, 0.0):
                for record in records:
                    with suppress(ValidationError):
                        Report.model_validate_json(record.value)
                        return True
        return False

    def _remember(self) -> None:
        """Read back what was said and asked before; the ledger is the truth, MLflow's alias is repaired from it."""
        reader = self._log.reader(
            beginning([ALARMS, REPORTS]) | {Place(COMMANDS.name, 0): max(0, self._next - REMEMBERED)}
        )
        alarms: list[Alarm] = []
        begun: dict[str, None] = {}  # keys of commands that have to be finished, though they may have come again
        while records := reader.poll(10_000, 0.0):
            for record in records:
                try:
                    if record.topic == REPORTS.name:
                        self._reports.append(Report.model_validate_json(record.value))
                    elif record.topic == ALARMS.name:
                        alarms.append(Alarm.model_validate_json(record.value))
                    elif record.offset < self._handled_until:
                        keys = begun if record.offset in self._unfinished else self._handled
                        keys[_key(Command.model_validate_json(record.value), record.offset)] = None
                except ValidationError:
                    logger.error("skipped %s offset %d: it cannot be read", record.topic, record.offset)
        reader.close()
        self._handled = {key: None for key in self._handled if key not in begun}
        self._ledger = self._manager.ledger()
        self._alias = self._ledger.version()
        since = self._ledger.lines[-1].at if self._ledger.lines else 0
        self._alarmed_at = {(alarm.kind, alarm.message): alarm.at for alarm in alarms}
        alarms = [alarm for alarm in alarms if alarm.at > since]  # those of the same moment led to the release
        self._alarmed = {alarm.kind for alarm in alarms}
        self._guarded_against = {alarm.version for alarm in alarms if alarm.kind == "guardrail" and alarm.version}
        for alarm in alarms:
            if alarm.kind == "gate" or alarm.retrain_on is not None:
                self._retrain_on = alarm.retrain_on

    def _line(self, version: str | None) -> Release | None:
        """The last line of the ledger that put the version in force."""
        lines = (line for line in reversed(self._ledger.lines) if line.action != "withdraw")
        return next((line for line in lines if line.version == version), None)

    def _closed_day(self) -> int | None:
        """The next day that every partition has passed."""
        passed = min(self._ingest.watermarks) // config.DAY - 1
        if self._reports:
            following = self._reports[-1].day + 1
        elif self._taken:
            days = self._lake.dates("decisions")
            following = (days[0] - date(1970, 1, 1)).days if days else passed + 1
        else:  # the lake has what it had at the last look
            return None
        return following if following <= passed else None

    # --- judging ---------------------------------------------------------------------------------

    def _take_in(self) -> bool:
        """Take the topics into the lake and judge the days that this closes; whether there was anything to do.

        While a training is under way nothing more is taken in: what comes of it must not depend on how long it took.
        """
        if self._training.doing or monotonic() < self._retry_at:
            self._ingest.consumer.poll(0, 0.0)  # keeps its claims
            return False
        if not self._taken:
            try:
                taken = self._ingest.step()
            except (Fenced, LogUnavailable):
                raise
            except Exception as error:
                return self._later("lake", f"the lake takes nothing in: {_words(error)}")
            self._taken = taken.positions
            self._out += taken.letters
            self._clock.observe(min(self._ingest.watermarks))
            self._guard(taken.decisions)
        while not self._training.doing and (day := self._closed_day()) is not None:
            try:
                self._judge(day)
            except DEPENDENCY_ERRORS as error:
                return self._later("lake", f"{date_of(day)} cannot be judged now: {_words(error)}")
        if self._training.doing or not self._taken:
            return False
        self._ingest.consumer.commit(self._flush(), self._taken)
        self._taken = {}
        return True

    def _later(self, kind: str, message: str) -> bool:
        self._alarm_daily(kind, message, action="tried again")
        self._retry_at = monotonic() + RETRY
        return False

    def _judge(self, day: int) -> None:
        """Report on a closed day, raise alarms, and retrain if that is due."""
        paint = "drift" not in self._alarmed
        try:
            report, trouble = self._days.judge(day, self._reports, self._ledger, paint=paint)
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:
            if not isinstance(error, LakeCorrupt):
                logger.exception("day %d cannot be judged", day)
            none: dict[str, int] = {"approve": 0, "review": 0, "decline": 0}
            report, trouble = Report(day=day, payments=0, actions=none, drift={}, drifted=()), ""
            action = f"{date_of(day)} is not judged; all else goes on"
            self._raise("lake", (day + 1) * config.DAY, str(error), action=action)
        self._reports.append(report)
        self._out.append(entry(report))
        if trouble:
            self._alarm_daily("model", trouble, action="quality is judged all the same")
        self._alarm_on(report)
        if self._retrain_on is not None and day >= self._retrain_on:
            as_of, why = (day + 1) * config.DAY, "a week of the new pattern has its labels"
            self._retrain(as_of=as_of, who="monitor", why=why, key=f"retrain-{as_of}", again=day + 7)

    def _alarm_on(self, report: Report) -> None:
        at = (report.day + 1) * config.DAY
        if report.drifted and "drift" not in self._alarmed:
            self._raise(
                "drift", at, f"moved two days running: {', '.join(report.drifted)}", retrain=report.day + LEARNABLE
            )
        # [6.2] Declined payments have no labels, so precision and recall of live traffic are guesses. What can be
        # checked is the model's promise about those it let through: so many frauds among them, and no more.
        # Asked day after day, a test of the week's number would sooner or later say no by chance; evidence adds up.
        if (report.evidence or 0.0) >= config.FALSE_ALARM and "quality" not in self._alarmed:
            said = f"{report.frauds_missed} frauds in a week's approved payments, {report.frauds_promised:.1f} promised"
            self._raise("quality", at, said, retrain=report.day + LEARNABLE - config.MATURITY // config.DAY)

    def _raise(
        self,
        kind: str,
        at: int,
        message: str,
        *,
        retrain: int | None = None,
        action: str = "",
        refused: Version | None = None,
        about: str | None = None,
    ) -> None:
        self._alarmed.add(kind)
        if retrain is not None:
            self._retrain_on = min(retrain, self._retrain_on or retrain)
            action = f"{action}; retrain on {date_of(self._retrain_on)}".removeprefix("; ")
        alarm = Alarm(
            kind=kind,
            at=at,
            message=message,
            action=action,
            retrain_on=retrain and self._retrain_on,
            version=refused.version if refused else about,
            figures={} if refused is None else refused.figures,
        )
        logger.warning("%s: %s; %s", kind, message, action)
        self._out.append(entry(alarm))

    def _alarm_daily(self, kind: str, message: str, *, action: str, retrain: int | None = None) -> None:
        """Raise an alarm about something that is tried again and again, at most once a day."""
        now = self._clock.now()
        if now - self._alarmed_at.get((kind, message), -config.DAY) >= config.DAY:
            lately = {about: at for about, at in self._alarmed_at.items() if now - at < config.DAY}
            self._alarmed_at = {**lately, (kind, message): now}
            self._raise(kind, now, message, action=action, retrain=retrain)

    def _guard(self, decisions: pl.DataFrame) -> None:
        """Take a release back that declines far more than was usual before it; hour by hour, as in any rerun."""
        closed = pl.col("at") < min(self._ingest.watermarks) // config.HOUR * config.HOUR
        fresh = pl.concat([self._fresh, decisions.filter(~pl.col("probe")).select(*GUARDED)])
        self._fresh = fresh.filter(~closed)
        by_model = fresh.filter(closed & pl.col("model").is_not_null()).sort("at")
        for (_, version), hour in by_model.group_by(pl.col("at") // config.HOUR, "model", maintain_order=True):
            line = self._line(str(version))
            if line is None or line.action == "rollback" or line.version in self._guarded_against:
                continue
            if line.version in self._ledger.known_bad() and line.version != self._ledger.version():
                continue
            decided, declined = self._counts.get(line.version, (0, 0))
            decided, declined = decided + hour.height, declined + hour.filter(pl.col("action") == "decline").height
            self._counts[line.version] = decided, declined
            share, usual = declined / decided, self._usual(line)
            if decided >= GUARD_COUNT and share > GUARD_FACTOR * usual:
                said = f"version {line.version} declines {share:.1%} of payments, {usual:.1%} are usual"
                self._take_back(line, why=said)

    def _usual(self, line: Release) -> float:
        """The share of declined payments that was usual before a release."""
        before = [past for past in self._reports if past.day < line.at // config.DAY and past.payments][-7:]
        recent = [past.actions.get("decline", 0) / past.payments for past in before]
        return max(GUARD_LEAST, line.figures.get("declined", 0.0), sum(recent) / len(recent) if recent else 0.0)

    # --- commands ---------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Carry out the next command, if there is one."""
        for record in self._commands.poll(1, 0.0):
            if record.offset < self._next:  # the group's position was lost
                return True
            try:
                self._obey(Command.model_validate_json(record.value), record.offset)
            except ValidationError as error:
                self._out.append(dead_letter(record, from_validation(error)))
            except (Fenced, *DEPENDENCY_ERRORS):
                raise
            except Exception as error:
                logger.exception("command %d cannot be carried out", record.offset)
                self._out.append(dead_letter(record, unexpected(error)))
            self._next = record.offset + 1
            self._handled_until = max(self._handled_until, self._next)
            return True
        return False

    def _obey(self, command: Command, offset: int) -> None:
        self._unfinished.discard(offset)  # it is begun again, or was finished
        key = _key(command, offset)
        if key in self._handled or self._ledger.by_key(key) is not None:
            logger.info("command %s %s was handled before", command.kind, key)
            return
        self._handled[key] = None
        if len(self._handled) > REMEMBERED:
            del self._handled[next(iter(self._handled))]
        now, why = self._clock.now(), command.why or "asked for"
        if command.kind == "retrain":
            as_of = now - now % config.DAY
            return self._retrain(as_of=as_of, who=command.who, why=why, key=key, again=self._retrain_on, offset=offset)
        try:
            if command.key is None:
                raise Rejected(f"the command to {command.kind} has no key")
            check_expected(command.expected_champion, self._ledger.version())
        except Rejected as error:
            return self._raise("command", now, str(error), action="nothing changed")
        if command.kind == "promote":
            self._unfinished.add(offset)
            self._promotions.append(Promotion(offset, command, key))
        elif command.kind == "rollback":
            self._roll_back(who=command.who, why=why, key=key, kind="command", version=command.version)
        else:
            self._withdraw(who=command.who, why=why, key=key)

    # --- work beside the loop ------------------------------------------------------------------------

    def _attend(self) -> bool:
        """Act on what has ended, and begin what is due; whether something has ended."""
        ended = False
        if (training := self._training.finished()) is not None and self._retraining is not None:
            self._end_retraining(training, self._retraining)
            ended = True
        if (errand := self._errands.finished()) is not None:
            ended = True
            try:
                errand.result()()
                self._errand_turn = 0
            except (Fenced, LogUnavailable):
                raise
            except Exception as error:
                logger.warning("the registry: %s", error)
                self._alarm_daily(
                    "registry", f"the registry does not answer: {type(error).__name__}", action="asked again"
                )
                self._errand_retry_at = monotonic() + RETRY
                self._errand_turn += 1
                self._promotions.rotate(-1)
        if (page := self._days.painting.finished()) is not None and (error_ := page.exception()) is not None:
            self._alarm_daily("drift", f"no page of the drift: {error_}", action="the alarm holds all the same")
        if not self._errands.doing and monotonic() >= self._errand_retry_at:
            self._begin_errand()
        return ended

    def _begin_errand(self) -> None:
        champion = self._ledger.champion()
        due: list[tuple[str, Callable[[], Callable[[], None]]]] = []
        if self._promotions:
            due.append(("looking a version up", partial(self._look_up, self._promotions[0])))
        if self._unchecked and champion is not None:
            due.append(("testing the champion", partial(self._check, champion)))
        if self._alias is not None:
            due.append(("moving the alias", partial(self._move_alias, self._alias)))
        if due:
            self._errands.start(*due[self._errand_turn % len(due)])

    def _look_up(self, wanted: Promotion) -> Callable[[], None]:
        """Find a version and fetch its files, so that no worker waits for the registry while payments wait for it."""
        number = wanted.command.version
        try:
            registry = self._registry
            version = registry.version(number or registry.versions()[0].version)
            gate = registry.tags(version.version).get("gate", "it was never judged")
        except (LookupError, Corrupt) as error:  # it will not be otherwise the next time
            return partial(self._promote, wanted, None, f"not promoted: {_words(error)}")
        try:
            self._fetch(version.artifact, version.digest)
        except Exception as error:  # the registry does answer, so it is the files
            said = f"version {version.version} not promoted: its files cannot be had: {_words(error)}"
            return partial(self._promote, wanted, None, said)
        refused = "" if gate == "passed" or wanted.command.force else gate
        said = f"version {version.version} not promoted: {refused}" if refused else ""
        return partial(self._promote, wanted, version, said)

    def _promote(self, wanted: Promotion, version: Version | None, refused: str) -> None:
        self._promotions.remove(wanted)
        self._unfinished.discard(wanted.offset)
        now, command = self._clock.now(), wanted.command
        if version is None or refused:
            return self._raise("command", now, refused, action="nothing changed")
        line = Release.promotion(version, at=now, who=command.who, why=command.why or "asked for", key=wanted.key)
        self._release(line, expected=command.expected_champion, force=command.force, kind="command")

    def _check(self, champion: Release) -> Callable[[], None]:
        """Whether this code can use the champion; it cannot after a change of the features."""
        try:
            Artifact.load(self._fetch(champion.artifact, champion.digest))
        except (ModelCorrupt, Corrupt) as error:
            return partial(self._checked, f"version {champion.version} cannot be used: {error}")
        return partial(self._checked, "")

    def _checked(self, trouble: str) -> None:
        self._unchecked = False
        if trouble:
            self._alarm_daily("model", trouble, action="", retrain=self._clock.now() // config.DAY)

    def _move_alias(self, version: str) -> Callable[[], None]:
        try:
            self._registry.repair(None if version == NONE else version)
        except LookupError as error:  # it will not be otherwise the next time
            return partial(self._moved_alias, version, f"the alias cannot be moved: {_words(error)}")
        return partial(self._moved_alias, version, "")

    def _moved_alias(self, version: str, trouble: str) -> None:
        if self._alias == version:
            self._alias = None
        if trouble:
            self._alarm_daily("registry", trouble, action="the ledger holds all the same")

    # --- releases ---------------------------------------------------------------------------------

    def _retrain(
        self, *, as_of: int, who: str, why: str, key: str, again: int | None, offset: int | None = None
    ) -> None:
        """Begin to train; `again`: the day of the next attempt if nothing comes of this one."""
        if self._training.doing:
            return self._raise("command", as_of, "a training is under way already", action="nothing changed")
        self._retrain_on = None
        if self._ledger.by_key(key) is not None:
            return
        self._retraining = Retraining(as_of, self._ledger.version(), who, why, key, again, offset)
        if offset is not None:
            self._unfinished.add(offset)
        self._training.start("training", partial(self._train, as_of, self._ledger.champion()))

    def _train(self, as_of: int, champion: Release | None) -> Trained:
        folder, remark = None, ""
        if champion is not None:
            try:
                folder = self._fetch(champion.artifact, champion.digest)
            except Exception as error:
                if isinstance(error, DEPENDENCY_ERRORS):
                    self._registry.versions()  # raises if it is the registry that is away, and not the files
                remark = f"trained without a comparison: the champion, version {champion.version}, cannot be read: "
                remark += _words(error)
        return Trained(train.train(self._lake, self._registry, as_of=as_of, seed=self._seed, champion=folder), remark)

    def _end_retraining(self, training: Future[Trained], asked: Retraining) -> None:
        self._retraining = None
        stays = "the champion goes on"
        if asked.offset is not None:
            self._unfinished.discard(asked.offset)
        try:
            candidate, remark = training.result()
        except Exception as error:
            logger.warning("not retrained", exc_info=error)
            # A dependency may be back tomorrow; too little to learn from will still be too little.
            again = asked.as_of // config.DAY if isinstance(error, DEPENDENCY_ERRORS) else asked.again
            said = f"not retrained: {_words(error)}"
            return self._raise("gate", asked.as_of, said, action=stays, retrain=again)
        if remark:
            self._raise("model", asked.as_of, remark, action="the gate compares it with the rules only")
        if candidate.refused:
            said = f"version {candidate.version.version} refused: {candidate.refused}"
            return self._raise("gate", asked.as_of, said, action=stays, retrain=asked.again, refused=candidate.version)
        line = Release.promotion(candidate.version, at=asked.as_of, who=asked.who, why=asked.why, key=asked.key)
        self._release(line, expected=asked.champion, kind="gate")

    def _take_back(self, line: Release, *, why: str) -> None:
        self._guarded_against.add(line.version)
        if line.version == self._ledger.version():
            return self._roll_back(who="monitor", why=why, key=f"guardrail-{line.key or line.at}", kind="guardrail")
        said = f"version {self._ledger.version()} is in force, so it cannot be taken back: withdraw that one"
        self._raise("guardrail", self._clock.now(), why, action=said, about=line.version)

    def _roll_back(self, *, who: str, why: str, key: str, kind: str, version: str | None = None) -> None:
        """To the latest earlier version that was never taken back and whose files can be had."""
        now = self._clock.now()
        wanted = (line for line in self._ledger.fallbacks() if version in (None, line.version))
        target = next(filter(self._whole, wanted), None)
        if target is None:
            said, about = f"{why}: no earlier version that is good to go back to", self._ledger.version()
            action = "nothing changed; withdraw it to let the rules decide"
            return self._raise(kind, now, said, action=action, about=about if kind == "guardrail" else None)
        self._raise(kind, now, why, action=f"rolled back to version {target.version}")
        try:
            expected = self._ledger.version()
            self._manager.roll_back(who=who, why=why, key=key, expected=expected, version=target.version)
        except Rejected as error:
            return self._raise(kind, now, f"not rolled back: {error}", action="nothing changed")
        self._changed()

    def _withdraw(self, *, who: str, why: str, key: str) -> None:
        now, version = self._clock.now(), self._ledger.version()
        try:
            self._manager.withdraw(who=who, why=why, key=key, expected=version)
        except Rejected as error:
            return self._raise("command", now, f"not withdrawn: {error}", action="nothing changed")
        self._changed()

    def _release(self, line: Release, *, expected: str | None, kind: str, force: bool = False) -> None:
        # [5.2] A release is a record in the log, and so is taking it back: who decides is a matter of reading on,
        # with no moment without a champion, and the ledger says who, when, why and on what figures.
        if line.version == self._ledger.version():
            return self._raise(kind, line.at, f"version {line.version} is in force already", action="nothing changed")
        try:
            self._manager.promote(line, expected=expected, force=force)
        except Rejected as error:
            return self._raise(kind, line.at, f"not released: {error}", action="nothing changed")
        self._changed()

    def _changed(self) -> None:
        """The ledger has a new line; what was said and counted before it concerns another version."""
        self._ledger = self._manager.ledger()
        last = self._ledger.lines[-1]
        self._counts.pop(last.version, None)
        self._alarmed, self._guarded_against = set(), set()
        self._alias = self._ledger.version()
        logger.info("%s version %s: %s", last.action, last.version, last.why)

    def _whole(self, line: Release) -> bool:
        """Whether a version's files are not known to be damaged; without the registry, that is not known."""
        try:
            self._fetch(line.artifact, line.digest)
        except DEPENDENCY_ERRORS:
            return True
        except Exception as error:
            logger.warning("version %s cannot be gone back to: %s", line.version, error)
            return False
        return True

    def _prepare(self, line: Release) -> None:
        """Have the files at hand before the workers follow the ledger. A dependency that is away holds nothing up."""
        if line.action == "withdraw":
            return
        try:
            self._fetch(line.artifact, line.digest)
        except DEPENDENCY_ERRORS as error:
            logger.warning("version %s: each worker has to fetch it: %s", line.version, error)

    def _append(self, entries: list[Entry]) -> None:
        """Write, as the owner of the commands: a monitor that was thought dead is fenced.

        The position stays before the first command that is not finished.
        """
        place, out = Place(COMMANDS.name, 0), [*self._flush(), *entries]
        note = json.dumps([self._handled_until, *sorted(self._unfinished)])
        position = Position(min([*self._unfinished, self._next]), note)
        if out or position != self._commands.owned.get(place):
            self._commands.commit(out, {place: position})

    def _flush(self) -> list[Entry]:
        out, self._out = self._out, []
        return out


def _key(command: Command, offset: int) -> str:
    """A command that came without a key counts once, too: by where it stands."""
    return command.key or f"command-{offset}"


def _words(error: Exception) -> str:
    """What went wrong, in a line that is not longer than a page can show."""
    return f"{error}"[:200] or type(error).__name__
