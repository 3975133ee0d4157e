"""Monitors crises, drift and audited quality, raises alarms, retrains, releases, carries out operator commands.

The monitor reads what the stream counted and what the lake holds, and alone changes the ledger of releases. Each part
of its work may fail for itself: that is an alarm, it is tried again, and the other parts go on.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import ValidationError

from sentiment import train
from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR, LATENESS
from sentiment.crisis import AGAIN, TOGETHER, Watch, confirmed
from sentiment.dataset import day_of
from sentiment.hours import HoursCorrupt, Manifest
from sentiment.ingest import GROUP as INGEST
from sentiment.ingest import SAID, accept_opinion, dead_letter
from sentiment.mentions import Brands
from sentiment.model import ModelCorrupt
from sentiment.opinions import seen
from sentiment.policy import FALL_LIMIT, decide
from sentiment.recipe import Recipe
from sentiment.report import Judge
from sentiment.schema import (
    ALARMS,
    AUDITS,
    COMMANDS,
    HEARTBEATS,
    MINUTES,
    OPINIONS,
    RELEASES,
    REPORTS,
    Alarm,
    Command,
    Counts,
    Final,
    Opinion,
    Report,
)
from sentiment.timeline import Timeline
from shared.background_job import BackgroundJob, Heart
from shared.clock import Clock, monotonic
from shared.dead_letters import Refused, from_validation
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Fenced, LogUnavailable, Place, Position, Record, Topic, beginning
from shared.lake import Lake, LakeCorrupt
from shared.messages import Message
from shared.registry import Corrupt, Registry, Unavailable, UnknownVersion, Version
from shared.releases import Ledger, Rejected, Release, ReleaseManager

GUARD_COUNT = 150  # live posts of a new version that are scored by the one before as well
GUARD_FLIPS = 0.40  # of labels: a retrain changes one in ten to one in five
WAITING = 0.1  # of a crisis' posts: when more came late, its verdict waits for the night that takes them in
RETRY = 5.0  # seconds before a part of the work that failed is tried again
KEYS = 1_000  # of the latest commands, which are not carried out when they come again
ALARMS_KEPT = 1_000  # of the latest, which are not told again
REPORTS_KEPT = 400  # days
GROUP = "sentiment-monitor"
PLACE = Place(COMMANDS.name, 0)
NOTHING = "nothing changed"

logger = logging.getLogger(__name__)


def entry(message: Alarm | Release | Report) -> Entry:
    """The message as a record of its topic."""
    if isinstance(message, Alarm):
        return Entry(ALARMS, message.kind, message.model_dump_json().encode())
    if isinstance(message, Release):
        return Entry(RELEASES, message.version, message.model_dump_json().encode())
    return Entry(REPORTS, str(message.day), message.model_dump_json().encode())


def _moved(report: Report) -> str:
    said = [f"moved two days running: {', '.join(report.drifted)}"] * bool(report.drifted)
    said += [f"by audits, posts that are {', '.join(report.shifted)} read otherwise"] * bool(report.shifted)
    return "; ".join(said)


class Retraining(Message):
    """A training that is under way.

    One that was commanded is noted with the position of the commands. It begins again after a crash, or when a
    dependency was away.
    """

    as_of: int
    who: str
    why: str
    key: str
    expected: str  # the champion when it began
    again: int | None = None  # the day of the next attempt, if nothing comes of this one


class Trained(NamedTuple):
    candidate: train.Candidate
    remark: str  # why it was compared with no champion, if it was not


class Note(Message):
    """What is kept beside the position of the commands; without a field of its own it is an older version's."""

    retraining: Retraining | None = None  # one that was commanded
    waiting: tuple[int, ...] = ()  # offsets of commands before the position that are not carried out yet

    @classmethod
    def read(cls, text: str) -> "Note":
        """Raises ValidationError or ValueError."""
        if not text:
            return cls()
        about = json.loads(text)
        if isinstance(about, dict) and "as_of" in about:  # the older form is the training alone
            return cls(retraining=Retraining.model_validate(about))
        return cls.model_validate(about)


class Found(NamedTuple):
    """What a command needs of the registry."""

    version: Version | None = None  # that is to be promoted
    refused: str = ""  # by the gate
    at_hand: str | None = None  # the version to go back to


@dataclass(eq=False)
class Task:
    """A command that is not carried out yet; the registry is asked beside the loop."""

    offset: int
    command: Command
    key: str
    job: BackgroundJob[Found] = field(default_factory=BackgroundJob)
    again: float = -math.inf  # not to be tried before
    waits: bool = False  # it was tried, and later commands do not wait for it


class Compared(NamedTuple):
    """How many of the guarded posts the version before the champion labels otherwise."""

    champion: Release
    before: Release
    flips: int
    trouble: str = ""  # why they could not be compared at all


class Monitor:
    """`registry` opens the registry, which may be away; `fetch` gives the folder of a release's artifact; `folder` is
    the batch view's; `secret` draws the audits. Of several monitors the last one that began is at work.
    """

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        registry: Callable[[], Registry],
        brands: Brands,
        *,
        clock: Clock,
        seed: int,
        fetch: Callable[[str, str], Path],
        folder: Path,
        recipe: Recipe | None,
        secret: bytes,
    ) -> None:
        self._log, self._lake, self._registry, self._brands, self._clock = log, lake, registry, brands, clock
        self._seed, self._fetch, self._recipe, self._secret = seed, fetch, recipe, secret
        self._judge = Judge(lake, brands, fetch=fetch)
        self._watch, self._timeline, self._view = Watch(), Timeline(folder), Manifest()
        self._commands = log.consumer(GROUP, [COMMANDS], "monitor")
        self._minutes = log.reader(beginning([MINUTES]))  # of some weeks, as the topic is kept
        self._opinions = log.reader({Place(OPINIONS.name, p): end for p, end in log.ends(OPINIONS).items()})
        self._releases = ReleaseManager(log, RELEASES, Release, clock=clock, append=self._append, switch=self._check)
        self._position: Position | None = None  # of the commands; none while another monitor has them
        self._handled: dict[str, None] = {}  # keys of the latest commands
        self._ledger: Ledger[Release] = Ledger()
        self._alarms: deque[Alarm] = deque(maxlen=ALARMS_KEPT)
        self._reports: deque[Report] = deque(maxlen=REPORTS_KEPT)
        self._awaited: dict[Topic, dict[int, int]] = {}  # where the log ended when the next day was over
        self._retrain_on: int | None = None
        self._drifted_since: int | None = None  # event time: posts from then on are new to the champion
        self._guarded: list[Opinion] = []  # at most GUARD_COUNT
        self._guarding = BackgroundJob[Compared]()
        self._to_guard = True  # the champion has not been compared with the version before it yet
        self._training = BackgroundJob[Trained]()
        self._asked: Retraining | None = None
        self._noted: Retraining | None = None  # the one that was commanded
        self._train_at = -math.inf  # the noted one is not to be begun before
        self._tasks: list[Task] = []
        self._altered: set[str] = set()  # digests of which the registry holds other files
        self._aliasing = BackgroundJob[str | None]()
        self._aliased: str | None = ""  # the version that MLflow's alias is on; none, or not known yet
        self._heart = Heart("monitor", HEARTBEATS)
        self._retry_at: dict[str, float] = {}  # by part of the work
        self._troubles: dict[str, str] = {}  # by part, what was said of it last
        self._out: list[Entry] = []
        self._held: list[Entry] = []  # the report of a day on which a training goes on

    def step(self) -> bool:
        """Watch, judge, command; whether there was anything to do.

        Raises:
            Fenced, LogUnavailable: make a new one.
        """
        records = self._commands.poll(1, 0.0)
        if PLACE not in self._commands.owned:
            if self._position is not None:
                raise Fenced("another monitor is at work")
            return False
        if self._position is None:
            self._begin()
        self._out += self._heart.beat(self._training.doing)
        worked = [
            self._part("brands", self._watch_brands),
            self._part("guardrail", self._guard),
            self._part("batch view", self._look),
            self._part("verdict", self._settle),
            self._part("training", self._finish_training),
            self._part("day", self._judge_days),
            self._part("alias", self._repair_alias),
        ]
        for record in records:
            self._handle(record)
        return self._go_on() or bool(records) or any(worked)

    @property
    def busy(self) -> bool:
        """Whether work beside the loop is under way, or a command was not tried yet."""
        return bool(self._training.doing or self._guarding.doing or not all(task.waits for task in self._tasks))

    def close(self) -> None:
        for reader in (self._commands, self._minutes, self._opinions):
            reader.close()
        for task in self._tasks:
            task.job.close()
        self._training.close()
        self._guarding.close()
        self._aliasing.close()

    def _part(self, name: str, work: Callable[[], bool | None]) -> bool:
        """One part of the work, unless it has failed a moment ago; whether there was anything to do.

        `work` gives None when it does not know yet whether what failed before goes well now.
        """
        if monotonic() < self._retry_at.get(name, -math.inf):
            return False
        worked = None
        try:
            worked = work()
            if worked is not None:
                self._troubles.pop(name, None)
        except (Fenced, LogUnavailable):
            raise
        except Exception as error:
            self._retry_at[name] = monotonic() + RETRY
            message = f"{name}: {error}"
            if self._troubles.get(name) != message:
                logger.exception("%s", message)
                self._troubles[name] = message
                self._raise("monitor", self._clock.now(), message, action="it is tried again; all else goes on")
        if self._out:
            self._append([])
        return bool(worked)

    def _append(self, entries: list[Entry]) -> None:
        """Write, as the only monitor that may: the commit fences one that was thought dead."""
        assert self._position is not None
        out, self._out = [*self._out, *entries], []
        self._commands.commit(out, {PLACE: self._position})

    # --- what was, when it begins --------------------------------------------------------------------

    def _begin(self) -> None:
        """Take over: read back what was said before, finish a change that was begun."""
        self._position = self._commands.owned[PLACE]
        lost = self._position == Position(0, "")  # a monitor that was at work before has left a note
        self._remember()
        for line in self._releases.recover():
            if line.state == "void":
                self._raise("command", line.at, f"version {line.version} not released: {line.why}", action=NOTHING)
        self._ledger = self._releases.ledger()
        if lost and (self._reports or any(line.key for line in self._ledger.lines)):
            self._skip_to_end()
        owed = [alarm for alarm in self._alarms if alarm.kind in ("drift", "quality") and self._new(alarm)]
        if owed:  # a retrain was promised, and no release has come of it
            following = self._reports[-1].day + 1 if self._reports else owed[-1].at // DAY
            self._drifted_since, self._retrain_on = owed[0].at - 2 * DAY, min(owed[-1].at // DAY, following)
        try:
            note = Note.read(self._position.note)
        except ValueError as error:
            note = Note()
            said = f"the note of what was under way cannot be read: {error}"[:300]
            self._raise("monitor", self._clock.now(), said, action="a training or a command that waited is given up")
        self._noted = note.retraining
        self._take_up(note.waiting)
        self._write_note()

    def _skip_to_end(self) -> None:
        """Without positions it is not known which commands were carried out, so none of them is."""
        assert self._position is not None
        end = self._log.ends(COMMANDS)[PLACE.partition]
        self._position = Position(end, Note().model_dump_json())
        said = f"positions of the commands were lost; commands before offset {end} are not carried out"
        self._raise("command", self._clock.now(), said, action="send again what is still wanted")
        self._append([])

    def _take_up(self, waiting: Sequence[int]) -> None:
        """The commands that were not carried out yet."""
        for offset in waiting:
            with closing(self._log.reader({PLACE: offset})) as reader:
                for record in reader.poll(1, 1.0):
                    if record.offset == offset:
                        command = Command.model_validate_json(record.value)
                        self._tasks.append(Task(offset, command, _key(command, record)))

    def _write_note(self) -> None:
        """To be committed with the position; never empty, so that a lost position can be told from a first one."""
        assert self._position is not None
        note = Note(retraining=self._noted, waiting=tuple(task.offset for task in self._tasks))
        self._position = self._position._replace(note=note.model_dump_json())

    def _remember(self) -> None:
        assert self._position is not None
        start = beginning([ALARMS, REPORTS])
        start[PLACE] = max(0, self._position.offset - KEYS)
        reader = self._log.reader(start)
        while records := reader.poll(10_000, 0.0):
            for record in records:
                try:
                    self._recall(record)
                except ValueError:  # named by the followers of the topic
                    logger.error("skipped %s/%s offset %s", record.topic, record.partition, record.offset)
        reader.close()

    def _recall(self, record: Record) -> None:
        assert self._position is not None
        if record.topic == REPORTS.name:
            self._reports.append(Report.model_validate_json(record.value))
        elif record.topic == ALARMS.name:
            alarm = Alarm.model_validate_json(record.value)
            self._alarms.append(alarm)
            self._watch.remember(alarm)
            if alarm.kind == "monitor":  # so that a trouble that goes on is not told again
                self._troubles[alarm.message.partition(":")[0]] = alarm.message
        elif record.offset < self._position.offset:
            self._handled[_key(Command.model_validate_json(record.value), record)] = None

    def _new(self, alarm: Alarm) -> bool:
        """Whether it is of the time of the champion."""
        champion = self._ledger.champion()
        return alarm.at > (champion.at if champion else 0)

    def _since_release(self, kind: str) -> bool:
        """Whether there was such an alarm since the champion came."""
        return any(alarm.kind == kind and self._new(alarm) for alarm in self._alarms)

    # --- brands ----------------------------------------------------------------------------------

    def _watch_brands(self) -> bool:
        records = self._minutes.poll(5_000, 0.0)
        for record in records:
            with suppress(ValidationError):  # the watch names it
                self._timeline.speed.enter(record)
        for alarm in self._watch.take(records):
            # A compacted topic, read again, gives later revisions of a minute at once, so the hour may be another one.
            told = (a.at for a in self._alarms if (a.kind, a.brand) == (alarm.kind, alarm.brand))
            if all(abs(at - alarm.at) >= AGAIN for at in told):
                self._say(alarm)
        self._clock.observe(self._watch.watermark)
        return bool(records)

    def _look(self) -> bool:
        """At the batch view. One that is damaged is told, and the one before it stays in use."""
        self._view = self._timeline.manifest()
        if self._timeline.damage:
            raise HoursCorrupt(self._timeline.damage)
        return False

    def _settle(self) -> bool:
        """Once batch has the hours of a crisis: does it bear the alarm out, or was it one of bots?"""
        answered = {(a.brand, a.since) for a in self._alarms if a.kind in ("confirmed", "retracted")}
        open_ = [a for a in self._alarms if a.kind == "crisis" and (a.brand, a.since) not in answered]
        for alarm in open_:
            if alarm.brand is None or alarm.since is None or alarm.since >= alarm.at:
                continue
            if alarm.usual is None and self._watch.watermark < alarm.at:
                continue  # a baseline that the alarm does not name is known once its minutes are read again
            hours = range(alarm.since // HOUR, (alarm.at - 1) // HOUR + 1)
            if all(hour in self._view.hours for hour in hours):
                verdict = self._verdict(alarm, alarm.brand, alarm.since)
                if verdict is not None:
                    self._say(verdict)
        return False

    def _verdict(self, alarm: Alarm, brand: str, since: int) -> Alarm | None:
        """None while much of what was said has come late, and is in no published hour yet, or nothing says what was
        usual.
        """
        known = self._watch.usual(brand, alarm.at)
        usual = alarm.usual if alarm.usual is not None else known and known.at(alarm.at // HOUR)
        if usual is None:
            return None
        points = list(self._timeline.points(self._view, brand, since=since, until=alarm.at, step=HOUR))
        counts = sum((point.counts for point in points), Counts())
        if sum(part.late_pending for point in points for part in point.parts) > WAITING * counts.raw:
            return None
        said = f"{brand}: of {counts.opinions} opinions without bots {counts.negative} are negative"
        if not confirmed((point.counts for point in points), usual=usual, together=alarm.together or TOGETHER):
            return alarm.model_copy(update={"kind": "retracted", "message": said, "action": "the alarm is taken back"})
        voting = self._timeline.voting(self._view, brand, since=since, until=alarm.at)
        aspects = voting.filter(pl.col("label") == "negative")["aspect"].drop_nulls()
        about = aspects.value_counts(sort=True).head(2)["aspect"].to_list()
        said += f", most about {' and '.join(about)}" * bool(about)
        return alarm.model_copy(update={"kind": "confirmed", "message": said, "action": "the alarm stands"})

    # --- days ------------------------------------------------------------------------------------

    def _judge_days(self) -> bool:
        """Days that are over, as long as none needs a training first: what comes of it decides about the next one."""
        before = len(self._reports)
        while not (self._training.doing or self._guarding.doing) and (day := self._closed_day()) is not None:
            self._judge_day(day)
        return len(self._reports) > before

    def _closed_day(self) -> int | None:
        """The next day whose hours are published and whose posts are scored, once the lake has all that was said."""
        if self._view.start is None:
            return None
        following = self._reports[-1].day + 1 if self._reports else self._view.start // 24
        over = following * 24 + 23 in self._view.hours and self._watch.watermark >= (following + 1) * DAY + LATENESS
        if not over:
            return None
        if not self._awaited:
            self._awaited = {said.topic: self._log.written(said.topic) for said in SAID}
        for topic, ends in self._awaited.items():
            taken = self._log.committed(INGEST, topic)
            if any(number not in taken or taken[number].offset < end for number, end in ends.items() if end):
                return None
        self._awaited = {}
        return following

    def _judge_day(self, day: int) -> None:
        """Report on a closed day, raise alarms, and retrain if that is due."""
        at = (day + 1) * DAY
        report = self._report(day)
        report = report.model_copy(update={"finals": self._finals(day - 1, report)})
        closing = [*self._questions(day), entry(report)]
        self._reports.append(report)
        champion = self._ledger.champion()
        if champion is not None:
            if (report.drifted or report.shifted) and not self._since_release("drift"):
                self._drifted_since = self._drifted_since or (day - 1) * DAY
                # Not at once: of the posts that have moved, people label the newest on the day that follows. A version
                # that had learnt from the day before alone would know none of the new words.
                self._retrain_on = min(self._retrain_on or day + 1, day + 1)
                action = f"retrain when {day_of(self._retrain_on * DAY)} is over, and these posts have labels"
                self._raise("drift", at, _moved(report), action=action)
            self._check_quality(report, at)
            if self._retrain_on is not None and day >= self._retrain_on:
                self._held = closing
                return self._start_training(
                    Retraining(
                        as_of=at,
                        who="monitor",
                        why="what is new has labels",
                        key=f"retrain-{at}",
                        expected=champion.version,
                        again=day + 1,
                    )
                )
        self._out += closing

    def _report(self, day: int) -> Report:
        """Judged by the version that the day's opinions name: the ledger's may be one that no worker can load."""
        at, champion = (day + 1) * DAY, self._ledger.champion()
        try:
            served = self._judge.served_by(day)
            lines = [line for line in self._ledger.lines if line.version == served and line.action != "withdraw"]
            judged = lines[-1] if lines else champion
            try:
                return self._judge.judge(day, self._reports, judged)
            except ModelCorrupt as error:  # of another normaliser, say: only a new version helps
                self._retrain_on = min(self._retrain_on or day, day)
                if not self._since_release("model"):
                    self._raise("model", at, str(error), action="retrain on the labels that there are")
            except Exception as error:
                # Files of the version that cannot be had cost the day its drift; a disk that is away, this attempt.
                passing = isinstance(error, DEPENDENCY_ERRORS) and not isinstance(error, Unavailable)
                if passing or isinstance(error, LakeCorrupt):
                    raise
                self._raise("model", at, f"drift is not measured: {error}", action="all else goes on")
            return self._judge.judge(day, self._reports, judged, drifting=False)
        except LakeCorrupt as error:
            self._raise("lake", at, str(error), action=f"{day_of(day * DAY)} is not judged; all else goes on")
            return Report(
                day=day,
                posts=0,
                dropped={},
                version=None,
                drift={},
                drifted=(),
                audits=0,
                macro_recall=None,
                confusion=None,
            )

    def _finals(self, day: int, report: Report) -> tuple[Final, ...]:
        """The final shares of the day before: people have said by now what its audited posts say."""
        if not all(hour in self._view.hours for hour in range(day * 24, day * 24 + 24)):
            return ()
        try:
            reports, known_by = [*self._reports, report], (report.day + 1) * DAY + LATENESS
            return self._judge.finals(day, reports, partial(self._voting, day), known_by=known_by)
        except LakeCorrupt:
            return ()  # the report has raised the alarm

    def _questions(self, day: int) -> list[Entry]:
        """To people, about posts of the day. They stand in the log with its report, so each is asked once."""
        try:
            asked = self._judge.questions(day, partial(self._voting, day), secret=self._secret)
        except LakeCorrupt:
            return []  # the report has raised the alarm
        return [Entry(AUDITS, audit.post, audit.model_dump_json().encode()) for audit in asked]

    def _voting(self, day: int, brand: str) -> pl.DataFrame:
        return self._timeline.voting(self._view, brand, since=day * DAY, until=(day + 1) * DAY)

    def _check_quality(self, report: Report, at: int) -> None:
        # [6.2] Quality in production is what people say of a random sample, and nothing else: readers' corrections are
        # no sample, and the model's own certainty rises while it drifts.
        if report.fallen <= FALL_LIMIT or self._since_release("quality"):
            return
        self._drifted_since = self._drifted_since or (report.day - 1) * DAY
        self._retrain_on = min(self._retrain_on or report.day + 1, report.day + 1)
        line = next((line for line in reversed(self._ledger.lines) if line.version == report.version), None)
        said = "recalls on the audits since its release are below what was promised"
        if report.macro_recall is not None and line is not None:
            promised = line.figures.get("macro_recall", 0.0)
            said = f"macro-recall on {report.audits} audits {report.macro_recall:.2f}, {promised:.2f} was promised"
        self._raise("quality", at, said, action=f"retrain when {day_of(self._retrain_on * DAY)} is over")

    # --- training ----------------------------------------------------------------------------------

    def _start_training(self, asked: Retraining) -> None:
        """In a thread of its own: it takes minutes, in which commands and crises do not wait."""
        self._retrain_on, self._asked = None, asked
        since, champion = self._drifted_since or 0, self._ledger.champion()
        self._training.start("training", partial(self._train, champion, as_of=asked.as_of, since=since))
        self._out += self._heart.beat(self._training.doing)

    def _train(self, champion: Release | None, *, as_of: int, since: int) -> Trained:
        """Raises what a dataset, a model or the registry may; the champion stays then."""
        registry, folder, unseen, remark = self._registry(), None, 0, ""
        if champion is not None:
            try:
                folder = self._fetch(champion.artifact, champion.digest)
                Artifact.load(folder)
                unseen = int(registry.tags(champion.version).get("as_of", 0))
            except (ModelCorrupt, Corrupt) as error:
                folder, remark = None, f"; compared with no other, as version {champion.version} is unusable: {error}"
        candidate = train.train(
            self._lake,
            registry,
            self._brands,
            as_of=as_of,
            seed=self._seed,
            champion=folder,
            recipe=self._recipe,
            since=since,
            unseen=unseen,
        )
        if not candidate.refused:
            self._is_at_hand(candidate.version.artifact, candidate.version.digest)
        return Trained(candidate, remark)

    def _begin_noted(self) -> bool:
        """Begin what was commanded: now, again after a crash, or again because a dependency was away."""
        if self._noted is None or self._training.doing or monotonic() < self._train_at:
            return False
        again = self._retrain_on if self._retrain_on is not None else self._noted.again
        self._noted = self._noted.model_copy(update={"expected": self._ledger.version(), "again": again})
        self._write_note()
        self._start_training(self._noted)
        return True

    def _finish_training(self) -> bool:
        """Release what was trained, if the gate lets it through."""
        done = self._training.finished()
        if done is None or self._asked is None or self._position is None:
            return self._begin_noted()
        asked, self._asked = self._asked, None
        commanded = asked is self._noted
        if commanded and isinstance(error := done.exception(), DEPENDENCY_ERRORS):
            self._retrain_on, self._train_at = asked.again, monotonic() + RETRY
            said = f"the training that {asked.who} asked for waits: {error or type(error).__name__}"
            if not any((a.kind, a.at, a.message) == ("gate", asked.as_of, said) for a in self._alarms):
                self._raise("gate", asked.as_of, said, action="it is tried again; the champion goes on")
            return False
        if commanded:
            self._noted = None
            self._write_note()
        try:
            (version, refused), remark = done.result()
            if refused:
                raise Rejected(f"version {version.version} refused: {refused}")
            line = Release.promotion(version, at=asked.as_of, who=asked.who, why=asked.why + remark, key=asked.key)
            self._release(self._releases.promote(line, expected=asked.expected))
            self._drifted_since = None
        except (Fenced, LogUnavailable):
            raise
        except Exception as error:
            self._retrain_on = asked.again
            said = str(error) if isinstance(error, Rejected) else f"not retrained: {error or type(error).__name__}"
            self._raise("gate", asked.as_of, said, action="the champion goes on")
        held, self._held = self._held, []
        self._out += held
        return True

    # --- versions ----------------------------------------------------------------------------------

    def _guard(self) -> bool:
        """Take a release back that says otherwise than the one before it on too many live posts."""
        opinions = [opinion for record in self._opinions.poll(1_000, 0.0) if (opinion := _opinion(record))]
        if (done := self._guarding.finished()) is not None:
            self._judge_release(done.result())
            return True
        champion, before = self._ledger.champion(), self._ledger.fallbacks()
        if champion is None or champion.action == "rollback" or not before or not self._to_guard:
            return bool(opinions)
        # By the version that the opinions name: until a worker has loaded the champion there is nothing to judge.
        judged = [
            opinion for opinion in opinions if opinion.model == champion.version and opinion.score and opinion.path
        ]
        self._guarded += judged[: GUARD_COUNT - len(self._guarded)]
        if len(self._guarded) == GUARD_COUNT and not self._guarding.doing:
            self._guarding.start("guardrail", partial(self._compare, champion, before[0], tuple(self._guarded)))
        return bool(opinions)

    def _compare(self, champion: Release, before: Release, opinions: Sequence[Opinion]) -> Compared:
        """Beside the loop: the files may have to be fetched, and a transformer takes seconds to load."""
        try:
            earlier = Artifact.load(self._fetch(before.artifact, before.digest))
        except (ModelCorrupt, Corrupt) as error:  # another attempt would end alike
            return Compared(champion, before, 0, str(error))
        flips = 0
        for opinion in opinions:
            assert opinion.path is not None
            assert opinion.score is not None
            told = decide(earlier.score(seen(opinion.text, self._brands), opinion.path), earlier.policy).label
            flips += told != decide(opinion.score, earlier.policy).label
        return Compared(champion, before, flips)

    def _judge_release(self, compared: Compared) -> None:
        """Act on the comparison, unless another version is in force by now."""
        champion, before, flips, trouble = compared
        if champion != self._ledger.champion():
            return
        self._to_guard, self._guarded = False, []
        if trouble:
            said = f"version {champion.version} is not compared with version {before.version}: {trouble}"
            self._raise("guardrail", self._clock.now(), said, action=f"version {champion.version} stays in force")
        elif flips > GUARD_FLIPS * GUARD_COUNT:
            share = flips / GUARD_COUNT
            said = f"version {champion.version} contradicts version {before.version} on {share:.0%} of live posts"
            wanted = Command(
                kind="rollback",
                who="monitor",
                why=said,
                expected_champion=champion.version,
                key=f"guardrail-{champion.version}-{champion.at}",
            )
            self._roll_back(wanted, kind="guardrail", version=before.version)

    def _handle(self, record: Record) -> None:
        """Take a command in; its position, or its place among those that wait, is written with what comes of it."""
        assert self._position is not None
        if record.offset < self._position.offset:  # of commands whose positions were lost
            return
        self._position = self._position._replace(offset=record.offset + 1)
        try:
            command = Command.model_validate_json(record.value)
        except ValidationError as error:
            return self._append([dead_letter(record, from_validation(error))])
        key = _key(command, record)
        if key in self._handled:
            return self._append([])
        self._handled[key] = None
        if len(self._handled) > KEYS:
            del self._handled[next(iter(self._handled))]
        self._tasks.append(Task(record.offset, command, key))
        self._write_note()

    def _go_on(self) -> bool:
        """Carry out what can be carried out, in order; a command that waits for a dependency holds no other up."""
        worked = False
        for task in list(self._tasks):
            done = self._attempt(task)
            worked |= done
            if not done and not task.waits:
                break
        return worked

    def _attempt(self, task: Task) -> bool:
        """Whether the command is done with: carried out, or refused."""
        if monotonic() < task.again:
            return False
        try:
            found = self._look_up(task)
            if found is None:
                return False
            self._obey(task.command, task.key, found)
        except (Fenced, LogUnavailable):
            raise
        except Exception as error:
            if isinstance(error, DEPENDENCY_ERRORS):
                self._wait(task, error)
                return False
            if not isinstance(error, Rejected | UnknownVersion):
                logger.exception("%s", task.command.kind)
                error = Rejected(f"{task.command.kind} not carried out: {error or type(error).__name__}")
            self._ledger = self._releases.ledger()  # a change that was open may have ended on the way
            self._raise("command", self._clock.now(), str(error), action=NOTHING)
        self._tasks.remove(task)
        task.job.close()
        self._write_note()
        self._append([])
        return True

    def _wait(self, task: Task, error: Exception) -> None:
        """An alarm, once, and another attempt later."""
        task.waits, task.again = True, monotonic() + RETRY
        said = f"command {task.offset}: {task.command.kind} waits: {error or type(error).__name__}"
        if not any((alarm.kind, alarm.message) == ("command", said) for alarm in self._alarms):
            self._raise("command", self._clock.now(), said, action="it is tried again; all else goes on")
            self._append([])

    def _look_up(self, task: Task) -> Found | None:
        """What the registry has for the command; None while it is asked beside the loop. Raises what it raises."""
        command = task.command
        if command.kind not in ("promote", "rollback") or command.key is None:
            return Found()
        if (done := task.job.finished()) is not None:
            return done.result()
        if not task.job.doing:
            if command.kind == "promote":
                task.job.start("promote", partial(self._find, command))
            else:
                lines = [line for line in self._ledger.fallbacks() if command.version in (None, line.version)]
                task.job.start("rollback", partial(self._first_at_hand, lines))
        return None

    def _find(self, command: Command) -> Found:
        """The version that is to be promoted, with its files at hand."""
        registry = self._registry()
        version = registry.version(command.version) if command.version else next(iter(registry.versions()), None)
        if version is None:
            raise Rejected("there is no version yet")
        refused = registry.tags(version.version).get("gate", "it was never judged")
        if refused == "passed" or command.force:
            self._fetch(version.artifact, version.digest)
        return Found(version, refused)

    def _first_at_hand(self, lines: Sequence[Release]) -> Found:
        """The best version whose files can be had."""
        found = (line.version for line in lines if self._is_at_hand(line.artifact, line.digest))
        return Found(at_hand=next(found, None))

    def _obey(self, command: Command, key: str, found: Found) -> None:
        if command.kind == "retrain":
            return self._retrain(command, key)
        if command.kind == "accept":
            return self._accept(command)
        if command.key is None:
            raise Rejected("the command has no key, so it cannot be told from its repeat")
        if command.kind == "promote":
            self._promote(command, found)
        elif command.kind == "rollback":
            self._roll_back(command, kind="command", version=found.at_hand)
        else:
            self._withdraw(command)

    def _retrain(self, command: Command, key: str) -> None:
        if self._training.doing or self._noted is not None:
            raise Rejected("a training is under way" if self._training.doing else "a training waits already")
        self._noted = Retraining(
            as_of=self._clock.now(),
            who=command.who,
            why=command.why or "asked for",
            key=key,
            expected=self._ledger.version(),
        )
        self._train_at = -math.inf
        self._begin_noted()

    def _accept(self, command: Command) -> None:
        """A crisis goes on and a person says that this is how it is now; noted as an alarm, which a restart reads."""
        brand, at = command.brand, self._watch.watermark
        if brand not in self._brands.names:
            raise Rejected(f"no brand {brand!r} whose level could be accepted")
        self._watch.accept(brand, at)
        said = f"{brand}: {command.who} accepts its level as usual: {command.why or 'asked for'}"
        self._say(Alarm(kind="accepted", brand=brand, at=at, message=said, action="later crises are measured from it"))

    def _promote(self, command: Command, found: Found) -> None:
        version, refused = found.version, found.refused
        assert version is not None
        if refused != "passed" and not command.force:
            raise Rejected(f"version {version.version} not promoted: {refused}")
        line = Release.promotion(
            version, at=self._clock.now(), who=command.who, why=command.why or "asked for", key=command.key or ""
        )
        done = self._releases.promote(line, expected=command.expected_champion, force=command.force)
        if done.key != command.key:
            raise Rejected(f"version {done.version} is in force already")
        self._release(done)

    def _roll_back(self, command: Command, *, kind: str, version: str | None) -> None:
        """To the version that was in force before the champion, or a still earlier one if that cannot be had.

        `version`: the best one whose files can be had.
        """
        why, now = command.why or "asked for", self._clock.now()
        try:
            done = self._releases.roll_back(
                who=command.who,
                why=why,
                key=command.key or "",
                expected=command.expected_champion,
                version=version or command.version,
            )
        except Rejected as error:
            return self._raise(kind, now, f"{why}: {error}", action=NOTHING)
        self._raise(kind, now, why, action=f"rolled back to version {done.version}")
        self._release(done)

    def _withdraw(self, command: Command) -> None:
        """The kill switch: posts are kept, and scored once another version is promoted."""
        why = command.why or "asked for"
        done = self._releases.withdraw(
            who=command.who, why=why, key=command.key or "", expected=command.expected_champion
        )
        self._raise(
            "command", done.at, f"version {done.version} withdrawn: {why}", action="posts get no opinion from now on"
        )
        self._release(done)

    def _release(self, done: Release) -> None:
        # [5.2] A release is a record in the log, and so is taking it back. Hours that are published name the version
        # that scored them, so a roll-back moves no number that was told; the next night may.
        self._ledger = self._releases.ledger()
        self._guarded, self._to_guard = [], True
        logger.info("%s version %s: %s", done.action, done.version, done.why)

    def _check(self, line: Release) -> None:
        """Refuse altered files. Whether files are away is known before, from beside the loop; then workers say so."""
        if line.action != "withdraw" and line.digest in self._altered:
            raise Corrupt(f"the registry has other files for version {line.version}: restore them or train again")

    def _is_at_hand(self, artifact: str, digest: str) -> bool:
        """Whether the files are here now; beside the loop, as they may have to be fetched."""
        try:
            self._fetch(artifact, digest)
        except Exception as error:  # whatever an absent registry raises
            if isinstance(error, Corrupt):
                self._altered.add(digest)
            logger.warning("%s cannot be fetched: %s", artifact, error)
            return False
        self._altered.discard(digest)
        return True

    def _repair_alias(self) -> bool | None:
        """Point MLflow's alias at the champion, or remove it after a withdrawal; beside the loop, as an absent
        registry takes its time to say so.
        """
        if (done := self._aliasing.finished()) is not None:
            self._aliased = done.result()
        champion = self._ledger.champion()
        version = None if champion is None else champion.version
        if self._ledger.lines and version != self._aliased and not self._aliasing.doing:
            self._aliasing.start("alias", partial(self._point, version))
        return None if self._aliasing.doing else False

    def _point(self, version: str | None) -> str | None:
        self._registry().repair(version)
        return version

    def _raise(self, kind: str, at: int, message: str, *, action: str) -> None:
        self._say(Alarm(kind=kind, at=at, message=message, action=action))

    def _say(self, alarm: Alarm) -> None:
        logger.warning("%s: %s; %s", alarm.kind, alarm.message, alarm.action)
        self._alarms.append(alarm)
        self._out.append(entry(alarm))


def _key(command: Command, record: Record) -> str:
    """What tells a command from another one; without a key of its own it is where it stands."""
    return command.key or f"command-{record.offset}"


def _opinion(record: Record) -> Opinion | None:
    """None for a record that cannot be used, which the followers of the topic name."""
    try:
        return accept_opinion(record)
    except Refused:
        return None
