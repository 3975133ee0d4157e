"""A short soak as a user types it, on either log; the long one is `make soak-fraud`."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import WHERE
from shared.results import read
from shared.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(420)]


def test_faults_at_random_lose_no_payment_and_decide_none_twice(tmp_path: Path, proof: bool) -> None:
    if Settings().kafka_home is None:
        pytest.skip(f"needs Kafka. {WHERE}")
    soak(tmp_path / "kafka", "kafka")
    if proof:
        soak(tmp_path / "sqlite", "")


def soak(var: Path, log: str) -> None:
    command = [sys.executable, "-m", "tests.soak", "--var", str(var), "--log", log, "--minutes", "0.35"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {name: figure["value"] for name, figure in read(var / "results" / "fraud.json").items()}
    assert (figures["soak.lost"], figures["soak.twice"]) == (0, 0)
    assert isinstance(figures["soak.payments"], int)
    assert figures["soak.payments"] > 1_000
    assert isinstance(figures["soak.faults"], int)
    assert figures["soak.faults"] >= 2
    said = "".join(path.read_text() for path in var.glob("soak-fraud/*/*.log"))
    assert "decides" in said
    assert "Traceback" not in said
