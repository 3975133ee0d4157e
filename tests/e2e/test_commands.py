"""The commands as a user types them."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fraud.__main__ import app
from shared.checklist import ROOT
from shared.cli import claim
from shared.clock import monotonic, sleep
from tests.fraud.bank import TODAY, Bank

pytestmark = pytest.mark.e2e
COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]  # a click group
PAYMENT = {"card": "c1", "id": "tx-1", "terminal": "t0001", "at": TODAY, "cents": 4_250}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fraud", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def test_help_names_every_command() -> None:
    said = run("--help")
    assert said.returncode == 0
    assert {"serve", "worker", "monitor", "ingest", "train", "demo"} <= set(COMMANDS)
    assert [name for name in COMMANDS if f" {name} " not in said.stdout] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    said = CliRunner().invoke(app, [name, "--help"])
    assert said.exit_code == 0
    assert f"{name} [OPTIONS]" in said.stdout
    assert len(said.stdout.splitlines()) > 3


def test_a_wrong_option_is_refused_with_a_word() -> None:
    said = CliRunner().invoke(app, ["serve", "--prot", "1"])
    assert said.exit_code == 2
    assert "--prot" in said.stderr


def test_a_file_that_cannot_be_used_is_said_in_a_line(tmp_path: Path) -> None:
    header = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD"
    short, empty, other = (tmp_path / name for name in ("short.csv", "empty.csv", "other.csv"))
    short.write_text(f"{header}\n1,2026-01-01 10:00:00,c1,t1,12.50,0\n")
    empty.write_text(f"{header}\n1,yesterday,c1,t1,12.50,0\n")
    other.write_text("a,b\n1,2\n")
    for command, file, why in (
        ("replay", tmp_path / "absent.csv", "does not exist"),
        ("replay", short, "has 1 days; 28 are needed"),
        ("replay", empty, "line 2, at: must be a date and time"),
        ("ingest", other, "lacks TRANSACTION_ID"),
        ("ingest", empty, "holds no payment that can be read"),
    ):
        said = CliRunner().invoke(app, ["--var", str(tmp_path / "var"), command, str(file)], env={"COLUMNS": "400"})
        assert said.exit_code == 2, said.output
        assert why in said.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Service:
    def __init__(self, bank: Bank, port: int, *options: str) -> None:
        self.bank, self.port = bank, port
        self.url = f"http://127.0.0.1:{port}"
        with (bank.var / "serve.log").open("a") as log:
            command = bank.command("serve", "--port", str(port), *options)
            self.child = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    @property
    def log(self) -> str:
        return (self.bank.var / "serve.log").read_text()

    def ready(self) -> bool:
        assert self.child.poll() is None, self.log
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def post(self, payment: dict[str, object]) -> dict[str, object]:
        headers = self.key | {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/decisions", json.dumps(payment).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return dict(json.loads(response.read()))

    @property
    def key(self) -> dict[str, str]:
        """The header of the operator."""
        return {"X-API-Key": (self.bank.var / "operator_key.secret").read_text()}

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/metrics", headers=self.key), timeout=20
        ) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def workers(self) -> list[int]:
        """The processes that work on this bank's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"worker" in words and str(self.bank.var).encode() in words:
                    found.append(int(entry.name))
        return found


def eventually(done: Callable[[], object], *, seconds: float = 60.0) -> None:
    until = monotonic() + seconds
    while not done():
        assert monotonic() < until, "it did not happen"
        sleep(0.05)


@contextmanager
def started(bank: Bank) -> Iterator[Service]:
    service = Service(bank, free_port())
    try:
        yield service
    finally:
        if service.child.poll() is None:
            service.child.kill()
        service.child.wait()
        eventually(lambda: not service.workers())  # they end with their parent, however it ended


@contextmanager
def serving(bank: Bank) -> Iterator[Service]:
    with started(bank) as service:
        eventually(service.ready)
        yield service


def decided_by_model(service: Service) -> None:
    """The worker may still be reading the past; the rules stand in until it has."""
    numbers = iter(range(100))
    eventually(lambda: service.post(PAYMENT | {"id": f"tx-{next(numbers)}"})["path"] == "model")


@pytest.mark.slow
def test_serve_answers_stands_up_to_a_second_one_and_ends_in_good_order_on_ctrl_c(bank: Bank) -> None:
    with serving(bank) as service:
        decided_by_model(service)
        second = run("--var", str(bank.var), "--virtual", str(TODAY), "serve", "--port", str(service.port))
        assert second.returncode == 2
        assert f"127.0.0.1:{service.port}" in second.stderr
        assert "already in use" in second.stderr
        assert "--port" in second.stderr
        assert service.post(PAYMENT | {"id": "after"})["path"] == "model"
        assert "starting afresh" not in service.log  # no other worker took the slot over
        ends_in_good_order(service, signal.SIGINT)
    assert (bank.var / "operator_key.secret").stat().st_mode & 0o077 == 0


def test_serve_waits_for_a_log_that_is_away(bank: Bank, tmp_path: Path) -> None:
    (folder := tmp_path / "away").touch()  # a file where a folder should be
    bank.url = f"sqlite:///{folder}/log.db"
    with started(bank) as service:
        eventually(lambda: "waiting for the log" in service.log)
        folder.unlink()
        eventually(service.ready)
        ends_in_good_order(service, signal.SIGINT)


@pytest.mark.slow
@pytest.mark.kill
def test_a_killed_worker_is_started_again_and_both_end_when_they_are_told_to(bank: Bank) -> None:
    with serving(bank) as service:
        decided_by_model(service)
        (first,) = service.workers()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: service.workers() not in ([], [first]))
        assert service.post(PAYMENT | {"id": "after"})["action"] == "approve"  # by whom does not matter
        ends_in_good_order(service, signal.SIGTERM)


def ends_in_good_order(service: Service, number: signal.Signals) -> None:
    service.child.send_signal(number)
    assert service.child.wait(20) == 0, service.log
    assert service.workers() == []
    assert "Traceback" not in service.log


def test_a_worker_whose_supervisor_has_gone_ends_though_it_cannot_even_start(tmp_path: Path) -> None:
    (tmp_path / "away").touch()
    log = f"sqlite:///{tmp_path}/away/log.db"
    said = run("--var", str(tmp_path), "--log", log, "worker", "--parent", "1")  # not its parent
    assert said.returncode == 0, said.stderr


@pytest.mark.kill
def test_a_killed_service_leaves_no_orphan(bank: Bank) -> None:
    with serving(bank) as service:
        assert len(service.workers()) == 1  # may still be starting
        service.child.kill()
        eventually(lambda: service.workers() == [])


@contextmanager
def beside(bank: Bank, *options: str) -> Iterator[Service]:
    """A further serve on the same parts."""
    service = Service(bank, free_port(), *options)
    try:
        eventually(service.ready)
        yield service
        service.child.send_signal(signal.SIGINT)
        assert service.child.wait(20) == 0, service.log
    finally:
        service.child.kill()
        service.child.wait()


def test_a_second_gateway_without_a_worker_answers_beside_the_first(bank: Bank) -> None:
    with serving(bank) as first:
        decided_by_model(first)
        with beside(bank, "--no-worker") as second:
            assert len(first.workers()) == 1
            said = second.post(PAYMENT | {"id": "by-the-second"})
            assert said["path"] == "model"
            assert first.post(PAYMENT | {"id": "by-the-second"}) == said


@pytest.mark.slow
def test_each_serve_claims_a_slot_of_its_own_and_a_taken_one_is_refused(bank: Bank) -> None:
    with serving(bank) as first, beside(bank):
        assert sorted(slots_of(first)) == ["0", "1"]
        refused = run("--var", str(bank.var), "--virtual", str(TODAY), "worker", "--slot", "1")
        assert refused.returncode == 2
        assert "slot 1 is held by another process" in " ".join(refused.stderr.replace("│", " ").split())
        (killed,) = [pid for pid in first.workers() if slot_of(pid) == "0"]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in first.workers() and sorted(slots_of(first)) == ["0", "1"])


def slots_of(service: Service) -> list[str]:
    return [slot_of(pid) for pid in service.workers()]


def slot_of(pid: int) -> str:
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return words[words.index(b"--slot") + 1].decode() if b"--slot" in words else ""


@pytest.mark.slow
def test_a_second_monitor_on_this_machine_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with claim(tmp_path, "fraud-monitor"):
        done = run("--var", str(tmp_path), "monitor")
    assert done.returncode == 2
    assert "fraud-monitor is already running on this machine" in " ".join(done.stderr.replace("│", " ").split())
