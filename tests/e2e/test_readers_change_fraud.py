"""What a reader adds first, a feature of the card: the shop goes on by the rules, and learns it the next day."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fraud.ingest import DECIDERS, GROUP
from fraud.schema import ALARMS, EVENTS, RELEASES, Alarm
from shared.clock import monotonic, sleep
from shared.releases import Ledger, Release
from tests.fraud.bank import KEY, Bank, Trained, days

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
EDITS = {  # of fraud/features.py
    '    "card_large_7d",\n': '    "card_large_7d",\n    "card_mean_amount",\n',
    "        *seen.large,\n": "        *seen.large,\n        month / 100 / counts[4] if counts[4] else 0.0,\n",
}


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the code with the reader's feature."""
    code = tmp_path / "code"
    for package in ("fraud", "shared"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    features = code / "fraud" / "features.py"
    text = features.read_text()
    for old, new in EDITS.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    features.write_text(text)
    return code


@contextmanager
def running(bank: Bank, code: Path, *words: str) -> Iterator[None]:
    with (bank.var / f"{words[0]}.log").open("a") as log:
        child = subprocess.Popen(bank.command(*words), stdout=log, stderr=log, cwd=code)  # `-m` looks there first
    try:
        yield
        assert child.poll() is None, (bank.var / f"{words[0]}.log").read_text()[-3_000:]
    finally:
        child.kill()
        child.wait()


def eventually(done: Callable[[], object], bank: Bank, *, seconds: float = 180.0) -> None:
    until = monotonic() + seconds
    while not done():
        assert monotonic() < until, "".join(file.read_text()[-2_000:] for file in bank.var.glob("*.log"))
        sleep(0.1)


@pytest.mark.slow
def test_a_new_feature_of_the_card_is_decided_on_by_the_rules_until_it_is_learnt(
    bank: Bank, world: Trained, changed: Path
) -> None:
    shutil.copy(world.var / "mlflow.db", bank.var / "mlflow.db")
    (bank.var / "pseudonym_key.secret").write_bytes(KEY)

    def day(number: int) -> None:
        bank.send(days(world, number, number))
        for group in (DECIDERS, GROUP):
            eventually(lambda group=group: behind(bank, group) == 0, bank)  # type: ignore[misc]  # no type for a default

    with running(bank, ROOT, "worker", "--patience", "inf"), running(bank, ROOT, "monitor"):
        day(0)
    assert {said.model for said in bank.decisions().values()} == {"1"}
    before = set(bank.said())

    with running(bank, changed, "worker", "--patience", "inf"), running(bank, changed, "monitor"):
        day(1)
        by_rules = {said.mark for identity, said in bank.decisions().items() if identity not in before}
        assert by_rules == {"no-model"}
        assert any(alarm.kind == "model" and "rules decide" in alarm.action for alarm in alarms(bank))
        eventually(lambda: any(alarm.retrain_on is not None for alarm in alarms(bank)), bank)
        day(2)  # closes day 1, and with it comes the retraining
        eventually(lambda: releases(bank).version() == "2", bank)
        after = set(bank.said())
        day(3)
    new = [said for identity, said in bank.decisions().items() if identity not in after]
    assert new
    assert {(said.path, said.model) for said in new} == {("model", "2")}
    assert releases(bank).champion().who == "monitor"  # type: ignore[union-attr]  # there is one
    assert {len(said.features or ()) for said in new} == {len(json.loads(next(iter(golden(bank))))[0]["features"])}


def alarms(bank: Bank) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in bank.read(ALARMS)]


def golden(bank: Bank) -> Iterator[str]:
    champion = releases(bank).champion()
    assert champion is not None
    yield (bank.var / "models" / champion.digest / "golden.json").read_text()


def releases(bank: Bank) -> Ledger[Release]:
    return Ledger(Release.model_validate_json(record.value) for record in bank.read(RELEASES))


def behind(bank: Bank, group: str) -> int:
    done = bank.log.committed(group, EVENTS)
    return sum(end - (done[p].offset if p in done else 0) for p, end in bank.log.ends(EVENTS).items())
