"""Counting: the order of arrival changes nothing, and a repeat counts once."""

from hypothesis import given
from hypothesis import strategies as st

from sentiment.aggregates import Hour, aggregate
from sentiment.config import HOUR
from sentiment.schema import Counts, Label, Mention
from tests.sentiment.crowd import TODAY


def mention(post: str, at: int, *, text: int = 1, label: Label | None = "negative", brand: str = "volt") -> Mention:
    return Mention(
        brand=brand, post=post, author="a", at=TODAY + at, text=text, label=label, aliases="", partition=0, offset=0
    )


MENTIONS = st.lists(
    st.builds(
        lambda number, at, text: mention(
            f"p{number}", at, text=text, label=(None, "negative", "neutral", "positive")[text % 4]
        ),
        st.integers(0, 30),
        st.integers(0, HOUR - 1),
        st.integers(0, 8),
    ),
    max_size=40,
    unique_by=lambda m: m.post,
)


@given(MENTIONS, st.randoms())
def test_any_order_gives_the_same_minutes(mentions: list[Mention], chance: object) -> None:
    shuffled = list(mentions)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a Random
    expected = {key: cell.counts for key, cell in aggregate(mentions).items()}
    got = {key: cell.counts for key, cell in aggregate(shuffled).items()}
    empty = Counts()
    assert {k: v for k, v in got.items() if v != empty} == {k: v for k, v in expected.items() if v != empty}


@given(MENTIONS)
def test_raw_counts_posts_and_opinions_count_texts(mentions: list[Mention]) -> None:
    total = sum((cell.counts for cell in aggregate(mentions).values()), Counts())
    assert total.raw == len(mentions)
    assert total.opinions == len({m.text for m in mentions if m.label is not None})


def test_a_post_that_comes_twice_changes_nothing() -> None:
    hour = Hour()
    assert hour.add(mention("a", 10), revision=1)
    assert hour.add(mention("a", 10), revision=2) == set()
    assert hour.minutes[TODAY].counts == Counts(raw=1, negative=1)


def test_an_earlier_twin_takes_the_opinion_with_it() -> None:
    hour = Hour()
    hour.add(mention("late", 130), revision=1)
    assert hour.add(mention("early", 10), revision=2) == {TODAY, TODAY + 120}
    assert hour.minutes[TODAY].counts == Counts(raw=1, negative=1)
    assert hour.minutes[TODAY + 120].counts == Counts(raw=1)
    assert hour.minutes[TODAY + 120].revision == 2


def test_the_same_text_in_the_next_hour_is_an_opinion_again() -> None:
    total = aggregate([mention("a", 10), mention("b", HOUR + 10)])
    assert sum(cell.counts.negative for cell in total.values()) == 2
