"""Owner and edge race for the first word on a payment: one decision counts, and it is the one that was answered."""

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import httpx
import pytest

from fraud import config
from fraud.schema import DECISIONS
from shared.clock import perf_counter, sleep
from tests.fraud.bank import Bank
from tests.fraud.test_serve import PAYMENT, edge, eventually, metric, working

RACES = 300  # a thousand are the proof
ABREAST = 8  # requests under way at a time
BUSY = 0.03  # seconds at most that the owner is busy with something else


def test_the_first_word_counts_and_is_the_answer(any_bank: Bank, monkeypatch: pytest.MonkeyPatch, proof: bool) -> None:
    chance, races = random.Random(7), 1_000 if proof else RACES
    with working(any_bank, between=lambda: sleep(chance.uniform(0.0, BUSY))), edge(any_bank) as client:
        usual = median(waits(client))

        def race(number: int) -> dict[str, object]:
            monkeypatch.setattr(config, "OWNER_DEADLINE", chance.uniform(0.0, usual))  # that the edge is patient
            answer = client.post("/v1/decisions", json=PAYMENT | {"card": f"card-{number}", "id": f"race-{number}"})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        with ThreadPoolExecutor(ABREAST) as pool:
            answers = {f"{x['card']}.{x['id']}": x for x in pool.map(race, range(races))}
        eventually(lambda: not any_bank.undecided())
        words = [json.loads(record.value) for record in any_bank.read(DECISIONS)]
        first: dict[str, dict[str, object]] = {}
        for word in words:
            first.setdefault(f"{word['card']}.{word['id']}", word)
        assert answers.keys() <= first.keys()
        assert [key for key in answers if answers[key] != first[key]] == []
        eventually(lambda: metric(client, "fraud_superseded_total") == len(words) - len(first))
    winners = Counter(str(first[key]["path"]) for key in answers)
    assert min(winners["model"], winners["stand-in"]) >= races / 50, "it was no race"


def waits(client: httpx.Client) -> list[float]:
    """Seconds that the owner takes when ABREAST requests are under way."""

    def ask(number: int) -> float:
        began = perf_counter()
        assert client.post("/v1/decisions", json=PAYMENT | {"id": f"{number}"}).json()["path"] == "model"
        return perf_counter() - began

    with ThreadPoolExecutor(ABREAST) as pool:
        return list(pool.map(ask, range(100)))
