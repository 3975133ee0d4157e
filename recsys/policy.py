"""Ranked -> TopK. Business rules, diversity caps and reserved places; the same at night, by day and in evaluation.

Pure. `compose` makes a list of a ranking, for the night and for every judgement of a recipe; `allowed` takes out of it,
at the request, what has changed since.
"""

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple, Self

from recsys import config
from recsys.schema import Interactions

PAGE = 10  # places that are seen together

# [1.3] In words for the shopper; "because you bought X" or "viewed" is filled in from their own past.
REASONS = {
    "als": "Shoppers with a taste like yours chose it.",
    "linear": "It goes with what you bought or viewed.",
    "repeat": "You may be running out of it.",
    "content": "It is like what you bought or viewed.",
    "popular": "Many are buying it now.",
}


class Policy(NamedTuple):
    """Parameters that train chooses; they travel with the model and are rolled back with it."""

    per_category: int = 4  # of a page
    small_sellers: int = 1  # places of the first page at least, if any were ranked
    newcomers: int = 1  # the same, for items that are new


class Rules(NamedTuple):
    """What is known of items, by number, as plain lists: a list's worth of look-ups is all that is asked."""

    category: list[int]
    family: list[int]  # -1: none
    small: list[bool]
    new: list[bool]

    @classmethod
    def of(cls, known: Interactions) -> Self:
        products = known.products
        family = products["family"].rank("dense").to_list()
        return cls(
            category=products["category"].rank("dense").to_list(),
            family=[number if name else -1 for name, number in zip(products["family"], family, strict=True)],
            small=products["small"].to_list(),
            new=(products["since"] > known.cut - config.NEW).to_list(),
        )


def allowed(items: Sequence[int], forbidden: Container[int]) -> list[int]:
    """The places in `items` that may be shown, in order."""
    # [1.2] What is out of stock, or has just been bought, costs a shopper's trust each time it is shown.
    return [place for place, item in enumerate(items) if item not in forbidden]


def compose(items: Sequence[int], rules: Rules, policy: Policy, *, most: int = config.STORED) -> list[int]:
    """Places in `items` (best first) in the order to be shown, at most `most`.

    One variant of a family; no more than `per_category` of a category in a page; and a seat on the first page for
    small sellers and newcomers, taken by the best of them from the bottom of the page.
    """
    families: set[int] = set()
    waiting: list[int] = []
    for place, item in enumerate(items):
        family = rules.family[item]
        if family in families:
            continue
        if family >= 0:
            families.add(family)
        waiting.append(place)
    chosen: list[int] = []
    while waiting and len(chosen) < most:
        page, waiting = _page(items, waiting, rules, policy)
        chosen += page
    # [7.1] An item that was never shown is never bought, and so never shown: a seat breaks the circle.
    end = PAGE - policy.newcomers  # whose seats come last and must push no other item out of its own
    _seat(chosen, items, policy.small_sellers, lambda item: rules.small[item], end=end)
    _seat(chosen, items, policy.newcomers, lambda item: rules.new[item], end=PAGE)
    return chosen[:most]


def _page(items: Sequence[int], waiting: list[int], rules: Rules, policy: Policy) -> tuple[list[int], list[int]]:
    counts: dict[int, int] = {}
    page: list[int] = []
    later: list[int] = []
    for number, place in enumerate(waiting):
        if len(page) == PAGE:
            return page, later + waiting[number:]
        category = rules.category[items[place]]
        if counts.get(category, 0) < policy.per_category:
            counts[category] = counts.get(category, 0) + 1
            page.append(place)
        else:
            later.append(place)
    fill = PAGE - len(page)  # nothing else is left
    return page + later[:fill], later[fill:]


def _seat(chosen: list[int], items: Sequence[int], seats: int, entitled: Callable[[int], bool], *, end: int) -> None:
    """Move the best entitled ones from behind place `end` up to it, until there are so many before it."""
    missing = seats - sum(entitled(items[place]) for place in chosen[:end])
    if missing <= 0:
        return
    coming = [place for place in chosen[end:] if entitled(items[place])][:missing]
    for place in coming:
        chosen.remove(place)
        leaving = max(at for at in range(end) if not entitled(items[chosen[at]]))
        chosen.insert(end - 1, chosen.pop(leaving))  # to the edge, and over it
        chosen.insert(end - 1, place)
