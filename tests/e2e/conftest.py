"""The tiny bank of tests/fraud, for tests that run commands on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fraud.bank import Bank, Trained, copied, trained


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture
def bank(world: Trained, tmp_path: Path) -> Iterator[Bank]:
    bank = copied(world, tmp_path / "var")
    yield bank
    bank.close()
