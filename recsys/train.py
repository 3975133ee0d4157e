"""Lake -> interactions -> sources -> ranker -> gate -> registry. Output: a model bundle for the nightly job."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import config, dataset, evaluate
from recsys.evaluate import Truth
from recsys.features import DEFINITION, Facts
from recsys.model import OBJECTIVES, Labelled, Model, ModelCorrupt, fit, lists, single
from recsys.policy import Policy, Rules, compose
from recsys.recipe import PLAIN, Recipe
from recsys.schema import SOURCES, Candidates, Floats, Interactions, Ints, Ranked
from recsys.sources import Parameters, Sources
from recsys.sources import fit as fit_sources
from recsys.topk import DEEP
from shared import drift
from shared.drift import Array
from shared.intervals import Interval
from shared.lake import Lake
from shared.registry import Registry, Version
from shared.unusable import Unusable

LEARNT = 800  # users a period: more make a fit longer and hardly better
JUDGED = 2_000  # users of a period that judges: more tell smaller gains from chance
TRIED: dict[str, tuple[str, tuple[Any, ...]]] = {  # by parameter, the source that shows what it is worth
    "alpha": ("als", (15.0, 5.0, 40.0)),
    "regularization": ("als", (15.0, 5.0, 30.0)),
    "target_power": ("linear", (0.25, 0.1, 0.4)),
    "repeat_memory": ("repeat", (45.0, 20.0, 90.0)),
    "popular_memory": ("popular", (10.0, 3.0, 30.0)),
}
BLENDS = 20  # weights tried for the hand blend
# [7.2] Shoppers who are shown more of the same buy more of the same, and the next night learns from it. So training
# takes the tightest cap that the ranking can afford, and not the one that ranks best, which would be none.
CAPS = (2, 3, 4, 6)  # of a category in a page
CAP_COST = 0.98  # of the nDCG must be left
LATEST = 3  # versions that are asked whether they are of a training that died
QUIET_DAYS, REFERENCE_DAYS = 28, 56
BLOCK = 800  # purchases of a day that drift is measured on


class NotEnough(Unusable):
    """The lake does not hold enough to learn from; says what is missing."""


class Candidate(NamedTuple):
    """A registered version with what the gate says of it."""

    version: Version
    refused: str  # why it may not be released; empty if it may
    uncompared: str = ""  # why it was not judged beside the champion; empty if it was, or there is none


class Period(NamedTuple):
    """What was known at a cut, and what was bought in the horizon after it."""

    known: Interactions
    sources: Sources
    facts: Facts
    truth: Truth
    users: Ints  # judged: who bought something and was known
    after: pl.DataFrame  # what they bought outside lists: user, item, cents of one, quantity
    listed: Ints  # user · items + item of what was bought from a list: neither wanted nor passed over
    pairs: Candidates
    matrix: Floats

    @property
    def bought(self) -> NDArray[np.bool_]:
        return np.isin(self.pairs.users * self.truth.count + self.pairs.items, self.truth.keys)

    @property
    def labelled(self) -> Labelled:
        rows = ~np.isin(self.pairs.users * self.truth.count + self.pairs.items, self.listed)
        pairs = Candidates(self.pairs.users[rows], self.pairs.items[rows], self.pairs.scores[rows])
        return Labelled(pairs, self.matrix[rows], self.bought[rows])

    def rank(self, model: Model) -> Ranked:
        return model.rank(self.pairs, self.matrix)

    def lists(self, ranked: Ranked, policy: Policy | None = None) -> Ints:
        """(users, AT) as served; without a policy as ranked."""
        return shown(ranked, self.users, Rules.of(self.known), policy)

    def ndcg(self, ranked: Ranked, policy: Policy | None = None) -> Array:
        return evaluate.ndcg(self.truth.hits(self.lists(ranked, policy)), self.truth.sizes)

    def euros(self, lists: Ints) -> float:
        """What a judged user went on to pay for items of these lists, (users, AT); the mean."""
        named = pl.DataFrame({"user": np.repeat(self.users, lists.shape[1]), "item": lists.ravel()})
        hit = self.after.join(named.filter(pl.col("item") >= 0), on=["user", "item"], how="semi")
        return float((hit["cents"] * hit["quantity"]).sum()) / 100 / self.users.size


def shown(ranked: Ranked, users: Ints, rules: Rules, policy: Policy | None) -> Ints:
    """(users, AT) items, -1 where a list is short: the first of those that a night would store."""
    out = np.full((users.size, evaluate.AT), -1)
    by_user = lists(ranked)
    for row, user in enumerate(users.tolist()):
        if user not in by_user:
            continue
        items = by_user[user][0]
        if policy is not None:  # of the whole stored list, as a seat may be taken from far behind
            items = items[compose(items[:DEEP].tolist(), rules, policy)]
        out[row, : min(items.size, evaluate.AT)] = items[: evaluate.AT]
    return out


def period(lake: Lake, recipe: Recipe, *, cut: int, horizon: int, seed: int, most: int = 0) -> Period:
    """Candidates as of a cut, for the users who then bought; `most`: a random part of them.

    Raises:
        NotEnough: hardly any known shopper bought in that time, or nothing that could have been recommended.
    """
    known = dataset.interactions(lake, cut=cut)
    bought = dataset.bought_after(lake, known, until=cut + horizon * config.DAY).filter(pl.col("user") >= 0)
    # [7.1] What a list sold hangs on the place it had there, and would favour the model that ranked that list.
    listed, after = bought.filter(pl.col("listed") & (pl.col("item") >= 0)), bought.filter(~pl.col("listed"))
    if most:
        buyers = np.random.default_rng(seed).permutation(after["user"].unique().sort().to_numpy())[:most]
        after = after.filter(pl.col("user").is_in(buyers))
    if after.height < 20 or known.bought.height < 200:
        before = f"{known.bought.height} purchases before {dataset.day_of(cut)}"
        counts = f"{before}, and {after.height} in the {horizon} days after it by shoppers known before"
        raise NotEnough(f"too little to learn from: {counts}; 200 and 20 are needed")
    sources = fit_sources(known, recipe.parameters, seed=seed)
    facts = Facts.of(known)
    truth = Truth(after["user"].to_numpy(), after["item"].to_numpy(), count=len(known.items))
    pairs, matrix = recipe.candidates(facts, sources, truth.users)
    keys = listed["user"].to_numpy() * truth.count + listed["item"].to_numpy()
    made = Period(known, sources, facts, truth, truth.users, after, keys, pairs, matrix)
    if not made.bought.any():
        shop = f"{len(known.items)} items, and {truth.users.size} shoppers who bought again"
        raise NotEnough(f"nothing to rank: of {shop} no known shopper bought what could have been recommended")
    return made


def tune(lake: Lake, *, cut: int, horizon: int, seed: int) -> Parameters:
    """Parameters of the sources, one at a time, each by the nDCG of its source alone in the horizon after the cut.

    Raises:
        NotEnough: no known shopper bought in that time.
    """

    def alone(parameters: Parameters, source: str) -> float:
        week = period(lake, Recipe(parameters), cut=cut, horizon=horizon, seed=seed, most=LEARNT)
        return float(week.ndcg(week.rank(single(source))).mean())

    best = Parameters()
    for name, (source, values) in TRIED.items():
        tried = [best._replace(**{name: value}) for value in values]
        best = tried[int(np.argmax([alone(parameters, source) for parameters in tried]))]
    return best


def learn(fitting: Period, choosing: Period, parameters: Parameters, *, seed: int) -> tuple[Recipe, dict[str, float]]:
    """A ranker from one period; objective, number of trees, blend and policy from the next, and whether trees rank."""
    early, late = fitting.labelled, choosing.labelled
    weights = blend(choosing, seed=seed)
    # Trees have to earn their place: where there is little to learn from, a blend of the sources orders better.
    models = [*(Model(weights, booster) for booster in fit(early, late, seed=seed)), Model(weights)]
    rankings = [choosing.rank(model) for model in models]
    scores = [float(choosing.ndcg(ranked).mean()) for ranked in rankings]
    best = int(np.argmax(scores))
    cap = next((cap for cap in CAPS if _capped(choosing, rankings[best], cap) >= CAP_COST * scores[best]), CAPS[-1])
    chosen = {f"chosen_{name}": score for name, score in zip((*OBJECTIVES, "blend"), scores, strict=True)}
    return Recipe(parameters, models[best], Policy(per_category=cap)), chosen


def _capped(choosing: Period, ranked: Ranked, cap: int) -> float:
    return float(choosing.ndcg(ranked, Policy(per_category=cap)).mean())


def blend(choosing: Period, *, seed: int) -> Floats:
    """The best of BLENDS random weights of the sources, the plain ones, and each alone: what a hand would come to."""
    rng = np.random.default_rng(seed)
    tried = [PLAIN, *np.eye(len(SOURCES)), *rng.dirichlet(np.ones(len(SOURCES)), BLENDS)]
    models = [Model(weights.astype(np.float32)) for weights in tried]
    scores = [float(choosing.ndcg(choosing.rank(model)).mean()) for model in models]
    return np.asarray(tried[int(np.argmax(scores))], dtype=np.float32)


def verdict(judging: Period, recipe: Recipe, *, seed: int) -> dict[str, float]:
    """The recipe as served, each source alone and the hand blend, on a period that nothing was chosen on."""
    ranked = judging.rank(recipe.model)
    ours = judging.lists(ranked, recipe.policy)
    served = evaluate.ndcg(judging.truth.hits(ours), judging.truth.sizes)
    found = {name: judging.truth.hits(judging.lists(judging.rank(single(name)))) for name in SOURCES}
    alone = {name: evaluate.ndcg(hits, judging.truth.sizes) for name, hits in found.items()}
    best = max(alone, key=lambda name: float(alone[name].mean()))
    blended = judging.ndcg(judging.rank(Model(recipe.model.weights)), recipe.policy)
    lift = evaluate.gain(served, alone[best], seed=seed)
    pool = np.bincount(np.searchsorted(judging.users, judging.pairs.users), judging.bought, judging.users.size)
    return {
        **evaluate.judge(judging.truth, ours),
        **evaluate.breadth(ours, judging.known),
        **{f"ndcg_{name}": float(value.mean()) for name, value in alone.items()},
        **{f"recall_{name}": float(evaluate.recall(hits, judging.truth.sizes).mean()) for name, hits in found.items()},
        **{f"share_{name}": share for name, share in _shares(judging, ranked, ours).items()},
        "trees": float(recipe.model.booster.num_trees() if recipe.model.booster else 0),
        "ndcg_blend": float(blended.mean()),
        "blend_low": evaluate.gain(served, blended, seed=seed).low,
        "ndcg_free": float(judging.ndcg(ranked).mean()),
        "euros": judging.euros(ours),
        "euros_free": judging.euros(judging.lists(ranked)),
        "best_single": float(alone[best].mean()),
        "lift": lift.value,
        "lift_low": lift.low,
        "lift_high": lift.high,
        "pool_recall": float((pool / judging.truth.sizes).mean()),
    }


def _shares(judging: Period, ranked: Ranked, ours: Ints) -> dict[str, float]:
    """Of the places shown, by the source that ranked each highest; what fills lists up is popularity's."""
    count = judging.truth.count
    keys = ranked.users * count + ranked.items
    order = np.argsort(keys)
    shown = (judging.users[:, None] * count + ours)[ours >= 0]
    place = order[np.minimum(np.searchsorted(keys, shown, sorter=order), keys.size - 1)]
    source = np.where(keys[place] == shown, ranked.sources[place], SOURCES.index("popular"))
    shares = np.bincount(source, minlength=len(SOURCES)) / max(1, shown.size)
    return dict(zip(SOURCES, shares.tolist(), strict=True))


def train(
    lake: Lake,
    registry: Registry,
    *,
    as_of: int,
    seed: int,
    champion: Path | None,
    horizon: int = config.HORIZON,
    parameters: Parameters | None = None,
    key: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> Candidate:
    """Learn from all that was known at `as_of`, register the result, and let the gate judge it.

    Three periods of `horizon` days, one after the other: learn, choose, judge. `champion`: the folder of what is
    to be beaten, on the same period; one that cannot be read is not compared. `parameters` of the sources: those of
    the champion without any, so that what was tuned once stays. `key`: what was registered under it is given again.
    `progress` is told of every period.

    Raises:
        NotEnough: too short a history.
    """
    if key and (made := _registered(registry, key)) is not None:
        return made
    old, uncompared = _read(champion)
    plain, step = Recipe(parameters or (old or Recipe()).parameters), horizon * config.DAY
    periods = []
    for back, most in ((3, LEARNT), (2, LEARNT), (1, JUDGED)):
        periods.append(period(lake, plain, cut=as_of - back * step, horizon=horizon, seed=seed, most=most))
        progress(1)
    fitting, choosing, judging = periods
    recipe, chosen = learn(fitting, choosing, plain.parameters, seed=seed)
    figures = verdict(judging, recipe, seed=seed) | chosen
    before = None
    if old is not None and champion is not None:
        before = _beside(lake, old, recipe, judging, older=as_of - 4 * step, horizon=horizon, seed=seed)
        before["loss"] = _loss(champion)
        lost = min(0.0, before["loss"] + before.get("older_gain", 0.0))
        figures |= {f"champion_{name}": value for name, value in before.items()} | {"loss": lost}
    refused = evaluate.gate(figures, before)
    tags = {"data": dataset.version(judging.known), "as_of": str(as_of), "gate": refused or "passed"}
    tags |= {"definition": DEFINITION} | ({"key": key} if key else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "recipe"
        usual, limits = normal(lake, as_of=as_of)
        recipe.save(folder, matrix=judging.matrix, reference=usual, limits=limits)
        (folder / "figures.json").write_text(json.dumps(figures, indent=1))
        params = recipe.describe() | {"seed": seed, "horizon": horizon}
        version = registry.register(folder, params=params, figures=figures, tags=tags)
    return Candidate(version, refused, uncompared)


def _registered(registry: Registry, key: str) -> Candidate | None:
    """What a training registered under the key before it died."""
    for version in registry.versions()[:LATEST]:
        tags = registry.tags(version.version)
        if tags.get("key") == key:
            return Candidate(version, "" if tags["gate"] == "passed" else tags["gate"])
    return None


def _read(champion: Path | None) -> tuple[Recipe | None, str]:
    """The recipe to be beaten, or why it cannot rank, so that there is nothing to beat."""
    try:
        return (None if champion is None else Recipe.load(champion)), ""
    except ModelCorrupt as error:  # of other features, or damaged
        return None, str(error)


def _beside(
    lake: Lake, old: Recipe, recipe: Recipe, judging: Period, *, older: int, horizon: int, seed: int
) -> dict[str, float]:
    """The champion on the same shoppers, with its own sources, and what the recipe gains on it.

    `older`: the cut of a period from which the recipe has learnt nothing; a shop too young for it is judged without.
    """

    def gain(week: Period, theirs: Period) -> tuple[Interval, Ints]:
        ours = week.ndcg(week.rank(recipe.model), recipe.policy)
        lists = theirs.lists(theirs.rank(old.model), old.policy)
        return evaluate.gain(ours, evaluate.ndcg(theirs.truth.hits(lists), theirs.truth.sizes), seed=seed), lists

    def at(cut: int, of: Recipe) -> Period:
        return period(lake, of, cut=cut, horizon=horizon, seed=seed, most=JUDGED)

    same = old.parameters == recipe.parameters
    theirs = judging if same else at(judging.known.cut, old)
    newest, lists = gain(judging, theirs)
    figures = evaluate.judge(theirs.truth, lists) | {"gain": newest.value, "gain_low": newest.low}
    with suppress(NotEnough):
        week = at(older, recipe)
        before, _ = gain(week, week if same else at(older, old))
        figures |= {"older_gain": before.value, "older_gain_low": before.low}
    return figures


def _loss(champion: Path) -> float:
    """What the champion and the versions before it have lost on older data, relative nDCG; 0 if it does not say."""
    try:
        return float(json.loads((champion / "figures.json").read_text()).get("loss", 0.0))
    except (OSError, ValueError):
        return 0.0


def watched(rows: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    """What drift of a day's purchases is measured on: at most BLOCK of them, spread evenly; and the weekday.

    What was bought from a list is left out: it moves with each recipe, and with the first list of all.
    """
    alone = (pl.col("kind") == "purchase") & pl.col("list_id").is_null()
    rows = rows.filter(alone).sort("at", "user", "item")
    rows = rows[np.linspace(0, rows.height - 1, min(BLOCK, rows.height)).astype(int)]
    about = products.unique("item", keep="last").select("item", "category", "small")
    joined = rows.join(about, on="item", how="left", maintain_order="left")
    # A category's number is made of its name: the same in every night, whatever else there is.
    numbers = {name: float(crc32(name.encode())) for name in joined["category"].unique().drop_nulls()}
    return joined.select(
        category=pl.col("category").replace_strict(numbers, default=None, return_dtype=pl.Float64),
        price=pl.col("cents").cast(pl.Float64),
        small=pl.col("small").fill_null(False).cast(pl.Float64),
        hour=pl.col("at") % config.DAY // config.HOUR,
        weekday=(pl.col("at") // config.DAY + 3) % 7,
    )


def moved(today: pl.DataFrame, usual: pl.DataFrame) -> dict[str, float]:
    """How far a day (`watched`) is from its weekday in the reference, by column; empty if either has no rows.

    Fewer rows are further away by chance, as the root of their number goes: volume alone is no drift.
    """
    same = usual.join(today.select("weekday"), on="weekday", how="semi").drop("weekday")
    if not same.height:
        return {}
    scale = min(1.0, float(np.sqrt(today.height / (same.height * 7 / REFERENCE_DAYS))))
    found = drift.Reference.of(same).distances(today.drop("weekday"))
    return {name: scale * distance for name, distance in found.items()}


def normal(lake: Lake, *, as_of: int) -> tuple[pl.DataFrame, dict[str, float]]:
    """Purchases of eight weeks before the last four, and limits that those four suggest; each beside its weekday."""
    quiet_from = as_of - QUIET_DAYS * config.DAY
    reference_from = quiet_from - REFERENCE_DAYS * config.DAY
    rows = dataset.events(lake, cut=as_of, since=reference_from)
    catalogue = dataset.catalogue(lake, cut=as_of)
    earlier = rows.filter(pl.col("at").is_between(reference_from, quiet_from, closed="left"))
    days = [watched(part, catalogue) for _, part in earlier.group_by(pl.col("at") // config.DAY, maintain_order=True)]
    usual = pl.concat(days) if days else watched(rows.head(0), catalogue)
    quiet = rows.filter(pl.col("at") >= quiet_from).group_by(pl.col("at") // config.DAY, maintain_order=True)
    found = [moved(watched(part, catalogue), usual) for _, part in quiet]
    distances = [distance for distance in found if distance]
    # Too short a history does not know what is normal, so nothing is called drift.
    return usual, drift.thresholds(distances) if len(distances) >= 14 else {}
