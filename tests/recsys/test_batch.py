"""Nights: published whole, identical when run again, refused by the gate, taken back; whatever step dies."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys import batch, config, dataset, evaluate, table
from recsys.batch import Nights
from recsys.config import DAY
from recsys.features import NAMES
from recsys.history import PRODUCT_COLUMNS, write_history
from recsys.model import single
from recsys.recipe import Recipe
from recsys.schema import ALARMS, CATALOGUE, DEAD, EVENTS, NIGHTS, SOURCES, Product, Ranked, entry
from recsys.sources import fit
from recsys.table import Busy, Table, drawn
from shared.champion import digest_of
from shared.eventlog.port import Entry
from shared.releases import NONE, Rejected
from tests.recsys.shop import KEY, MIDNIGHT, TODAY, Shop, Trained, copied, event, known

STEPS = ("freeze", "ingest", "sources", "rank", "table", "gate", "publish", "end")


class Died(Exception):
    """Stands for the end of a process."""


def dying(at: str) -> Callable[[str], None]:
    def reached(step: str) -> None:
        if step == at:
            raise Died(step)

    return reached


def test_a_night_publishes_a_list_for_every_known_shopper(shop: Shop) -> None:
    night = shop.night()
    assert night.version == table.current(shop.tables)
    made = Table.open(shop.tables / night.version)
    assert len(made) == night.figures["users"] > 250
    for user in made.manifest.samples:
        items = [item for item in made.items(made.row(user)) if item >= 0]
        assert len(items) == len(set(items)) == config.STORED
    assert shop.ledger().version("table") == night.version
    assert night.recipe == shop.ledger().version("recipe") != NONE
    assert set(night.seconds) == set(STEPS[:-1])
    assert all(0 <= seconds < 600 for seconds in night.seconds.values())
    recipe = shop.ledger().champion("recipe")
    assert recipe is not None
    assert made.manifest.recipe_digest == recipe.digest


def test_a_recipe_is_fetched_when_it_is_released_unless_it_is_at_hand() -> None:
    fetched: list[tuple[str, str]] = []

    def fetch(artifact: str, digest: str) -> None:
        fetched.append((artifact, digest))
        if digest == "away":
            raise OSError

    nights: Any = SimpleNamespace(_champion=SimpleNamespace(at_hand=lambda digest: digest == "here"), _fetch=fetch)
    for digest in ("here", "new", "away"):
        line: Any = SimpleNamespace(artifact="file", digest=digest, version="2")
        Nights._prefetch(nights, line)
    assert fetched == [("file", "new"), ("file", "away")]


def test_a_rerun_publishes_the_same_and_says_so_once(
    shop: Shop, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.night()
    assert {path.name for path in (shop.var / "nights" / MIDNIGHT).iterdir()} == {"frozen.json", "bundle", "published"}
    shop.send(shop_world.live[0])  # later events wait for tomorrow
    monkeypatch.delattr(batch, "arranged")  # a table that was published is not made again
    assert shop.night().version == first.version
    assert not list((shop.var / "nights").rglob("*.npz")), "what steps leave to one another is larger than the table"
    assert [line.version for line in shop.ledger().lines if line.subject == "table"] == [first.version]


@pytest.mark.parametrize(
    "step", [step if step in ("freeze", "publish") else pytest.param(step, marks=pytest.mark.slow) for step in STEPS]
)
def test_a_night_that_dies_leaves_the_old_table_and_the_rerun_ends_as_if_nothing_had_been(
    shop: Shop, shop_world: Trained, tmp_path: Path, step: str
) -> None:
    before = shop.night().version
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
    with pytest.raises(Died):
        shop.nights(dying(step)).run("2026-03-13")
    assert step == "end" or table.current(shop.tables) == before
    if step != "freeze":
        shop.send(shop_world.live[1])  # what comes meanwhile is tomorrow's, though the rerun sees it
    rerun = shop.night("2026-03-13")
    other = copied(shop_world, tmp_path / "other")
    other.night()
    other.send(shop_world.live[0])
    other.clock.observe(TODAY + DAY + 2 * config.HOUR)
    undisturbed = other.night("2026-03-13")
    assert rerun.version == undisturbed.version
    assert digest_of(shop.tables / rerun.version) == digest_of(other.tables / undisturbed.version)
    published = [line.version for line in shop.ledger().lines if line.subject == "table"]
    assert published == [before, rerun.version]
    other.close()


def test_a_night_without_input_leaves_yesterday_s_table(shop: Shop) -> None:
    before = shop.night().version
    shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
    night = shop.night("2026-03-13")
    assert "0 events since yesterday" in night.refused
    assert table.current(shop.tables) == before
    assert [alarm.kind for alarm in shop.alarms(ALARMS)] == ["gate"]
    assert shop.said(NIGHTS)[-1]["version"] == ""


@pytest.mark.parametrize("lost", ["for_sale", "titled"])
def test_a_night_whose_catalogue_lost_half_is_refused(shop: Shop, shop_world: Trained, lost: str) -> None:
    made = Table.open(shop.tables / shop.night().version)
    shop.send(shop_world.live[0])
    half = made.extras.items[::2]
    about = {"in_stock": False} if lost == "for_sale" else {"title": ""}
    products = [Product.model_validate({"item": item, "at": TODAY + DAY, "title": "a", **about}) for item in half]
    shop.log.append([Entry(CATALOGUE, product.item, product.model_dump_json().encode()) for product in products])
    shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
    night = shop.night("2026-03-13")
    assert night.figures[lost] < 0.6 * night.figures[f"{lost}_yesterday"]
    assert {"for_sale": "items for sale", "titled": "items with a title"}[lost] in night.refused
    assert table.current(shop.tables) == made.version


def test_an_empty_night_a_week_after_an_outage_is_refused(shop: Shop) -> None:
    """One empty Saturday of four was no rest; a shop that rests each Saturday has nothing to miss."""
    version, none = shop.night().version, np.zeros(0, np.int64)
    no_lists = Ranked(none, none, none.astype(np.float32), none)

    def refused(rests: Callable[[int], bool]) -> str:
        deeds = [(n % 50, n % 20, ago + 0.5) for ago in range(29) for n in range(100) if not rests(ago)]
        world = known(deeds, users=50, items=20)
        figures = shop.nights()._figures(Table.open(shop.tables / version), world, no_lists)
        return evaluate.gate_table(figures | {"fallbacks": 0.0})

    assert "0 events since yesterday, 86 are usual" in refused(lambda ago: ago in (0, 7))
    assert refused(lambda ago: ago == 7) == ""
    assert refused(lambda ago: ago % 7 == 0) == ""


def test_a_sparse_shop_gets_its_first_table_and_the_next(tmp_path: Path) -> None:
    """Two deeds a shopper, most of them views of what was never bought: there is little but popularity to show."""
    rng = np.random.default_rng(3)
    with closing(Shop(tmp_path)) as shop:
        viewed = zip(rng.integers(400, size=700).tolist(), rng.integers(1, 30 * DAY, 700).tolist(), strict=True)
        deeds = [event("view", user=f"u{n % 500}", item=f"i{i}", at=TODAY - ago) for n, (i, ago) in enumerate(viewed)]
        deeds += [event(user=f"u{n}", item=f"i{n}", at=TODAY - n * DAY) for n in range(1, 20)]
        rows = pl.DataFrame([deed.model_dump() for deed in deeds], infer_schema_length=None)
        catalogue = pl.DataFrame({"item": [f"i{n}" for n in range(400)], "at": TODAY - 40 * DAY, "in_stock": True})
        missing = [pl.lit(None, kind).alias(name) for name, kind in PRODUCT_COLUMNS.items() if name not in catalogue]
        write_history(shop.lake, rows, catalogue.with_columns(*missing), key=KEY)
        assert shop.night().refused == ""
        shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
        shop.happens(*(event("view", user=f"u{n}", item=f"i{n}", at=TODAY + DAY + n) for n in range(30)))
        assert shop.night("2026-03-13").refused == ""


def test_after_a_refusal_the_next_attempt_takes_the_input_there_is_by_then(shop: Shop, shop_world: Trained) -> None:
    shop.night()
    shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
    assert shop.night("2026-03-13").refused
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 3 * config.HOUR)
    assert shop.night("2026-03-13").version


def test_two_nights_at_once_are_one(shop: Shop) -> None:
    with table.sole(shop.tables), pytest.raises(Busy):
        shop.night()


def test_a_published_table_that_is_not_in_the_ledger_gets_its_line(
    shop: Shop, shop_world: Trained, tmp_path: Path
) -> None:
    now = shop.night().version
    other = copied(shop_world, tmp_path / "other")
    shutil.copytree(shop.tables, other.tables)  # of a log that is gone
    other.night()
    lines = [line for line in other.ledger().lines if line.subject == "table"]
    assert [(line.version, line.who) for line in lines] == [(now, "repair")]
    other.close()


def two_nights(shop: Shop, world: Trained) -> tuple[str, str]:
    first = shop.night().version
    shop.send(world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
    return first, shop.night("2026-03-13").version


def test_a_rollback_goes_to_the_table_before_and_says_who_and_why(shop: Shop, shop_world: Trained) -> None:
    first, second = two_nights(shop, shop_world)
    assert shop.roll_back(why="odd lists") == first
    assert table.current(shop.tables) == first
    line = shop.ledger().lines[-1]
    assert (line.subject, line.action, line.version, line.who, line.why) == (
        "table",
        "rollback",
        first,
        "ann",
        "odd lists",
    )
    with pytest.raises(Rejected, match="no earlier version"):
        shop.roll_back(why="further")
    with pytest.raises(Rejected, match=second):
        shop.roll_back(why="forward", version=second)


def test_a_rollback_pins_the_recipe_of_the_table(shop: Shop, shop_world: Trained) -> None:
    shop.night()
    other = shop_world.release.model_copy(update={"version": "2", "why": "a second one", "key": "the-second"})
    shop.log.append([entry(other)])
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * config.HOUR)
    assert shop.night("2026-03-13").recipe == "2"
    shop.roll_back(why="worse")
    shop.send(shop_world.live[1])
    shop.clock.observe(TODAY + 2 * DAY + 2 * config.HOUR)
    assert shop.night("2026-03-14").recipe == shop_world.release.version


def test_a_recipe_that_cannot_be_had_leaves_the_plain_blend(shop: Shop) -> None:
    gone = shop.ledger().lines[-1].model_copy(update={"version": "9", "digest": "0" * 64, "key": "gone"})
    shop.log.append([entry(gone)])
    assert shop.night().version
    assert [alarm.kind for alarm in shop.alarms(ALARMS)] == ["recipe"]


def test_a_blend_that_ranks_by_popularity_alone_passes_the_gate_of_the_table(shop: Shop, shop_world: Trained) -> None:
    """What popularity ranks is no place that it had to fill up: candidates that are missing are."""
    folder = shop.var / "blend"
    matrix = np.ones((60, len(NAMES)), np.float32)
    Recipe(model=single("popular")).save(folder, matrix=matrix, reference=pl.DataFrame(), limits={})
    folder = folder.rename(shop.var / "recipes" / (digest := digest_of(folder)))
    blend = {"version": "2", "digest": digest, "artifact": str(folder), "key": "the-second"}
    shop.log.append([entry(shop_world.release.model_copy(update=blend))])
    night = shop.night()
    assert (night.refused, night.recipe) == ("", "2")
    origins = Table.open(shop.tables / night.version).stored()
    assert (origins == SOURCES.index("popular")).mean() > night.figures["fallbacks"]


def test_what_cannot_be_read_becomes_a_dead_letter_and_the_night_goes_on(shop: Shop) -> None:
    shop.log.append([Entry(EVENTS, "x", b"{"), Entry(EVENTS, "x", b'{"kind": "dance"}')])
    assert shop.night().version
    assert len(shop.letters(DEAD)) == 2


def test_a_twentieth_is_shuffled_and_no_other_list(shop: Shop) -> None:
    made = Table.open(shop.tables / shop.night().version)
    users, _ = made.first_ten()
    for user in users:
        assert made.explored(made.row(user)) == (drawn(user, MIDNIGHT) is not None)
    share = np.mean([drawn(f"u{n}", MIDNIGHT) is not None for n in range(20_000)])
    assert abs(share - config.EXPLORED) < 0.006


def test_every_slot_is_equally_likely_in_a_shuffle() -> None:
    places = np.zeros((5, 5))
    for number in range(200_000):
        if (draw := drawn(f"u{number}", "2026-01-01")) is not None:
            places[np.arange(5), draw.permutation(5)] += 1
    expected = places.sum() / 25
    assert ((places - expected) ** 2 / expected).sum() < 40, "chi-squared with 16 degrees of freedom"


def test_what_is_stored_was_not_bought_unless_it_is_bought_again_and_again(shop: Shop) -> None:
    made = Table.open(shop.tables / shop.night().version)
    world = dataset.interactions(shop.lake, cut=TODAY + 2 * config.HOUR)
    again = fit(world, Recipe().parameters, seed=1).again
    bought = world.bought.filter(~pl.col("item").is_in(np.flatnonzero(again)))
    pairs = set(zip(bought["user"], bought["item"], strict=True))
    seen = 0
    for number, user in enumerate(world.users):
        owned = [(number, item) in pairs for item in made.items(made.row(user))]
        seen += owned.count(False)
        assert owned == sorted(owned), "only where a small shop has nothing else"
    assert seen > 10_000
