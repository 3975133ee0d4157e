"""What is seen of opinions: counted once, bounded, and forgotten when the author deletes the post."""

from sentiment.schema import Opinion
from sentiment.watch import LATELY, RECENT, Watch


def opinion(number: int = 0, **change: object) -> Opinion:
    known = {"id": f"p{number}", "at": number, "text": f"post {number}", "label": "neutral", "score": (0.1, 0.8, 0.1)}
    return Opinion.model_validate(known | {"brands": ("volt",), "model": "1", "path": "linear"} | change)


def watched(*opinions: Opinion) -> Watch:
    watch = Watch()
    for each in opinions:
        watch.count(each)
        watch.show(each)
    return watch


def test_what_is_counted_and_what_is_not_adds_up() -> None:
    now = watched(
        opinion(1),
        opinion(2, label="negative", mark="shed"),
        opinion(3, label=None, why_not="spam", score=None),
        opinion(4, label=None, why_not="unsure"),
        opinion(5, label=None, score=None, mark="no-model", model=None),
    ).now()
    assert now.posts == 5
    assert now.labels == {"negative": 1, "neutral": 1, "positive": 0}
    assert now.dropped == {"spam": 1, "unsure": 1, "no-model": 1}
    assert (now.shed, now.shed_lately, now.lately) == (1, 1, 2)
    assert now.rate > 0


def test_lines_are_the_latest_and_the_negative_ones() -> None:
    watch = watched(*(opinion(n, label="negative" if n % 3 == 0 else "positive") for n in range(1, 10)))
    assert [row.id for row in watch.rows(most=2)] == ["p8", "p9"]
    assert [row.id for row in watch.rows(negative=True)] == ["p3", "p6", "p9"]
    assert [row.id for row in watch.rows(since=7)] == ["p8", "p9"]
    assert (watch.rows()[0].sure, watch.change) == (0.8, 9)


def test_a_deleted_post_is_told_again_without_its_text() -> None:
    watch = watched(opinion(1), opinion(2))
    change = watch.change
    watch.forget("p1")
    watch.forget("p-unknown")
    (row,) = watch.rows(since=change)
    assert (row.id, row.number, row.text, row.gone) == ("p1", 1, "", True)
    assert watch.now().posts == 2


def test_memory_is_bounded() -> None:
    watch = watched(*(opinion(n) for n in range(RECENT + 50)))
    assert len(watch.rows()) == RECENT
    assert watch.now().lately == LATELY
    assert watch.now().posts == RECENT + 50


def test_nothing_seen_is_no_number() -> None:
    now = Watch().now()
    assert (now.posts, now.rate, now.dropped, now.lately) == (0, 0.0, {}, 0)
