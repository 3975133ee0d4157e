"""The two commands that tell the whole story, as a user types them; shortened, and on the real file."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest

from shared.lake import Lake
from shared.results import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(420)]


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "fraud", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def demo(tmp_path: Path, proof: bool) -> Iterator[subprocess.Popen[str]]:
    """The demo as a person starts it: the service stays up until Ctrl-C."""
    days = "21" if proof else "12"  # with every act
    command = [sys.executable, "-m", "fraud", "--var", str(tmp_path), "demo", "--days", days]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        yield process
        with suppress(ProcessLookupError):  # whatever became of the test, nothing of it goes on
            os.killpg(process.pid, signal.SIGKILL)


def test_the_demo_lives_through_attack_and_bad_release_and_serves_every_request(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert demo.stdout is not None
    said = ""
    while "ends the service" not in said:
        line = demo.stdout.readline()
        assert line, said
        said += line
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    assert demo.stdout.read() == ""
    assert demo.wait(60) == 130
    for act in ("History", "Training", "Live", "Attack", "Retrain", "A bad release", "The rest"):
        assert re.search(rf"\d  {act}", said)
    assert "rollback" in said
    figures = {name: figure["value"] for name, figure in read(tmp_path / "results" / "fraud.json").items()}
    assert figures["demo.failed_requests"] == 0
    assert figures["demo.false_alarms_before"] == 0
    assert isinstance(figures["demo.saved_vs_rules"], float)
    assert figures["demo.saved_vs_rules"] > 1
    for path in re.findall(rf"{tmp_path}\S+/reports", said):
        assert list(Path(path).glob("*.html")), "evidently's page was promised"


def test_a_replay_of_the_handbook_ranks_as_it_should(tmp_path: Path, data: Path, proof: bool) -> None:
    """All shops are the proof; a third of them is faster, and each has all of its payments."""
    file = data / "handbook_fraud" / "transactions.parquet"
    if not proof:
        whole, file = file, tmp_path / "some-shops.parquet"
        pl.scan_parquet(whole).filter(pl.col("TERMINAL_ID") % 3 == 0).sink_parquet(file)
    said = run("--var", tmp_path, "replay", file, "--days", 30)
    assert "0 rows refused" in said
    (precision,) = re.findall(r"average precision\s+│\s+(0\.\d+)", said)
    assert float(precision) > 0.25  # six days to learn from; the whole file is another matter


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Lake]:
    """What is said, and the lake, after a file of which three rows are bad, and the last 28, one a day, are frauds."""
    header = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD"
    good = [f"{n},2026-01-{1 + n % 28:02} 10:00:00,c{n % 9},t1,12.50,{int(n >= 172)}" for n in range(200)]
    bad = ["a b,2026-01-01 10:00:00,c1,t1,1,0", "900,2026-01-01 10:00:00,c1,t1,-5,0", "901,yesterday,c1,t1,5,0"]
    var = tmp_path_factory.mktemp("taken")
    (var / "payments.csv").write_text("\n".join([header, *good, *bad]))
    return run("--var", var, "ingest", var / "payments.csv"), Lake(var / "fraud" / "lake")


def test_bad_rows_of_a_file_are_reported_and_the_rest_is_taken_in(taken: tuple[str, Lake]) -> None:
    said, lake = taken
    assert "200 new of 200 payments taken in" in said
    assert "3 rows refused" in said
    var = lake.folder.parent.parent
    again = run("--var", var, "ingest", var / "payments.csv")
    assert "0 new of 200 payments taken in" in again


def test_a_file_s_last_frauds_become_known_too(taken: tuple[str, Lake]) -> None:
    events = taken[1].read("events")
    assert dict(events.group_by("kind").len().iter_rows())["label"] == 28
