"""What a person can mend ends a command with one sentence and exit code 2: never a traceback, never their file."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import proxy_bypass

import pytest
import typer
from typer.testing import CliRunner

from fraud.__main__ import app as fraud
from recsys.__main__ import app as recsys
from sentiment.__main__ import app as sentiment
from shared.settings import ask_no_proxy_for_this_machine

HEADERS = {
    "fraud": "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD",
    "recsys": "user_id,item_id,event,at,quantity,price,order_id,title,category",
    "sentiment": "id,at,text,label,airline",
}
ROWS: dict[str, Callable[[int], str]] = {
    "fraud": lambda n: f"tx{n},2026-01-{1 + n % 28:02} 10:{n // 28 % 60:02}:00,c{n % 9},t{n % 5},{n % 90 + 1},{n % 2}",
    "recsys": lambda n: f"u{n % 9},pen,purchase,2026-01-{1 + n % 28:02} 10:{n // 28 % 60:02}:00,1,2.50,,A pen,ink",
    "sentiment": lambda n: f"p-{n},2026-01-{1 + n % 28:02} 10:00:00,post {n} of somebody,positive,united",
}
APPS = {"fraud": fraud, "recsys": recsys, "sentiment": sentiment}
SERVICES = list(APPS)


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    service = request.getfixturevalue("service")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEADERS[service], *(ROWS[service](n) for n in range(700))]))
    return path


def ends(app: typer.Typer, *words: str) -> str:
    """What a command says that ends with exit code 2; without the frame around it."""
    done = CliRunner().invoke(app, list(words))
    assert (done.exit_code, done.exception) == (2, done.exception if isinstance(done.exception, SystemExit) else None)
    return " ".join(done.output.replace("│", " ").split())


def ingest(service: str, var: Path | str, file: Path, *options: str) -> str:
    return ends(APPS[service], "--var", str(var), *options, "ingest", str(file))


@pytest.mark.parametrize("service", SERVICES)
def test_a_file_that_cannot_be_used_is_said_why(service: str, tmp_path: Path, file: Path) -> None:
    content = file.read_text().splitlines()
    file.write_text("\n".join(content[1:]))
    assert "rows.csv lacks" in ingest(service, tmp_path / "var", file)
    file.write_text(content[0])
    assert "only line is the header" in ingest(service, tmp_path / "var", file)
    file.write_text("\n".join([content[0], *(line.replace("2026-01-", "somewhen-") for line in content[1:])]))
    said = ingest(service, tmp_path / "var", file)
    assert "line 2, at: must be a date and time" in said
    assert "somewhen" not in said


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", ["pct%20y", "q?x=1", "h#1"])
def test_a_folder_that_no_url_can_name_is_refused_at_once(service: str, name: str, tmp_path: Path, file: Path) -> None:
    assert "which means something in a URL" in ingest(service, tmp_path / name, file)
    assert not (tmp_path / name).exists()


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_log_of_no_known_kind_and_a_broker_that_is_not_there_are_said(
    service: str, tmp_path: Path, file: Path
) -> None:
    var = tmp_path / "a folder"
    assert "expected sqlite:///PATH or kafka://" in ingest(service, var, file, "--log", "postgres://x/y")
    assert "no broker at 127.0.0.1:9" in ingest(service, var, file, "--log", "kafka://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_disk_that_takes_nothing_is_said(
    service: str, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # else Python would leave half of a compiled module behind
    (tmp_path / "var").write_text("a file where a folder should be")
    assert str(tmp_path / "var") in ingest(service, tmp_path / "var", file).replace(" ", "")
    done = subprocess.run(
        [sys.executable, "-m", service, "--var", str(tmp_path / "full"), "ingest", str(file)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_terminal_without_unicode_gets_question_marks(
    service: str, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    file.write_text(file.read_text() + "\n\N{SNOWMAN},2026-01-01 10:00:00\n")
    done = subprocess.run(
        [sys.executable, "-m", service, "--var", str(tmp_path / "var"), "ingest", str(file)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"1 rows refused" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_too_little_to_learn_from_is_said_with_what_is_needed(service: str, tmp_path: Path, file: Path) -> None:
    """One class, one item, or too short a time."""
    var = ["--var", str(tmp_path / "var")]
    assert CliRunner().invoke(APPS[service], [*var, "ingest", str(file)]).exit_code == 0
    linear = ["--linear"] if service == "sentiment" else []
    assert "needed" in (said := ends(APPS[service], *var, "train", *linear)) or "nothing to rank" in said


@pytest.mark.parametrize("service", ["fraud", "recsys"])
def test_a_replay_of_a_short_file_says_how_many_days_are_needed(service: str, tmp_path: Path, file: Path) -> None:
    file.write_text("\n".join(file.read_text().splitlines()[:20]))
    said = ends(APPS[service], "--var", str(tmp_path / "var"), "replay", str(file))
    assert "are needed" in said


def test_brands_that_are_not_there_or_in_no_post_are_said_with_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([HEADERS["sentiment"], *(ROWS["sentiment"](n) for n in range(700))]))
    var = ["--var", str(tmp_path / "var")]
    assert "it has simulated, airlines" in ends(sentiment, *var, "--brands", "airline", "replay", str(file))
    said = ends(sentiment, *var, "--brands", "airlines", "replay", str(file))
    assert "none of the 700 posts of rows.csv names a brand of airlines: american," in said


def test_no_proxy_is_asked_for_what_runs_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    ask_no_proxy_for_this_machine()
    ask_no_proxy_for_this_machine()
    assert [bool(proxy_bypass(host)) for host in ("127.0.0.1", "localhost", "example.org", "example.com")] == [
        True,
        True,
        True,
        False,
    ]


def test_what_a_file_leaves_open_is_said_as_a_variable_of_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """make hands its variables on in the environment."""
    file = tmp_path / "rows.csv"
    file.write_text("user_id;item_id;event;at;price\nann;pen;purchase;01/02/2026;1,234\n")
    said = ingest("recsys", tmp_path / "var", file)
    assert "line 2, at: may begin with the day or with another part of the date: say DATES=dmy or DATES=mdy" in said
    monkeypatch.setenv("DATES", "dmy")
    assert "say DECIMAL=. or DECIMAL=," in ingest("recsys", tmp_path / "var", file)
    monkeypatch.setenv("DECIMAL", ",")
    done = CliRunner().invoke(recsys, ["--var", str(tmp_path / "var"), "ingest", str(file)])
    assert "1 new of 1 rows" in done.output
    monkeypatch.setenv("DATES", "ymd")
    assert "'ymd' is not one of 'dmy', 'mdy'" in ingest("recsys", tmp_path / "var", file)
