"""The demo as a user types it, shortened: every act, every request answered, and broken nights that no shopper sees."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.dataset import day_of
from recsys.schema import IMPRESSIONS, NIGHTS, Impression, Night
from shared.clock import SystemClock
from shared.eventlog import open_log
from shared.eventlog.port import beginning
from shared.results import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(420)]

DAYS = 14  # the fewest that the story can be told in


def nights_and_lists(path: Path) -> tuple[list[Night], list[Impression]]:
    """What the demo's log has of both, oldest first."""
    log, nights, lists = open_log(f"sqlite:///{path}", clock=SystemClock()), [], []
    reader = log.reader(beginning([NIGHTS, IMPRESSIONS]))
    while records := reader.poll(10_000, 0.0):
        for record in records:
            if record.topic == NIGHTS.name:
                nights.append(Night.model_validate_json(record.value))
            else:
                lists.append(Impression.model_validate_json(record.value))
    reader.close()
    log.close()
    return nights, lists


def test_the_demo_serves_every_request_and_shows_the_old_table_after_each_broken_night(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recsys", "--var", str(tmp_path), "demo", "--days", str(DAYS), "--headless"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    acts = ("History", "A recipe", "Nights and days", "Broken nights", "Days until", "A bad recipe", "The rest")
    for number, act in enumerate(acts, 1):
        assert re.search(rf"\b{number}  {act}", done.stdout), done.stdout
    said = " ".join(done.stdout.split())  # a terminal's width breaks lines
    assert "stayed, the rerun took" in said
    assert "rolled back to" in said
    figures = {name: figure["value"] for name, figure in read(tmp_path / "results" / "recsys.json").items()}
    assert figures["demo.failed_requests"] == 0
    assert isinstance(figures["demo.incremental_vs_popularity"], float)
    assert figures["demo.incremental_vs_popularity"] > 1

    (path,) = tmp_path.glob("demo-recsys/*/log.db")
    nights, lists = nights_and_lists(path)
    assert len({night.date for night in nights}) == DAYS
    refused = " | ".join(night.refused for night in nights)
    assert "events since yesterday" in refused, "no input"
    assert "first ten are among today's" in refused, "a recipe turned round"
    current = ""
    for night in nights:
        current = night.version or current
        shown = {made.version for made in lists if str(day_of(made.at)) == night.date}
        assert shown == {current}, f"{night.date}: {night.refused}"
