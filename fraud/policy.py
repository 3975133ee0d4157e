"""Score -> Decision. Takes the action with the least expected cost, within the analysts' daily capacity.

Pure. Evaluation, the promotion gate and serving all call `decide`.
"""

from collections.abc import Callable
from typing import NamedTuple

from fraud import config
from fraud.features import NAMES
from fraud.schema import Action, Features, Score

# [1.3] In words that customer service can read to the person on the phone.
REASONS = {
    "large_amount": "The amount is far above what this card usually pays.",
    "many_payments": "Many payments on this card within a short time.",
    "new_device": "The device has not been used with this card lately.",
    "new_country": "The card has not been used in this country lately.",
    "terminal_frauds": "Frauds have been reported at this shop.",
    "card_frauds": "Fraud has been reported on this card.",
    "unusual_time": "The time or the pace is unusual for this card.",
    "unusual_shop": "The shop sees an unusual number of payments.",
    "high_amount": "The amount is very high.",
    "analysts_busy": "Review was best, but the analysts' day was full.",
    "let_through": "Passed at random, to learn whether declining was right.",
    "failed": "The payment could not be scored, so the rules decided.",
    "too_late": "The payment arrived too late to be compared with the others.",
}

# Which reason a feature stands for, by the beginning of its name; the first that fits.
MEANING = {
    "amount_over": "large_amount",
    "amount": "high_amount",
    "card_large": "large_amount",
    "card_payments": "many_payments",
    "card_amount": "many_payments",
    "card_same_device": "new_device",
    "card_new_device": "new_device",
    "card_same_country": "new_country",
    "card_new_country": "new_country",
    "card_frauds": "card_frauds",
    "card_since_fraud": "card_frauds",
    "card_since_payment": "unusual_time",
    "hour": "unusual_time",
    "weekday": "unusual_time",
    "terminal_payments": "unusual_shop",
    "terminal": "terminal_frauds",
}
AT = {name: place for place, name in enumerate(NAMES)}


class Policy(NamedTuple):
    """Parameters that train chooses; they travel with the model and are rolled back with it. Other prices are code."""

    review_price: float = config.REVIEW_PRICE  # EUR, minutes and scarcity


class Verdict(NamedTuple):
    action: Action
    costs: dict[Action, float]
    explored: bool = False
    propensity: float = 1.0
    overflow: bool = False


PLACES = config.REVIEWS_A_DAY // config.PARTITIONS


class Desk:
    """The analysts' places in one partition: a share of each event day."""

    def __init__(self, day: int = -1, taken: int = 0, *, places: int = PLACES) -> None:
        self.day, self.taken, self.places = day, taken, places

    def free(self, at: int) -> bool:
        """Whether the day of `at` has a place left; a late payment of an earlier day finds none."""
        if at // config.DAY > self.day:
            self.day, self.taken = at // config.DAY, 0
        return at // config.DAY == self.day and self.taken < self.places

    def take(self) -> None:
        self.taken += 1


def costs(score: Score, cents: int, policy: Policy) -> dict[Action, float]:
    """Expected cost of each action, EUR."""
    amount = cents / 100
    missed = score * (amount + config.CHARGEBACK_FEE)
    # [7.2] A stopped customer is a cost like any other, or the cheapest policy would be to stop every customer.
    return {
        "approve": missed,
        "review": policy.review_price + (1 - config.REVIEW_CATCH) * missed,
        "decline": (1 - score) * (config.DECLINE_PRICE + config.DECLINE_SHARE * amount),
    }


def realised(action: Action, cents: int, *, fraud: bool) -> float:
    """What an action cost, once the truth is known, EUR. A review costs its minutes, not its scarcity."""
    amount = cents / 100
    missed = (amount + config.CHARGEBACK_FEE) if fraud else 0.0
    if action == "approve":
        return missed
    if action == "review":
        return config.REVIEW_PRICE + (1 - config.REVIEW_CATCH) * missed
    return 0.0 if fraud else config.DECLINE_PRICE + config.DECLINE_SHARE * amount


def decide(score: Score, cents: int, policy: Policy, *, free: bool, draw: Callable[[], float] | None) -> Verdict:
    """The action of least expected cost.

    `free`: an analyst has a place; without one the better of approve and decline is taken, because a
    queue that is not read protects no customer. `draw`: uniform in [0, 1), the same for the same card and day; None
    where the payment may not pass at random, so that its decline was certain.
    """
    # [1.1] Asked is what to do with a payment, not whether it is fraud: the same probability is worth a review
    # at 900 EUR and nothing at 9, which no threshold on the score can say.
    expected = costs(score, cents, policy)
    best = min(expected, key=expected.__getitem__)
    overflow = best == "review" and not free
    if overflow:
        best = "approve" if expected["approve"] <= expected["decline"] else "decline"
    if best != "decline":
        return Verdict(best, expected, overflow=overflow)
    if draw is None:
        return Verdict("decline", expected, overflow=overflow)
    if draw() < config.EXPLORATION:
        return Verdict("approve", expected, True, config.EXPLORATION, overflow)
    return Verdict("decline", expected, False, 1 - config.EXPLORATION, overflow)


def rules(cents: int, features: Features | None) -> tuple[Action, list[str]]:
    """What the bank did before there was a model, and does when there is none: action and reasons.

    Without features (too late, or no state) it judges by the amount.
    """
    fired = []
    if cents > 1_500_00:
        fired.append("high_amount")
    if features is not None:
        if features[AT["card_payments_10m"]] >= 4:
            fired.append("many_payments")
        if features[AT["amount_over_maximum"]] > 2 and cents > 200_00:
            fired.append("large_amount")
        if features[AT["card_new_country"]] and features[AT["card_new_device"]]:
            fired.append("new_country")
        if features[AT["terminal_risk_28d"]] > 0.2:
            fired.append("terminal_frauds")
    if len(fired) > 1 or "many_payments" in fired:
        return "decline", fired
    return ("review", fired) if fired else ("approve", [])


def reasons(contributions: dict[str, float], most: int = 3) -> list[str]:
    """The codes behind the features that added most to the log-odds, strongest first.

    A feature that MEANING does not explain gives no reason.
    """
    totals: dict[str, float] = {}
    for name, value in contributions.items():
        meaning = next((code for start, code in MEANING.items() if name.startswith(start)), None)
        if meaning is not None:
            totals[meaning] = totals.get(meaning, 0.0) + value
    return [code for code, total in sorted(totals.items(), key=lambda item: -item[1])[:most] if total > 0]
