"""Sends the days of a simulated crowd through the running service: posts, audit labels, and ticks."""

import urllib.request
from collections.abc import Callable
from typing import Self
from urllib.error import URLError

import numpy as np
import polars as pl

from sentiment.config import AUDIT_DELAY, DAY, HOUR, LABELS, SERVICE
from sentiment.hours import Manifest
from sentiment.ingest import GROUP
from sentiment.schema import (
    ALARMS,
    AUDITS,
    MINUTE,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    REPORTS,
    STORY,
    TOPICS,
    Alarm,
    Audit,
    Label,
    Opinion,
    Post,
    Report,
    Seal,
    Tick,
    Wanted,
)
from sentiment.serve import answered
from sentiment.stream import WORKERS
from shared.children import Children, ready
from shared.clock import VirtualClock, perf_counter, sleep
from shared.console import Stage
from shared.eventlog import open_log
from shared.eventlog.port import Entry, Topic, beginning, for_ever
from shared.releases import Ledger, Release
from shared.settings import Settings
from shared.story import Scene

BATCH = 200  # records an append
FEW = 4  # posts at once, so that the page moves


class Live:
    """The service as child commands on a free port, and the crowd that it listens to.

    `mistaken`: the share of audits in which people slip.
    """

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        *,
        port: int,
        today: int,
        seed: int,
        world: str,
        mistaken: float = 0.0,
    ) -> None:
        self.settings, self._stage, self.port = settings, stage, port
        self.clock = VirtualClock(today)
        self.log = open_log(settings.log, clock=self.clock)
        self.log.create(for_ever(TOPICS))
        self.key = settings.key("operator_key").decode()
        self.sent, self.requests, self.failures = 0, 0, list[str]()
        self.busy = 0.0  # seconds of sending and counting
        self.truth: dict[str, str | None] = {}  # label by post; none of what is no opinion
        self.opinions: dict[str, Opinion] = {}
        self.alarms: list[Alarm] = []
        self.ledger: Ledger[Release] = Ledger()
        self.reports: list[Report] = []
        self.asked: set[str] = set()  # posts of which people are asked
        self._due: list[tuple[int, Audit]] = []  # what they will have answered by then
        self._rng, self._mistaken = np.random.default_rng(seed), mistaken
        self._reader = self.log.reader(beginning([OPINIONS, AUDITS, ALARMS, RELEASES, REPORTS]))
        self._minutes, self._seals = self.log.reader(beginning([MINUTES])), [0] * MINUTES.partitions
        self.children = Children(SERVICE, settings, self.clock, "--brands", world)

    @property
    def releases(self) -> list[Release]:
        """The changes of the champion that are done, oldest first."""
        return self.ledger.lines

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.close()

    def open(self) -> None:
        """Wait until the service is ready."""
        self.children.wait(lambda: ready(self.url), "the service is not ready; see serve.log")

    def tell(self, scene: Scene) -> None:
        """Tell the page what is going on."""
        self.log.append([Entry(STORY, scene.kind, scene.model_dump_json().encode())])

    @property
    def throughput(self) -> float:
        """Posts a second, from sending to the commit of their minutes."""
        return self.sent / self.busy if self.busy else 0.0

    def send(
        self, posts: pl.DataFrame, *, until: int, pause: Callable[[], bool] = lambda: False, nap: float = 0.0
    ) -> int:
        """Posts in order of arrival, hour by hour up to `until`, audits as they fall due; gives the hour reached.

        After each hour all is counted, and `pause` may say that it is enough. `nap`: seconds of real time after
        every FEW posts, so that the page can be watched.
        """
        hours = range(self.clock.now() // HOUR * HOUR, until, HOUR)
        with self._stage.progress(len(hours), "hours") as done:
            for hour in hours:
                part = posts.filter(pl.col("sent").is_between(hour, hour + HOUR, closed="left"))
                self.hour(part, hour + HOUR, nap=nap)
                done(1)
                if pause():
                    return hour + HOUR
        return until

    def hour(self, part: pl.DataFrame, end: int, *, nap: float = 0.0) -> None:
        """One hour's arrivals; returns once they are scored and counted, and the hours that have closed published."""
        no_opinion = pl.col("kind").is_in(["foreign", "spam"])
        said = part.filter(pl.col("label").is_not_null() | no_opinion)
        said = said.with_columns(label=pl.when(no_opinion).then(None).otherwise("label"))
        self.truth |= dict(said.select("id", "label").iter_rows())
        began = perf_counter()
        for rows in part.iter_slices(FEW if nap else BATCH):
            self.clock.observe(rows["sent"][-1])
            posts = [
                Post.model_validate({k: row[k] for k in ("id", "author", "at", "text")})
                for row in rows.iter_rows(named=True)
            ]
            self.log.append([Entry(POSTS, post.id, post.model_dump_json().encode()) for post in posts])
            self.sent += rows.height
            sleep(nap)
        self.tick(end)
        self._settle(WORKERS, POSTS)
        self.children.wait(lambda: self._counted() >= end, "mentions are not counted; see serve.log")
        self.busy += perf_counter() - began
        self.follow()
        self._audit()
        self._settle(GROUP, POSTS)
        self.children.wait(lambda: self._batched(end // HOUR - 1), "an hour is not published; see batch.log")
        if end % DAY == HOUR:  # a day has closed: its report decides what happens next
            self.children.wait(
                lambda: self._told(end // DAY - 1), "the day is not judged; see monitor.log and batch.log"
            )
        self.get("/v1/brands")

    def tick(self, at: int) -> None:
        self.clock.observe(at)
        tick = Tick(at=at).model_dump_json().encode()
        self.log.append([Entry(POSTS, "tick", tick, number) for number in range(POSTS.partitions)])

    def _told(self, day: int) -> bool:
        self.follow()
        return not self.releases or any(report.day == day for report in self.reports) or not self._begun(day)

    def _begun(self, day: int) -> bool:
        """Whether the whole day is in the view: the first one may have begun in the middle."""
        start = Manifest.read(self.settings.var / "batch").start
        return start is not None and start // 24 <= day

    def _batched(self, until: int) -> bool:
        """Whether the hours before this one are published: by the version that is in force now, in any rerun."""
        manifest = Manifest.read(self.settings.var / "batch")
        return manifest.start is None or until <= manifest.start or until - 1 in manifest.hours

    def _audit(self) -> None:
        """People say what posts say that they were asked of; a few are mistaken."""
        now = self.clock.now()
        due = [audit for at, audit in self._due if at <= now and audit.post in self.truth]
        self._due = [(at, audit) for at, audit in self._due if at > now]
        entries = []
        for audit in due:
            label: Label | None = self.truth[audit.post]  # type: ignore[assignment]  # labels of the file are no others
            if self._rng.random() < self._mistaken:
                label = LABELS[int(self._rng.integers(3))]  # type: ignore[assignment]  # LABELS are the labels
            entries.append(answered(audit, label, known_at=now))
        if entries:
            self.log.append(entries)

    def follow(self) -> None:
        while records := self._reader.poll(10_000, 0.0):
            for record in records:
                if record.topic == OPINIONS.name:
                    opinion = Opinion.model_validate_json(record.value)
                    if opinion.kind == "opinion" and opinion.id not in self.opinions:
                        self.opinions[opinion.id] = opinion
                elif record.topic == AUDITS.name:
                    audit = Audit.model_validate_json(record.value)
                    if audit.known_at is None and audit.post not in self.asked:
                        self.asked.add(audit.post)
                        self._due.append((audit.at + AUDIT_DELAY, audit))
                elif record.topic == ALARMS.name:
                    self.alarms.append(Alarm.model_validate_json(record.value))
                elif record.topic == RELEASES.name:
                    self.ledger.add(Release.model_validate_json(record.value))
                else:
                    self.reports.append(Report.model_validate_json(record.value))

    def _settle(self, group: str, topic: Topic) -> None:
        """Wait until the group has come to where the topic ends now."""
        ends = self.log.ends(topic)

        def passed() -> bool:
            done = self.log.committed(group, topic)
            return all(p in done and done[p].offset >= end for p, end in ends.items() if end)

        self.children.wait(passed, f"{group} does not come to the end of {topic.name}; see the .log files")

    def _counted(self) -> int:
        """Event time up to which every partition of mentions has been counted, as its seals say."""
        for record in self._minutes.poll(10_000, 0.0):
            if isinstance(message := MINUTE.validate_json(record.value), Seal):
                self._seals[message.partition] = max(self._seals[message.partition], message.at)
        return min(self._seals)

    # --- an operator ----------------------------------------------------------------------------------

    def command(self, command: Wanted) -> None:
        """Post a command on the champion as it is now, and wait until a release or an alarm answers it."""

        def said() -> int:
            self.follow()
            return len(self.releases) + sum(alarm.kind in ("command", "gate") for alarm in self.alarms)

        before = said()
        command = command.model_copy(update={"expected_champion": self.ledger.version()})
        self.ask("POST", "/v1/commands", command.model_dump_json().encode())

        def answered() -> bool:
            return said() > before

        self.children.wait(answered, f"{command.kind} was not carried out; see monitor.log")

    def get(self, path: str) -> bytes:
        return self.ask("GET", path, None)

    def ask(self, method: str, path: str, body: bytes | None) -> bytes:
        """A request as a client would send it; those that fail are counted."""
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        self.requests += 1
        try:
            request = urllib.request.Request(self.url + path, body, headers, method=method)
            with urllib.request.urlopen(request, timeout=20) as response:
                return bytes(response.read())
        except (URLError, OSError) as error:
            self.failures.append(f"{method} {path}: {error}")
            return b"[]"
