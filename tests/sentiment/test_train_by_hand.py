"""The small decisions of training: what is enough, who owes what, whose posts are whose, how far days are apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sentiment import dataset, evaluate, train
from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR, LABELS
from sentiment.dataset import Blocks, NotEnough
from sentiment.evaluate import Judged
from sentiment.history import write_labels
from sentiment.model import Linear
from sentiment.opinions import definition
from sentiment.policy import Policy
from sentiment.schema import Score, Text
from sentiment.simulate import history
from sentiment.train import BLOCK, CRISIS, DRAWS, FIGURES, WATCHED, _chosen, _debt, _limits, _pair
from shared import drift
from shared.lake import Lake
from shared.registry import Version
from tests.sentiment.crowd import BRANDS, SEED, START, TODAY


def test_of_few_that_are_new_each_is_seen_twice_and_the_rest_is_drawn() -> None:
    learnt = pl.DataFrame({"of": np.arange(10) + START})
    chosen = _chosen(learnt, START + 8, 6, 1)
    assert sorted(chosen[:4]) == [8, 8, 9, 9]
    assert len(set(chosen[4:])) == 2
    assert set(chosen[4:]) <= set(range(8))
    assert sorted(_chosen(learnt, START + 2, 6, 1)[:4]) == [6, 7, 8, 9], "the newest, as many as there is room for"
    assert sorted(_chosen(learnt, START + 8, 9, 1)[:4]) == [8, 8, 9, 9]
    assert set(_chosen(learnt, START + 8, 9, 1)[4:]) <= set(range(8)), "twice, and no more often, with room for more"
    first = _chosen(learnt, 0, 6, 1)
    assert len(set(first)) == 6
    assert first == list(np.random.default_rng(1).permutation(np.arange(10)))[:6]


def test_what_a_champion_owes(tmp_path: Path) -> None:
    assert _debt(tmp_path) == 0.0
    for said, owes in (("{", 0.0), ("{}", 0.0), ('{"older_debt": 0.01}', 0.01)):
        (tmp_path / FIGURES).write_text(said)
        assert _debt(tmp_path) == owes


def test_posts_without_an_author_stand_for_themselves() -> None:
    rows = pl.DataFrame(
        {"post": ["a", "b", "c"], "author": [None, "x", "x"], "label": ["neutral", "negative", "positive"]}
    )
    ours, theirs = [Judged({}, np.array([1, 0, 2]))], [Judged({}, np.array([1, 1, 1]))]
    made = _pair([rows], ours, theirs)
    assert (made.truth.tolist(), made.ours.tolist(), made.theirs.tolist()) == ([1, 0, 2], [1, 0, 2], [1, 1, 1])
    first, second, third = made.authors.tolist()
    assert first != second == third
    assert len(set(_pair([rows.drop("author")], ours, theirs).authors)) == 3


class Right:
    """A network that is right about every post that begins with its label."""

    def __init__(self, labels: int) -> None:
        self._labels = LABELS[:labels]

    def score(self, text: Text) -> Score:
        return tuple(float(text.startswith(label)) for label in self._labels)  # type: ignore[return-value]


def posts(label: str, rows: range, *, word: str) -> pl.DataFrame:
    return pl.DataFrame({"post": [f"p{n}" for n in rows], "label": label, "seen": [f"{word} {n}" for n in rows]})


def test_a_network_is_compared_with_its_linear_model_on_all_that_neither_has_learnt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[evaluate.Evidence] = []

    def gate(evidence: evaluate.Evidence) -> str:
        given.append(evidence)
        return ""

    monkeypatch.setattr(evaluate, "gate", gate)
    linear = Linear.fit(["alike", "the same"] * 6, [label for label in LABELS[:3] for _ in range(4)], seed=0)
    two = Artifact(linear, Right(len(linear.score(Text("")))), Policy())  # type: ignore[arg-type]
    monkeypatch.setattr(Artifact, "load", lambda _: two)
    newest, older = posts("negative", range(4), word="negative"), posts("positive", range(4, 10), word="neutral")
    figures, _ = train._judged(two, Blocks(newest[:0], newest, older), tmp_path)
    train._judged(two, Blocks(newest[:0], newest, older), None)
    later, first = given
    assert later.linear is not None
    assert first.linear is not None
    assert later.linear.truth.tolist() == [0] * 4 + [2] * 6
    assert later.linear.ours.tolist() == [0] * 4 + [1] * 6
    assert later.linear.theirs.tolist() == [int(np.argmax(linear.score(Text("x"))))] * 10, "it knows no word of them"
    assert first.linear.truth.tolist() == [0] * 4
    assert later.newest is not None
    assert later.older is not None
    assert (later.newest.truth.tolist(), later.older.truth.tolist()) == ([0] * 4, [2] * 6)
    assert (figures["posts"], figures["linear_posts"], figures["champion_posts"]) == (4, 4, 4)
    assert (figures["macro_recall"], figures["older_macro_recall"]) == (1.0, 0.0)
    assert figures["linear_macro_recall"] == float(later.linear.theirs[0] == 0), "of the newest, as the other"


def frame(rows: int, *, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({name: rng.random(rows) for name in (*WATCHED, "negative")})


def test_limits_are_what_normal_blocks_show_and_a_third_more() -> None:
    normal, rest = frame(1_250, seed=1), frame(BLOCK, seed=2)
    limits = _limits(normal, rest)
    assert limits.keys() == set(WATCHED), "not the labels' probabilities"
    usual = drift.Reference.of(normal.select(WATCHED))
    blocks = [usual.distances(rest.sample(BLOCK, with_replacement=True, seed=number)) for number in range(DRAWS)]
    assert limits == {name: pytest.approx(CRISIS * limit) for name, limit in drift.thresholds(blocks).items()}
    assert (DRAWS, CRISIS, BLOCK) == (24, 1.3, 500)
    assert _limits(normal, rest[:-1]) == {}


# --- a whole training, without a transformer ------------------------------------------------------------


class Shelf:
    """Keeps what is registered."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def register(self, folder: Path, **said: Any) -> Version:
        said["limits"] = json.loads((folder / "limits.json").read_text())
        said["figures.json"] = json.loads((folder / FIGURES).read_text())
        said["normal"] = pl.read_parquet(folder / "reference.parquet").height
        self.said = said
        return Version("1", "there", "0" * 64, said["figures"])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = Lake(tmp_path_factory.mktemp("lake"))
    write_labels(made, history(seed=SEED, start=START, days=5, posts_a_day=500), known_at=TODAY - HOUR)
    return made


def test_what_is_registered_and_when_it_knew_it(lake: Lake) -> None:
    shelf: Any = Shelf()
    told: list[int] = []
    given: Any = {"champion": None, "recipe": None, "progress": told.append}
    candidate = train.train(lake, shelf, BRANDS, as_of=TODAY + DAY, seed=3, **given)
    rows = dataset.labelled(lake, as_of=TODAY + DAY)
    assert shelf.said["tags"] == {
        "data": dataset.version(rows),
        "definition": definition(BRANDS),
        "as_of": str(TODAY - HOUR + 1),
        "gate": candidate.refused or "passed",
    }
    figures = shelf.said["figures"]
    assert shelf.said["figures.json"] == figures
    assert shelf.said["params"]["seed"] == 3
    assert shelf.said["normal"] == 1_250
    assert shelf.said["limits"].keys() <= set(WATCHED)
    assert shelf.said["limits"], "a thousand posts are left to set them on"
    assert figures["macro_recall"] > 0.5
    assert not any(name.startswith(("linear_", "champion_")) for name in figures)
    assert figures.keys() >= {"bias_flips", "bias_noise"}


def test_a_version_that_noted_a_time_to_come_has_seen_none_of_what_is_new(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def blocks(_: pl.DataFrame, *, since: int, unseen: int) -> Blocks:
        assert since == 7
        seen.append(unseen)
        raise NotEnough("enough for a test")

    monkeypatch.setattr(dataset, "blocks", blocks)
    known = TODAY - HOUR + 1
    for unseen in (0, known - 1, known, known + 1, 2**32):
        given: Any = {"champion": None, "recipe": None, "since": 7, "unseen": unseen}
        with pytest.raises(NotEnough):
            train.train(lake, Shelf(), BRANDS, as_of=2**32, seed=0, **given)  # type: ignore[arg-type]
    del given["unseen"]
    with pytest.raises(NotEnough):
        train.train(lake, Shelf(), BRANDS, as_of=2**32, seed=0, **given)  # type: ignore[arg-type]
    assert seen == [0, known - 1, known, 0, 0, 0]


def test_blocks_that_are_normal_share_no_post_with_the_reference(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []

    def limits(normal: pl.DataFrame, rest: pl.DataFrame) -> dict[str, float]:
        given.append((normal.height, rest.height))
        return {}

    monkeypatch.setattr(train, "_limits", limits)
    arguments: Any = {"champion": None, "recipe": None}
    train.train(lake, Shelf(), BRANDS, as_of=TODAY + DAY, seed=3, **arguments)  # type: ignore[arg-type]
    assert given == [(1_250, 1_000)]


@pytest.mark.parametrize(
    ("learnt", "newest", "labels", "enough"),
    [(200, 50, 3, True), (199, 50, 3, False), (200, 49, 3, False), (200, 50, 2, False)],
)
def test_what_is_needed_to_learn_from(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, learnt: int, newest: int, labels: int, enough: bool
) -> None:
    rows = dataset.labelled(lake, as_of=TODAY + DAY).with_columns(seen=pl.col("text"))
    wanted = ["negative", "neutral", "positive"][:labels]
    pool = rows.filter(pl.col("label").is_in(wanted)).sort("label", descending=True)
    some = pl.concat([pool.filter(label=label)[:2] for label in wanted])
    first = pl.concat([some, pool.filter(label=wanted[0])[2 : learnt - some.height + 2]])
    assert first.height == learnt
    monkeypatch.setattr(dataset, "blocks", lambda *_, **__: Blocks(first, rows[:newest], rows[:0]))
    given: Any = {"champion": None, "recipe": None}
    shelf: Any = Shelf()
    if enough:
        train.train(lake, shelf, BRANDS, as_of=TODAY + DAY, seed=0, **given)
        assert shelf.said["params"]["posts"] == 200
    else:
        with pytest.raises(NotEnough, match=f"^{learnt} labels to learn from .* and {newest} to judge on; 200 and 50"):
            train.train(lake, shelf, BRANDS, as_of=TODAY + DAY, seed=0, **given)
