"""Drift, quality on the labels that have matured, alarms and what follows from them; an operator's commands.

The monitor takes the topics into the lake, judges each event day once it is closed, and alone writes
the ledger of releases. What it finds and how far it has read are one atomic write.
"""

import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
from pydantic import ValidationError
from scipy.special import pdtrc

from fraud import config, train
from fraud.ingest import Ingest, dead_letter, unreadable
from fraud.model import ModelCorrupt
from fraud.report import Judge, date_of
from fraud.schema import ALARMS, COMMANDS, RELEASES, REPORTS, Action, Alarm, Command, Release, Report, standing
from shared.clock import Clock
from shared.eventlog.port import Entry, EventLog, Place, Position, beginning
from shared.lake import Lake, LakeCorrupt
from shared.registry import Corrupt, Registry, Unavailable, UnknownVersion, Version

# A model can learn a new tactic once a week of it has labels: the week itself, the week that
# calibrates and judges, and the days until labels are complete.
LEARNABLE = 14 + config.MATURITY // config.DAY  # days
QUALITY_FACTOR = 1.5  # times the frauds that the model promised among approved payments
CHANCE = 0.001  # that so many come all the same
GUARD_COUNT = 500  # decisions of a new version before its share of stopped payments is believed
GUARD_FACTOR = 5.0  # times the usual share of declined payments; a night's is up to three times a day's

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
        self._commands = log.consumer("fraud-monitor", [COMMANDS], "monitor")
        self._ledger: list[Release] = []
        self._reports: list[Report] = []
        self._retrain_on: int | None = None
        self._alarmed: set[str] = set()  # kinds, since the last release
        self._stopped, self._decided = 0, 0  # by the champion since its release
        self._fresh = pl.DataFrame(schema={"at": pl.Int64, "action": pl.String, "model": pl.String})  # of open hours
        self._out: list[Entry] = []
        self._remember()

    def step(self) -> bool:
        """Ingest, judge, command; whether there was anything to do."""
        positions, decisions = self._ingest.step()
        self._clock.observe(min(self._ingest.watermarks))
        self._guard(decisions)
        while (day := self._closed_day()) is not None:
            self._judge(day)
        if positions:
            self._ingest.consumer.commit(self._flush(), positions)
        for record in self._commands.poll(1, 0.0):
            try:
                self._obey(Command.model_validate_json(record.value))
            except ValidationError as error:
                self._out.append(dead_letter(record, unreadable(error)))
            self._commands.commit(self._flush(), {Place(record.topic, record.partition): Position(record.offset + 1)})
            return True
        return bool(positions)

    def close(self) -> None:
        self._days.close()
        self._ingest.consumer.close()
        self._commands.close()

    # --- what is known -------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Read back what was said before; the ledger is the truth, MLflow's alias is repaired from it."""
        reader = self._log.reader(beginning([ALARMS, REPORTS, RELEASES]))
        alarms: list[Alarm] = []
        while records := reader.poll(10_000, 0.0):
            for record in records:
                if record.topic == RELEASES.name:
                    self._ledger.append(Release.model_validate_json(record.value))
                elif record.topic == REPORTS.name:
                    self._reports.append(Report.model_validate_json(record.value))
                else:
                    alarms.append(Alarm.model_validate_json(record.value))
        reader.close()
        if self._ledger:
            self._registry.repair(self._ledger[-1].version)
        since = self._ledger[-1].at if self._ledger else 0
        alarms = [alarm for alarm in alarms if alarm.at > since]  # those of the same moment led to the release
        self._alarmed = {alarm.kind for alarm in alarms}
        for alarm in alarms:
            if alarm.kind == "gate" or alarm.retrain_on is not None:
                self._retrain_on = alarm.retrain_on

    @property
    def _champion(self) -> Release | None:
        return self._ledger[-1] if self._ledger else None

    def _folder(self, release: Release) -> Path:
        return self._fetch(release.artifact, release.digest)

    def _closed_day(self) -> int | None:
        """The next day that every partition has passed."""
        passed = min(self._ingest.watermarks) // config.DAY - 1
        if self._reports:
            following = self._reports[-1].day + 1
        else:
            days = self._lake.dates("decisions")
            following = (days[0] - date(1970, 1, 1)).days if days else passed + 1
        return following if following <= passed else None

    # --- judging ---------------------------------------------------------------------------------

    def _judge(self, day: int) -> None:
        """Report on a closed day, raise alarms, and retrain if that is due."""
        date, paint = date_of(day), "drift" not in self._alarmed
        try:
            report = self._days.judge(day, self._reports, self._champion, paint=paint)
        except LakeCorrupt as error:
            nobody: dict[Action, int] = {"approve": 0, "review": 0, "decline": 0}
            report = Report(day=day, payments=0, actions=nobody, drift={}, drifted=())
            self._raise("lake", (day + 1) * config.DAY, str(error), action=f"{date} is not judged; all else goes on")
        self._reports.append(report)
        self._out.append(entry(report))
        self._alarm_on(report)
        if self._retrain_on is not None and day >= self._retrain_on:
            why = "a week of the new pattern has its labels"
            self._retrain(as_of=(day + 1) * config.DAY, who="monitor", why=why, again=day + 7)

    def _alarm_on(self, report: Report) -> None:
        at = (report.day + 1) * config.DAY
        if report.drifted and "drift" not in self._alarmed:
            self._raise(
                "drift", at, f"moved two days running: {', '.join(report.drifted)}", retrain=report.day + LEARNABLE
            )
        if (
            self._champion is None
            or "quality" in self._alarmed
            or report.frauds_promised is None
            or report.frauds_missed is None
        ):
            return
        # [6.2] Declined payments have no labels, so precision and recall of live traffic are guesses. What can be
        # checked is the model's promise about those it let through: so many frauds among them, and no more.
        missed = report.frauds_missed
        promised = report.frauds_promised * max(1.0, self._champion.figures.get("missed_over_promised", 1.0))
        if missed and pdtrc(missed - 1, QUALITY_FACTOR * promised) < CHANCE:  # Poisson: so many or more
            said = f"{missed} frauds in a week's approved payments, {promised:.0f} were promised"
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
    ) -> None:
        self._alarmed.add(kind)
        if retrain is not None:
            self._retrain_on = min(retrain, self._retrain_on or retrain)
            action = f"{action}; retrain on {date_of(self._retrain_on)}".removeprefix("; ")
        given = {"kind": kind, "at": at, "message": message, "action": action}
        given |= {"retrain_on": retrain and self._retrain_on}
        given |= {} if refused is None else {"version": refused.version, "figures": refused.figures}
        alarm = Alarm.model_validate(given)
        logger.warning("%s: %s; %s", kind, message, action)
        self._out.append(entry(alarm))

    def _guard(self, decisions: pl.DataFrame) -> None:
        """Take a release back that declines far more than was usual before it; hour by hour, as in any rerun."""
        closed = pl.col("at") < min(self._ingest.watermarks) // config.HOUR * config.HOUR
        fresh = pl.concat([self._fresh, decisions.filter(~pl.col("probe")).select("at", "action", "model")])
        self._fresh = fresh.filter(~closed)
        if self._champion is None or self._champion.action == "rollback" or "guardrail" in self._alarmed:
            return
        before = [past for past in self._reports if past.day < self._champion.at // config.DAY and past.payments][-7:]
        recent = [past.actions["decline"] / past.payments for past in before]
        usual = max(self._champion.figures.get("declined", 0.0), sum(recent) / len(recent) if recent else 0.0)
        mine = fresh.filter(closed & (pl.col("model") == self._champion.version))
        for _, hour in mine.sort("at").group_by(pl.col("at") // config.HOUR, maintain_order=True):
            self._decided += hour.height
            self._stopped += hour.filter(pl.col("action") == "decline").height
            share = self._stopped / self._decided
            if self._decided >= GUARD_COUNT and share > GUARD_FACTOR * usual:
                said = f"version {self._champion.version} declines {share:.1%} of payments, {usual:.1%} are usual"
                return self._roll_back(who="monitor", why=said, kind="guardrail")

    # --- acting -----------------------------------------------------------------------------------

    def _obey(self, command: Command) -> None:
        now = self._clock.now()
        if command.kind == "retrain":
            as_of, plan = now - now % config.DAY, self._retrain_on
            self._retrain(as_of=as_of, who=command.who, why=command.why or "asked for", again=plan)
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
            return self._raise(
                "command", now, f"version {version.version} not promoted: {refused}", action="nothing changed"
            )
        self._release(promotion(version, at=now, who=command.who, why=command.why or "asked for"))

    def _retrain(self, *, as_of: int, who: str, why: str, again: int | None) -> None:
        """Train, judge, release; `again`: the day of the next attempt if nothing comes of this one."""
        self._retrain_on = None
        champion, stays = self._champion, "the champion goes on"
        try:
            folder = None if champion is None else self._folder(champion)
            candidate = train.train(self._lake, self._registry, as_of=as_of, seed=self._seed, champion=folder)
        except (train.NotEnough, LakeCorrupt, ModelCorrupt, Corrupt, Unavailable) as error:
            return self._raise("gate", as_of, f"not retrained: {error}", action=stays, retrain=again)
        if candidate.refused:
            said = f"version {candidate.version.version} refused: {candidate.refused}"
            return self._raise("gate", as_of, said, action=stays, retrain=again, refused=candidate.version)
        self._release(promotion(candidate.version, at=as_of, who=who, why=why))

    def _roll_back(self, *, who: str, why: str, kind: str) -> None:
        """To the version before the champion, as the ledger has it."""
        now = self._clock.now()
        current = self._champion
        before = standing(self._ledger)[:-1]
        if current is None or not before:
            return self._raise(kind, now, f"{why}: no earlier version to go back to", action="nothing changed")
        self._raise(kind, now, why, action=f"rolled back to version {before[-1].version}")
        self._release(before[-1].model_copy(update={"action": "rollback", "at": now, "who": who, "why": why}))

    def _release(self, release: Release) -> None:
        try:
            self._registry.repair(release.version)
            self._folder(release)  # fetched now, so that no worker waits for the registry while payments wait for it
        except (Corrupt, Unavailable, UnknownVersion) as error:
            return self._raise("command", release.at, f"not released: {error}", action="nothing changed")
        # [5.2] A release is a record in the log, and so is taking it back: who decides is a matter of reading on,
        # with no moment without a champion, and the ledger says who, when, why and on what figures.
        self._ledger.append(release)
        self._out.append(entry(release))
        self._stopped = self._decided = 0
        self._alarmed = set()
        logger.info("%s version %s: %s", release.action, release.version, release.why)

    def _flush(self) -> list[Entry]:
        out, self._out = self._out, []
        return out
