"""What a model is shown of a post, and what is noted of how it was scored."""

from typing import Any, cast

import pytest

from sentiment.artifact import Artifact
from sentiment.mentions import Brands
from sentiment.opinions import Reader, definition, seen
from sentiment.policy import Policy
from sentiment.schema import Path
from tests.sentiment.crowd import BRANDS, post


def test_the_name_of_a_brand_is_no_evidence() -> None:
    said = {
        seen(f"my flight with {name} is late", BRANDS) for name in ("@northair", "North Air", "delta", "@deltawings")
    }
    assert said == {"my flight with @user is late"}
    assert seen("the delta of the Rhine", BRANDS) == "the delta of the Rhine"


def test_another_table_of_names_is_another_definition() -> None:
    assert definition(BRANDS) != definition(Brands.read("airlines"))


@pytest.mark.parametrize(("path", "shed"), [("linear", True), ("transformer", False)])
def test_what_the_linear_model_scores_for_want_of_time_is_marked(
    path: Path, shed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Artifact, "score", lambda *_: (0.8, 0.1, 0.1))
    both = Artifact(cast(Any, "a linear model"), cast(Any, "a network"), Policy(), cast(Any, "places"))
    opinion, mentions = Reader(BRANDS, secret=b"s").judged(post(), both, "1", place=(0, 0), path=path)
    assert (opinion.path, opinion.mark) == (path, "shed" if shed else None)
    assert {mention.shed for mention in mentions} == {shed}
