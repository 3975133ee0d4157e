"""The model registry in MLflow: versions, their parameters, metrics and tags.

A model is a folder of safe files (text, JSON, Parquet) and not an MLflow flavour: those unpickle. Its
digest travels with it in the ledger, and no file of a folder is opened before the digest holds.
Which version decides is said by the ledger, `<service>.releases`; the aliases here repeat it for people.
"""

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import mlflow.store.db.utils
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import (
    MLFLOW_DISABLE_TELEMETRY,
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client
from mlflow.utils.file_utils import ExclusiveFileLock
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import HTTPError

from shared.champion import digest_of, is_digest, whole
from shared.dependencies import DependencyUnavailable
from shared.settings import check_driver

Alias = Literal["champion", "challenger"]
MODEL = "model"  # the artifact of a run that holds the folder
DIGEST = "digest"  # the tag of a version
ANSWER = 4  # seconds for a server to answer; it is asked twice

AWAY = (MlflowException, SQLAlchemyError, HTTPError, OSError)  # requests' errors are OSErrors


class Corrupt(Exception):
    """The files of a model are not those that were registered."""


class Unavailable(DependencyUnavailable):
    """The registry does not answer, or the files of a model are gone."""


class UnknownVersion(LookupError):
    """No such version of this model."""


class Version(NamedTuple):
    version: str
    artifact: str  # URI of the folder
    digest: str
    figures: dict[str, float]


class Registry:
    """The versions of one registered model, in SQLite, in PostgreSQL or behind an MLflow server.

    It is opened when it is used first. Every method may raise Unavailable.
    """

    def __init__(self, uri: str, name: str) -> None:
        self.name, self._uri = name, uri
        self._client: MlflowClient | None = None
        self._opening = threading.Lock()

    @contextmanager
    def _open(self, what: str = "the registry does not answer") -> Iterator[MlflowClient]:
        """Raises Unavailable for whatever keeps it from answering; the next use opens it anew."""
        try:
            with self._opening:
                client = self._client = self._client or self._opened()
            yield client  # not the attribute, which another thread may clear meanwhile
        except AWAY as error:
            self._client = None
            said = str(error).strip() or type(error).__name__
            raise Unavailable(f"{what}: {said.splitlines()[0][:300]}") from error

    def _opened(self) -> MlflowClient:
        """Opens, or creates, the model; a new SQLite file takes a second or two of migrations."""
        check_driver(self._uri)
        _prepare()
        location = None  # a server has its own
        with ExitStack() as alone:
            if self._uri.startswith("sqlite:///"):
                folder = Path(self._uri.removeprefix("sqlite:///")).resolve().parent
                folder.mkdir(parents=True, exist_ok=True)
                # Absolute: it must hold in any working directory.
                location = (folder / "mlartifacts" / self.name).as_uri()
                # Two processes that open a new file both run the migrations, and one of them fails.
                alone.enter_context(ExclusiveFileLock(str(folder / "mlflow.lock")))
            uri = _impatient(self._uri)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            # Asked for, not looked up: on a server several processes start at the same moment.
            with _unless_there():
                client.create_experiment(self.name, artifact_location=location)
            with _unless_there():
                client.create_registered_model(self.name)
        return client

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
        with self._open() as client:
            experiment = client.get_experiment_by_name(self.name)
            if experiment is None:
                raise MlflowException(f"the experiment {self.name} is gone")
            run = client.create_run(experiment.experiment_id)
            key, began = run.info.run_id, run.info.start_time
            client.log_batch(
                key,
                metrics=[Metric(name, value, began, 0) for name, value in figures.items()],
                params=[Param(name, str(value)) for name, value in params.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            client.log_artifacts(key, str(folder), MODEL)
            client.set_terminated(key)
            source = f"{run.info.artifact_uri}/{MODEL}"
            made = client.create_model_version(self.name, source, run_id=key, tags={DIGEST: digest})
        return Version(str(made.version), source, digest, dict(figures))

    def fetch(self, artifact: str, *, digest: str, into: Path) -> Path:
        """The folder `into`/`digest`, downloaded unless it is there and whole.

        Raises Corrupt when what the registry holds has another digest, and nothing of it is kept.
        """
        if not is_digest(digest):  # it names a folder, so it must not be a path
            raise Corrupt(f"{artifact} has {digest!r} for a digest, which is none: train again")
        target = into / digest
        if whole(target, digest):
            return target
        if target.is_dir():
            shutil.rmtree(target)
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as temporary:
            got = self._downloaded(artifact, temporary)
            if not whole(got, digest):
                raise Corrupt(f"{artifact} does not have the digest {digest}: restore its files or train again")
            try:
                got.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was first, with the same bytes
                    raise
        return target

    def _downloaded(self, artifact: str, folder: str) -> Path:
        """From wherever MLflow keeps it; each kind of place has errors of its own."""
        _prepare()
        try:
            return Path(download_artifacts(artifact_uri=artifact, dst_path=folder, tracking_uri=_impatient(self._uri)))
        except Exception as error:
            raise Unavailable(f"{artifact} cannot be downloaded: {error}") from error

    def alias(self, name: Alias) -> str | None:
        """The version that bears the alias."""
        with self._open() as client:
            version = client.get_registered_model(self.name).aliases.get(name)
        return None if version is None else str(version)

    def point(self, alias: Alias, version: str) -> None:
        """Move the alias, in one step. Raises UnknownVersion."""
        known = self.version(version)
        with self._open() as client:
            client.set_registered_model_alias(self.name, alias, known.version)

    def repair(self, champion: str | None) -> bool:
        """Point the alias at the champion of the ledger, or remove it; whether anything changed.

        Raises UnknownVersion.
        """
        if self.alias("champion") == champion:
            return False
        if champion is None:
            with self._open() as client:
                client.delete_registered_model_alias(self.name, "champion")
        else:
            self.point("champion", champion)
        return True

    def version(self, version: str) -> Version:
        """Raises UnknownVersion, which names those there are."""
        return self._one(version)[0]

    def tags(self, version: str) -> dict[str, str]:
        """What `register` was told about the version. Raises UnknownVersion."""
        run = self._one(version)[1]
        with self._open() as client:
            return dict(client.get_run(run).data.tags)

    def versions(self) -> list[Version]:
        """All versions that `register` made, newest first; others may have put theirs beside them."""
        return [version for version, _ in self._known()]

    def _one(self, version: str) -> tuple[Version, str]:
        known = {one.version: (one, run) for one, run in self._known()}
        if version not in known:
            raise UnknownVersion(f"{self.name} has no version {version}; it has {', '.join(known) or 'none yet'}")
        return known[version]

    def _known(self) -> list[tuple[Version, str]]:
        """With their runs."""
        with self._open() as client:
            found = client.search_model_versions(f"name='{self.name}'")
            newest_first = sorted(found, key=lambda one: int(one.version), reverse=True)
            return [known for one in newest_first if (known := self._read(client, one)) is not None]

    def _read(self, client: MlflowClient, one: ModelVersion) -> tuple[Version, str] | None:
        if one.run_id is None or one.source is None or DIGEST not in one.tags:
            return None  # another program registered it
        try:
            figures = client.get_run(one.run_id).data.metrics
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # its run was deleted
        return Version(str(one.version), one.source, one.tags[DIGEST], dict(figures)), one.run_id


@contextmanager
def _unless_there() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _impatient(uri: str) -> str:
    """A PostgreSQL that is away, or silent, is noticed in seconds."""
    if not uri.startswith("postgresql"):
        return uri
    url = make_url(uri)
    limits = {"connect_timeout": str(ANSWER), "tcp_user_timeout": str(ANSWER * 1000)}
    given: str = url.update_query_dict(limits | dict(url.query)).render_as_string(hide_password=False)
    return given


def _prepare() -> None:
    """No telemetry, progress bars or news of migrations: a demo's screen is the demo's. And no minutes of retries."""
    MLFLOW_DISABLE_TELEMETRY.set(True)  # type: ignore[no-untyped-call]  # MLflow has no annotations
    set_telemetry_client()  # type: ignore[no-untyped-call]  # reads it again: importing mlflow had made a client
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]  # MLflow has no annotations
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(ANSWER)  # type: ignore[no-untyped-call]  # MLflow has no annotations
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)  # type: ignore[no-untyped-call]  # MLflow has no annotations
    mlflow.store.db.utils.MAX_RETRY_COUNT = 2
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs is raised, too
