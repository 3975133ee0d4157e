"""Texts as people write them: decoded and folded in one way, and none of them stops the service."""

import json
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sentiment import config
from sentiment.artifact import Artifact
from sentiment.config import HOUR
from sentiment.features import normalise
from sentiment.mentions import Brands, aspect
from sentiment.opinions import Reader, refused, seen
from sentiment.schema import POSTS
from sentiment.text import decoded
from shared.eventlog.port import Entry
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, post

TABLE = Brands(
    {
        "mcdonalds": {"handles": ["McDonalds"], "aliases": ["McDonald's"]},
        "att": {"aliases": ["AT&T"]},
        "nestle": {"aliases": ["Nestlé"]},
        "strauss": {"ambiguous": ["Strauß"], "context": ["größe"]},
    }
)
TURKISH = "UN\u0130TED we stand; Peach Mob\u0130le has no signal"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("McDonald\u2019s", ("mcdonalds",)),
        ("MCDONALD&#8217;S", ("mcdonalds",)),
        ("mcdonald\\u2019s", ("mcdonalds",)),
        ("@\uff2dcDonalds", ("mcdonalds",)),  # one letter is a wide one
        ("AT&amp;T is down", ("att",)),
        ("Nestle\u0301 again", ("nestle",)),
        ("nestle again", ()),
        ("STRAUSS, in my GRÖSSE", ("strauss",)),
        ("strauss played", ()),
    ],
)
def test_a_name_is_found_and_masked_however_it_is_written(text: str, found: tuple[str, ...]) -> None:
    assert TABLE.found(text) == found
    assert ("@user" in TABLE.masked(text)) == bool(found)
    assert "@user" in seen(text, TABLE) if found else "@user" not in seen(text, TABLE)


def test_what_is_masked_is_decoded_once() -> None:
    assert seen("AT&amp;T writes &amp;lt;", TABLE) == "@user writes &lt;"


def test_an_entity_is_no_hashtag_and_a_hidden_one_is() -> None:
    entities = "it&#39;s the crew&#39;s day " * config.SPAM_TAGS
    assert refused(entities, normalise(entities)) is None
    for sign in ("&#35;win ", "\uff03win ", "\\u0023win ", "HTTPS://x.y "):
        hidden = f"@northair {sign * config.SPAM_TAGS}"
        assert refused(hidden, normalise(hidden)) == "spam", sign


def test_an_aspect_is_found_in_capitals_and_behind_an_escape() -> None:
    assert aspect("my LUGGAGE is gone") == aspect("my lugg\\u0061ge is gone") == "luggage"


@pytest.fixture(scope="module")
def artifact(world: Trained) -> Artifact:
    return Artifact.load(world.var / "models" / world.release.digest)


ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=60)
WORDS = st.lists(
    st.sampled_from(
        [
            "@northair",
            "North Air",
            "peach",
            "signal",
            "Mob\u0130le",
            "&amp;",
            "\\ud83d",
            "\\ude00",
            "\u2019",
            "#",
            "http",
        ]
    )
    | ANYTHING,
    min_size=1,
    max_size=8,
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(WORDS)
@example(TURKISH)
@example("\u0130" * 40)
def test_found_and_masked_agree_over_all_of_unicode(text: str) -> None:
    plain, hits = decoded(text), BRANDS._hits(decoded(text))
    assert unicodedata.is_normalized("NFC", plain)
    assert BRANDS.found(text) in ((), tuple(dict.fromkeys(brand for _, _, brand in hits)))
    kept, at = "", 0  # the text between the names, which masking leaves as it is
    for start, end, _ in hits:
        assert at <= start < end
        kept, at = f"{kept}{plain[at:start]}@user", end
    assert BRANDS.masked(text) == kept + plain[at:]


@settings(max_examples=200, deadline=None)
@given(WORDS)
@example(TURKISH)
def test_every_text_gets_an_opinion_without_an_error(artifact: Artifact, text: str) -> None:
    reader, given = Reader(BRANDS, secret=KEY), post().model_copy(update={"text": text})
    opinion, mentions = reader.judged(given, artifact, "1", place=(0, 0))
    assert opinion.mark is None, text
    assert {mention.brand for mention in mentions} - {"*"} <= set(opinion.brands)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORDS, min_size=5, max_size=25))
@example([TURKISH, "\ud800 @northair"])
def test_posts_of_any_text_come_through_stream_and_batch_and_stop_neither(
    world: Trained, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    with closing(Crowd(world, Path(tmp_path_factory.mktemp("unicode")) / "var")) as crowd:
        about = {"kind": "post", "author": "anna", "at": TODAY + 60}
        for number, text in enumerate(texts):  # half a surrogate pair, too: as an escape JSON may carry it
            value = json.dumps(about | {"id": f"p-{number}", "text": text}).encode()
            crowd.log.append([Entry(POSTS, f"p-{number}", value)])
        crowd.tick(TODAY + 2 * HOUR)
        crowd.stream()
        crowd.publish()
        letters = {(letter.partition, letter.offset) for letter in crowd.letters()}
        assert len(letters) + len(crowd.opinions()) == len(texts)
        assert [opinion.id for opinion in crowd.opinions() if opinion.mark] == []
        streamed = {(mention.brand, mention.post) for mention in crowd.mentions()}
        batch = {row for rows in crowd.published().values() for row in rows.select("brand", "post").iter_rows()}
        assert streamed == batch
