"""Which posts of a closed day people are asked about, and what becomes of their answers."""

from collections import Counter

import polars as pl

from sentiment import config
from sentiment.audits import questions
from sentiment.config import DAY, HOUR
from sentiment.dataset import answers, answers_on_filtered, day_of
from sentiment.hours import COLUMNS
from sentiment.schema import AUDITS, Audit, Label, Tombstone
from sentiment.serve import answered
from shared.eventlog.port import Entry
from tests.sentiment.crowd import KEY, TODAY, Crowd, post

FILTERED = pl.DataFrame(schema={"id": pl.String, "at": pl.Int64, "text": pl.String, "why_not": pl.String})


def counted(brand: str, texts: list[int], *, first: int = 0) -> pl.DataFrame:
    """A row of the batch view for each text, by its digest."""
    rows = [
        {"brand": brand, "post": f"{brand}-{first + n}", "author": f"author-{n}", "at": TODAY + n, "text": text}
        | {"label": "neutral", "model": "1", "negative": 0.2, "neutral": 0.5, "positive": 0.3}
        for n, text in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def asked(of: dict[str, pl.DataFrame], *, day: int = 1, filtered: pl.DataFrame = FILTERED) -> list[Audit]:
    every = pl.concat(of.values())
    posts = every.select(id="post", text=pl.format("text {}", "text")).unique("id")
    return questions(day, of, posts, filtered, secret=KEY)


def test_each_brand_has_its_budget_and_a_small_one_is_asked_about_as_a_whole() -> None:
    found = asked({"big": counted("big", list(range(600))), "small": counted("small", list(range(20)))})
    assert Counter(next(iter(audit.drawn)) for audit in found) == {"big": config.AUDITS, "small": 20}
    assert {audit.drawn["big"] for audit in found if "big" in audit.drawn} == {(config.AUDITS, 600)}
    assert {round(audit.inclusion, 9) for audit in found if "big" in audit.drawn} == {0.1}
    assert {audit.inclusion for audit in found if "small" in audit.drawn} == {1.0}


def test_a_text_that_a_hundred_people_pass_on_is_one_question() -> None:
    found = asked({"big": counted("big", [7] * 100 + list(range(10, 40)))})
    assert len(found) == 31
    assert {audit.drawn["big"] for audit in found} == {(31, 31)}
    assert sum(audit.text == "text 7" for audit in found) == 1


def test_a_post_on_two_brands_is_asked_once_and_may_be_drawn_for_either() -> None:
    both = counted("both", list(range(120)))
    found = asked({"one": both, "two": both.with_columns(brand=pl.lit("two"))})
    assert len({audit.post for audit in found}) == len(found)
    assert {audit.brands for audit in found} == {("one", "two")}
    assert {brand for audit in found for brand in audit.drawn} == {"one", "two"}
    assert {round(audit.inclusion, 6) for audit in found} == {0.75}, "half the chance for each of two brands"


def test_the_same_day_is_asked_about_alike_and_the_next_one_otherwise() -> None:
    rows = {"big": counted("big", list(range(600)))}
    assert asked(rows) == asked({"big": rows["big"].sample(fraction=1.0, shuffle=True, seed=1)})
    assert {audit.post for audit in asked(rows)} != {audit.post for audit in asked(rows, day=2)}


def test_some_filtered_posts_are_asked_about_and_say_how_many_there_were() -> None:
    dropped = pl.DataFrame(
        [{"id": f"f-{n}", "at": TODAY + n, "text": f"texte {n}", "why_not": "language"} for n in range(40)]
    )
    found = [audit for audit in asked({"big": counted("big", [1])}, filtered=dropped) if audit.why_not]
    assert len(found) == config.FILTERED_AUDITS
    assert {(audit.score, audit.inclusion, audit.drawn == {}) for audit in found} == {(None, 0.25, True)}


def test_from_the_closed_day_to_the_answers_in_the_lake(crowd: Crowd) -> None:
    """Those of filtered posts teach no version and are in no confusion; a deleted post is not asked about."""
    crowd.post(*(post(f"@northair is number {n}", id=f"p-{n}", at=TODAY + 60 * n) for n in range(5)))
    crowd.post(post("@northair tout va mal depuis hier matin, rien ne marche", id="french", at=TODAY))
    crowd.post(post("#a #b #c #d #e @northair http://x http://y", id="spam", at=TODAY + 1))
    crowd.post(Tombstone(id="p-0", at=TODAY + 60))
    crowd.tick(TODAY + 25 * HOUR)
    crowd.stream()
    crowd.publish()
    audits = crowd.asked(TODAY // DAY)
    assert {audit.post for audit in audits} == {"p-1", "p-2", "p-3", "p-4", "french", "spam"}
    said: dict[str, Label | None] = {"french": "negative", "spam": None}
    crowd.log.append([Entry(AUDITS, one.post, one.model_dump_json().encode()) for one in audits])
    crowd.log.append([answered(one, said.get(one.post, "neutral"), known_at=TODAY + DAY) for one in audits])
    crowd.publish()
    rows = answers(crowd.lake)
    assert sorted(rows["post"]) == ["p-1", "p-2", "p-3", "p-4"], "questions are no rows"
    assert set(rows["author"]) == {crowd.mentions()[0].author}
    assert rows["drawn"].to_list() == [["northair"]] * 4
    about_filtered = answers_on_filtered(crowd.lake, since=day_of(TODAY), until=day_of(TODAY + 2 * DAY))
    assert dict(about_filtered.select("post", "label").iter_rows()) == said


def test_a_lake_of_an_older_version_has_answers_too(crowd: Crowd) -> None:
    """It knew no authors, filters or brands of a draw."""
    old = {"post": "p-1", "label": "neutral", "at": TODAY, "of": TODAY, "partition": 0, "offset": 0}
    crowd.lake.write("audits", pl.DataFrame([old]), batch="sentiment.audits-0-000000000000")
    assert answers(crowd.lake).select("post", "drawn", "author").rows() == [("p-1", None, None)]
