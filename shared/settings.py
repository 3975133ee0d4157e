"""The only reader of the environment: URLs, keys and folders.

Every field is a variable `MLSD_<NAME>`. The default of each part is embedded and lives under `var/`.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="MLSD_", frozen=True, extra="forbid")

    var: Path = Field(Path("var"), description="folder of everything that a run writes")
    log: str = Field("", description="sqlite:///var/log.db")
    store: str = Field("", description="sqlite:///var/store.db")
    mlflow: str = Field("", description="sqlite:///var/mlflow.db, postgresql://… or http://mlflow:5000")
    data: Path | None = Field(None, description="folder of the public data sets")
    api_key: SecretStr | None = Field(None, description="key of the API; made in var/ when not set")
    pseudonym_key: SecretStr | None = Field(None, description="key of the pseudonyms; made in var/ when not set")

    @model_validator(mode="before")
    @classmethod
    def _beside_var(cls, values: dict[str, object]) -> dict[str, object]:
        """The embedded parts live in `var`, wherever that is."""
        var = Path(str(values.get("var", "var")))
        defaults: dict[str, object] = {part: f"sqlite:///{var}/{part}.db" for part in ("log", "store", "mlflow")}
        return defaults | {name: value for name, value in values.items() if value not in (None, "")}

    def under(self, var: Path) -> Self:
        """The same settings with another folder, and the embedded parts in it."""
        given = {name: getattr(self, name) for name in ("data", "api_key", "pseudonym_key")}
        return type(self)(var=var, **given)

    def key(self, name: str) -> bytes:
        """The secret `api_key` or `pseudonym_key`; made once and kept readable for its owner only."""
        given: SecretStr | None = getattr(self, name)
        if given is not None:
            return given.get_secret_value().encode()
        path = self.var / f"{name}.secret"
        self.var.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            new = path.with_suffix(f".{os.getpid()}")
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(32))
            with suppress(FileExistsError):  # another process was first: its key holds
                os.link(new, path)
            new.unlink()
        return path.read_bytes()
