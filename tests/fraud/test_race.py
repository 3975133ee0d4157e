"""Owner and edge race for the first word on a payment: one decision counts, and it is the one that was answered."""

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fraud import config
from fraud.schema import DECISIONS
from shared.clock import sleep
from tests.fraud.bank import Bank
from tests.fraud.test_serve import PAYMENT, edge, eventually, metric, working

RACES = 1_000
ABREAST = 8  # requests under way at a time
PATIENCE = 0.005  # seconds that the edge gives the owner
BUSY = 0.03  # seconds at most that the owner is busy with something else


def test_the_first_word_counts_and_is_the_answer(any_bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "OWNER_DEADLINE", PATIENCE)
    chance = random.Random(7)
    with working(any_bank, between=lambda: sleep(chance.uniform(0.0, BUSY))), edge(any_bank) as client:

        def race(number: int) -> dict[str, object]:
            answer = client.post("/v1/decisions", json=PAYMENT | {"card": f"card-{number}", "id": f"race-{number}"})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        with ThreadPoolExecutor(ABREAST) as pool:
            answers = {f"{x['card']}.{x['id']}": x for x in pool.map(race, range(RACES))}
        eventually(lambda: not any_bank.undecided())
        words = [json.loads(record.value) for record in any_bank.read(DECISIONS)]
        first: dict[str, dict[str, object]] = {}
        for word in words:
            first.setdefault(f"{word['card']}.{word['id']}", word)
        assert len(first) == RACES
        assert [key for key in answers if answers[key] != first[key]] == []
        eventually(lambda: metric(client, "fraud_superseded_total") == len(words) - RACES)
    winners = Counter(word["path"] for word in first.values())
    assert min(winners["model"], winners["stand-in"]) > RACES / 20, "it was no race"
