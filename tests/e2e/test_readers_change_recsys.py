"""The change that a reader makes first: one feature more for the ranker, on a shop that runs already."""

import shutil
import subprocess
from pathlib import Path

import pytest

from recsys.config import DAY, HOUR
from recsys.schema import ALARMS, NIGHTS, Command
from recsys.table import Table, current
from shared.checklist import ROOT
from tests.recsys.shop import TODAY, Shop, Trained
from tests.recsys.test_serve import client, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def changed_code(folder: Path) -> Path:
    """The code with a feature more: whether the shopper bought the item more than once."""
    for package in ("recsys", "shared"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    features = folder / "recsys" / "features.py"
    text = features.read_text()
    for old, new in (
        ('"pair_price", "pair_category"),', '"pair_price", "pair_category", "pair_again"),'),
        (
            "        out[:, at + 14] = self.leaning[pairs.users, self.category[pairs.items]]\n",
            "        out[:, at + 14] = self.leaning[pairs.users, self.category[pairs.items]]\n"
            "        out[:, at + 15] = times > 1\n",
        ),
    ):
        assert old in text
        text = text.replace(old, new)
    features.write_text(text)
    return folder


@pytest.mark.slow
def test_a_new_feature_ranks_after_the_next_training_and_nothing_stops_before(
    shop: Shop, shop_world: Trained, tmp_path: Path
) -> None:
    first = shop.night().version
    code, said = changed_code(tmp_path / "code"), tmp_path / "said.log"
    shutil.copy(shop_world.var / "mlflow.db", shop.var)

    def start(*words: str) -> "subprocess.Popen[bytes]":
        with said.open("a") as log:
            return subprocess.Popen(shop.command(*words), cwd=code, stdout=log, stderr=log)

    def night(day: int) -> str:
        shop.send(shop_world.live[day])
        shop.clock.observe(TODAY + (day + 1) * DAY + 2 * HOUR)
        assert start("night", "--seed", "1").wait(120) == 0, said.read_text()[-3_000:]
        return str(shop.said(NIGHTS)[-1]["recipe"])

    assert night(0) == "none"
    assert current(shop.tables) != first
    (alarm,) = shop.alarms(ALARMS)
    assert "feature definition" in alarm.message
    assert "hand blend" in alarm.action
    with client(shop) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)
        assert asking.get("/v1/recommendations/u000001").json()["path"] == "table"

    monitor = start("monitor", "--seed", "1")
    try:
        shop.say(Command(kind="train", who="ann", key="train-it"))
        until(lambda: shop.ledger().by_key("train-it", "recipe") is not None or monitor.poll() is not None, seconds=120)
    finally:
        monitor.terminate()
        assert monitor.wait(60) == 0, said.read_text()[-3_000:]
    champion = shop.ledger().version("recipe")
    assert champion != shop_world.release.version
    assert night(1) == champion
    assert Table.open(shop.tables / str(current(shop.tables))).manifest.bundle == champion
