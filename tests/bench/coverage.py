"""What is shown after a month of learning from one's own lists: plain, with seats, and with a shuffled slice as well.

`python -m tests.bench.coverage` records it and draws var/reports/coverage.svg. Of a seed, the arms have the same small
shop and the same luck; lists are filled up alike.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from recsys import config, dataset, simulate
from recsys.features import Facts
from recsys.history import hidden, write_history
from recsys.policy import Policy
from recsys.recipe import Recipe
from recsys.schema import Ints
from recsys.simulate import Life, Shop
from recsys.sources import fit
from recsys.topk import DEEP, arranged
from shared.clock import SystemClock
from shared.console import Stage
from shared.lake import Lake
from shared.results import Run
from shared.settings import Settings

COMMAND = "python -m tests.bench.coverage"
HISTORY, NIGHTS, PAGE = 42, 30, 10  # days, nights, places shown
START, KEY = 1_767_225_600, b"a key of the bench"
ARMS = {  # small sellers' and newcomers' seats, and the share of lists that is shuffled
    "plain": (Policy(small_sellers=0, newcomers=0), 0.0),
    "seats": (Policy(), 0.0),
    "seats_and_shuffle": (Policy(), config.EXPLORED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds: int = parser.parse_args().seeds
    stage, settings = Stage(), Settings()
    run = Run(
        config.SERVICE, command=COMMAND, at=SystemClock().now(), var=settings.var, modules=["tests.bench.coverage"]
    )
    lines = {}
    for name, (policy, shuffled) in ARMS.items():
        with stage.act(f"{NIGHTS} nights, {name.replace('_', ' ')}, in {seeds} shops") as act:
            config.EXPLORED = shuffled
            with stage.progress(seeds, "shops") as done:
                values = []
                for seed in range(seeds):
                    with tempfile.TemporaryDirectory() as folder:
                        values.append(coverage(open_shop(seed), Lake(Path(folder)), policy=policy))
                    done(1)
            lines[name] = np.array(values)[:, :, 0].mean(axis=0).tolist()
            ends = np.array(values)[:, -1]
            act.outcome = "{:.1%} of the catalogue on first pages in the last week, {:.1%} in all".format(*ends.mean(0))
            week, ever = ends.T
            for part, value in (
                ("last_week", week.mean()),
                ("last_week.low", week.min()),
                ("last_week.high", week.max()),
                ("ever", ever.mean()),
            ):
                run.figure(f"coverage.{name}.{part}", float(value), unit="share of items")
    path = settings.var / "reports" / "coverage.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(lines, path)
    stage.say(f"\n{path}")


def open_shop(seed: int) -> Shop:
    shop = simulate.open_shop(seed=seed, start=START, days=HISTORY + NIGHTS, users=800, items=500)
    return shop._replace(visits=(shop.visits * 1.5).clip(0, 0.9))


def coverage(shop: Shop, lake: Lake, *, policy: Policy) -> list[tuple[float, float]]:
    """By night: the share of items that some first page has shown in the last seven nights, and ever."""
    life, count = simulate.born(shop), shop.appeal.size
    for day in range(HISTORY):
        live(shop, life, lake, day, None)
    pages: list[set[int]] = []
    values = []
    for day in range(HISTORY, HISTORY + NIGHTS):
        lists = tonight(shop, lake, day, policy)
        live(shop, life, lake, day, lists)
        pages.append(set(lists[lists >= 0].tolist()))
        values.append((len(set().union(*pages[-7:])) / count, len(set().union(*pages)) / count))
    return values


def tonight(shop: Shop, lake: Lake, day: int, policy: Policy) -> Ints:
    """(users, PAGE) numbers of the shop's items; -1 for unknown ones."""
    cut = shop.start + day * config.DAY
    known, recipe = dataset.interactions(lake, cut=cut), Recipe()
    sources, users = fit(known, recipe.parameters, seed=1), np.arange(len(known.users))
    ranked = recipe.rank(Facts.of(known), sources, users, most=DEEP)
    made = arranged(known, policy, sources, ranked, date=str(dataset.day_of(cut)))[0].items.astype(np.int64)
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
    for style, (name, values) in zip(("-", "--", ":"), lines.items(), strict=True):
        axes.plot(range(1, len(values) + 1), 100 * np.array(values), style, color="black", linewidth=1)
        axes.annotate(f" {name.replace('_', ' ')}: {values[-1]:.0%}", (len(values), 100 * values[-1]), va="center")
    axes.set(xlabel="night", ylabel="% of items on a first page, 7 nights", ylim=(0, None), xlim=(1, NIGHTS * 1.2))
    axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "coverage"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
