"""`make soak-fraud`: payments at a fixed rate while processes die and come back; `--log kafka` starts a broker, too."""

from pathlib import Path
from typing import Annotated

import typer

from infra.local import NotStarted
from shared.children import free_port
from shared.settings import Settings
from tests.soak import fraud


def main(
    minutes: Annotated[float, typer.Option(help="Of payments and faults.")] = 5.0,
    seed: int = 7,
    var: Annotated[Path | None, typer.Option(help="Folder of everything that is written.")] = None,
    log: Annotated[str, typer.Option(help="URL of the log.")] = "",
) -> None:
    settings = Settings()
    settings = settings if var is None else settings.under(var)
    settings = settings.model_copy(update={"log": log}) if log else settings
    ports = free_port(18_092), free_port(18_592)
    try:
        well = fraud.run(settings, port=free_port(8000), minutes=minutes, seed=seed, ports=ports)
    except NotStarted as error:
        raise typer.BadParameter(str(error)) from error
    if not well:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
