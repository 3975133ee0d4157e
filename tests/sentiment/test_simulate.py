"""A crowd whose truth is known, and hard enough to be worth listening to."""

import polars as pl

from sentiment.config import DAY, HOUR
from sentiment.evaluate import macro_recall
from sentiment.grammar import LEARNT, LIVE, SLANG
from sentiment.model import Linear
from sentiment.opinions import seen
from sentiment.policy import LABELS
from sentiment.simulate import Crisis, Flood, history, simulate
from tests.sentiment.crowd import BRANDS, START


def test_the_same_seed_is_the_same_world() -> None:
    one, two, other = (simulate(seed=seed, start=START, days=1, posts_a_day=200) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(other)


def test_no_template_of_training_stands_in_what_comes_later() -> None:
    def templates(grammar: object) -> set[str]:
        assert isinstance(grammar, type(LIVE))
        return {*grammar.frames, *grammar.neutral, *(t for twists in grammar.twists.values() for t in twists)}

    shared = templates(LEARNT) & templates(LIVE)
    assert shared <= {"{b} {t} {p}"}
    assert "{b} {t} {p}" not in templates(LIVE)


def test_a_crisis_turns_one_brand_and_bots_say_one_thing() -> None:
    at = START + DAY + 12 * HOUR
    posts = simulate(
        seed=1, start=START, days=2, crises=(Crisis("volt", at),), floods=(Flood("grainhouse", START + HOUR),)
    )
    turned = posts.filter((pl.col("brand") == "volt") & (pl.col("at") >= at))
    assert (turned["label"] == "negative").mean() > 0.6  # type: ignore[operator]  # polars: any literal
    bots = posts.filter(kind="bot")
    assert bots["text"].n_unique() == 1
    assert bots["author"].n_unique() <= 5


def test_some_come_late_and_none_before_it_was_written() -> None:
    posts = simulate(seed=1, start=START, days=2)
    delay = posts["sent"] - posts["at"]
    assert delay.min() == 0
    assert 0 < (delay > 2 * HOUR).mean() < 0.02  # type: ignore[operator]  # polars: any literal
    assert posts["sent"].is_sorted()
    assert posts["id"].n_unique() == posts.height


def test_new_words_come_when_they_are_told_to() -> None:
    posts = simulate(seed=1, start=START, days=2, slang_from=START + DAY, grammar=LIVE)
    slang = posts.filter(kind="slang")
    assert slang["at"].min() >= START + DAY  # type: ignore[operator]  # polars: any literal
    assert 0.2 < slang.height / posts.filter(pl.col("at") >= START + DAY).height < 0.45
    assert set(SLANG) == set(LIVE.phrases)


def test_the_linear_model_reaches_what_the_budget_says() -> None:
    """.60 to .70, so that there is something left to audit, to correct and to alarm about."""
    posts = history(seed=7, start=START, days=5)
    usable = posts.filter(~pl.col("kind").is_in(["foreign", "spam"]))
    past, later = usable.filter(pl.col("at") < START + 4 * DAY), usable.filter(pl.col("at") >= START + 4 * DAY)
    model = Linear.fit([seen(text, BRANDS) for text in past["text"]], past["label"].to_list(), seed=1)
    scores = [model.score(seen(text, BRANDS)) for text in later["text"]]
    said = [LABELS[max(range(3), key=score.__getitem__)] for score in scores]
    assert 0.58 <= macro_recall(later["label"].to_list(), said) <= 0.72
