"""Random sequences of changes, deaths and outages: the ledger and what serves agree, and nothing bad comes back."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from shared.eventlog.port import LogUnavailable
from tests.recsys.operations import Operations

STEPS = 20


@pytest.mark.parametrize("seed", range(5))
def test_after_any_sequence_the_ledger_and_what_serves_agree(tmp_path: Path, seed: int) -> None:
    chance, operations = random.Random(seed), Operations(tmp_path / "var", f"sqlite:///{tmp_path}/log.db")
    keys = 0
    for _ in range(STEPS):
        what = chance.choice([*operations.kinds, "crash", "restart", "outage", "back", "again"])
        ledger = operations.ledger()
        if what in ("promote", "rollback", "withdraw"):
            keys += 1
            subject = "table" if what == "rollback" else "recipe"
            version = chance.choice(operations.versions()) if what == "promote" else None
            expected = chance.choice([ledger.version(subject)] * 4 + ["another"])
            for _ in range(chance.choice((1, 2))):  # a client that sends it twice
                with suppress(LogUnavailable):
                    operations.command(what, version=version, expected=expected, key=f"key-{keys}")
        elif what == "crash":
            operations.crash(chance.choice(("intent", "switch", "done")))
        elif what == "restart":
            operations.restart()
        elif what in ("outage", "back"):
            operations.outage(what == "outage")
        elif what != "again":
            with suppress(LogUnavailable):
                operations.step(what)
        operations.run()
    operations.outage(False)
    operations.restart()
    operations.run()
    operations.step("rerun")  # whatever it does, it finishes what was open
    ledger = operations.ledger()
    assert ledger.intents() == []
    for subject in ("table", "recipe"):
        assert operations.in_force(subject) == ledger.version(subject)
        done = [line.key for line in ledger.lines if line.subject == subject]
        assert len(done) == len(set(done))
        assert ledger.version(subject) not in ledger.known_bad(subject)
    operations.close()
