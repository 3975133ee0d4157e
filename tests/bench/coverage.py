"""What is shown after a month of learning from one's own lists: with newcomers' seats and a shuffled slice, or without.

`python -m tests.bench.coverage` records it and draws var/reports/coverage.svg. The same small shop, the same luck.
"""

import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from recsys import config, dataset, simulate
from recsys.features import Facts
from recsys.history import hidden, write_history
from recsys.policy import Policy, Rules
from recsys.recipe import Recipe
from recsys.schema import Ints
from recsys.simulate import Life, Shop
from recsys.sources import fit
from recsys.topk import DEEP, arranged
from recsys.train import shown
from shared.clock import SystemClock
from shared.console import Stage
from shared.lake import Lake
from shared.results import Run
from shared.settings import Settings

COMMAND = "python -m tests.bench.coverage"
HISTORY, NIGHTS, PAGE = 42, 30, 10  # days, nights, places shown
START, KEY = 1_767_225_600, b"a key of the bench"
BARE = Policy(small_sellers=0, newcomers=0)


def main() -> None:
    stage, settings = Stage(), Settings()
    run = Run(
        config.SERVICE, command=COMMAND, at=SystemClock().now(), var=settings.var, modules=["tests.bench.coverage"]
    )
    shop = simulate.open_shop(seed=11, start=START, days=HISTORY + NIGHTS, users=800, items=500)
    shop = shop._replace(visits=(shop.visits * 1.5).clip(0, 0.9))
    lines = {}
    for name, explores in (("with", True), ("without", False)):
        with stage.act(f"{NIGHTS} nights {name} exploration") as act, tempfile.TemporaryDirectory() as folder:
            lines[name] = coverage(shop, Lake(Path(folder)), explores=explores)
            night, ever = lines[name][-1]
            act.outcome = f"{night:.1%} of the catalogue on first pages in the last week, {ever:.1%} in all"
            run.figure(f"coverage.{name}.last_week", night, unit="share of items")
            run.figure(f"coverage.{name}.ever", ever, unit="share of items")
    path = settings.var / "reports" / "coverage.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw({name: [week for week, _ in values] for name, values in lines.items()}, path)
    stage.say(f"\n{path}")


def coverage(shop: Shop, lake: Lake, *, explores: bool) -> list[tuple[float, float]]:
    """By night: the share of items that some first page has shown in the last seven nights, and ever."""
    life, count = simulate.born(shop), shop.appeal.size
    for day in range(HISTORY):
        live(shop, life, lake, day, None)
    pages: list[set[int]] = []
    values = []
    for day in range(HISTORY, HISTORY + NIGHTS):
        lists = tonight(shop, lake, day, explores=explores)
        live(shop, life, lake, day, lists)
        pages.append(set(lists[lists >= 0].tolist()))
        values.append((len(set().union(*pages[-7:])) / count, len(set().union(*pages)) / count))
    return values


def tonight(shop: Shop, lake: Lake, day: int, *, explores: bool) -> Ints:
    """(users, PAGE) numbers of the shop's items; -1 for unknown ones."""
    cut = shop.start + day * config.DAY
    known, recipe = dataset.interactions(lake, cut=cut), Recipe()
    sources, users = fit(known, recipe.parameters, seed=1), np.arange(len(known.users))
    ranked = recipe.rank(Facts.of(known), sources, users, most=DEEP)
    made = shown(ranked, users, Rules.of(known), BARE)
    if explores:
        made = arranged(known, recipe.policy, sources, ranked, date=str(dataset.day_of(cut)))[0].items.astype(np.int64)
    names = {str(name): number for number, name in enumerate(simulate.item_names(shop))}
    number = np.array([names[item] for item in known.items] + [-1])  # the last one for -1
    rows = dict(zip(known.users, number[made[:, :PAGE]], strict=True))
    every_user = hidden(pl.DataFrame({"user": simulate.user_names(shop)}), key=KEY)["user"]
    return np.array([rows.get(user, np.full(PAGE, -1)) for user in every_user])


def live(shop: Shop, life: Life, lake: Lake, day: int, lists: Ints | None) -> None:
    """A day, and its deeds in the lake."""
    luck = simulate.chances(shop, day)
    deeds = simulate.live(shop, life, day, luck, None if lists is None else lists[luck.users])
    events = simulate.events(shop, day, luck, deeds)
    write_history(lake, events, simulate.products(shop, day, since=day - 1 if day else None), key=KEY)


def draw(lines: dict[str, list[float]], path: Path) -> None:
    """Percent of the catalogue by night; the last value at the end of each line."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for style, (name, values) in zip(("-", "--"), lines.items(), strict=True):
        axes.plot(range(1, len(values) + 1), 100 * np.array(values), style, color="black", linewidth=1)
        axes.annotate(f" {name}: {values[-1]:.0%}", (len(values), 100 * values[-1]), va="center")
    axes.set(xlabel="night", ylabel="% of items on a first page, 7 nights", ylim=(0, None), xlim=(1, NIGHTS * 1.2))
    axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "coverage"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
