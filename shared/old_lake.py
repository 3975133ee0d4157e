"""Moves a service's tables out of the lake that older versions shared between the services."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import polars as pl

logger = logging.getLogger(__name__)


def take_over(var: Path, lake: Path, tables: Mapping[str, str]) -> None:
    """Move the tables of a service from `var/lake` and `var/lake-files` to its own lake, unless it has them.

    `tables`: each with a column, as another service's may have the same name.
    """
    for part in ("lake", "lake-files"):
        for table, column in tables.items():
            old, new = var / part / table, lake.with_name(part) / table
            if new.exists() or not old.exists() or column not in _columns(old):
                continue
            new.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process was first
                old.rename(new)
                logger.warning("%s is now %s: each service has a lake of its own", old, new)


def _columns(table: Path) -> list[str]:
    """Those of the first file that can be read."""
    for path in table.rglob("*.parquet"):
        with suppress(pl.exceptions.PolarsError, OSError):
            return list(pl.read_parquet_schema(path))
    return []
