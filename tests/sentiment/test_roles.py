"""Who may ask sentiment for what."""

import json

from sentiment.edge import Edge
from sentiment.schema import COMMANDS
from sentiment.serve import ACCESS, make_app
from shared.auth import Role
from tests.roles import assert_table, granted, keys
from tests.sentiment.crowd import KEY, Crowd
from tests.sentiment.test_serve import problem, serving


def test_every_route_answers_the_roles_of_the_table_and_no_other(crowd: Crowd) -> None:
    app = make_app(
        lambda metrics: Edge(
            crowd.log, crowd.champion(), folder=crowd.var / "batch", clock=crowd.clock, metrics=metrics
        ),
        crowd.reader,
        clock=crowd.clock,
        keys=keys("sentiment"),
        pseudonym_key=KEY,
        workers=lambda: True,
        models=crowd.var / "models",
        stopping=lambda: True,
        visitor="once",
    )
    assert_table(app, ACCESS)


def test_a_client_reads_brands_and_scores_texts_and_an_analyst_reads_posts_and_audits() -> None:
    assert granted(ACCESS, Role.CLIENT) == {
        "GET /v1/brands",
        "GET /v1/brands/{brand}/timeline",
        "POST /v1/opinions",
        "GET /v1/opinions/{id}",
    }
    assert granted(ACCESS, Role.ANALYST) == {
        "GET /v1/opinions",
        "POST /v1/corrections",
        "GET /v1/audits",
        "POST /v1/audits",
    }


def test_who_commands_is_the_role_of_the_key_and_no_claim_of_the_caller(crowd: Crowd) -> None:
    with serving(crowd) as operator:
        claimed = problem(operator.post("/v1/commands", json={"kind": "retrain", "who": "anna"}), 422)
        assert claimed["errors"][0]["field"] == "who"
        assert operator.post("/v1/commands", json={"kind": "retrain"}).status_code == 202
    assert [json.loads(record.value)["who"] for record in crowd.read(COMMANDS)] == ["operator"]
