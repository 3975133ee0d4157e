"""Sends the days of a simulated bank through the running service: payments, their labels, and hourly ticks."""

import json
import urllib.request
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Self
from urllib.error import HTTPError
from uuid import uuid4

import polars as pl

from fraud import config
from fraud.history import as_events
from fraud.ingest import DECIDERS, GROUP
from fraud.probes import Answers, Probes
from fraud.schema import (
    ALARMS,
    DECISIONS,
    EVENTS,
    RELEASES,
    REPORTS,
    STORY,
    TOPICS,
    Alarm,
    Report,
    Tick,
    Wanted,
    Wish,
    message,
)
from fraud.simulate import labels
from shared.children import Children, ready
from shared.clock import VirtualClock, perf_counter, sleep
from shared.console import Stage
from shared.eventlog import open_log
from shared.eventlog.port import Entry, beginning, for_ever
from shared.releases import Ledger, Release
from shared.settings import Settings
from shared.story import Scene

BATCH = 200  # records an append: the queue that a request stands in
STRIDE = 2 * config.HOUR  # of event time an append, so that what is under way is never as old as a late payment
PATIENCE = 300.0  # seconds to wait for a process before giving up


class Live:
    """The service as child commands on a free port, and the bank that uses it."""

    def __init__(
        self, settings: Settings, world: pl.DataFrame, stage: Stage, *, port: int, today: int, seed: int
    ) -> None:
        self.settings, self.seed = settings, seed
        self._world, self._stage = world, stage
        self.clock = VirtualClock(today * config.DAY)
        self.log = open_log(settings.log, clock=self.clock)
        self.log.create(for_ever(TOPICS))
        self.port = port
        self.key = settings.key("operator_key").decode()
        self.sent = 0
        self.next_day = today
        self._busy = 0.0  # seconds of sending
        self._decided: list[pl.DataFrame] = []
        self._due = pl.DataFrame(schema={"at": pl.Int64})  # labels that are still to come
        self._probes: Probes | None = None
        self._reader = self.log.reader(beginning([DECISIONS, ALARMS, RELEASES, REPORTS, STORY]))
        self._said: dict[
            str, tuple[str, str, float | None]
        ] = {}  # payment id -> action, that of the rules, probability
        self.alarms: list[Alarm] = []
        self.ledger: Ledger[Release] = Ledger()
        self.reports: list[Report] = []
        self.wishes: list[str] = []  # demo buttons that were pressed on the page, not carried out yet
        self.obeys: dict[str, Callable[[], None]] = {}  # what is done about a wish, between two parts of a day
        self.visited = False  # whether there were any
        self.children = Children(config.SERVICE, settings, self.clock)

    @property
    def releases(self) -> list[Release]:
        """All that were carried out, oldest first."""
        return self.ledger.lines

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.close()
        self._reader.close()
        self.log.close()

    def open(self, *, rate: float) -> None:
        """Wait until the service is ready, and begin to send test payments by HTTP."""
        self.children.wait(lambda: ready(self.url), "the service is not ready; see serve.log")
        tick = Tick(at=self.clock.now()).model_dump_json().encode()
        self.log.append([Entry(EVENTS, "tick", tick, partition) for partition in range(EVENTS.partitions)])
        self._settle(DECIDERS)  # the worker has remembered the past
        self.open_http(rate=rate)

    def open_http(self, *, rate: float, name: str = "probe") -> None:
        """Send test payments by HTTP."""
        self._probes = Probes(self.port, self.key, rate=rate, now=self.clock.now(), name=name)

    def close_http(self) -> Answers:
        """Stop the test payments; gives what came of them."""
        assert self._probes is not None
        return self._probes.stop()

    def go_on_with(self, world: pl.DataFrame) -> None:
        """From the next day on, these payments are made."""
        self._world = world

    def tell(self, scene: Scene) -> None:
        """Tell the page what is going on."""
        self.log.append([Entry(STORY, scene.kind, scene.model_dump_json().encode())])

    def expect(self, labels: pl.DataFrame) -> None:
        """Labels that will become known while the days go by."""
        self._due = pl.concat([self._due, labels], how="diagonal_relaxed")

    @property
    def throughput(self) -> float:
        """Events a second, from sending to the commit of the decision."""
        return self.sent / self._busy if self._busy else 0.0

    def decided(self) -> pl.DataFrame:
        """The payments so far, with the action taken and what the rules would have done."""
        return pl.concat(self._decided)

    def forget(self) -> None:
        """Let go of the payments so far: a demo that lives on has closed its books."""
        self._decided.clear()

    def days(self, days: range, *, until: Callable[[], bool] = lambda: False) -> int:
        """Send these days, but no more once `until` holds after one; gives the last day sent."""
        with self._stage.progress(len(days), "days") as done:
            for day in days:
                self._part(day * config.DAY, (day + 1) * config.DAY)
                self.next_day = day + 1
                self._obey()
                done(1)
                if until():
                    break
        return self.next_day - 1

    def hours(self, day: int, *, until: Callable[[], bool] = lambda: False, pause: float = 0.0) -> int:
        """Send a day hour by hour, a pause after each; gives the hours after which `until` held (24: it did not)."""
        reached = 24
        for hour in range(24):
            self._part(day * config.DAY + hour * config.HOUR, day * config.DAY + (hour + 1) * config.HOUR)
            if reached == 24 and until():
                reached = hour + 1
            self._obey()
            sleep(pause)
        self.next_day = day + 1
        return reached

    def _obey(self) -> None:
        for wish in [wish for wish in self.wishes if wish in self.obeys]:
            self.wishes.remove(wish)
            self.obeys[wish]()

    def _part(self, start: int, end: int) -> None:
        """Send what happens in this time, payments and labels; returns once all is decided and judged."""
        due, self._due = self._due.filter(pl.col("at") < end), self._due.filter(pl.col("at") >= end)
        part = self._world.filter(pl.col("at").is_between(start, end, closed="left"))
        rows = as_events(part, due, key=self.settings.key("pseudonym_key"), ticks=(start + config.HOUR, end))
        began = perf_counter()
        self._send(rows)
        self._settle(DECIDERS)
        self._busy += perf_counter() - began
        self._settle(GROUP)
        self.children.wait(lambda: self._told(part), "decisions cannot be read back; see serve.log")
        self._learn(part)

    def _send(self, rows: pl.DataFrame) -> None:
        """Two appends are under way at a time; test payments have the time of what has been decided."""
        strided = rows.with_columns(message(), stride=pl.col("at") // STRIDE)
        parts = (part.iter_slices(BATCH) for part in strided.partition_by("stride", maintain_order=True))
        earlier: tuple[dict[int, int], int] | None = None
        for batch in chain.from_iterable(parts):
            before = self.log.ends(EVENTS), self.clock.now()
            columns = batch.select("partition", "card", "message").iter_rows()
            self.clock.observe(batch["at"][-1])
            self.log.append([Entry(EVENTS, card or "tick", text.encode(), at) for at, card, text in columns])
            self.sent += batch.height
            if earlier is not None:
                self.children.wait(
                    partial(self._passed, DECIDERS, earlier[0]), "the worker does not keep up; see serve.log"
                )
                if self._probes is not None:
                    self._test_at(self._probes, earlier[1])
            earlier = before

    def _test_at(self, probes: Probes, now: int) -> None:
        """Let test payments have this time from now on; wait until they have come so near that few are late."""
        probes.now.value = now
        near = now - config.ALLOWED_LATENESS // 2
        self.children.wait(lambda: probes.answered.value >= near, "test payments get no answer; see serve.log")

    def _settle(self, group: str) -> None:
        """Wait until the group has come to where the log ends now: virtual time stands still meanwhile."""
        ends = self.log.ends(EVENTS)
        self.children.wait(lambda: self._passed(group, ends), f"{group} does not come to the end; see the .log files")

    def _passed(self, group: str, ends: dict[int, int]) -> bool:
        done = self.log.committed(group, EVENTS)
        return all(p in done and done[p].offset >= end for p, end in ends.items() if end)

    def _follow(self) -> None:
        while records := self._reader.poll(10_000, 0.0):
            for record in records:
                if record.topic == DECISIONS.name:
                    said = json.loads(record.value)
                    if said["kind"] == "decision" and not said["probe"]:
                        self._said.setdefault(said["id"], (said["action"], said["rules"], said["probability"]))
                elif record.topic == ALARMS.name:
                    self.alarms.append(Alarm.model_validate_json(record.value))
                elif record.topic == RELEASES.name:
                    self.ledger.add(Release.model_validate_json(record.value))
                elif record.topic == STORY.name:
                    if json.loads(record.value)["kind"] == "wish":
                        self.wishes.append(Wish.model_validate_json(record.value).wish)
                        self.visited = True
                else:
                    self.reports.append(Report.model_validate_json(record.value))

    def _told(self, payments: pl.DataFrame) -> bool:
        """What a worker has committed is seen a moment later, on some logs."""
        self._follow()
        return all(identifier in self._said for identifier in payments["id"])

    def _learn(self, payments: pl.DataFrame) -> None:
        """See what was done with each payment, and what labels will come of it."""
        said = [self._said.pop(identifier) for identifier in payments["id"]]
        kinds: dict[str, type[pl.DataType]] = {"action": pl.String, "rules": pl.String, "probability": pl.Float64}
        acted = pl.concat([payments, pl.DataFrame(said, schema=kinds, orient="row")], how="horizontal")
        self._decided.append(acted)
        self.expect(labels(acted, seed=self.seed))

    # --- an operator ----------------------------------------------------------------------------------

    def command(self, command: Wanted) -> None:
        """Post a command on what is in force now, and wait until a release or an alarm answers it."""
        self._follow()
        before = len(self.releases) + len(self.alarms)
        asked = command.model_copy(update={"expected_champion": self.ledger.version(), "key": uuid4().hex})

        def accepted() -> bool:
            try:
                self.post("/v1/commands", asked.model_dump_json().encode())
            except HTTPError as error:
                if error.code not in (409, 503):  # else the service has yet to read the release that is known here
                    raise
                return False
            return True

        def answered() -> bool:
            self._follow()
            return len(self.releases) + len(self.alarms) > before

        self.children.wait(accepted, f"the service does not take {command.kind}; see serve.log")
        self.children.wait(answered, f"the monitor has not carried out {command.kind}; see monitor.log")

    def last_words(self) -> str:
        """The last release or alarm, whichever came later, in a sentence."""
        alarm = f"{self.alarms[-1].message}; {self.alarms[-1].action}" if self.alarms else "no alarm"
        release = self.releases[-1]
        if self.alarms and self.alarms[-1].at > release.at:
            return alarm
        return f"{release.action} version {release.version}: {release.why}"

    def post(self, path: str, body: bytes) -> bytes:
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=5) as response:
            return bytes(response.read())
