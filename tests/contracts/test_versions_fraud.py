"""Records outlive code: what the version after this one writes is read, and what the one before wrote, on every topic.

The next version is this one with a field more in every record; the one before is this one without the fields that
have defaults.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from fraud import dataset, schema
from fraud.config import DAY, HOUR
from fraud.features import fold
from fraud.monitor import Monitor, entry
from fraud.schema import DEAD, DECISIONS, EVENTS, TOPICS, Alarm, Command, Report
from shared.background_job import Heartbeat
from shared.dead_letters import DeadLetter
from shared.eventlog.port import Entry, Record, Topic
from shared.releases import Ledger, Release
from shared.story import Scene
from tests.fraud.bank import LIVE, SEED, TODAY, Bank, Trained, copied, days, open_registry, payments, trained
from tests.fraud.test_serve import PAYMENT, edge, eventually, working

pytestmark = [pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"), pytest.mark.timeout(300)]

MESSAGES: dict[str, tuple[type[BaseModel], ...]] = {
    schema.EVENTS.name: (schema.Transaction, schema.Label, schema.Tick),
    schema.DECISIONS.name: (schema.Decision, schema.Outcome),
    schema.BOOK.name: (schema.Cell,),
    schema.DEAD.name: (DeadLetter,),
    schema.COMMANDS.name: (Command,),
    schema.ALARMS.name: (Alarm,),
    schema.REPORTS.name: (Report,),
    schema.RELEASES.name: (Release,),
    schema.HEARTBEATS.name: (Heartbeat,),
    schema.STORY.name: (Scene, schema.Wish),
}
Rewrite = Callable[[Record], bytes]


def kind_of(record: Record) -> type[BaseModel]:
    kinds = MESSAGES[record.topic]
    kind = json.loads(record.value).get("kind")
    return next((each for each in kinds if len(kinds) > 1 and fits(each, kind)), kinds[0])


def fits(message: type[BaseModel], kind: str) -> bool:
    about = message.model_fields["kind"]
    return kind == about.default or kind in getattr(about.annotation, "__args__", ())


def later(record: Record) -> bytes:
    return json.dumps(json.loads(record.value) | {"later": {"than": ["us"]}, "also": None}).encode()


def earlier(record: Record) -> bytes:
    """Without what has a default; a field that names the kind of a message stays, as there is no message without."""
    kind = kind_of(record)
    required = {name for name, about in kind.model_fields.items() if about.is_required() or name == "kind"}
    said: dict[str, Any] = json.loads(record.value)
    # What the first version wrote into every line of its ledger.
    required |= {"artifact", "digest", "figures"} if kind is Release else set()
    # Where a payment stands is how a decision is told from a stand-in.
    required |= {"model", "probability", "partition", "offset"} if kind is schema.Decision else set()
    # Without these the past itself would be another one.
    required |= {"country", "device"} if kind is schema.Transaction else set()
    return json.dumps({name: value for name, value in said.items() if name in required}).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture(params=[later, earlier])
def rewritten(request: pytest.FixtureRequest, world: Trained, tmp_path: Path) -> Iterator[tuple[Bank, Bank]]:
    """A bank that has lived for a day, and one whose log has the same records as the other version writes them."""
    with (
        closing(copied(world, tmp_path / "ours")) as ours,
        closing(copied(world, tmp_path / "theirs", history=False)) as b,
    ):
        live(ours, world)
        b.clock.observe(TODAY + 2 * DAY)
        for topic in TOPICS:
            for record in ours.read(topic):
                b.log.append([Entry(topic, record.key, request.param(record), record.partition)])
        yield ours, b


def hours(world: Trained, first: int, last: int) -> pl.DataFrame:
    return days(world, 0, 1).filter(pl.col("at").is_between(TODAY + first * HOUR, TODAY + last * HOUR, closed="left"))


def live(bank: Bank, world: Trained) -> None:
    bank.send(hours(world, 0, 26))
    bank.log.append([Entry(EVENTS, "card-a", b'{"kind": "payment", "card": "card-a"}')])
    bank.decide()
    monitor_of(bank)
    alarm = Alarm(kind="drift", at=TODAY, message="moved", action="retrain", retrain_on=TODAY // DAY + 99)
    scene = Scene(number=1, title="Live", at=TODAY)
    bank.log.append([entry(alarm), Entry(schema.STORY, "scene", scene.model_dump_json().encode())])


def monitor_of(bank: Bank) -> None:
    registry = open_registry(bank.var)
    with closing(
        Monitor(
            bank.log,
            bank.lake,
            registry,
            clock=bank.clock,
            seed=SEED,
            fetch=lambda _, digest: bank.var / "models" / digest,
            pages=bank.var / "pages",
        )
    ) as monitor:
        while monitor.step():
            pass


def by_topic(bank: Bank, topic: Topic) -> int:
    return len(bank.read(topic))


@pytest.mark.slow
def test_worker_ingest_monitor_and_gateway_go_on_where_the_other_version_stopped(
    rewritten: tuple[Bank, Bank], world: Trained
) -> None:
    ours, theirs = rewritten
    before = theirs.said()
    assert before.keys() == ours.said().keys()
    # The worker takes over: nothing is decided twice, and the next hours as if the version had never changed.
    for bank in (ours, theirs):
        bank.send(hours(world, 26, 30))
        bank.decide()
    decisions = theirs.decisions()
    assert decisions.keys() == ours.decisions().keys() >= {x.identity for x in payments(hours(world, 26, 30))}
    new = [identity for identity in decisions if identity not in before]
    assert {decisions[identity].path for identity in new} == {"model"}
    assert [schema.Decision.model_validate_json(ours.said()[x]).features for x in new] == [
        decisions[x].features for x in new
    ]
    # Monitor and ingest: the lake is the same, the days that were reported are not reported again.
    for bank in (ours, theirs):
        monitor_of(bank)
    rows = [dataset.events(bank.lake, as_of=TODAY + LIVE * DAY).drop("probe") for bank in (ours, theirs)]
    assert (
        rows[0].select("partition", "offset", "card", "id").equals(rows[1].select("partition", "offset", "card", "id"))
    )
    reports = [[Report.model_validate_json(r.value).day for r in bank.read(schema.REPORTS)] for bank in (ours, theirs)]
    assert reports[0] == reports[1] == [TODAY // DAY]
    assert by_topic(theirs, DEAD) == by_topic(ours, DEAD) == 1
    # The gateway: ready, nothing skipped, and it finds what the other version decided.
    with working(theirs), edge(theirs) as client:
        eventually(lambda: client.get("/v1/watch").json()["told"]["scenes"])
        eventually(lambda: client.get("/health/ready").json() == {"status": "ready", "warnings": []})
        identity = next(iter(before))
        assert client.get(f"/v1/decisions/{identity}").content == before[identity]
        assert client.post("/v1/decisions", json=PAYMENT | {"at": TODAY + 30 * HOUR}).json()["path"] == "model"
        assert client.get("/v1/model").json()["champion"]["version"] == "1"
        assert len(client.get("/v1/alarms").json()) == by_topic(theirs, schema.ALARMS)
    assert Ledger(Release.model_validate_json(r.value) for r in theirs.read(schema.RELEASES)).version() == "1"


@pytest.mark.slow
def test_a_lake_of_another_version_is_folded_as_ours(world: Trained, tmp_path: Path) -> None:
    """With a column more, or without those that came later."""
    with closing(copied(world, tmp_path / "var")) as bank:
        bank.send(days(world, 0, 0))
        bank.decide()
        monitor_of(bank)
        ours = dataset.events(bank.lake, as_of=TODAY + DAY)
        for number, file in enumerate(sorted(bank.lake.folder.rglob("*.parquet"))):
            rows = pl.read_parquet(file, hive_partitioning=False)
            gone = [x for x in ("probe", "currency", "explored", "propensity", "mark") if x in rows.columns]
            changed = rows.drop(gone) if number % 2 else rows.with_columns(later=pl.lit(1))
            file.unlink()  # it is linked to the world's
            changed.write_parquet(file)
        theirs = dataset.events(bank.lake, as_of=TODAY + DAY)
        assert ours.drop("probe", "currency").equals(theirs.select(ours.columns).drop("probe", "currency"))
        fields = [[vector for _, _, vector in fold(dataset.streams(rows))] for rows in (ours, theirs)]
        assert fields[0] == fields[1]
        labelled = dataset.labelled(
            ours.filter(pl.col("kind") == "payment").drop("fraud"), ours, dataset.decisions(bank.lake)
        )
        assert labelled["weight"].is_finite().all()


def test_every_topic_is_named_here() -> None:
    assert set(MESSAGES) == {topic.name for topic in TOPICS}
    assert DECISIONS.name in MESSAGES
