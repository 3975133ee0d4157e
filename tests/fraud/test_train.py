"""From the lake to the registry: the same again, all that says where a model came from, and a gate that can say no."""

import itertools
import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient

from fraud import dataset
from fraud.artifact import GOLDEN
from fraud.config import DAY
from fraud.features import DEFINITION, NAMES
from fraud.train import HISTORY, NotEnough, train
from shared.lake import Lake, LakeCorrupt
from shared.registry import Registry, Version
from shared.releases import Release
from tests.fraud.bank import SEED, TODAY, Trained, open_registry

# MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


@pytest.fixture
def registry(world: Trained, tmp_path: Path) -> Registry:
    """A copy of the world's, to register in."""
    shutil.copy(world.var / "mlflow.db", tmp_path / "mlflow.db")
    return open_registry(tmp_path)


@pytest.fixture
def first(world: Trained, registry: Registry) -> tuple[Version, Path]:
    version = registry.version(world.release.version)
    return version, world.var / "models" / version.digest


@pytest.mark.slow
def test_the_same_data_and_seed_make_the_same_model(world: Trained, registry: Registry) -> None:
    again = train(Lake(world.var / "fraud" / "lake"), registry, as_of=TODAY, seed=SEED, champion=None)
    assert again.version.digest == world.release.digest
    assert again.version.figures == world.release.figures


@pytest.mark.slow
def test_a_champion_is_not_replaced_by_its_equal(
    world: Trained, registry: Registry, first: tuple[Version, Path], tmp_path: Path
) -> None:
    champion = shutil.copytree(first[1], tmp_path / "champion")
    (champion / "limits.json").write_text('{"amount": 0.5, "score": 0.5}')
    again = train(Lake(world.var / "fraud" / "lake"), registry, as_of=TODAY, seed=SEED, champion=champion)
    assert "the champion" in again.refused
    assert registry.tags(again.version.version)["gate"] == again.refused
    assert again.version.figures["champion_cost_per_1000"] == again.version.figures["cost_per_1000"]
    folder = registry.fetch(again.version.artifact, digest=again.version.digest, into=tmp_path / "models")
    assert json.loads((folder / "limits.json").read_text())["amount"] == 0.5  # the champion's stay


def test_mlflow_knows_where_the_model_came_from(
    world: Trained, registry: Registry, first: tuple[Version, Path], tmp_path: Path
) -> None:
    version, folder = first
    tags = registry.tags(version.version)
    assert tags["gate"] == "passed"
    assert tags["definition"] == DEFINITION
    assert tags["as_of"] == str(TODAY)
    assert len(tags["data"]) == 12
    assert {"average_precision", "brier", "cost_per_1000", "rules_cost_per_1000"} <= version.figures.keys()
    assert version.figures["cost_per_1000"] < version.figures["rules_cost_per_1000"]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(str(client.get_model_version("fraud", version.version).run_id))
    assert run.data.params["seed"] == str(SEED)
    assert {"num_leaves", "trees", "review_price"} <= run.data.params.keys()
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    plots = {f"plots/{name}.png" for name in ("precision_recall", "calibration", "importances")}
    assert plots < names
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in plots)
    golden = json.loads((folder / "golden.json").read_text())
    assert len(golden) == GOLDEN
    assert all(len(sample["features"]) == len(NAMES) for sample in golden)
    assert len({sample["action"] for sample in golden}) > 1
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    assert Release.promotion(version, at=TODAY, who="tests", why="the first model") == world.release


@pytest.mark.slow
def test_other_data_is_another_version_of_the_data(world: Trained, registry: Registry) -> None:
    lake = Lake(world.var / "fraud" / "lake")
    earlier = train(lake, registry, as_of=TODAY - DAY, seed=SEED, champion=None)
    assert registry.tags(earlier.version.version)["data"] != registry.tags(world.release.version)["data"]
    assert earlier.version.digest != world.release.digest


def test_an_empty_lake_is_not_enough(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotEnough, match=r"no events from .* in the lake"):
        train(Lake(tmp_path / "lake"), registry, as_of=TODAY, seed=SEED, champion=None)


@pytest.mark.slow
def test_a_history_without_labels_is_not_enough(world: Trained, registry: Registry, tmp_path: Path) -> None:
    lake, known = Lake(tmp_path / "lake"), Lake(world.var / "fraud" / "lake").read("events")
    lake.write("events", known.filter(pl.col("kind") != "label"), batch="history")
    with pytest.raises(NotEnough, match="with 0 known frauds to learn from"):
        train(lake, registry, as_of=TODAY, seed=SEED, champion=None)


def test_a_training_opens_no_date_that_it_does_not_learn_from(registry: Registry, tmp_path: Path) -> None:
    """Cut in half, a file stops a training that opens it."""
    lake = Lake(tmp_path / "lake")
    label = {"kind": "label", "card": "c", "id": "1", "terminal": "t", "fraud": True, "source": "analyst"}
    lake.write("events", pl.DataFrame({"partition": 0, "offset": 0, "at": TODAY - DAY} | label), batch="b")
    for table, age in itertools.product(("events", "decisions", "refusals"), (-2, HISTORY + 2)):
        folder = lake.folder / table / f"date={dataset.day_of(TODAY - age * DAY)}"
        folder.mkdir(parents=True)
        if table == "events" or age > 0:
            (folder / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(NotEnough, match="0 payments with 0 known frauds"):
        train(lake, registry, as_of=TODAY, seed=SEED, champion=None)


def test_a_file_of_the_lake_that_is_cut_in_half_is_named(world: Trained, registry: Registry, tmp_path: Path) -> None:
    shutil.copytree(world.var / "fraud" / "lake", tmp_path / "lake", copy_function=os.link)
    file = sorted(tmp_path.glob("lake/events/date=*/*.parquet"))[30]
    content = file.read_bytes()
    file.unlink()  # the other link is the world's
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(LakeCorrupt, match=f"{file.parent.name}/{file.name} cannot be read.*ingest its source again"):
        train(Lake(tmp_path / "lake"), registry, as_of=TODAY, seed=SEED, champion=None)
