"""The commands that tell the whole story of sentiment, as a user types them; without the transformer, to be quick."""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from infra.local import Kafka
from sentiment.__main__ import app
from shared.results import Figures, differences, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]  # a click group


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "sentiment", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


DEMO = ("demo", "--headless", "--linear", "--days", 5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Figures]:
    """What the demo has printed, and its figures."""
    var = tmp_path_factory.mktemp("demo")
    return run("--var", var, *DEMO), read(var / "results" / "sentiment.json")


@pytest.mark.slow
def test_the_demo_lives_through_crisis_new_words_and_bad_release(demo: tuple[str, Figures]) -> None:
    said, measured = demo
    for act in ("History", "Training", "Live", "Crisis", "New words", "A bad release", "The rest"):
        assert re.search(rf"\d  {act}", said)
    assert "rollback to version" in said
    assert re.search(
        r"promote version \d: (what is new has labels|asked for)", said
    )  # the words are new to MiniLM most
    figures = {name: figure["value"] for name, figure in measured.items()}
    assert figures["seam.mismatches"] == 0
    assert figures["demo.failed_requests"] == 0
    assert isinstance(figures["alarm.false_per_brand_month"], float)
    assert figures["alarm.false_per_brand_month"] <= 1
    assert isinstance(figures["demo.seconds_to_alarm"], int)
    assert figures["demo.seconds_to_alarm"] <= 6 * 3_600


@pytest.mark.slow
def test_the_demo_has_the_same_figures_on_kafka(demo: tuple[str, Figures], broker: Kafka, tmp_path: Path) -> None:
    run("--var", tmp_path, "--log", f"{broker.url}/{uuid4().hex[:8]}", *DEMO)
    assert differences(demo[1], read(tmp_path / "results" / "sentiment.json")) == {}


@pytest.mark.slow
def test_three_days_of_airlines_are_counted_in_their_own_time(tmp_path: Path, data: Path) -> None:
    posts = pl.read_parquet(data / "airline_tweets" / "airline_tweets_feb16_22.parquet")
    posts.filter(pl.col("created_at") < datetime(2015, 2, 20, tzinfo=UTC)).write_parquet(tmp_path / "airlines.parquet")
    said = run("--var", tmp_path, "--brands", "airlines", "replay", tmp_path / "airlines.parquet", "--linear")
    assert re.search(r"seam mismatches\s+│\s+0\s", said)
    figures = {name: figure["value"] for name, figure in read(tmp_path / "results" / "sentiment.json").items()}
    assert isinstance(figures["share.days"], int)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    said = CliRunner().invoke(app, [name, "--help"])
    assert said.exit_code == 0
    assert f"{name} [OPTIONS]" in said.stdout


def test_a_file_that_cannot_be_used_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "short.csv").write_text("text,at,label\n@northair is fine,1767225600,positive\n")
    for command, file, why in (
        ("replay", "other.csv", "lacks created_at, text"),
        ("replay", "short.csv", "300 are needed"),
        ("ingest", "other.csv", "lacks created_at, text"),
    ):
        words = ["--var", str(tmp_path / "var"), command, str(tmp_path / file)]
        said = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
        assert said.exit_code == 2, said.output
        assert why in said.stderr
