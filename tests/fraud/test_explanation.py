"""Contributions by the version that decided, or a word that says why there are none."""

import math
import shutil

import httpx
import pytest

from fraud.explanation import Explainer, NotAvailable
from fraud.features import NAMES
from fraud.schema import Decision
from tests.fraud.bank import Bank, Trained
from tests.fraud.test_serve import PAYMENT, alone, client, problem

__all__ = ["alone", "client"]


def test_base_and_contributions_are_the_probability_of_an_approved_payment_too(client: httpx.Client) -> None:
    said = client.post("/v1/decisions", json=PAYMENT | {"cents": 10_00})
    why = client.get(f"{said.headers['location']}/explanation").json()
    assert said.json()["action"] == "approve"
    assert why["model"] == said.json()["model"] == "1"
    assert set(why["contributions"]) == set(NAMES)
    odds = why["base"] + sum(why["contributions"].values())
    assert 1 / (1 + math.exp(-odds)) == pytest.approx(said.json()["probability"])
    assert client.get("/v1/features").json()["names"] == list(NAMES)


def test_the_base_is_the_same_for_every_payment(client: httpx.Client) -> None:
    bases = []
    for number, cents in enumerate((100, 90_000)):
        said = client.post("/v1/decisions", json=PAYMENT | {"id": f"{number}", "cents": cents})
        bases.append(client.get(f"{said.headers['location']}/explanation").json()["base"])
    assert bases[0] == pytest.approx(bases[1])


def test_what_is_certain_is_explained_too(client: httpx.Client, bank: Bank, world: Trained) -> None:
    said = Decision.model_validate(client.post("/v1/decisions", json=PAYMENT).json())
    bad = bank.variant(world.release, version="2", log_odds=60.0)
    certain = said.model_copy(update={"probability": 1.0, "model": "2"})
    explained = Explainer(bank.var / "models").explain(certain, bad)
    usual = Explainer(bank.var / "models").explain(said, world.release)
    assert explained.base == pytest.approx(usual.base + 60)
    assert explained.contributions == usual.contributions


def test_what_the_rules_decided_has_none(alone: httpx.Client) -> None:
    said = alone.post("/v1/decisions", json=PAYMENT)
    assert "the rules decided" in problem(alone.get(f"{said.headers['location']}/explanation"), 404)["detail"]
    problem(alone.get("/v1/decisions/unknown.tx-1/explanation"), 404)


def test_without_the_files_of_the_version_it_says_so(client: httpx.Client, bank: Bank, world: Trained) -> None:
    said = Decision.model_validate(client.post("/v1/decisions", json=PAYMENT).json())
    folder = bank.var / "models" / world.release.digest
    shutil.rmtree(folder)
    explainer = Explainer(bank.var / "models")
    with pytest.raises(NotAvailable, match="cannot be read here"):
        explainer.explain(said, world.release)
    with pytest.raises(NotAvailable, match="in no ledger"):
        explainer.explain(said, None)
