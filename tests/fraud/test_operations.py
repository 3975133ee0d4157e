"""A few random sequences of releases; many more are in tests/release_sequences.py."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from shared.releases import NONE
from tests.fraud.bank import Trained
from tests.fraud.operations import Operations

STEPS = 20


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_what_serves_is_what_the_ledger_says_and_each_command_counts_once(
    world: Trained, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with closing(Operations(tmp_path, f"sqlite:///{tmp_path}/log.db", world)) as service:
        asked: list[dict[str, str | None]] = []
        for number in range(STEPS):
            kind = chance.choice([*service.kinds, "again", "crash", "outage"])
            if kind == "crash":
                service.crash(chance.choice(["intent", "switch", "done"]))
            elif kind == "outage":
                service.outage(True)
                service.run()
                service.outage(False)
                service.restart()
            else:
                expected = chance.choice([service.ledger().version(), service.ledger().version(), "1"])
                new = chance.choice(service.versions()) if kind == "promote" else None
                command = {"kind": kind, "version": new, "expected": expected, "key": f"key-{number}"}
                if kind == "again" and not asked:
                    continue
                asked.append(chance.choice(asked) if kind == "again" else command)
                sent = asked[-1]
                service.command(
                    str(sent["kind"]), version=sent["version"], expected=sent["expected"], key=str(sent["key"])
                )
            service.run()
            if chance.random() < 0.3:
                service.restart()
                service.run()
        service.restart()
        service.run()
        ledger = service.ledger()
        assert ledger.intents() == []
        assert service.in_force("model") == ledger.version()
        keys = [line.key for line in ledger.lines]
        assert len(keys) == len(set(keys))
        before = NONE
        bad: set[str] = set()
        for line in ledger.lines:
            assert line.action == "withdraw" or line.version != before
            assert line.action == "promote" or line.version not in bad or line.action == "withdraw"
            if line.action in ("rollback", "withdraw"):
                bad.add(before)
            before = NONE if line.action == "withdraw" else line.version
