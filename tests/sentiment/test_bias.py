"""The test of names finds a model that listens to them, and lets one pass that does not."""

from sentiment.bias import GROUPS, SENTENCES, measure
from sentiment.grammar import LEARNT, LIVE
from sentiment.schema import Score


def fair(text: str) -> Score:
    return (0.6, 0.3, 0.1) if "sorry" in text or "cold" in text else (0.2, 0.5, 0.3)


def unfair(text: str) -> Score:
    negative, neutral, positive = fair(text)[:3]
    bent = 0.3 * any(name in text for name in GROUPS["b"])
    return min(1.0, negative + bent), max(0.0, neutral - bent), positive


def test_a_model_that_does_not_listen_to_names_passes() -> None:
    found = measure(fair, lambda _: False)
    assert found.pairs > 500
    assert (found.flips, found.noise, found.shift, found.dropped) == (0.0, 0.0, 0.0, 0.0)
    assert found.refused == ""


def test_one_that_does_is_refused_with_a_reason() -> None:
    found = measure(unfair, lambda _: False)
    assert found.shift > 0.25
    assert found.flips > found.noise
    assert "names" in found.refused


def test_a_filter_that_listens_to_names_is_seen() -> None:
    assert measure(fair, lambda text: "Lakisha" in text).dropped > 0.1


def test_no_sentence_stands_in_the_grammar() -> None:
    templates = {t for g in (LEARNT, LIVE) for t in (*g.frames, *g.neutral, *(x for y in g.twists.values() for x in y))}
    assert templates.isdisjoint(SENTENCES)
