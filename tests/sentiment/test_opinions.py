"""What a model is shown of a post."""

from sentiment.mentions import Brands
from sentiment.opinions import definition, seen
from tests.sentiment.crowd import BRANDS


def test_the_name_of_a_brand_is_no_evidence() -> None:
    said = {
        seen(f"my flight with {name} is late", BRANDS) for name in ("@northair", "North Air", "delta", "@deltawings")
    }
    assert said == {"my flight with @user is late"}
    assert seen("the delta of the Rhine", BRANDS) == "the delta of the Rhine"


def test_another_table_of_names_is_another_definition() -> None:
    assert definition(BRANDS) != definition(Brands.read("airlines"))
