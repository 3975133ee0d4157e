"""Who may ask recsys for what."""

from recsys.schema import COMMANDS
from recsys.serve import ACCESS, make_app
from recsys.shelf import Shelf
from shared.auth import Role
from tests.recsys.shop import KEY, Shop
from tests.recsys.test_serve import client
from tests.roles import assert_table, granted, keys


def test_every_route_answers_the_roles_of_the_table_and_no_other(shop: Shop) -> None:
    shelf = Shelf(shop.log, shop.tables, key=KEY)
    app = make_app(
        shop.log,
        shelf,
        clock=shop.clock,
        keys=keys("recsys"),
        pseudonym_key=KEY,
        recipes=shop.var / "recipes",
        stopping=lambda: True,
        visitor="once",
    )
    assert_table(app, ACCESS)
    shelf.close()


def test_a_front_end_shows_lists_and_reports_events_and_an_analyst_sees_a_shopper() -> None:
    assert granted(ACCESS, Role.CLIENT) == {"GET /v1/recommendations/{user_id}", "POST /v1/events"}
    assert granted(ACCESS, Role.ANALYST) == {"GET /v1/shoppers/{user_id}"}


def test_who_commands_is_the_role_of_the_key_and_no_claim_of_the_caller(shop: Shop) -> None:
    with client(shop) as operator:
        claimed = operator.post("/v1/commands", json={"kind": "night", "who": "ann"})
        assert (claimed.status_code, claimed.json()["errors"][0]["field"]) == (422, "who")
        assert operator.post("/v1/commands", json={"kind": "night"}).status_code == 202
    assert [command["who"] for command in shop.said(COMMANDS)] == ["operator"]
