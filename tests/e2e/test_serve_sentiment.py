"""Gateways and workers of sentiment, started side by side as an operator would."""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from shared.checklist import ROOT
from shared.children import free_port, ready
from shared.clock import monotonic, sleep
from tests.sentiment.conftest import crowd, world
from tests.sentiment.crowd import KEY, Crowd, post

__all__ = ["crowd", "world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def until(crowd: Crowd, done: Callable[[], object], seconds: float = 60.0) -> None:
    end = monotonic() + seconds
    while not done():
        said = {path.name: path.read_text()[-2_000:] for path in crowd.var.glob("*.log")}
        assert monotonic() < end, said
        sleep(0.05)


@pytest.mark.slow
def test_two_gateways_and_two_workers_share_one_log(crowd: Crowd) -> None:
    (crowd.var / "pseudonym_key.secret").write_bytes(KEY)
    first = free_port(8_300)
    second = free_port(first + 1)
    commands = (
        ("serve", "--port", str(first)),
        ("serve", "--port", str(second), "--no-worker"),
        ("worker",),
    )
    with ExitStack() as stack:
        for number, words in enumerate(commands):
            log = stack.enter_context((crowd.var / f"{number}.log").open("a"))
            child = subprocess.Popen(crowd.command(*words), stdout=log, stderr=log, cwd=ROOT)
            stack.callback(child.wait)
            stack.callback(child.terminate)
        until(crowd, lambda: ready(f"http://127.0.0.1:{first}") and ready(f"http://127.0.0.1:{second}"))
        until(crowd, lambda: len(list(crowd.var.glob("sentiment-worker-*.lock"))) == 2)
        crowd.post(*(post(f"@northair is great {n}", id=f"p-{n}") for n in range(20)))
        until(crowd, lambda: len(crowd.opinions()) == 20)
        taken = subprocess.run(
            crowd.command("worker", "--slot", "0"), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
        )
        assert taken.returncode == 2
        assert "worker slot 0 is held" in taken.stderr
    assert len({opinion.id for opinion in crowd.opinions()}) == 20
    assert crowd.letters() == []
