"""What to do with a probability: costs, desks, exploration, rules and reasons."""

import pytest

from fraud import config, policy
from fraud.config import DAY, HOUR
from fraud.features import NAMES
from fraud.policy import AT, MEANING, REASONS, Desk, Policy, costs, decide, realised, reasons, rules
from fraud.schema import Action
from tests.worlds import START

POLICY = Policy()


def action(score: float, cents: int, *, free: bool = True, draw: float = 1.0) -> Action:
    return decide(score, cents, POLICY, free=free, draw=lambda: draw).action


def vector(**values: float) -> list[float]:
    """The features of a quiet payment, but for `values`."""
    features = [0.0] * len(NAMES)
    for name, value in values.items():
        features[AT[name]] = value
    return features


def test_the_certain_cases_are_not_worth_an_analyst() -> None:
    assert action(0.0, 50_00) == "approve"
    assert action(1.0, 50_00) == "decline"
    assert action(1.0, 0) == "decline"  # the chargeback's fee alone


def test_between_them_stands_the_analyst() -> None:
    assert action(0.1, 500_00) == "review"


def test_the_same_probability_weighs_more_on_a_larger_amount() -> None:
    assert action(0.01, 20_00) == "approve"
    assert action(0.01, 2_000_00) == "review"


def test_the_action_is_the_cheapest_of_its_own_costs() -> None:
    for score in (0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0):
        for cents in (0, 1_00, 50_00, 3_000_00, config.MAX_CENTS):
            verdict = decide(score, cents, POLICY, free=True, draw=lambda: 1.0)
            assert verdict.costs[verdict.action] == min(verdict.costs.values())


def test_expected_costs_by_hand() -> None:
    assert costs(0.2, 85_00, Policy(review_price=3.0)) == {
        "approve": pytest.approx(0.2 * (85 + 15)),
        "review": pytest.approx(3 + 0.05 * 20),
        "decline": pytest.approx(0.8 * (4 + 0.03 * 85)),
    }


def test_expected_costs_are_the_mean_of_those_realised() -> None:
    """With the analysts' minutes as their price: the scarcity on top is not paid."""
    for name, expected in costs(0.3, 120_00, POLICY).items():
        mean = 0.3 * realised(name, 120_00, fraud=True) + 0.7 * realised(name, 120_00, fraud=False)
        assert mean == pytest.approx(expected)


def test_a_full_desk_leaves_the_better_of_approve_and_decline() -> None:
    for score, without in ((0.03, "approve"), (0.1, "decline")):
        assert action(score, 300_00) == "review"
        verdict = decide(score, 300_00, POLICY, free=False, draw=lambda: 1.0)
        assert (verdict.action, verdict.overflow) == (without, True)
    assert not decide(0.0, 50_00, POLICY, free=False, draw=lambda: 1.0).overflow


def test_of_two_that_cost_the_same_the_customer_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    alike: dict[Action, float] = {"approve": 2.0, "review": 1.0, "decline": 2.0}
    monkeypatch.setattr(policy, "costs", lambda *_, **__: alike)
    assert decide(0.5, 50_00, POLICY, free=False, draw=None) == ("approve", alike, False, 1.0, True)


def test_a_desk_has_its_places_each_event_day_anew() -> None:
    desk = Desk()
    for _ in range(config.REVIEWS_A_DAY // config.PARTITIONS):
        assert desk.free(START)
        desk.take()
    assert not desk.free(START + DAY - 1)
    assert desk.free(START + DAY + HOUR)
    assert desk.free(START + DAY + HOUR + 1)
    assert Desk().free(0), "the very first day has places, too"


def test_a_late_payment_finds_no_place_in_a_day_gone_by() -> None:
    desk = Desk()
    assert desk.free(START + DAY)
    assert not desk.free(START + DAY - 1)
    assert desk.free(START + DAY)  # and has not turned the day back


def test_only_would_be_declines_are_explored() -> None:
    assert decide(1.0, 50_00, POLICY, free=True, draw=lambda: 0.0)._replace(costs={}) == (
        "approve",
        {},
        True,
        config.EXPLORATION,
        False,
    )
    for score, cents in ((0.0, 50_00), (0.1, 500_00)):

        def never() -> float:
            raise AssertionError("no draw is needed")

        assert decide(score, cents, POLICY, free=True, draw=never).propensity == 1.0


def test_the_draw_decides_at_the_share_of_exploration() -> None:
    below, at = (
        decide(1.0, 50_00, POLICY, free=True, draw=lambda draw=draw: draw)  # type: ignore[misc]  # no type for a default
        for draw in (config.EXPLORATION - 1e-12, config.EXPLORATION)
    )
    assert (below.action, below.explored, below.propensity) == ("approve", True, config.EXPLORATION)
    assert (at.action, at.explored, at.propensity) == ("decline", False, 1 - config.EXPLORATION)


def test_what_may_not_pass_at_random_is_declined_for_certain() -> None:
    """Its propensity says so: a weight that stands for payments which were never let through would be made up."""
    verdict = decide(1.0, 50_00, POLICY, free=True, draw=None)
    assert (verdict.action, verdict.explored, verdict.propensity) == ("decline", False, 1.0)


def test_an_overflow_that_would_be_declined_is_explored_too() -> None:
    verdict = decide(0.3, 300_00, POLICY, free=False, draw=lambda: 0.0)
    assert (verdict.action, verdict.explored, verdict.overflow) == ("approve", True, True)


def test_rules_without_features_judge_by_the_amount() -> None:
    assert rules(1_500_00, None) == ("approve", [])
    assert rules(1_500_01, None) == ("review", ["high_amount"])


def test_one_rule_asks_an_analyst_and_two_decline() -> None:
    assert rules(10_00, vector()) == ("approve", [])
    assert rules(10_00, vector(terminal_risk_28d=0.21)) == ("review", ["terminal_frauds"])
    both = vector(terminal_risk_28d=0.21, card_new_country=1, card_new_device=1)
    assert rules(10_00, both) == ("decline", ["new_country", "terminal_frauds"])


@pytest.mark.parametrize(
    ("cents", "features", "fires"),
    [
        (200_01, {"amount_over_maximum": 2.5}, True),
        (200_00, {"amount_over_maximum": 2.5}, False),
        (200_01, {"amount_over_maximum": 2.0}, False),
        (200_01, {"amount_over_maximum": 1.5}, False),
        (10_00, {"card_new_country": 1, "card_new_device": 1}, True),
        (10_00, {"card_new_country": 1}, False),
        (10_00, {"card_new_device": 1}, False),
        (10_00, {"terminal_risk_28d": 0.2}, False),
    ],
)
def test_a_rule_fires_beyond_its_limit_only(cents: int, features: dict[str, float], fires: bool) -> None:
    assert rules(cents, vector(**features))[0] == ("review" if fires else "approve")


def test_a_burst_is_declined_by_itself() -> None:
    assert rules(1_00, vector(card_payments_10m=3))[0] == "approve"
    assert rules(1_00, vector(card_payments_10m=4)) == ("decline", ["many_payments"])


def test_every_feature_stands_for_a_reason_and_every_reason_has_words() -> None:
    assert set(MEANING.values()) <= set(REASONS)
    for name in NAMES:
        assert set(reasons({name: 1.0})) < set(REASONS), name
    everything = vector(card_payments_10m=9, amount_over_maximum=9, card_new_country=1, card_new_device=1)
    everything[AT["terminal_risk_28d"]] = 1.0
    _, fired = rules(config.MAX_CENTS, everything)
    assert len(fired) == 5
    assert set(fired) < set(REASONS)
    assert all(words.endswith(".") for words in REASONS.values())


def test_reasons_add_up_what_means_the_same_strongest_first() -> None:
    said = reasons(
        {"hour": 0.5, "card_amount_1h": 0.3, "card_payments_1h": 0.3, "amount": -1.0, "terminal_risk_7d": 0.1}
    )
    assert said == ["many_payments", "unusual_time", "terminal_frauds"]
    assert reasons({"hour": 0.5, "weekday": -0.6}) == []
    assert len(reasons(dict.fromkeys(NAMES, 1.0))) == 3
