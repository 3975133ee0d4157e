"""Worlds with a known answer: nothing changes, one thing changes, one day is odd."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shared.drift import Reference, drifted, report, spread, thresholds

ROWS, REFERENCE_ROWS = 4_000, 12_000
KINDS = 6
Block = Mapping[str, float]


def world(rng: np.random.Generator, rows: int, *, rare: float = 0.03) -> pl.DataFrame:
    """Thirty columns of six kinds; `rare` is the share of the rare value in those numbered 0."""
    columns: dict[str, np.ndarray] = {}
    for number in range(5):
        share = rare if number == 0 else 0.03 * (number + 1)
        amount, seen = rng.lognormal(3, 1.2, rows), rng.random(rows) >= share
        columns |= {
            f"amount-{number}": amount,
            f"flag-{number}": ~seen,
            f"since-{number}": np.where(seen, amount, -1),  # -1 = never
            f"count-{number}": rng.negative_binomial(1, 1 / (2 + number), rows),
            f"tail-{number}": rng.pareto(1.1, rows) * 10 + np.where(seen, 0, 500),
            f"constant-{number}": np.full(rows, number),
        }
    return pl.DataFrame(columns)


def quiet_world(seed: int) -> tuple[np.random.Generator, Reference, dict[str, float]]:
    rng = np.random.default_rng(seed)
    reference = Reference.of(world(rng, REFERENCE_ROWS))
    return rng, reference, thresholds([reference.distances(world(rng, ROWS)) for _ in range(24)])


@pytest.mark.parametrize("seed", range(5))
def test_sixty_quiet_blocks_raise_no_alarm(seed: int) -> None:
    rng, reference, limits = quiet_world(seed)
    history = [reference.distances(world(rng, ROWS)) for _ in range(60)]
    assert len(limits) == 5 * KINDS
    assert [drifted(history[: day + 1], limits) for day in range(60)] == [()] * 60


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_value_that_gains_two_points_is_found_in_three_blocks(seed: int) -> None:
    rng, reference, limits = quiet_world(seed)
    history = [reference.distances(world(rng, ROWS, rare=0.05)) for _ in range(3)]
    found = set(drifted(history[:2], limits)) | set(drifted(history, limits))
    assert {"flag-0", "since-0"} <= found <= {"flag-0", "since-0", "tail-0"}  # the tail mixes with its own


def test_one_odd_block_is_no_drift() -> None:
    limits = {"amount": 0.1, "flag": 0.1}
    calm, odd, other = {"amount": 0.05, "flag": 0.1}, {"amount": 0.9, "flag": 0.1}, {"amount": 0.05, "flag": 0.9}
    assert drifted([odd], limits) == ()
    assert drifted([calm, odd, calm, odd], limits) == ()
    assert drifted([odd, other], limits) == ()
    assert drifted([odd, odd, calm], limits) == ()
    assert drifted([calm, odd, odd], limits) == ("amount",)


@pytest.mark.parametrize("rows", [1, 10, 4_000, 5_000, 7_999, 8_001])
def test_rows_are_spread_from_the_first_to_the_last(rows: int) -> None:
    part = spread(pl.DataFrame({"at": range(rows)}), 4_000)["at"].to_list()
    assert len(part) == len(set(part)) == min(rows, 4_000)
    assert (part[0], part[-1]) == (0, rows - 1)
    assert np.ptp(np.diff(part)) <= 1 if rows > 1 else part == [0]
    assert spread(pl.DataFrame({"at": []}), 4_000).is_empty()


@pytest.mark.parametrize("seed", range(3))
def test_fewer_rows_are_no_drift(seed: int) -> None:
    """As they are, the distances of a third of the rows go beyond limits that were set on whole blocks."""
    rng, reference, limits = quiet_world(seed)
    few = [world(rng, ROWS // 3) for _ in range(40)]
    history = [reference.distances(rows, block=ROWS) for rows in few]
    assert [drifted(history[: day + 1], limits) for day in range(40)] == [()] * 40
    noisy = [reference.distances(rows) for rows in few]
    assert any(distance > limits[column] for block in noisy for column, distance in block.items())


def test_a_reference_of_before_may_have_other_columns() -> None:
    reference = Reference.of(pl.DataFrame({"amount": [1, 2] * 50, "given up": [1, 2] * 50}))
    assert reference.distances(pl.DataFrame({"amount": [1, 2], "new": [1, 1]})) == {"amount": 0}
    assert drifted([{"amount": 0.9}] * 2, {"amount": 0.1, "given up": 0.1}) == ("amount",)


def test_the_ends_of_the_scale() -> None:
    reference = Reference.of(pl.DataFrame({"constant": [7] * 100, "flag": [True, False] * 50}))
    same = pl.DataFrame({"constant": [7] * 4, "flag": [False, True] * 2})
    assert reference.distances(same) == {"constant": 0, "flag": 0}
    other = pl.DataFrame({"constant": [8, 6], "flag": [True, True]})
    assert reference.distances(other)["constant"] == pytest.approx(1)


def test_missing_values_are_a_share_of_their_own() -> None:
    reference = Reference.of(pl.DataFrame({"amount": [1.0, 2.0, 3.0, 1e300]}))
    assert reference.distances(pl.DataFrame({"amount": [None, float("nan")]}))["amount"] == pytest.approx(1)


def test_a_column_that_was_constant_may_show_a_stray_value() -> None:
    reference = Reference.of(pl.DataFrame({"constant": [7] * REFERENCE_ROWS}))
    limits = thresholds([{"constant": 0.0}] * 24)
    stray, new = ([reference.distances(pl.DataFrame({"constant": [7] * ROWS + [8] * n}))] * 2 for n in (2, 40))
    assert drifted(stray, limits) == ()
    assert drifted(new, limits) == ("constant",)


def test_an_empty_block_is_refused() -> None:
    with pytest.raises(ValueError, match="without rows"):
        Reference.of(pl.DataFrame({"flag": [True]})).distances(pl.DataFrame({"flag": []}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # evidently's libraries warn about one another
def test_the_page_for_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    page = tmp_path / "reports" / "day-9.html"
    report(world(rng, 500), world(rng, 500, rare=0.5), page)
    text = page.read_text()
    assert "<html" in text
    assert "flag-0" in text
