"""What a reader changes first, a rule of the normaliser, on data that is there: the service lives through it.

The change is made in a copy of the source, and the commands run from there, as a reader would run them.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sentiment.config import DAY, HOUR
from sentiment.hours import Manifest
from sentiment.schema import ALARMS, Alarm
from shared.checklist import ROOT
from shared.clock import monotonic, sleep
from tests.sentiment.conftest import crowd, world
from tests.sentiment.crowd import KEY, TODAY, Crowd, Trained, post

__all__ = ["crowd", "world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FIRST = TODAY // HOUR


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The source with one more rule: what is shouted is said."""
    folder = tmp_path / "source"
    for package in ("sentiment", "shared"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    features = folder / "sentiment" / "features.py"
    text = features.read_text()
    rule = 'return BLANKS.sub(" ", LENGTHENED.sub(r"\\1\\1\\1", text)).strip()'
    assert rule in text
    assert "repr((1, ESCAPE.pattern" in text
    text = text.replace(rule, rule + ".lower()").replace("repr((1, ESCAPE.pattern", "repr((2, ESCAPE.pattern")
    features.write_text(text)
    return folder


@contextmanager
def running(crowd: Crowd, source: Path, *commands: tuple[str, ...]) -> Iterator[None]:
    """Commands of the changed source, until the end."""
    with ExitStack() as stack:
        for words in commands:
            log = stack.enter_context((crowd.var / f"{words[0]}.log").open("a"))
            options = ["--var", str(crowd.var), "--log", crowd.url, "--virtual", str(crowd.clock.now())]
            command = [sys.executable, "-W", "ignore", "-m", "sentiment", *options, *words]
            child = subprocess.Popen(command, stdout=log, stderr=log, cwd=source)
            stack.callback(child.wait)
            stack.callback(child.terminate)
        yield


def until(crowd: Crowd, done: Callable[[], object], seconds: float = 90.0) -> None:
    end = monotonic() + seconds
    while not done():
        said = {path.name: path.read_text()[-2_000:] for path in crowd.var.glob("*.log")}
        assert monotonic() < end, said
        sleep(0.05)


def alarms(crowd: Crowd) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in crowd.read(ALARMS)]


@pytest.mark.slow
def test_a_rule_of_the_normaliser_is_added_and_the_service_ends_with_a_new_champion(
    crowd: Crowd, world: Trained, changed: Path
) -> None:
    # A day of the code as it is, its labels, and the registry it was trained into.
    (crowd.var / "pseudonym_key.secret").write_bytes(KEY)
    shutil.copytree(world.var / "sentiment" / "lake", crowd.lake.folder, dirs_exist_ok=True)
    shutil.copy(world.var / "mlflow.db", crowd.var / "mlflow.db")
    crowd.post(post("@northair is GREAT", id="before"))
    crowd.tick(TODAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    assert crowd.opinion("before").model == "1"

    # The reader changes the normaliser, and starts everything again.
    crowd.tick(TODAY + DAY - 60)
    crowd.post(post("@northair is AWFUL", id="between", at=TODAY + DAY - 60))
    crowd.tick(TODAY + DAY + HOUR)
    with running(crowd, changed, ("worker", "--slot", "0"), ("batch",)):
        until(crowd, lambda: any(opinion.id == "between" for opinion in crowd.opinions()))
        assert crowd.opinion("between").mark == "no-model"
        until(crowd, lambda: any(a.kind == "model" and "normaliser" in a.message for a in alarms(crowd)))
        until(crowd, lambda: FIRST + 23 in Manifest.read(crowd.var / "batch").hours)
        assert Manifest.read(crowd.var / "batch").hours[FIRST + 23].model is None
        assert dict(crowd.published()[FIRST].select("post", "label").iter_rows()) == {"before": "positive"}

        # The next day begins: the monitor judges the day that is over, and trains what this code can read.
        with running(crowd, changed, ("monitor", "--linear")):
            until(crowd, lambda: crowd.ledger().version() == "2")
            assert "version 1 is unusable" in crowd.releases()[-1].why
            until(crowd, lambda: Manifest.read(crowd.var / "batch").hours[FIRST + 23].model == "2")
            assert dict(crowd.published()[FIRST + 23].select("post", "label").iter_rows()) == {"between": "negative"}
            crowd.post(post("@northair is GREAT again", id="after", at=TODAY + DAY + HOUR))
            until(crowd, lambda: any(opinion.id == "after" for opinion in crowd.opinions()))
            until(crowd, lambda: crowd.opinion("after").model == "2")
    assert json.loads(crowd.read(ALARMS)[0].value)["kind"] == "model"
    assert crowd.letters() == []
