"""How often the 95 % interval of an estimate covers the simulator's truth, over many worlds.

`python -m tests.bench.offpolicy` records it. What is estimated: the clicks a list, had the same twenty items stood
in the order of their popularity.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from recsys import config, simulate
from recsys.offpolicy import ClickModel, Estimate, Slates, cascade, doubly_robust, ips, replay, snips
from recsys.schema import Ints
from shared.clock import SystemClock
from shared.console import Stage
from shared.results import Run
from shared.settings import Settings

K = 10  # places shown
DAYS, USERS, ITEMS = 7, 2_000, 200
TRUTH = "python -m tests.bench.offpolicy"
M = config.PERMUTED
DRAWS = np.linspace(0.35, 0.02, M)  # chance of a click on each item, if looked at
DOWN = (np.arange(K) + 1.0) ** -0.7  # chance that a place is looked at, where clicks end nothing


class World(NamedTuple):
    """A week of first lists, half of them shuffled; and what popularity's order would have got of all users."""

    shuffled: Slates
    plain: Slates
    wanted: Ints  # (n, K) of the shuffled lists
    wanted_plain: Ints
    truth: float  # clicks expected a list


def night(seed: int) -> World:
    """Each night all users get twenty items near their taste; visitors see ten. Needs do not change meanwhile."""
    rng = np.random.default_rng([seed, 1])
    shop = simulate.open_shop(seed=seed, start=0, days=DAYS, users=USERS, items=ITEMS)
    life, every_user = simulate.born(shop), np.arange(USERS)
    parts: dict[bool, list[tuple[Ints, Ints, np.ndarray, Ints]]] = {True: [], False: []}
    expected = weight = 0.0
    for day in range(DAYS):
        utility = simulate.utilities(shop, life, every_user, day)
        guess = utility + rng.gumbel(size=utility.shape)
        stored = np.argsort(-guess, axis=1)[:, : config.PERMUTED]
        wanted = np.take_along_axis(stored, np.argsort(-shop.appeal[stored], axis=1), axis=1)[:, :K]
        clicks = (simulate.EXAMINED[:K] * simulate.clicking(shop, utility, wanted)).sum(axis=1)
        comes = np.minimum(1.0, shop.visits * simulate.WEEKDAYS[(day + 3) % 7])
        expected, weight = expected + float(clicks @ comes), weight + float(comes.sum())

        luck = simulate.chances(shop, day)
        by_chance = rng.random(luck.users.size) < 0.5
        shown = stored[luck.users]
        shown[by_chance] = rng.permuted(shown[by_chance], axis=1)
        deeds = simulate.live(shop, life.copy(), day, luck, shown[:, :K])
        clicked = np.zeros((luck.users.size, K), bool)
        clicked[deeds.clicked[:, 0], deeds.clicked[:, 2] - 1] = True
        for chance in (True, False):
            of = by_chance == chance
            parts[chance].append((luck.users[of], shown[of, :K], clicked[of], wanted[luck.users[of]]))
    slates, wanteds = [], []
    for chance in (True, False):
        users, items, clicked, wanted = (np.concatenate(part) for part in zip(*parts[chance], strict=True))
        m = np.full(users.size, config.PERMUTED)
        slates.append(Slates([str(user) for user in users], items, clicked, m))
        wanteds.append(wanted)
    return World(slates[0], slates[1], wanteds[0], wanteds[1], expected / weight)


def estimates(made: World) -> dict[str, Estimate]:
    model = ClickModel.fit(made.plain, count=ITEMS)
    return {
        "ips": ips(made.shuffled, made.wanted),
        "snips": snips(made.shuffled, made.wanted),
        "robust": doubly_robust(made.shuffled, made.wanted, model),
        "naive": replay(made.plain, made.wanted_plain),
    }


def coverage(seeds: Iterable[int]) -> Counter[str]:
    """By estimator, in how many worlds the interval holds the truth."""
    covered = Counter[str]()
    for seed in seeds:
        made = night(seed)
        covered.update(name for name, said in estimates(made).items() if said.low <= made.truth <= said.high)
    return covered


def covered(seeds: int, *, ends: bool) -> tuple[dict[str, int], float]:
    """By estimator, in how many worlds of 800 lists the interval holds the truth; and the mean of `cascade`.

    `ends`: whether the first click ends the visit, and until then all is looked at.
    """
    wanted = np.tile(np.arange(K), (800, 1))
    truth = float(1 - np.prod(1 - DRAWS[:K]) if ends else (DRAWS[:K] * DOWN).sum())
    found, values = Counter[str](), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)

        def clicks(items: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
            would = rng.random(items.shape) < DRAWS[items] * (1 if ends else DOWN)
            first: np.ndarray = would & (np.cumsum(would, axis=1) - would == 0)
            return first if ends else would

        order = rng.permuted(np.tile(np.arange(M), (800, 1)), axis=1)
        users = [str(n) for n in range(800)]
        slates = Slates(users, order[:, :K], clicks(order[:, :K]), np.full(800, M), order)
        model = ClickModel.fit(Slates(users, wanted, clicks(wanted), np.full(800, M)), count=M)
        said = {"ips": ips(slates, wanted), "snips": snips(slates, wanted), "cascade": cascade(slates, wanted)}
        said["robust"] = doubly_robust(slates, wanted, model)
        found.update(name for name, estimate in said.items() if estimate.low <= truth <= estimate.high)
        values.append(said["cascade"].value - truth)
    return found, float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds: int = parser.parse_args().seeds
    stage, run = (
        Stage(),
        Run(
            config.SERVICE, command=TRUTH, at=SystemClock().now(), var=Settings().var, modules=["tests.bench.offpolicy"]
        ),
    )
    with stage.act(f"Intervals against the truth in {seeds} worlds") as act:
        held = coverage(range(seeds))
        act.outcome = ", ".join(f"{name} {held[name]}" for name in ("ips", "snips", "robust", "naive"))
    with stage.act(f"{seeds} worlds in which the first click ends the visit") as act:
        ended, _ = covered(seeds, ends=True)
        act.outcome = ", ".join(f"{name} {ended[name]}" for name in ("cascade", "ips", "snips", "robust"))
    said = estimates(night(0))
    rows = [[name, f"{x.value:.3f}", f"{x.low:.3f} … {x.high:.3f}", f"{x.effective:,.0f}"] for name, x in said.items()]
    stage.table("The first world", ["", "clicks a list", "95 %", "effective lists"], rows)
    for name, of, target in (
        ("ope.coverage", "robust", ">= 90"),
        ("ope.ips_coverage", "ips", ">= 90"),
        ("ope.snips_coverage", "snips", ">= 90"),
        ("ope.naive_coverage", "naive", "<= 50"),
    ):
        run.figure(name, 100 * held[of] / seeds, unit="of 100 worlds", target=target)
    for of in ("cascade", "ips", "snips", "robust"):
        run.figure(f"ope.ended.{of}", 100 * ended[of] / seeds, unit="of 100 worlds")


if __name__ == "__main__":
    main()
