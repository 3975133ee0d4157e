"""kill -9 of the nightly job at any moment: the old table stays whole, and the rerun is what would have been."""

import random
import subprocess
from collections.abc import Callable

import pytest

from recsys import table
from recsys.config import DAY, HOUR
from recsys.table import Table
from shared.champion import digest_of
from shared.clock import monotonic, sleep
from tests.recsys.shop import TODAY, Shop, Trained

pytestmark = [pytest.mark.kill, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

TONIGHT = "2026-03-13"


def second_night_due(shop: Shop, world: Trained) -> str:
    """A first table is out, and a day has passed; gives its version."""
    first = shop.night().version
    shop.send(world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    return first


def night(shop: Shop) -> "subprocess.Popen[bytes]":
    """`python -m recsys night`, as a user would start it."""
    with (shop.var / "night.log").open("a") as log:
        return subprocess.Popen(shop.command("night", "--date", TONIGHT, "--seed", "1"), stdout=log, stderr=log)


def test_a_night_killed_again_and_again_publishes_what_an_undisturbed_one_does(
    open_shop: Callable[[], Shop], shop_world: Trained, request: pytest.FixtureRequest
) -> None:
    kills, chance = int(request.config.getoption("--kills")), random.Random(7)
    quiet, killed = open_shop(), open_shop()
    second_night_due(quiet, shop_world)
    before = second_night_due(killed, shop_world)
    began = monotonic()
    assert night(quiet).wait(300) == 0
    usual = monotonic() - began
    for number in range(kills):
        child = night(killed)
        sleep(chance.uniform(0.4 if number % 2 else 0.8, 1.0) * usual)
        child.kill()
        child.wait()
        now = table.current(killed.tables)
        assert now is not None
        Table.open(killed.tables / now)  # whole, whichever it is
        assert now == before or now == table.current(quiet.tables)
    assert night(killed).wait(300) == 0, (killed.var / "night.log").read_text()[-2_000:]
    ours, theirs = table.current(killed.tables), table.current(quiet.tables)
    assert ours == theirs
    assert digest_of(killed.tables / str(ours)) == digest_of(quiet.tables / str(theirs))
    lines = [line.version for line in killed.ledger().lines if line.subject == "table"]
    assert lines == [before, ours], "one line a version"
    assert killed.ledger().lines[-1].offsets == quiet.ledger().lines[-1].offsets
