"""The service under load while processes die, hang and come back: at the end every payment is accounted for."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from pydantic_core import from_json

from fraud import config
from fraud.demo import PROCESSES, learn, write_past
from fraud.ingest import DECIDERS
from fraud.monitor import entry
from fraud.schema import DEAD, DECISIONS, EVENTS, TOPICS
from fraud.simulate import simulate
from shared.children import Stuck, ready
from shared.clock import SystemClock, monotonic, sleep
from shared.console import Stage
from shared.eventlog import open_log
from shared.eventlog.port import EventLog, LogUnavailable, Record, Topic, beginning, for_ever
from shared.registry import Registry
from shared.releases import Release
from shared.results import Run
from shared.settings import Settings
from tests.soak.faults import Fault, Faults, Fleet, Flow
from tests.soak.load import Answer, Load

if TYPE_CHECKING:
    from infra.local import Kafka

HISTORY, CARDS = 60, 300  # days and cards: enough to learn from, in seconds
WORKERS = 2  # beside the one that `serve` supervises
RATE = 50.0  # payments a second by HTTP, and as many by topic
PATIENCE = 120.0  # seconds to wait for a process before giving up
SHOWN = 5  # identities of those that went wrong


class Account(NamedTuple):
    """What became of the payments. `lost` and `twice` are identities, and have to be none."""

    payments: int
    lost: list[str]
    twice: list[str]
    superseded: int  # decisions that came second: an edge stood in, or an owner came after it
    repeats: int
    paths: Counter[str]  # who made the decisions that count


def account(
    sent: Iterable[str],
    answers: Iterable[Answer],
    *,
    events: Sequence[Record],
    decisions: Sequence[Record],
    dead: Sequence[Record],
) -> Account:
    """Hold what was sent and answered against what the log has.

    Lost: no first decision, or not in the log, or there without a verdict of its owner. Twice: owners decided
    twice, or gave one record two verdicts, or an answer differs from the first decision.
    """
    first: dict[str, bytes] = {}
    decided: Counter[str] = Counter()  # by identity: decisions of owners
    verdicts: Counter[tuple[int, int]] = Counter()  # by record of `fraud.events`
    superseded = repeats = 0
    for record in decisions:
        said = from_json(record.value)
        if said["kind"] == "decision":
            superseded += record.key in first
            first.setdefault(record.key, record.value)
            decided[record.key] += said["path"] != "stand-in"
        else:
            repeats += 1
        verdicts[said["partition"], said["offset"]] += 1
    for letter in map(from_json, (record.value for record in dead)):
        verdicts[letter["partition"], letter["offset"]] += 1
    payments = {}
    for record in events:
        if (event := from_json(record.value))["kind"] == "payment":
            payments[record.partition, record.offset] = f"{event['card']}.{event['id']}"
    asked = set(sent) | set(payments.values())
    lost = (asked - first.keys()) | (asked - set(payments.values()))
    lost |= {identity for place, identity in payments.items() if not verdicts[place]}
    twice = {identity for identity, count in decided.items() if count > 1}
    twice |= {identity for place, identity in payments.items() if verdicts[place] > 1}
    twice |= {answer.identity for answer in answers if answer.body != first.get(answer.identity, answer.body)}
    paths = Counter(from_json(value)["path"] for value in first.values())
    return Account(len(asked), sorted(lost), sorted(twice), superseded, repeats, paths)


def run(settings: Settings, *, port: int, minutes: float, seed: int, ports: tuple[int, int]) -> bool:
    """Whether nothing was lost or decided twice. On the log `kafka` a broker on `ports` starts, and suffers, too.

    Raises:
        NotStarted: there is no such broker. Stuck: a process did not do its part in time.
    """
    stage, clock = Stage(), SystemClock()
    command = f"make soak-fraud MINUTES={minutes:g} SEED={seed} LOG={settings.log.partition(':')[0]}"
    figures = Run(
        config.SERVICE, command=command, at=clock.now(), var=settings.var, modules=["tests.soak.fraud", *PROCESSES]
    )
    settings = settings.afresh("soak-fraud", at=clock.now())
    settings.pin("pseudonym_key", f"soak of seed {seed}")
    with ExitStack() as stack:
        broker = None
        if settings.log == "kafka":
            broker, settings = _own_broker(settings, ports)
            stack.callback(broker.stop)
        log = stack.enter_context(closing(open_log(settings.log, clock=clock)))
        fleet = Fleet(settings, port=port, workers=WORKERS, broker=broker)
        with stage.act("A bank with a past, a model, an edge and three workers") as act:
            past = _settle_in(settings, log, stage, seed=seed)
            stack.callback(fleet.end)
            fleet.start_all()
            _wait(lambda: ready(f"http://127.0.0.1:{port}"), "the service is not ready; see edge.log")
            _drain(log)
            act.outcome = f"{past.height:,} payments in the lake; {settings.log}"

        with stage.act(f"{minutes:g} minutes of payments, {2 * RATE:.0f} a second, and of faults") as act:
            keys = settings.key("analyst_key"), settings.key("pseudonym_key")  # it is told whole decisions
            load = Load(log, past, port=port, keys=keys, rate=RATE, seed=seed, clock=clock)
            flow, began = Flow(log, load), monotonic()
            with stage.progress(int(minutes * 60), "seconds") as done:
                Faults(fleet, flow, seed=seed).run(minutes * 60, done)
            act.outcome = f"{len(flow.faults)} faults; {load.unanswered:,} requests have no answer yet"

        with stage.act("Peace: unanswered requests are repeated, and the log is decided to its end") as act:
            load.stop()
            _wait(lambda: load.finished, "requests are not answered; see edge.log")
            _drain(log)
            flow.stop()
            act.outcome = f"{len(load.answers):,} answers by HTTP"

        with stage.act("The account") as act:
            said = account(
                load.sent,
                load.answers,
                events=_read(log, EVENTS),
                decisions=_read(log, DECISIONS),
                dead=_read(log, DEAD),
            )
            act.outcome = f"{said.payments:,} payments, {len(said.lost)} lost, {len(said.twice)} decided twice"
    for name, value, unit, target in (
        ("soak.payments", said.payments, "payments", None),
        ("soak.lost", len(said.lost), "payments", "== 0"),
        ("soak.twice", len(said.twice), "payments", "== 0"),
        ("soak.faults", len(flow.faults), "faults", None),
    ):
        figures.figure(name, value, unit=unit, target=target)
    _tell(stage, settings, said, load, fleet, flow.faults, began=began, seed=seed)
    return not said.lost and not said.twice


def _tell(
    stage: Stage,
    settings: Settings,
    said: Account,
    load: Load,
    fleet: Fleet,
    faults: Sequence[Fault],
    *,
    began: float,
    seed: int,
) -> None:
    (settings.var / "faults.log").write_text("".join(fault.told(began) for fault in faults))
    stage.table("Faults, and seconds until every partition and HTTP decided again", *recoveries(faults))
    stage.table("Payments", *payments_table(said, load, fleet))
    for what, identities in (("lost", said.lost), ("decided twice", said.twice)):
        if identities:
            stage.say(f"{what}: {', '.join(identities[:SHOWN])}")
    stage.say(f"\neverything that was written: {settings.var}")
    stage.next_steps(
        [
            (f"cat {settings.var}/faults.log", "each fault: when it came, how long it lasted, seconds to recover"),
            (f"grep -h WARNING {settings.var}/*.log | sort", "what the processes said meanwhile"),
            (f"make soak-fraud SEED={seed + 1}", "other moments, other faults; LOG=kafka takes a broker through it"),
        ]
    )


def _own_broker(settings: Settings, ports: tuple[int, int]) -> "tuple[Kafka, Settings]":
    from infra.local import Kafka  # who soaks the embedded log needs no Kafka, and no client of it

    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it would tell of every connection
    broker = Kafka(settings.kafka_home, settings.var / "kafka", port=ports[0], controller=ports[1])
    broker.start()
    return broker, settings.model_copy(update={"log": broker.url})


def _settle_in(settings: Settings, log: EventLog, stage: Stage, *, seed: int) -> pl.DataFrame:
    """Two months in the lake, until the last midnight, and a model learnt from them that the log has released."""
    today = SystemClock().now() // config.DAY * config.DAY
    past = simulate(seed=seed, start=today - HISTORY * config.DAY, days=HISTORY, cards=CARDS, payments_a_day=3.0)
    write_past(settings, past, until=today, seed=seed)
    version = learn(settings, stage, as_of=today, seed=seed).version
    registry = Registry(settings.mlflow, config.SERVICE)
    registry.fetch(version.artifact, digest=version.digest, into=settings.var / "models")
    log.create(for_ever(TOPICS))
    log.append([entry(Release.promotion(version, at=today, who="soak", why="the first, whatever the gate says"))])
    return past


def _wait(done: Callable[[], bool], why: str) -> None:
    until = monotonic() + PATIENCE
    while not done():
        if monotonic() > until:
            raise Stuck(why)
        sleep(0.05)


def _drain(log: EventLog) -> None:
    """Wait until the owners have come to the end of the events."""

    def drained() -> bool:
        try:
            done = log.committed(DECIDERS, EVENTS)
            return all(p in done and done[p].offset >= end for p, end in log.ends(EVENTS).items())
        except LogUnavailable:
            return False

    _wait(drained, "the workers do not come to the end; see their .log files")


def _read(log: EventLog, topic: Topic) -> list[Record]:
    """All that the topic holds."""
    records: list[Record] = []
    with closing(log.reader(beginning([topic]))) as reader:
        while part := reader.poll(10_000, 0.0):
            records += part
    return records


def recoveries(faults: Sequence[Fault]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for kind in sorted({fault.kind for fault in faults}):
        these = [fault for fault in faults if fault.kind == kind]
        lasted = median(fault.lasted for fault in these)
        took = [fault.recovered for fault in these if fault.recovered is not None]
        known = took or [math.nan]
        cells = [f"{seconds:.1f}" for seconds in (lasted, median(known), max(known))]
        rows.append([kind, str(len(these)), *cells, str(len(these) - len(took))])
    return ["fault", "times", "it lasted", "median", "max", "never"], rows


def payments_table(said: Account, load: Load, fleet: Fleet) -> tuple[list[str], list[list[str]]]:
    seconds = [answer.seconds for answer in load.answers]
    p50, p99 = (float(np.quantile(seconds or [0.0], share)) for share in (0.5, 0.99))
    rows = [
        ["sent, or found in the log", f"{said.payments:,}"],
        ["lost", f"{len(said.lost)}"],
        ["decided twice", f"{len(said.twice)}"],
        ["decided first by", _counted(said.paths)],
        ["superseded: came second, and do not count", f"{said.superseded:,}"],
        ["repeats recognised", f"{said.repeats:,}"],
        ["answers by HTTP", _counted(Counter(str(answer.status) for answer in load.answers))],
        ["asked again after", _counted(load.silences)],
        ["p50, p99 with all asking again, s", f"{p50:.3f}, {p99:.1f}"],
        ["ended by themselves", ", ".join(fleet.ended) or "none"],
        ["logs with a traceback", ", ".join(fleet.tracebacks()) or "none"],
    ]
    return ["", "value"], rows


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items())) or "none"
