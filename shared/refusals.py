"""Reports refused rows of a file: prints the first ones, and writes all of them to a CSV file."""

from pathlib import Path

import polars as pl

from shared.console import Stage
from shared.table_files.table import Table

SHOWN = 10  # rows


def show_refusals(stage: Stage, table: Table, folder: Path) -> None:
    """What had to be assumed of a file, and its refused rows. When not all are shown, `folder` gets a CSV of them."""
    for note in table.notes:
        stage.say(f"{table.name}: {note}")
    letters = table.sorted_letters()
    if not letters:
        return
    several = len({letter.topic for letter in letters}) > 1
    named = [f"{letter.topic}:{letter.offset}" if several else str(letter.offset) for letter in letters[:SHOWN]]
    rows = [
        [line, letter.field, letter.value[:40], letter.reason] for line, letter in zip(named, letters, strict=False)
    ]
    stage.table(f"Refused, the first {len(rows)} of {len(letters):,}", ["line", "field", "value", "reason"], rows)
    if len(letters) > SHOWN:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"refused-{table.digest[:12]}.csv"
        pl.DataFrame(
            [(letter.topic, letter.offset, letter.field, letter.value, letter.reason) for letter in letters],
            schema=["file", "line", "field", "value", "reason"],
            orient="row",
        ).write_csv(path)
        stage.say(f"all {len(letters):,} refused rows: {path}")
