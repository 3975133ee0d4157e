"""Random sequences of what an operator does and of what goes wrong: the ledger stays true, and is obeyed."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from shared.releases import NONE, Ledger, Release
from tests.sentiment.operations import Operations

STEPS = 12
WHERE = ("intent", "switch", "done")


def holds(ledger: Ledger[Release], sent: list[tuple[str, str, str | None]]) -> None:
    """No command has been carried out twice, and none that named another champion than there was."""
    keys = [line.key for line in ledger.lines]
    assert len(keys) == len(set(keys))
    before, wanted = NONE, {key: (kind, expected) for key, kind, expected in sent}
    taken_back: set[str] = set()
    for line in ledger.lines:
        kind, expected = wanted.get(line.key, ("promote", before))
        assert (kind, expected) == (line.action, before)
        if line.action == "rollback":
            assert line.version not in taken_back
        if line.action != "promote":
            taken_back.add(before)
        before = NONE if line.action == "withdraw" else line.version


@pytest.mark.parametrize("seed", range(5))
def test_whatever_an_operator_does_and_whatever_fails_the_ledger_is_true_and_obeyed(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    sent: list[tuple[str, str, str | None]] = []
    with closing(Operations(tmp_path)) as service:
        for number in range(STEPS):
            kind = chance.choice(("promote", "promote", "rollback", "withdraw", "retrain", "again", "stale"))
            if kind == "again" and sent:
                key, kind, expected = chance.choice(sent)
                service.command(kind, version=None, expected=expected, key=key)
            elif kind == "retrain":
                service.step(kind)
            else:
                expected = "99" if kind == "stale" else service.ledger().version()
                kind = kind if kind in service.kinds else "promote"
                version = chance.choice(service.versions()) if kind == "promote" else None
                sent.append((f"key-{number}", kind, expected))
                service.command(kind, version=version, expected=expected, key=f"key-{number}")
            trouble = chance.choice(("none", "none", "crash", "restart", "outage"))
            if trouble == "crash":
                service.crash(chance.choice(WHERE))
            elif trouble == "restart":
                service.restart()
            service.outage(trouble == "outage")
            service.run()
            service.outage(False)
            service.run()
            ledger = service.ledger()
            holds(ledger, sent)
            assert ledger.intents() == []
            assert service.in_force("model") == ledger.version()
