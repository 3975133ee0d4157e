"""From the topic to the lake: what the deciders took in, once, and nothing else."""

import json

import polars as pl
import pytest

from fraud import dataset
from fraud.config import DAY
from fraud.ingest import DECIDERS, GROUP, Ingest
from fraud.schema import DECISIONS, EVENTS
from shared.eventlog.port import Entry
from tests.fraud.bank import TODAY, Bank, Trained, days, payment, payments


@pytest.fixture
def day(world: Trained) -> pl.DataFrame:
    return days(world, 0, 0)


def taken_in(bank: Bank) -> pl.DataFrame:
    """What of the live days a training would see."""
    rows = dataset.events(bank.lake, as_of=TODAY + 30 * DAY)
    return rows.filter(pl.col("offset") >= 0)


def catch_up(bank: Bank) -> None:
    ingest = Ingest(bank.log, bank.lake)
    ingest.catch_up()
    ingest.consumer.close()


def test_the_lake_holds_the_day_as_it_was_sent(bank: Bank, day: pl.DataFrame) -> None:
    bank.send(day)
    bank.decide()
    catch_up(bank)
    columns = ["kind", "card", "id", "terminal", "at", "cents", "country", "device", "fraud", "source"]
    sent = day.sort("partition", maintain_order=True)
    assert taken_in(bank).select("partition", *columns).equals(sent.select("partition", *columns))
    decisions = bank.lake.read("decisions")
    said = bank.decisions()
    assert set(decisions["id"]) == {x.id for x in said.values()}
    for card, id_, features in decisions.select("card", "id", "features").iter_rows():
        assert tuple(features) == said[f"{card}.{id_}"].features


def test_refused_repeated_and_conflicting_records_are_not_learnt_from(bank: Bank) -> None:
    first = payment()
    bank.pay(first, first, payment(cents=1))
    bank.log.append([Entry(EVENTS, "card-a", b"{"), Entry(EVENTS, "another key", first.model_dump_json().encode())])
    bank.decide()
    catch_up(bank)
    assert taken_in(bank).select("id", "cents").rows() == [("1", 4_250)]
    assert bank.lake.read("decisions").height == 1
    assert bank.lake.read("refusals").height == 4


def test_json_that_is_valid_but_written_in_its_own_way_is_taken_in_as_it_was_decided(bank: Bank) -> None:
    spread = json.dumps(payment().model_dump() | {"probe": "yes"}, indent=2).encode()
    bank.log.append([Entry(EVENTS, "card-a", spread)])
    bank.decide()
    catch_up(bank)
    assert taken_in(bank).select("id", "cents", "probe").rows() == [("1", 4_250, True)]


def test_nothing_is_taken_in_before_its_owner_has_given_the_verdict(bank: Bank, day: pl.DataFrame) -> None:
    ingest = Ingest(bank.log, bank.lake)
    bank.send(day)
    assert ingest.catch_up() == 0
    assert taken_in(bank).is_empty()
    worker = bank.worker()
    worker.step(0.0)  # a part of it
    done = {p: x.offset for p, x in bank.log.committed(DECIDERS, EVENTS).items()}
    ingest.catch_up()
    assert 0 < taken_in(bank).height == sum(done.values())
    bank.work(worker)
    ingest.catch_up()
    assert taken_in(bank).height == day.height
    ingest.consumer.close()


def test_a_watermark_waits_for_the_decisions_which_stand_in_other_partitions(bank: Bank, day: pl.DataFrame) -> None:
    bank.send(day)
    bank.decide()
    ingest, moved = Ingest(bank.log, bank.lake), set()
    while (taken := ingest.step(limit=7)).positions:
        ingest.consumer.commit(taken.letters, taken.positions)
        moved.add(min(ingest.watermarks))
        passed = pl.DataFrame({"partition": range(len(ingest.watermarks)), "passed": ingest.watermarks})
        due = taken_in(bank).join(passed, on="partition").filter(kind="payment").filter(pl.col("at") < pl.col("passed"))
        assert due.join(bank.lake.read("decisions"), on=["card", "id"], how="anti").is_empty()
    ingest.consumer.close()
    assert len(moved) > 3


def test_a_crash_between_write_and_commit_counts_once(bank: Bank, day: pl.DataFrame) -> None:
    for half in day.iter_slices(day.height // 2 + 1):
        bank.send(half)
        bank.decide()
        for _ in range(2):  # the first two die before the commit
            dying = Ingest(bank.log, bank.lake)
            assert dying.step(limit=40).positions
            dying.consumer.close()
        catch_up(bank)
    events = taken_in(bank)
    assert events.height == day.height
    assert events.filter(pl.col("kind") == "payment").select("card", "id").is_unique().all()
    assert bank.lake.read("decisions").height == len(payments(day))


def test_it_ends_where_the_deciders_stand_and_has_nothing_to_do_the_second_time(bank: Bank, day: pl.DataFrame) -> None:
    bank.send(day)
    bank.decide()
    catch_up(bank)
    assert bank.log.committed(GROUP, EVENTS).keys() == bank.log.committed(DECIDERS, EVENTS).keys()
    assert sum(x.offset for x in bank.log.committed(GROUP, DECISIONS).values()) == len(bank.read(DECISIONS))
    ingest = Ingest(bank.log, bank.lake)
    assert ingest.catch_up() == 0
    ingest.consumer.close()


def test_the_latest_verdict_on_a_payment_counts(bank: Bank) -> None:
    first = payment()
    bank.pay(first)
    for number, fraud in enumerate((True, False, True)):
        text = {"kind": "label", "card": first.card, "id": first.id, "terminal": first.terminal, "source": "analyst"}
        value = json.dumps(text | {"at": first.at + number, "fraud": fraud}).encode()
        bank.log.append([Entry(EVENTS, first.card, value)])
        bank.decide()
        catch_up(bank)
        rows = taken_in(bank)
        paid = rows.filter(pl.col("kind") == "payment").drop("fraud")
        known = dataset.labelled(paid, rows, bank.lake.read("decisions"))
        assert known.select("fraud", "weight").rows() == [(fraud, 1.0)]
