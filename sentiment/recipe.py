"""The fine-tuning parameters, kept apart from torch so that other commands start fast."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """How much is learnt, in posts and passes and never by a clock: figures hang on the seed alone."""

    posts: int  # at most
    epochs: int
    rate: float  # of the encoder; the new head learns faster
    head_rate: float = 2e-3


DEMO = Recipe(posts=5_000, epochs=1, rate=2e-4)
AGAIN = Recipe(posts=1_500, epochs=2, rate=1e-4, head_rate=5e-4)  # from the champion's weights
FULL = Recipe(posts=10**9, epochs=1, rate=1e-4)
