"""Child commands: started with the settings given, waited for, and ended with their parent."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.children import Children, Stuck, finish, free_port, ready
from shared.clock import VirtualClock, sleep
from shared.settings import Settings

# A service of one file: it says what it was given, and then does as told.
SERVICE = """
import sys, time
print(*sys.argv[1:], flush=True)
if "stay" in sys.argv:
    time.sleep(60)
"""


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    (tmp_path / "echo.py").write_text(SERVICE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = Settings().under(tmp_path / "var")
    settings.var.mkdir()
    with closing(Children("echo", settings, VirtualClock(1_000), "--brands", "airlines")) as children:
        yield children


def test_a_child_is_given_the_settings_and_what_all_are_given(children: Children, tmp_path: Path) -> None:
    children.start("once", stays=False).wait(20)
    said = (tmp_path / "var" / "once.log").read_text().split()
    assert said[said.index("--virtual") + 1] == "1000"
    assert said[-3:] == ["--brands", "airlines", "once"]


def test_who_waits_for_a_child_that_has_ended_is_told_which(children: Children) -> None:
    children.start("once")
    with pytest.raises(Stuck, match=r"once ended; see once\.log"):
        children.wait(lambda: False, "never said")


def test_who_waits_too_long_is_told_what_for(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.children.PATIENCE", 0.05)
    with pytest.raises(Stuck, match="nothing came"):
        children.wait(lambda: False, "nothing came")


def test_children_end_with_who_started_them(children: Children) -> None:
    child = children.start("stay")
    assert child.poll() is None
    children.close()
    assert child.poll() is not None


def test_one_that_does_not_listen_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        wait = child.wait
        monkeypatch.setattr(child, "wait", lambda timeout=None: wait(timeout and 0.1))
        finish(child)
        assert wait(5) == -9


def test_a_port_without_a_listener_is_free_and_not_ready() -> None:
    port = free_port(20_000)
    assert not ready(f"http://127.0.0.1:{port}")


def test_a_busy_port_moves_to_the_next(tmp_path: Path) -> None:
    port = free_port(20_000)
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(200):
                if free_port(port) != port:
                    break
                sleep(0.05)
            assert free_port(port) > port
        finally:
            server.kill()
