"""The service as child commands, the faults that may happen to them, and how long decisions take to flow again."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from pydantic_core import from_json

from fraud.schema import DECISIONS, EVENTS
from shared.children import finish
from shared.clock import monotonic, sleep
from shared.eventlog.port import EventLog, LogUnavailable, Place, Record, beginning
from shared.settings import Settings
from tests.soak.load import Load

if TYPE_CHECKING:
    from infra.local import Kafka

EDGE, BROKER = "edge", "broker"
CALM = (1.0, 5.0)  # seconds of peace after a recovery
ALONE = 0.7  # of the faults are waited out; after the others the next comes at once, on top of them
RECOVERS = 20.0  # seconds after which the next fault comes all the same
LEAVE = 20.0  # seconds for a worker to leave in good order

Steps = Iterator[float]  # gives the seconds until its next step


@dataclass
class Fault:
    kind: str
    target: str
    moment: float = 0.0
    lasted: float = 0.0  # seconds until the process was started or woken again
    recovered: float | None = None  # seconds until decisions flowed again

    def told(self, began: float) -> str:
        recovered = "never" if self.recovered is None else f"{self.recovered:.1f}"
        return f"{self.moment - began:6.1f} {self.lasted:5.1f} {recovered:>5}  {self.kind}: {self.target}\n"


class Fleet:
    """Edge and workers as child commands, as a user would start them; their words are in `<name>.log`."""

    def __init__(self, settings: Settings, *, port: int, workers: int, broker: "Kafka | None") -> None:
        self._settings, self.broker = settings, broker
        self._commands = {EDGE: ["serve", "--port", str(port)]}
        self._commands |= {f"worker-{slot}": ["worker", "--slot", str(slot)] for slot in range(1, workers + 1)}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.ended: list[str] = []  # children that ended by themselves

    @property
    def workers(self) -> list[str]:
        return ["worker-0", *(name for name in self._commands if name != EDGE)]

    def start(self, name: str) -> None:
        if name == BROKER:
            assert self.broker is not None
            self.broker.start()
        elif name in self._commands:
            options = ["--var", str(self._settings.var), "--log", self._settings.log]
            with (self._settings.var / f"{name}.log").open("a") as log:
                command = [sys.executable, "-m", "fraud", *options, *self._commands[name]]
                self._children[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def start_all(self) -> None:
        for name in self._commands:
            self.start(name)

    def watch(self, busy: set[str]) -> None:
        """Start a child that ended by itself again, as an operator would, and remember it."""
        for name in set(self._children) - busy:
            if (code := self._children[name].poll()) is not None:
                self.ended.append(f"{name} with {code}")
                self.start(name)

    def pid(self, name: str) -> int | None:
        """The process; worker-0 is the edge's own child, which comes and goes under its supervision."""
        if name == BROKER:
            assert self.broker is not None
            return self.broker.pid
        if name in self._children:
            return self._children[name].pid
        shown = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = (map(int, line.split()) for line in shown.splitlines())
        return next((pid for pid, parent in pairs if parent == self._children[EDGE].pid), None)

    def signal(self, pid: int | None, number: signal.Signals) -> None:
        if pid is not None:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)

    def kill(self, name: str) -> None:
        if name == BROKER:
            assert self.broker is not None
            self.broker.kill()
        else:
            self.signal(self.pid(name), signal.SIGKILL)
        if name in self._children:
            self._children[name].wait()

    def leave(self, name: str) -> None:
        """In good order, or it is remembered."""
        self._children[name].terminate()
        try:
            code = self._children[name].wait(LEAVE)
        except subprocess.TimeoutExpired:
            self.kill(name)
            code = -signal.SIGKILL
        if code not in (0, -signal.SIGTERM):  # by the signal: it was told before it had begun, and held nothing
            self.ended.append(f"{name} with {code}, told to leave")

    def end(self) -> None:
        self.signal(self.pid("worker-0"), signal.SIGCONT)
        for child in self._children.values():
            child.send_signal(signal.SIGCONT)
            finish(child)

    def tracebacks(self) -> list[str]:
        """Logs with a traceback."""
        logs = [self._settings.var / f"{name}.log" for name in self._commands]
        return [log.name for log in logs if "Traceback" in log.read_text()]


class Flow(threading.Thread):
    """Follows the decisions: of each partition, when the latest payment was sent that its owner has decided.

    Decisions flow again after a fault when every partition has one of a payment sent since, and HTTP an answer.
    """

    def __init__(self, log: EventLog, load: Load) -> None:
        super().__init__(daemon=True)
        self._log, self._load = log, load
        self._places = beginning([DECISIONS])
        self._decided = [0.0] * EVENTS.partitions
        self._stopping = threading.Event()
        self.faults: list[Fault] = []
        self.start()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    @property
    def flows(self) -> bool:
        return all(fault.recovered is not None for fault in self.faults)

    def run(self) -> None:
        while not self._stopping.is_set():
            with suppress(LogUnavailable):
                self._follow()
            sleep(0.1)

    def _follow(self) -> None:
        reader = self._log.reader(self._places)
        try:
            while not self._stopping.is_set():
                for record in reader.poll(2_000, 0.1):
                    self._take(record)
                since = min(self._load.answered, *self._decided)
                for fault in self.faults:
                    if fault.recovered is None and fault.moment <= since:
                        fault.recovered = monotonic() - fault.moment
        finally:
            reader.close()

    def _take(self, record: Record) -> None:
        self._places[Place(record.topic, record.partition)] = record.offset + 1
        said = from_json(record.value)
        if said["kind"] == "decision" and said["path"] != "stand-in":
            partition = said["partition"]
            self._decided[partition] = max(self._decided[partition], self._load.sent.get(record.key, 0.0))


class Faults:
    """Does one after the other, and sometimes one on top of the other; kinds and targets hang on `seed`."""

    def __init__(self, fleet: Fleet, flow: Flow, *, seed: int) -> None:
        self._fleet, self._flow, self._chance = fleet, flow, Random(seed)
        self._kinds: dict[str, tuple[Sequence[str], Callable[[str], Steps]]] = {
            "kill -9 a worker": (fleet.workers, self._kill),
            "kill -9 the edge": ([EDGE], self._kill),
            "a worker stopped, and back": (fleet.workers, self._stop),
            "a worker leaves and joins": (fleet.workers[1:], self._leave),
        }
        if fleet.broker is not None:
            self._kinds["kill -9 the broker"] = ([BROKER], self._kill)
            self._kinds["the broker stopped, and back"] = ([BROKER], self._stop)
        self._deck: list[str] = []
        self._under_way: list[tuple[float, Fault, Steps]] = []  # moment of the next step

    def run(self, seconds: float, progress: Callable[[int], None]) -> None:
        """Begin faults for so long, and see the last ones through."""
        start, told = monotonic(), 0
        until, calm = start + seconds, self._chance.uniform(*CALM)
        next_at = start + calm
        while (now := monotonic()) < until or self._under_way or (not self._flow.flows and now < until + RECOVERS):
            for step in [step for step in self._under_way if step[0] <= now]:
                self._under_way.remove(step)
                self._go_on(*step[1:])
            self._fleet.watch(self._busy)
            if next_at <= now < until:
                self._begin()
                calm, alone = self._chance.uniform(*CALM), self._chance.random() < ALONE
                next_at = monotonic() + (RECOVERS if alone else calm / 2)
            elif self._flow.faults and self._flow.flows and not self._under_way:
                next_at = min(next_at, now + calm)
            progress(min(int(now - start), int(seconds)) - told)
            told = min(int(now - start), int(seconds))
            sleep(0.02)

    @property
    def _busy(self) -> set[str]:
        busy = {fault.target for _, fault, _ in self._under_way}
        return busy | {"worker-0"} if EDGE in busy else busy | {EDGE} if "worker-0" in busy else busy

    def _begin(self) -> None:
        """A kind from the deck, so that each comes as often; on a child to which nothing is happening."""
        if not self._deck:
            self._deck = self._chance.sample(sorted(self._kinds), len(self._kinds))
        kind = self._deck.pop()
        targets, steps = self._kinds[kind]
        if free := [target for target in targets if target not in self._busy]:
            fault = Fault(kind, self._chance.choice(free))
            self._go_on(fault, steps(fault.target))
            fault.moment = monotonic()
            self._flow.faults.append(fault)

    def _go_on(self, fault: Fault, steps: Steps) -> None:
        if (pause := next(steps, None)) is None:
            fault.lasted = monotonic() - fault.moment
        else:
            self._under_way.append((monotonic() + pause, fault, steps))

    # --- what may happen: a first step, a pause, and how it ends -------------------------------------

    def _kill(self, target: str) -> Steps:
        """Started again at once or, as often, when its partitions have gone to others."""
        self._fleet.kill(target)
        yield self._chance.choice((0.0, self._chance.uniform(1.0, 8.0)))
        self._fleet.start(target)

    def _stop(self, target: str) -> Steps:
        """Deaf and mute, and then back as if nothing had happened."""
        pid = self._fleet.pid(target)
        self._fleet.signal(pid, signal.SIGSTOP)
        yield self._chance.uniform(1.0, 10.0)
        self._fleet.signal(pid, signal.SIGCONT)

    def _leave(self, target: str) -> Steps:
        self._fleet.leave(target)
        yield self._chance.uniform(0.0, 4.0)
        self._fleet.start(target)
