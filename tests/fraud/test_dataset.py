"""What was known when: labels, weights, and nothing of the future."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from fraud import dataset, train
from fraud.config import DAY, EXPLORATION, HOUR, MATURITY, PARTITIONS
from fraud.features import DEFINITION
from fraud.history import COLUMNS, as_events, read_file, write_history
from fraud.schema import EVENT, Label, Transaction
from fraud.simulate import simulate
from shared.lake import Lake
from tests.worlds import KEY, START

EMPTY = pl.DataFrame()
CUT = START + 22 * DAY


def known(
    *labels: tuple[int, bool],
    action: str | None = None,
    propensity: float = 1.0,
    probe: bool = False,
    as_of: int = START + 30 * DAY,
) -> dict[str, object]:
    """What is known of one payment, given labels (known at, fraud) and what was done."""
    payments = pl.DataFrame({"card": "c", "id": "tx", "at": START, "probe": probe})
    schema = {"kind": pl.String, "card": pl.String, "id": pl.String, "at": pl.Int64, "fraud": pl.Boolean}
    rows = pl.DataFrame([("label", "c", "tx", at, fraud) for at, fraud in labels], schema=schema, orient="row")
    decisions = (
        EMPTY if action is None else pl.DataFrame({"card": "c", "id": "tx", "action": action, "propensity": propensity})
    )
    (row,) = dataset.labelled(payments, rows.filter(pl.col("at") < as_of), decisions).to_dicts()
    return {name: row[name] for name in ("fraud", "weight", "action")}


def test_without_a_label_a_payment_is_legitimate() -> None:
    assert known() == {"fraud": False, "weight": 1.0, "action": "approve"}


def test_the_latest_verdict_wins_whatever_arrived_last() -> None:
    assert known((START + 1, False), (START + 9, True))["fraud"] is True
    assert known((START + 9, False), (START + 1, True))["fraud"] is False


def test_a_declined_payment_has_no_weight() -> None:
    assert known(action="decline", propensity=1 - EXPLORATION)["weight"] == 0


def test_an_explored_payment_stands_for_a_hundred() -> None:
    assert known((START, True), action="approve", propensity=EXPLORATION)["weight"] == pytest.approx(100)


def test_reviewed_and_approved_payments_stand_for_themselves() -> None:
    assert known(action="review") == {"fraud": False, "weight": 1.0, "action": "review"}
    assert known(action="approve")["weight"] == 1


def test_a_probe_has_no_weight() -> None:
    assert known(probe=True)["weight"] == 0


def test_the_first_decision_holds() -> None:
    payments = pl.DataFrame({"card": "c", "id": "tx", "probe": False})
    decisions = pl.DataFrame({"card": "c", "id": "tx", "action": ["decline", "approve"], "propensity": [0.99, 1.0]})
    rows = pl.DataFrame(
        schema={"kind": pl.String, "card": pl.String, "id": pl.String, "at": pl.Int64, "fraud": pl.Boolean}
    )
    labelled = dataset.labelled(payments, rows, decisions)
    assert (labelled.height, labelled["action"][0]) == (1, "decline")


def test_only_payments_whose_labels_are_complete_are_learnt_from() -> None:
    split = dataset.split(CUT)
    assert split.judge_until + MATURITY == CUT
    assert split.fit_until == split.judge_until - 7 * DAY


def test_a_card_stays_on_its_side_from_version_to_version() -> None:
    """Else a model would be judged on what an earlier one, its champion, has learnt from."""
    cards = pl.Series([f"card-{n}" for n in range(60)])
    assert np.flatnonzero(dataset.halves(cards)[:20]).tolist() == [5, 6, 7, 13, 14, 15, 17, 19]
    assert np.flatnonzero(dataset.kept(cards)).tolist() == [12, 22, 24, 35, 40, 49, 53, 54]


class Asked:
    """A lake that has nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.dates: dict[str, tuple[date | None, date | None]] = {}

    def read(self, table: str, *, since: date | None = None, until: date | None = None) -> pl.DataFrame:
        self.dates[table] = since, until
        return pl.DataFrame(schema={"partition": pl.Int64, "offset": pl.Int64, "at": pl.Int64})


def test_what_is_read_of_the_lake() -> None:
    asked: Any = Asked()
    dataset.events(asked, since=START + HOUR, as_of=CUT)
    before, first, after = date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 24)
    assert asked.dates == {"refusals": (before, None), "events": (first, after)}, "the day of the cut as well"
    dataset.events(asked, as_of=CUT)
    assert asked.dates == {"refusals": (date(1970, 1, 1), None), "events": (date(1970, 1, 1), after)}
    dataset.decisions(asked, since=first, until=after)
    assert asked.dates["decisions"] == (first, after)


def test_what_another_version_did_not_write_has_its_default() -> None:
    columns = {
        "id": pl.String,
        "currency": pl.String,
        "probe": pl.Boolean,
        "explored": pl.Boolean,
        "propensity": pl.Float64,
    }
    (row,) = dataset.complete(pl.DataFrame({"id": ["1"]}), columns).to_dicts()
    assert row == {"id": "1", "currency": "EUR", "probe": False, "explored": False, "propensity": 1.0}


def test_halves_are_stable_by_card_and_about_half() -> None:
    cards = pl.Series([f"card-{k}" for k in range(2_000)])
    side = dataset.halves(cards)
    assert 0.46 < side.mean() < 0.54
    assert (dataset.halves(cards.reverse()) == side[::-1]).all()
    assert dataset.halves(pl.Series(["card-0", "card-1", "card-2", "card-3"])).tolist() == side[:4].tolist()


def test_a_tenth_of_the_cards_is_kept_for_the_gate_from_either_half() -> None:
    cards = pl.Series([f"card-{k}" for k in range(5_000)])
    kept, half = dataset.kept(cards), dataset.halves(cards)
    assert 0.085 < kept.mean() < 0.115
    assert 0.4 < half[kept].mean() < 0.6
    assert (dataset.kept(cards.reverse()) == kept[::-1]).all()


# --- the lake, and what must not leak through it -----------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw CSV of 30 days with the handbook's columns."""
    payments = simulate(seed=2, start=START, days=30, cards=300, terminals=60)
    raw = payments.select(
        TRANSACTION_ID="id",
        TX_DATETIME=pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S"),
        CUSTOMER_ID="card",
        TERMINAL_ID="terminal",
        TX_AMOUNT=pl.col("cents") / 100,
        TX_FRAUD=pl.col("fraud").cast(int),
        COUNTRY="country",
        DEVICE="device",
    )
    assert set(raw.columns) == {column.headings[0] for column in COLUMNS}
    path = tmp_path_factory.mktemp("raw") / "payments.csv"
    raw.write_csv(path)
    return path


def ingested(path: Path, folder: Path) -> Lake:
    """The lake of a raw file, its labels known after a week; the ticks go on to the end of the month."""
    payments = read_file(path).rows
    frauds = payments.filter("fraud").select("card", "id", "terminal", "at", "fraud", source=pl.lit("chargeback"))
    labels = frauds.with_columns(pl.col("at") + MATURITY)
    lake = Lake(folder)
    write_history(lake, as_events(payments, labels, key=KEY, ticks=(START, START + 40 * DAY)))
    return lake


def learnt(lake: Lake) -> tuple[pl.DataFrame, pl.DataFrame, bytes]:
    """As of the cut: events, payments with labels, features."""
    rows = dataset.events(lake, as_of=CUT)
    block = train.folded(dataset.events(lake, as_of=CUT), EMPTY)
    return rows, block.payments, block.matrix.tobytes()


GARBAGE = {
    "deleted": [],
    "noise": ["x,y,z", '"""', "\ufffd" * 50, ",,,,,,,"],
    "other payments": [
        f"new-{k},2026-01-{23 + k % 7} 0{k % 9}:00:00,c0000{k % 10},t000{k % 5},{k}.5,{k % 2},TR,d{k}"
        for k in range(500)
    ],
    "bad values": ["tx1,2026-01-25 00:00:00,c00001,t0001,NaN,1,BE,d1", "tx2,2026-13-99,c,t,1e99,2,be,"],
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_nothing_after_the_cut_changes_anything_before_it(file: Path, tmp_path: Path, kind: str) -> None:
    """On the raw file, before anything of ours has seen it: cleaning, ids, labels and features."""
    header, *lines = file.read_text().splitlines()
    past = [line for line in lines if line.split(",")[1] < "2026-01-23"]
    assert 0 < len(past) < len(lines)
    cut = tmp_path / "cut.csv"
    cut.write_text("\n".join([header, *past, *GARBAGE[kind]]))
    whole, without = learnt(ingested(file, tmp_path / "whole")), learnt(ingested(cut, tmp_path / "without"))
    assert_frame_equal(whole[0], without[0])
    assert_frame_equal(whole[1], without[1])
    assert whole[2] == without[2]
    assert whole[1]["fraud"].any()


def test_a_label_known_after_the_cut_does_not_count(file: Path, tmp_path: Path) -> None:
    lake = ingested(file, tmp_path)
    late = read_file(file).rows.filter(pl.col("fraud") & pl.col("at").is_between(CUT - MATURITY, CUT))
    assert late.height > 3
    _, payments, _ = learnt(lake)
    assert not payments.filter(pl.col("id").is_in(late["id"].to_list()))["fraud"].any()
    afterwards = train.folded(dataset.events(lake, as_of=CUT + MATURITY), EMPTY).payments
    assert afterwards.filter(pl.col("id").is_in(late["id"].to_list()))["fraud"].all()


def test_what_the_owner_refused_is_not_in_the_data(file: Path, tmp_path: Path) -> None:
    lake = ingested(file, tmp_path)
    rows = dataset.events(lake, as_of=CUT)
    refused = rows.filter(kind="payment").head(3).select("partition", "offset", "at")
    lake.write("refusals", refused, batch="one")
    assert_frame_equal(
        dataset.events(lake, as_of=CUT),
        rows.join(refused, on=["partition", "offset"], how="anti", maintain_order="left"),
    )


def test_streams_are_the_rows_as_events_by_partition_in_order(file: Path, tmp_path: Path) -> None:
    rows = dataset.events(ingested(file, tmp_path), as_of=CUT)
    streams = [list(stream) for stream in dataset.streams(rows)]
    assert len(streams) == PARTITIONS
    assert sum(map(len, streams)) == rows.height
    for partition, events in enumerate(streams):
        mine = rows.filter(partition=partition)
        assert [event.at for event in events] == mine["at"].to_list()
        assert [event.kind for event in events] == mine["kind"].to_list()
        payments = [event for event in events if isinstance(event, Transaction)]
        assert [event.cents for event in payments] == mine.filter(kind="payment")["cents"].to_list()
        assert all(event.fraud for event in events if isinstance(event, Label))
        assert all(EVENT.validate_json(event.model_dump_json()) == event for event in events[:50])


def test_the_version_names_what_was_ingested(file: Path, tmp_path: Path) -> None:
    rows = dataset.events(ingested(file, tmp_path), as_of=CUT)
    known = train.folded(rows, EMPTY).payments
    version = dataset.version(rows, known)
    assert version != DEFINITION
    assert len(version) == 12
    assert dataset.version(rows.sample(fraction=1.0, shuffle=True, seed=0), known.reverse()) == version
    assert dataset.version(rows.select(reversed(rows.columns)), known) == version
    assert dataset.version(rows.head(-1), known) != version
    assert dataset.version(rows, known.with_columns(weight=pl.col("weight") * 2)) != version


@pytest.mark.parametrize("column", ["card", "cents", "terminal", "device", "fraud", "id", "source"])
def test_the_version_changes_with_what_was_ingested(file: Path, tmp_path: Path, column: str) -> None:
    """Other content of one column, in other rows of the same partition: counts and sums are what they were."""
    rows = dataset.events(ingested(file, tmp_path), as_of=CUT)
    known = train.folded(rows.head(0), EMPTY).payments
    same = pl.col("kind") == pl.col("kind").shift(-1).over("partition")
    first = rows.with_row_index("row").filter(same, pl.col(column) != pl.col(column).shift(-1).over("partition"))["row"]
    if column == "fraud":  # all labels of a file say the same
        changed = rows.with_columns(~pl.col("fraud"))
    elif column == "source":
        changed = rows.with_columns(source=pl.col("source") + "s")
    else:
        place = first[0]
        order = list(range(rows.height))
        order[place], order[place + 1] = order[place + 1], order[place]
        changed = rows.with_columns(rows[column][order].alias(column))
    assert dataset.version(changed, known) != dataset.version(rows, known)


def test_late_payments_have_no_features_and_are_not_learnt_from(file: Path, tmp_path: Path) -> None:
    lake = ingested(file, tmp_path)
    one = dataset.events(lake, as_of=CUT).filter(kind="payment").head(1)
    late = one.with_columns(offset=pl.lit(5, pl.Int64), id=pl.lit("too-late"))
    lake.write("events", late, batch="late")
    payments = train.folded(dataset.events(lake, as_of=CUT), EMPTY).payments
    assert one["id"][0] in payments["id"]
    assert "too-late" not in payments["id"]
