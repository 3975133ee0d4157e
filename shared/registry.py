"""MLflow as the registry: which models there are, what they were trained on, and how good they were.

A model is a folder of safe files (text, JSON, Parquet) and not an MLflow flavour: those unpickle. Its
digest travels with it in the ledger, and no file of a folder is opened before the digest holds.
Which version decides is said by the ledger, `<service>.releases`; the aliases here repeat it for people.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY, MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client
from mlflow.utils.file_utils import ExclusiveFileLock

from shared.champion import digest_of, whole

Alias = Literal["champion", "challenger"]
MODEL = "model"  # the artifact of a run that holds the folder
DIGEST = "digest"  # the tag of a version


class Corrupt(Exception):
    """The files of a model are not those that were registered."""


class Unavailable(Exception):
    """The files of a model are gone, or their server does not answer."""


class UnknownVersion(LookupError):
    """No such version of this model."""


class Version(NamedTuple):
    version: str
    artifact: str  # URI of the folder
    digest: str
    figures: dict[str, float]


class Registry:
    """The versions of one registered model, in SQLite, in PostgreSQL or behind an MLflow server."""

    def __init__(self, uri: str, name: str) -> None:
        """Opens, or creates, the model `name`; a new SQLite file takes a second or two of migrations."""
        _quiet()
        self.name = name
        self._uri = uri
        location = None  # a server has its own
        with ExitStack() as alone:
            if uri.startswith("sqlite:///"):
                folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
                folder.mkdir(parents=True, exist_ok=True)
                location = (folder / "mlartifacts" / name).as_uri()  # absolute: it must hold in any working directory
                # Two processes that open a new file both run the migrations, and one of them fails.
                alone.enter_context(ExclusiveFileLock(str(folder / "mlflow.lock")))
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            # Asked for, not looked up: on a server several processes start at the same moment.
            with _unless_there():
                self._client.create_experiment(name, artifact_location=location)
            with _unless_there():
                self._client.create_registered_model(name)

    def register(
        self,
        folder: Path,
        *,
        params: Mapping[str, str | int | float],
        figures: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> Version:
        """One run with everything that says where a model came from, and a new version; no alias moves.

        Raises FileNotFoundError for a folder without files.
        """
        if not any(folder.iterdir()):
            raise FileNotFoundError(f"{folder} holds no files, so no model")
        digest = digest_of(folder)
        [experiment] = self._client.search_experiments(filter_string=f"name='{self.name}'")
        run = self._client.create_run(experiment.experiment_id)
        key, began = run.info.run_id, run.info.start_time
        self._client.log_batch(
            key,
            metrics=[Metric(name, value, began, 0) for name, value in figures.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        self._client.log_artifacts(key, str(folder), MODEL)
        self._client.set_terminated(key)
        source = f"{run.info.artifact_uri}/{MODEL}"
        made = self._client.create_model_version(self.name, source, run_id=key, tags={DIGEST: digest})
        return self._read(made)

    def fetch(self, artifact: str, *, digest: str, into: Path) -> Path:
        """The folder `into`/`digest`, downloaded unless it is there and whole.

        Raises Corrupt when what the registry holds has another digest; nothing of it is kept. Raises Unavailable.
        """
        target = into / digest
        if whole(target, digest):
            return target
        if target.is_dir():
            shutil.rmtree(target)
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as temporary:
            try:
                got = Path(download_artifacts(artifact_uri=artifact, dst_path=temporary, tracking_uri=self._uri))
            except MlflowException as error:
                raise Unavailable(f"{artifact} cannot be downloaded: {error.message}") from error
            if (found := digest_of(got)) != digest:
                raise Corrupt(f"{artifact} has the digest {found}, not {digest}: restore its files or train again")
            try:
                got.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was first, with the same bytes
                    raise
        return target

    def alias(self, name: Alias) -> str | None:
        """The version that bears the alias."""
        version = self._client.get_registered_model(self.name).aliases.get(name)
        return None if version is None else str(version)

    def point(self, alias: Alias, version: str) -> None:
        """Move the alias, in one step. Raises UnknownVersion."""
        self._client.set_registered_model_alias(self.name, alias, self.version(version).version)

    def repair(self, champion: str) -> bool:
        """Point the alias at the champion of the ledger; whether it had to be moved. Raises UnknownVersion."""
        moved = self.alias("champion") != champion
        if moved:
            self.point("champion", champion)
        return moved

    def version(self, version: str) -> Version:
        """Raises UnknownVersion, which names those there are."""
        return self._read(self._one(version))

    def tags(self, version: str) -> dict[str, str]:
        """What `register` was told about the version. Raises UnknownVersion."""
        return dict(self._client.get_run(str(self._one(version).run_id)).data.tags)

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        return [self._read(one) for one in self._known()]

    def _one(self, version: str) -> ModelVersion:
        known = {str(one.version): one for one in self._known()}
        if version not in known:
            raise UnknownVersion(f"{self.name} has no version {version}; it has {', '.join(known) or 'none yet'}")
        return known[version]

    def _known(self) -> list[ModelVersion]:
        found = self._client.search_model_versions(f"name='{self.name}'")
        return sorted(found, key=lambda one: int(one.version), reverse=True)

    def _read(self, one: ModelVersion) -> Version:
        assert one.run_id is not None  # `register` gives both
        assert one.source is not None
        figures = self._client.get_run(one.run_id).data.metrics
        return Version(str(one.version), one.source, one.tags[DIGEST], dict(figures))


@contextmanager
def _unless_there() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _quiet() -> None:
    """No telemetry, no progress bars, no news of migrations: a demo's screen is the demo's."""
    MLFLOW_DISABLE_TELEMETRY.set(True)  # type: ignore[no-untyped-call]  # MLflow has no annotations
    set_telemetry_client()  # type: ignore[no-untyped-call]  # reads it again: importing mlflow had made a client
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]  # MLflow has no annotations
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
