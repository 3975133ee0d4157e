"""The simulated bank: seeded, with a known truth, and hard enough to be worth a model."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from fraud.config import DAY, HOUR, MATURITY, MINUTE, REVIEW_CATCH
from fraud.schema import Label, Transaction
from fraud.simulate import SCENARIOS, labels, simulate

START = 1_767_225_600  # 2026-01-01, a Thursday
DAYS, CHANGE = 90, 60
TELLING = ("card", "id", "terminal", "at", "cents", "country", "device")


@pytest.fixture(scope="module")
def world() -> pl.DataFrame:
    payments = simulate(seed=1, start=START, days=DAYS, cards=2_000, terminals=600, tactics_from=CHANGE)
    return payments.with_columns(day=(pl.col("at") - START) // DAY)


@pytest.fixture(scope="module")
def handled(world: pl.DataFrame) -> pl.DataFrame:
    """The frauds and as many others, with one of the three actions each in turn."""
    some = pl.concat([world.filter("fraud"), world.filter(~pl.col("fraud")).head(3_000)])
    action = pl.Series(["approve", "review", "decline"]).gather(pl.int_range(some.height, eager=True) % 3)
    return some.with_columns(action=action)


def small(seed: int, tactics_from: int | None = None) -> pl.DataFrame:
    return simulate(seed=seed, start=START, days=20, cards=200, terminals=60, tactics_from=tactics_from)


def share(payments: pl.DataFrame, scenario: str) -> float:
    return payments.filter(scenario=scenario).height / payments.height


def test_the_seed_is_the_world() -> None:
    assert_frame_equal(small(seed=1, tactics_from=10), small(seed=1, tactics_from=10))
    assert not small(seed=1).equals(small(seed=2))


def test_the_frame_is_as_promised(world: pl.DataFrame) -> None:
    assert world["at"].is_sorted()
    assert world["id"].is_unique().all()
    assert world["at"].is_between(START, START + DAYS * DAY - 1).all()
    assert world["card"].n_unique() > 1_980  # of 2,000; some never pay
    assert world.height / DAYS / 2_000 == pytest.approx(1.0, abs=0.06)
    assert not sum(world.null_count().row(0))


def test_payments_pass_the_edge(world: pl.DataFrame) -> None:
    dearest = world.sort("cents").tail(50)
    for row in pl.concat([world.sample(400, seed=0), dearest]).select(TELLING).iter_rows(named=True):
        Transaction.model_validate(row)


def test_the_change_of_tactics_comes_on_top(world: pl.DataFrame) -> None:
    twin = simulate(seed=1, start=START, days=DAYS, cards=2_000, terminals=600)
    assert_frame_equal(world.drop("day").filter(pl.col("scenario") != "tactics"), twin)
    assert_frame_equal(small(seed=1, tactics_from=20), small(seed=1))  # a change after the last day


def test_shares_of_the_scenarios(world: pl.DataFrame) -> None:
    before = world.filter(pl.col("day") < CHANGE)
    assert set(before["scenario"]) == set(SCENARIOS) - {"tactics"}
    for scenario in ("amount", "terminal", "card", "testing", "takeover"):
        assert 0.0007 < share(before, scenario) < 0.0035
    assert 0.006 < before["fraud"].mean() < 0.010  # type: ignore[operator]  # of booleans: a float
    for _, day in world.filter(pl.col("day") >= CHANGE).group_by("day"):
        assert 0.013 < share(day, "tactics") < 0.027
    assert (world["fraud"] == (world["scenario"] != "none")).all()


def test_complaints_come_before_labels_count_as_complete(world: pl.DataFrame) -> None:
    after = world.filter("fraud")["complaint_after"]
    assert after.is_between(DAY // 2, int(6.8 * DAY)).all()
    assert int(6.8 * DAY) < MATURITY
    assert after.is_between(int(1.5 * DAY), 5 * DAY).mean() > 0.75  # type: ignore[operator]  # of numbers
    assert (world.filter(~pl.col("fraud"))["complaint_after"] == 0).all()


def test_legitimate_life(world: pl.DataFrame) -> None:
    legit = world.filter(~pl.col("fraud"))
    by_hour = legit.group_by(pl.col("at") % DAY // HOUR).len().sort("at")["len"]
    assert by_hour[12] > 10 * by_hour[3]
    saturdays, sundays = (legit.filter(pl.col("day") % 7 == day).height for day in (2, 3))
    assert saturdays > 1.3 * sundays
    of_card = legit.group_by("card").agg(pl.len(), pl.col("terminal").value_counts(sort=True), pl.col("cents").mean())
    habit = of_card.filter(pl.col("len") > 30).select(
        pl.col("terminal").list.head(6).list.eval(pl.element().struct.field("count")).list.sum() / pl.col("len")
    )
    assert 0.75 < habit["terminal"].mean() < 0.95  # type: ignore[operator]  # of numbers
    assert of_card["cents"].quantile(0.95) > 4 * of_card["cents"].quantile(0.25)  # type: ignore[operator]  # of numbers


def test_no_single_field_gives_fraud_away(world: pl.DataFrame) -> None:
    """Travellers, new telephones and sofas are more than the frauds that look like them."""
    before = world.filter(pl.col("day").is_between(20, CHANGE - 1))
    seen = before.with_columns(
        new_device=pl.struct("card", "device").is_first_distinct(),
        dear=pl.col("cents") > 8 * pl.col("cents").median().over("card"),
    )
    for suspicious in (pl.col("country") != "BE", pl.col("new_device"), pl.col("dear")):
        fraud = seen.filter(suspicious)["fraud"].mean()
        assert 0.01 < fraud < 0.6  # type: ignore[operator]  # of numbers


def test_testing_is_a_burst_of_tiny_payments_and_then_a_large_one(world: pl.DataFrame) -> None:
    bursts = world.filter(scenario="testing").group_by("card", "device").agg(pl.len(), "at", "cents", "country")
    bursts = bursts.filter(pl.col("at").list.max() < START + DAYS * DAY - HOUR)  # not cut by the end
    assert bursts.height > 10
    assert bursts["len"].is_between(6, 13).all()
    assert ((bursts["at"].list.max() - bursts["at"].list.min()) <= 11 * MINUTE).all()
    assert bursts.select(pl.col("cents").list.head(5).list.max() <= 3_00).to_series().all()
    assert bursts.select(pl.col("cents").list.last() > pl.col("cents").list.median()).to_series().mean() > 0.99  # type: ignore[operator]  # of numbers
    assert not bursts["country"].list.contains("BE").any()


def test_takeover_brings_another_country_and_device(world: pl.DataFrame) -> None:
    taken = world.filter(scenario="takeover").group_by("card", "device").agg(pl.len(), "at", "country")
    assert taken.height > 10
    assert taken["len"].max() == 6
    assert ((taken["at"].list.max() - taken["at"].list.min()) < 6 * HOUR).all()
    assert (taken["country"].list.n_unique() == 1).all()
    assert not taken["country"].list.contains("BE").any()


def test_a_compromised_terminal_is_found_after_four_weeks(world: pl.DataFrame) -> None:
    frauds = world.filter(scenario="terminal").group_by("terminal").agg(pl.len(), "day").filter(pl.col("len") > 20)
    assert frauds.height >= 2
    for terminal, _, days in frauds.iter_rows():
        assert max(days) - min(days) < 28
        there = world.filter((pl.col("terminal") == terminal) & pl.col("day").is_between(min(days), max(days)))
        assert 0.3 < share(there, "terminal") < 0.7


def test_new_tactics_stay_below_the_rules(world: pl.DataFrame) -> None:
    tactics = world.filter(scenario="tactics")
    assert (tactics["country"] == "BE").all()
    first_seen = world.filter(pl.struct("card", "device").is_first_distinct())
    assert len({*tactics["id"]} & {*first_seen["id"]}) > 0.99 * tactics.height
    gaps = tactics.sort("card", "at").select(pl.col("at").diff().over("card")).drop_nulls()["at"]
    slow = gaps.filter(gaps < 2 * HOUR)
    assert (slow >= 20 * MINUTE).mean() > 0.95  # type: ignore[operator]  # two fraudsters may share a card
    typical = world.filter(~pl.col("fraud")).group_by("card").agg(typical=pl.col("cents").median())
    times = tactics.join(typical, on="card").filter(pl.col("typical") > 5_00)
    assert 1.5 < (times["cents"] / times["typical"]).median() < 4  # type: ignore[operator]  # of numbers
    legit = set(world.filter(~pl.col("fraud"))["terminal"])
    own = tactics.filter(~pl.col("terminal").is_in(legit))
    assert 0.6 < own.height / tactics.height < 0.8
    assert own.group_by("terminal").agg(pl.col("day").max() - pl.col("day").min())["day"].max() < 7  # type: ignore[operator]  # of numbers


def test_labels_are_events_of_the_log(handled: pl.DataFrame) -> None:
    known = labels(handled, seed=5)
    assert known.columns == ["card", "id", "terminal", "at", "fraud", "source"]
    assert known["at"].is_sorted()
    for row in known.head(300).iter_rows(named=True):
        Label.model_validate(row)


def test_a_day_at_a_time_gives_the_same_labels(handled: pl.DataFrame) -> None:
    days = [labels(day.sample(fraction=1, shuffle=True, seed=0), seed=5) for _, day in handled.group_by("day")]
    assert_frame_equal(pl.concat(days).sort("at", "id"), labels(handled, seed=5))
    assert not labels(handled, seed=5).equals(labels(handled, seed=6))
    assert labels(handled.clear(), seed=5).schema == labels(handled, seed=5).schema


def test_what_was_declined_is_never_known(handled: pl.DataFrame) -> None:
    declined = handled.filter(action="decline")
    assert declined["fraud"].any()
    assert {*labels(handled, seed=5)["id"]}.isdisjoint(declined["id"])


def test_what_was_approved_is_known_by_its_chargeback_alone(handled: pl.DataFrame) -> None:
    approved = handled.filter(action="approve")
    known = labels(approved, seed=5)
    assert set(known["source"]) == {"chargeback"}
    expected = approved.filter("fraud").select("id", at=pl.col("at") + pl.col("complaint_after"))
    assert_frame_equal(known.select("id", "at"), expected.sort("at", "id"))
    assert known["fraud"].all()


def test_analysts_judge_within_hours_and_are_contradicted_by_what_they_miss(handled: pl.DataFrame) -> None:
    reviewed = handled.filter(action="review")
    known = labels(reviewed, seed=5).join(
        reviewed.select("id", paid="at", truth="fraud", late="complaint_after"), on="id"
    )
    analyst, chargeback = known.filter(source="analyst"), known.filter(source="chargeback")
    assert sorted(analyst["id"]) == sorted(reviewed["id"])
    assert (analyst["at"] - analyst["paid"]).is_between(HOUR, 8 * HOUR).all()
    assert not analyst.filter(~pl.col("truth"))["fraud"].any()
    assert analyst.filter("truth")["fraud"].mean() == pytest.approx(REVIEW_CATCH, abs=0.03)
    missed = analyst.filter(pl.col("truth") & ~pl.col("fraud"))
    assert missed.height > 0
    assert sorted(chargeback["id"]) == sorted(missed["id"])
    assert (chargeback["at"] == chargeback["paid"] + chargeback["late"]).all()
