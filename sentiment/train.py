"""Lake -> features -> model -> gate -> registry."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from sentiment import bias, dataset, evaluate
from sentiment.artifact import Artifact, drift_frame
from sentiment.config import LABELS
from sentiment.dataset import Blocks, NotEnough
from sentiment.mentions import Brands
from sentiment.model import Linear, Transformer
from sentiment.opinions import definition, refused, seen
from sentiment.policy import Policy
from sentiment.recipe import Recipe
from sentiment.schema import Path as By
from shared import drift
from shared.lake import Lake
from shared.registry import Registry, Version

FIGURES, DEBT = "figures.json", "older_debt"  # a file of the bundle, and what it says of the gate's allowance
FEWEST = 200  # labels to learn from
FRESH = 2 / 3  # of a retrain's posts, at most, are those that its start has not seen
THREADS = 2  # to learn with; another number adds up in another order, and moves the figures
TIMES = 2  # that it sees each of them while there is room, as history is so much longer
BLOCK = 500  # posts that drift is measured on, of a day; of half as many, noise hides one word in six that is new
NORMAL, REST = 1_250, 1_000  # of the newest: what is normal, and from what blocks are drawn that are normal, too
DRAWS = 24
CRISIS = 1.3  # times what is quiet: when half of all speak of one thing, their words are others, and known
PLACED = 4  # every so many of them tells where the labels lie
# What a verdict is made of. Not the labels' probabilities: they move in a crisis, when nothing is wrong with the model.
WATCHED = ("pieces_per_word", "unknown", "confidence", "distance")


class Candidate(NamedTuple):
    """A registered version with what the gate says of it."""

    version: Version
    refused: str  # why it may not be released; empty if it may


def train(
    lake: Lake,
    registry: Registry,
    brands: Brands,
    *,
    as_of: int,
    seed: int,
    champion: Path | None,
    recipe: Recipe | None,
    since: int = 0,
    unseen: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Candidate:
    """Learn from the labels known at `as_of`, register the result, and let the gate judge it.

    `champion`: the folder of what it has to beat, which it also starts from. `unseen`: the time from which it knew no
    label, as the tag `as_of` of its version says; `since`: from which posts are new in kind, and judged on. Without a
    `recipe` the linear model scores alone.

    Raises:
        NotEnough: too few labels. ModelCorrupt: the champion cannot be read.
    """
    rows = dataset.labelled(lake, as_of=as_of)
    rows = rows.with_columns(seen=pl.Series([seen(text, brands) for text in rows["text"]], dtype=pl.String))
    as_of = min(as_of, int(rows["at"].max()) + 1)  # type: ignore[arg-type]  # of integers
    # A version of this program that noted a time to come learnt from no label that came after.
    blocks = dataset.blocks(rows, since=since, unseen=unseen if unseen <= as_of else 0)
    learnt = blocks.learnt
    texts, labels = learnt["seen"].to_list(), learnt["label"].to_list()
    if len(texts) < FEWEST or blocks.newest.height < FEWEST // 4 or len(set(labels)) < 3:
        of = ", ".join(f"{labels.count(label)} {label}" for label in LABELS)
        few = f"{len(texts)} labels to learn from ({of}) and {blocks.newest.height} to judge on"
        raise NotEnough(f"{few}; {FEWEST} and {FEWEST // 4} are needed, and some of each")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        transformer = None
        if recipe is not None:
            from sentiment.finetune import finetune  # torch takes seconds to come, and the linear model needs none

            chosen = _chosen(learnt, unseen, recipe.posts, seed)
            finetune(
                [texts[place] for place in chosen],
                [labels[place] for place in chosen],
                folder,
                recipe=recipe,
                seed=seed,
                start=champion,
                threads=THREADS,
                progress=progress,
            )
            transformer = Transformer(folder)
        artifact = Artifact(Linear.fit(texts, labels, seed=seed), transformer, Policy())
        figures, why = _judged(artifact, blocks, champion)
        quiet = rows.sort("of")["seen"][-NORMAL - REST :].to_list()
        scores = [artifact.score(text, artifact.path) for text in quiet]
        artifact = artifact.placed(quiet[::PLACED], scores[::PLACED])
        frame = drift_frame(quiet, scores, artifact)
        mixed = frame.sample(fraction=1.0, shuffle=True, seed=0)
        normal = mixed.head(NORMAL)
        artifact.save(folder, texts=quiet, reference=normal, limits=_limits(normal, mixed.tail(-normal.height)))
        (folder / FIGURES).write_text(json.dumps(figures, indent=1))
        version = registry.register(
            folder,
            params={"seed": seed, "posts": len(texts)} | (recipe._asdict() if recipe else {}),
            figures=figures,
            tags={
                "data": dataset.version(rows),
                "definition": definition(brands),
                "as_of": str(as_of),
                "gate": why or "passed",
            },
        )
    return Candidate(version, why)


def _chosen(learnt: pl.DataFrame, unseen: int, most: int, seed: int) -> list[int]:
    """Rows for the transformer: the newest that its start has not seen, and others, so that nothing is forgotten."""
    places = np.arange(learnt.height)
    fresh = places[(learnt["of"] >= unseen).to_numpy()] if unseen else places[:0]
    room = round(most * FRESH)
    newest = np.tile(fresh[-room:], TIMES)[:room]
    others = np.random.default_rng(seed).permutation(np.setdiff1d(places, newest))
    return [*newest, *others][:most]


def _judged(artifact: Artifact, blocks: Blocks, champion: Path | None) -> tuple[dict[str, float], str]:
    """Figures on posts that nothing was learnt from, and why the artifact may not be released."""
    judged = [blocks.newest] if champion is None else [blocks.newest, blocks.older]
    ours = [_answers(rows, artifact) for rows in judged]
    names = bias.measure(lambda text: artifact.score(text, artifact.path), lambda text: refused(text, text) is not None)
    figures = ours[0].figures | {f"bias_{name}": float(value) for name, value in names._asdict().items()}
    evidence = evaluate.Evidence(None, bias=names.refused)
    if artifact.transformer is not None:
        linear = [_answers(rows, artifact, path="linear") for rows in judged]
        figures |= {f"linear_{name}": value for name, value in linear[0].figures.items()}
        # Both have learnt the same posts, so all that were kept back are compared: the newest alone are often so few
        # that chance would refuse the better of the two.
        evidence = evidence._replace(linear=_pair(judged, ours, linear))
    if champion is not None:
        before, debt = Artifact.load(champion), _debt(champion)
        theirs = [_answers(rows, before) for rows in judged]
        newest, older = (_pair(judged[k : k + 1], ours[k : k + 1], theirs[k : k + 1]) for k in range(2))
        figures |= {f"champion_{name}": value for name, value in theirs[0].figures.items()}
        figures |= {"older_macro_recall": ours[1].figures["macro_recall"], DEBT: evaluate.owed(older, debt)}
        evidence = evidence._replace(newest=newest, older=older, debt=debt)
    return figures, evaluate.gate(evidence)


def _answers(rows: pl.DataFrame, artifact: Artifact, *, path: By | None = None) -> evaluate.Judged:
    return evaluate.judge(rows["seen"].to_list(), rows["label"].to_list(), artifact, path=path)


def _pair(
    blocks: Sequence[pl.DataFrame], ours: Sequence[evaluate.Judged], theirs: Sequence[evaluate.Judged]
) -> evaluate.Pair:
    """What two models say of all posts of the blocks. Labels of a file name no author: each stands for itself."""
    rows = pl.concat(blocks)
    our_words, their_words = (np.concatenate([judged.said for judged in of]) for of in (ours, theirs))
    named = rows["author"] if "author" in rows.columns else pl.Series([None] * rows.height, dtype=pl.String)
    _, authors = np.unique(named.fill_null(rows["post"]).to_numpy().astype(str), return_inverse=True)
    return evaluate.Pair(evaluate.places(rows["label"].to_list()), our_words, their_words, authors)


def _debt(champion: Path) -> float:
    """What the champion has lost on older posts; a version of before this was noted owes nothing."""
    try:
        return float(json.loads((champion / FIGURES).read_text()).get(DEBT, 0.0))
    except (OSError, ValueError):
        return 0.0


def _limits(normal: pl.DataFrame, rest: pl.DataFrame) -> dict[str, float]:
    """By column, the distance from what is normal that no block of the rest comes near."""
    if rest.height < BLOCK:
        return {}  # too short a history does not know what is normal, so nothing is called drift
    usual = drift.Reference.of(normal.select(name for name in WATCHED if name in normal.columns))
    blocks = [rest.sample(BLOCK, with_replacement=True, seed=number) for number in range(DRAWS)]
    return {name: CRISIS * limit for name, limit in drift.thresholds([usual.distances(b) for b in blocks]).items()}
