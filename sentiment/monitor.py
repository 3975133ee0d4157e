"""Crises, drift, audited quality, alarms and what follows from them; an operator's commands.

The monitor reads what the stream counted and what the lake holds, and alone writes the ledger of releases.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from sentiment import train
from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR, LATENESS
from sentiment.crisis import Watch, confirmed
from sentiment.dataset import NotEnough, day_of
from sentiment.hours import Manifest
from sentiment.ingest import dead_letter, unreadable
from sentiment.mentions import Brands
from sentiment.model import ModelCorrupt
from sentiment.opinions import seen
from sentiment.policy import decide
from sentiment.recipe import Recipe
from sentiment.report import Judge
from sentiment.schema import (
    ALARMS,
    COMMANDS,
    MINUTES,
    OPINIONS,
    RELEASES,
    REPORTS,
    Alarm,
    Command,
    Opinion,
    Release,
    Report,
    standing,
)
from sentiment.timeline import Timeline
from shared.clock import Clock
from shared.eventlog.port import Entry, EventLog, Place, Position, beginning
from shared.lake import Lake, LakeCorrupt
from shared.registry import Corrupt, Registry, Unavailable, UnknownVersion, Version

LOST = 0.06  # of the macro-recall that was promised, before audits call it a fall
GUARD_COUNT = 150  # live posts of a new version that are scored by the one before as well
GUARD_FLIPS = 0.40  # of labels: a retrain changes one in ten to one in five

logger = logging.getLogger(__name__)


def promotion(version: Version, *, at: int, who: str, why: str) -> Release:
    """A line of the ledger that makes the version the champion."""
    return Release(
        action="promote",
        version=version.version,
        artifact=version.artifact,
        digest=version.digest,
        at=at,
        who=who,
        why=why,
        figures=version.figures,
    )


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


class Monitor:
    """`fetch` gives the folder of a release's artifact; `folder` is the batch view's; `pages` evidently's."""

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        registry: Registry,
        brands: Brands,
        *,
        clock: Clock,
        seed: int,
        fetch: Callable[[str, str], Path],
        folder: Path,
        recipe: Recipe | None,
    ) -> None:
        self._log, self._lake, self._registry, self._brands, self._clock = log, lake, registry, brands, clock
        self._seed, self._fetch, self._folder, self._recipe = seed, fetch, folder, recipe
        self._judge = Judge(lake, brands, fetch=fetch)
        self._watch, self._timeline = Watch(), Timeline(folder)
        self._commands = log.consumer("sentiment-monitor", [COMMANDS], "monitor")
        self._minutes = log.reader(beginning([MINUTES]))
        self._opinions = log.reader({Place(OPINIONS.name, p): end for p, end in log.ends(OPINIONS).items()})
        self._ledger: list[Release] = []
        self._alarms: list[Alarm] = []
        self._reports: list[Report] = []
        self._retrain_on: int | None = None
        self._drifted_since: int | None = None  # event time: posts from then on are new to the champion
        self._guarded: list[Opinion] = []
        self._out: list[Entry] = []
        self._remember()

    def step(self) -> bool:
        """Watch, judge, command; whether there was anything to do."""
        records = self._minutes.poll(5_000, 0.0)
        self._clock.observe(self._watch.watermark)
        for alarm in self._watch.take(records):
            if (alarm.kind, alarm.brand, alarm.at) not in {(a.kind, a.brand, a.at) for a in self._alarms}:
                self._say(alarm)
        self._guard()
        manifest = Manifest.read(self._folder)
        self._settle(manifest)
        while (day := self._closed_day(manifest)) is not None:
            self._judge_day(day)
        if self._out:
            self._log.append(self._flush())
        for record in self._commands.poll(1, 0.0):
            try:
                self._obey(Command.model_validate_json(record.value))
            except ValidationError as error:
                self._out.append(dead_letter(record, unreadable(error)))
            self._commands.commit(self._flush(), {Place(record.topic, record.partition): Position(record.offset + 1)})
            return True
        return bool(records)

    def close(self) -> None:
        for reader in (self._commands, self._minutes, self._opinions):
            reader.close()

    def _remember(self) -> None:
        """Read back what was said before; the ledger is the truth, MLflow's alias is repaired from it."""
        reader = self._log.reader(beginning([ALARMS, REPORTS, RELEASES]))
        while records := reader.poll(10_000, 0.0):
            for record in records:
                if record.topic == RELEASES.name:
                    self._ledger.append(Release.model_validate_json(record.value))
                elif record.topic == REPORTS.name:
                    self._reports.append(Report.model_validate_json(record.value))
                else:
                    self._alarms.append(Alarm.model_validate_json(record.value))
        reader.close()
        if self._ledger:
            self._registry.repair(self._ledger[-1].version)
        owed = [alarm for alarm in self._alarms if alarm.kind in ("drift", "quality") and self._new(alarm)]
        if owed:  # a retrain was promised, and no release has come of it
            self._drifted_since, self._retrain_on = owed[0].at - 2 * DAY, owed[-1].at // DAY

    @property
    def _champion(self) -> Release | None:
        return self._ledger[-1] if self._ledger else None

    def _since_release(self, kind: str) -> bool:
        """Whether there was such an alarm since the champion came."""
        return any(alarm.kind == kind and self._new(alarm) for alarm in self._alarms)

    def _new(self, alarm: Alarm) -> bool:
        return alarm.at > (self._champion.at if self._champion else 0)

    # --- brands ----------------------------------------------------------------------------------

    def _settle(self, manifest: Manifest) -> None:
        """Once batch has the hours of a crisis: does it bear the alarm out, or was it one of bots?"""
        answered = {(a.brand, a.since) for a in self._alarms if a.kind in ("confirmed", "retracted")}
        for alarm in [alarm for alarm in self._alarms if alarm.kind == "crisis"]:
            assert alarm.brand is not None
            assert alarm.since is not None
            hours = range(alarm.since // HOUR, (alarm.at - 1) // HOUR + 1)
            if (alarm.brand, alarm.since) in answered or any(hour not in manifest.hours for hour in hours):
                continue
            span, usual = alarm.at - alarm.since, self._watch.usual(alarm.brand, alarm.at)
            (point,) = self._timeline.points(manifest, alarm.brand, since=alarm.since, until=alarm.at, step=span)
            counts = point.counts
            said = f"{alarm.brand}: of {counts.opinions} opinions without bots {counts.negative} are negative"
            if usual is not None and not confirmed(counts, usual):
                verdict = {"kind": "retracted", "message": said, "action": "the alarm is taken back"}
            else:
                rows = self._timeline.voting(manifest, alarm.brand, since=alarm.since, until=alarm.at)
                about = (
                    rows.filter(pl.col("label") == "negative")["aspect"]
                    .drop_nulls()
                    .value_counts(sort=True)
                    .head(2)["aspect"]
                    .to_list()
                )
                said += f", most about {' and '.join(about)}" * bool(about)
                verdict = {"kind": "confirmed", "message": said, "action": "the alarm stands"}
            self._say(alarm.model_copy(update=verdict))

    # --- days ------------------------------------------------------------------------------------

    def _closed_day(self, manifest: Manifest) -> int | None:
        """The next day whose hours are all published, and whose posts have all been scored."""
        if manifest.start is None:
            return None
        following = self._reports[-1].day + 1 if self._reports else manifest.start // 24
        over = following * 24 + 23 in manifest.hours and self._watch.watermark >= (following + 1) * DAY + LATENESS
        return following if over else None

    def _judge_day(self, day: int) -> None:
        """Report on a closed day, raise alarms, and retrain if that is due."""
        at = (day + 1) * DAY
        try:
            report = self._judge.judge(day, self._reports, self._champion)
        except LakeCorrupt as error:
            report = Report(
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
            self._raise("lake", at, str(error), action=f"{day_of(day * DAY)} is not judged; all else goes on")
        self._reports.append(report)
        self._out.append(entry(report))
        champion = self._champion
        if champion is None:
            return
        if (report.drifted or report.shifted) and not self._since_release("drift"):
            self._drifted_since = self._drifted_since or (day - 1) * DAY
            self._retrain_on = day  # or as soon as there are labels enough for both sides of the gate
            self._raise("drift", at, _moved(report), action="retrain on what has been audited since")
        # [6.2] Quality in production is what people say of a random sample, and nothing else: readers' corrections are
        # no sample, and the model's own certainty rises while it drifts.
        promised = self._promised(champion)
        fallen = report.macro_recall is not None and report.macro_recall < promised - LOST
        if fallen and not self._since_release("quality"):
            self._drifted_since = self._drifted_since or (day - 1) * DAY
            self._retrain_on = min(self._retrain_on or day + 1, day + 1)
            said = f"macro-recall on {report.audits} audits {report.macro_recall:.2f}, {promised:.2f} was promised"
            self._raise("quality", at, said, action=f"retrain when {day_of(self._retrain_on * DAY)} is over")
        if self._retrain_on is not None and day >= self._retrain_on:
            self._retrain(as_of=at, who="monitor", why="what is new has labels", again=day + 1)

    def _promised(self, champion: Release) -> float:
        """What the champion was good for: as the gate measured it, or less if its first audits said so."""
        first = next((r.macro_recall for r in self._reports if r.version == champion.version and r.macro_recall), 1.0)
        return min(first, champion.figures.get("macro_recall", 0.0))

    # --- versions ----------------------------------------------------------------------------------

    def _guard(self) -> None:
        """Take a release back that says otherwise than the one before it on too many live posts."""
        opinions = [Opinion.model_validate_json(record.value) for record in self._opinions.poll(1_000, 0.0)]
        before = standing(self._ledger)[:-1]
        champion = self._champion
        if champion is None or champion.action == "rollback" or not before or len(self._guarded) >= GUARD_COUNT:
            return
        self._guarded += [opinion for opinion in opinions if opinion.model == champion.version and opinion.score]
        if len(self._guarded) < GUARD_COUNT:
            return
        earlier = Artifact.load(self._fetch(before[-1].artifact, before[-1].digest))
        flips = 0
        for opinion in self._guarded[:GUARD_COUNT]:
            assert opinion.path is not None
            assert opinion.score is not None
            told = decide(earlier.score(seen(opinion.text, self._brands), opinion.path), earlier.policy).label
            flips += told != decide(opinion.score, earlier.policy).label
        if flips > GUARD_FLIPS * GUARD_COUNT:
            share = flips / GUARD_COUNT
            said = f"version {champion.version} contradicts version {before[-1].version} on {share:.0%} of live posts"
            self._roll_back(who="monitor", why=said, kind="guardrail")

    def _obey(self, command: Command) -> None:
        now = self._clock.now()
        if command.kind == "retrain":
            self._retrain(as_of=now, who=command.who, why=command.why or "asked for", again=None)
        elif command.kind == "rollback":
            self._roll_back(who=command.who, why=command.why or "asked for", kind="command")
        else:
            self._promote(command)

    def _promote(self, command: Command) -> None:
        now = self._clock.now()
        try:
            version = self._registry.version(command.version or self._registry.versions()[0].version)
        except (UnknownVersion, IndexError) as error:
            return self._raise("command", now, f"not promoted: {error}", action="nothing changed")
        refused = self._registry.tags(version.version).get("gate", "it was never judged")
        if refused != "passed" and not command.force:
            said = f"version {version.version} not promoted: {refused}"
            return self._raise("command", now, said, action="nothing changed")
        self._release(promotion(version, at=now, who=command.who, why=command.why or "asked for"))

    def _retrain(self, *, as_of: int, who: str, why: str, again: int | None) -> None:
        """Train, judge, release; `again`: the day of the next attempt if nothing comes of this one."""
        self._retrain_on = None
        champion, stays = self._champion, "the champion goes on"
        try:
            folder = None if champion is None else self._fetch(champion.artifact, champion.digest)
            candidate = train.train(
                self._lake,
                self._registry,
                self._brands,
                as_of=as_of,
                seed=self._seed,
                champion=folder,
                recipe=self._recipe,
                since=self._drifted_since or 0,
                unseen=int(self._registry.tags(champion.version).get("as_of", 0)) if champion else 0,
            )
        except (NotEnough, LakeCorrupt, ModelCorrupt, Corrupt, Unavailable, UnknownVersion) as error:
            self._retrain_on = again
            return self._raise("gate", as_of, f"not retrained: {error}", action=stays)
        if candidate.refused:
            self._retrain_on = again
            said = f"version {candidate.version.version} refused: {candidate.refused}"
            return self._raise("gate", as_of, said, action=stays)
        self._drifted_since = None
        self._release(promotion(candidate.version, at=as_of, who=who, why=why))

    def _roll_back(self, *, who: str, why: str, kind: str) -> None:
        """To the version before the champion, as the ledger has it."""
        now, before = self._clock.now(), standing(self._ledger)[:-1]
        if not before:
            return self._raise(kind, now, f"{why}: no earlier version to go back to", action="nothing changed")
        self._raise(kind, now, why, action=f"rolled back to version {before[-1].version}")
        self._release(before[-1].model_copy(update={"action": "rollback", "at": now, "who": who, "why": why}))

    def _release(self, release: Release) -> None:
        try:
            self._registry.repair(release.version)
            self._fetch(release.artifact, release.digest)  # now, so that no worker waits for the registry
        except (Corrupt, Unavailable, UnknownVersion) as error:
            return self._raise("command", release.at, f"not released: {error}", action="nothing changed")
        # [5.2] A release is a record in the log, and so is taking it back. Hours that are published name the version
        # that scored them, so a roll-back moves no number that was told; the next night may.
        self._ledger.append(release)
        self._out.append(entry(release))
        self._guarded = []
        logger.info("%s version %s: %s", release.action, release.version, release.why)

    def _raise(self, kind: str, at: int, message: str, *, action: str) -> None:
        self._say(Alarm.model_validate({"kind": kind, "at": at, "message": message, "action": action}))

    def _say(self, alarm: Alarm) -> None:
        logger.warning("%s: %s; %s", alarm.kind, alarm.message, alarm.action)
        self._alarms.append(alarm)
        self._out.append(entry(alarm))

    def _flush(self) -> list[Entry]:
        out, self._out = self._out, []
        return out
