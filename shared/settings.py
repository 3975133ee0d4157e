"""The settings: the only reader of the environment.

Every field is a variable `MLSD_<NAME>`, but `KAFKA_HOME`, which others know too. The default of each
part is embedded and lives under `var/`.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.unusable import Unusable

PARTS = ("log", "store", "mlflow")


def embedded(part: str, var: Path) -> str:
    """The URL of a part that needs no server."""
    return f"sqlite:///{var}/{part}.db"


def apart(url: str, run: str) -> str:
    """A server's URL with a prefix for what one run keeps there; a file's as it is."""
    scheme, slashes, rest = url.partition("://")
    server, *path = rest.rstrip("/").split("/")
    if scheme == "kafka" and slashes:
        return f"kafka://{server}/{'-'.join([*path, run])}"
    if scheme == "redis":
        database, *prefix = path or ["0"]
        return f"redis://{server}/{database}/{'-'.join([*prefix, run])}"
    return url


def check_driver(registry: str) -> None:
    """Raises ValueError when the URL of the registry needs a driver that is not installed."""
    if registry.startswith("postgresql:") and find_spec("psycopg") is None:
        raise ValueError(
            "a registry in PostgreSQL needs its driver: .venv/bin/uv pip install --python .venv -r pyproject.toml"
            " -c infra/constraints.txt --extra postgres"
        )


def ask_no_proxy_for_this_machine() -> None:
    """Where a proxy is set, it does not reach what runs here; this process and its children go there directly."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = ",".join(dict.fromkeys([*filter(None, known.split(",")), "127.0.0.1", "localhost"]))


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="MLSD_", env_ignore_empty=True, frozen=True, extra="forbid")

    var: Path = Field(Path("var"), description="folder of everything that a run writes")
    # These three are not shown: a URL may carry a password.
    log: str = Field("", repr=False, description="sqlite:///var/log.db")
    store: str = Field("", repr=False, description="sqlite:///var/store.db or redis://host[:port][/db]")
    mlflow: str = Field("", repr=False, description="sqlite:///var/mlflow.db, postgresql://… or http://mlflow:5000")
    data: Path | None = Field(None, description="folder of the public data sets")
    kafka_home: Path | None = Field(None, validation_alias="KAFKA_HOME", description="folder of an unpacked Kafka")
    retention: dict[str, Annotated[int, Field(ge=1, le=36_500)] | None] = Field(
        {}, description='days that topics are kept where not the design\'s own, as {"fraud.events": 30}; null: for ever'
    )
    client_key: SecretStr | None = Field(None, description="what clients send; made in var/ when not set")
    analyst_key: SecretStr | None = Field(None, description="what analysts send; made in var/ when not set")
    operator_key: SecretStr | None = Field(None, description="what operators send; made in var/ when not set")
    pseudonym_key: SecretStr | None = Field(None, description="key of the pseudonyms; made in var/ when not set")

    @model_validator(mode="before")
    @classmethod
    def _beside_var(cls, values: dict[str, object]) -> dict[str, object]:
        """The embedded parts live in `var`, wherever that is."""
        given = {name: value for name, value in values.items() if value not in (None, "")}
        var = Path(str(given.get("var", "var")))
        return {part: embedded(part, var) for part in PARTS} | given

    def under(self, var: Path) -> Self:
        """The same settings with another folder, and the embedded parts in it; URLs of other places stay."""
        moved = {part: embedded(part, var) for part in PARTS if getattr(self, part) == embedded(part, self.var)}
        return self.model_copy(update={"var": var, **moved})

    def afresh(self, run: str, *, at: int) -> Self:
        """Unused parts: a new folder below `var/<run>`, named by the time, and on servers a prefix."""
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%d-%H%M%S")
        for number in count(1):
            name = stamp if number == 1 else f"{stamp}-{number}"
            with suppress(FileExistsError):  # another run began in the same second
                (self.var / run / name).mkdir(parents=True)
                break
        moved, prefix = self.under(self.var / run / name), f"{run}-{name}"
        return moved.model_copy(update={"log": apart(moved.log, prefix), "store": apart(moved.store, prefix)})

    def lake(self, service: str) -> Path:
        """The folder of a service's lake. Services may share `var`, and have tables of the same name."""
        return self.var / service / "lake"

    @property
    def registry_page(self) -> str:
        """Where a person sees the registry: its server's address, or the command that shows it. Without passwords."""
        if self.mlflow.startswith("http"):
            scheme, _, rest = self.mlflow.partition("://")
            return f"{scheme}://{rest.rpartition('@')[2]}"
        shown = self.mlflow if self.mlflow.startswith("sqlite:") else "$MLSD_MLFLOW"
        return f".venv/bin/mlflow ui --backend-store-uri {shown}"

    def pin(self, name: str, secret: str) -> None:
        """Put a known secret where `key` would make one: for runs that have to be repeatable."""
        self.var.mkdir(parents=True, exist_ok=True)
        path = self.var / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(secret)

    def once(self, name: str) -> str:
        """A secret that `pin` put there, gone after this; empty without. Other users could read an argument."""
        path = self.var / f"{name}.secret"
        if not path.exists():
            return ""
        secret = path.read_text()
        path.unlink()
        return secret

    def key(self, name: str) -> bytes:
        """The secret of that name, such as `operator_key`; made once and kept readable for its owner only.

        Raises:
            ValueError: the one that was given is empty.
        """
        given: SecretStr | None = getattr(self, name)
        if given is not None:
            return _not_empty(given.get_secret_value(), f"MLSD_{name.upper()}")
        path = self.var / f"{name}.secret"
        self.var.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with tempfile.NamedTemporaryFile("w", dir=self.var) as new:  # its mode is 600
                new.write(secrets.token_hex(32))
                new.flush()
                with suppress(FileExistsError):  # another process was first: its key holds
                    os.link(new.name, path)
        return _not_empty(path.read_text(), str(path))


def read_settings() -> Settings:
    """The settings that the environment gives.

    Raises:
        Unusable: a variable makes no sense.
    """
    try:
        return Settings()
    except SettingsError as error:
        raise Unusable('MLSD_RETENTION must be JSON such as {"fraud.events": 30}') from error
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in wrong["loc"][1:2])
        named = f"MLSD_{str(wrong['loc'][0]).upper()}{f' for {where}' if where else ''}"
        raise Unusable(f"{named} cannot be used: {wrong['msg']}") from error


def _not_empty(secret: str, source: str) -> bytes:
    """A secret without the line end that `echo` leaves behind. An empty one protects nothing.

    Raises:
        ValueError: it is empty.
    """
    if not (stripped := secret.strip()):
        raise ValueError(f"the secret in {source} is empty: put one there, or remove it, and one is made")
    return stripped.encode()
