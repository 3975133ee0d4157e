"""Makes a lake again: from what came by file, from the log, and, for what the log has let go of, from the old lake."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import polars as pl

from shared.eventlog.port import EventLog, Place, Record, Topic
from shared.ingested_files import IngestedFiles
from shared.lake import HISTORY, Lake, LakeCorrupt, read_parquet

logger = logging.getLogger(__name__)


class Rebuilt(NamedTuple):
    """Where the rows of a new lake are from."""

    files: int  # rows
    log: int  # records
    lake: int  # rows that were in the old lake only
    lost: int  # files of the old lake that cannot be read

    def __str__(self) -> str:
        lost = f"; {self.lost:,} files of the old lake cannot be read, and what only they had is lost" * bool(self.lost)
        return (
            f"the lake is made again: {self.files:,} rows of files, {self.log:,} records of the log,"
            f" {self.lake:,} rows of the old lake that the log has let go of{lost}"
        )


def rebuild(lake: Lake, take: Callable[[Lake], int], *, starts: Mapping[str, Mapping[int, int]]) -> Rebuilt:
    """Make the lake again, and put it in the place of the old one. Run it again after any accident.

    `take` writes what the log still has, and gives the number of records; `starts` says, by table and partition, at
    which offset that begins. Nothing may write to the lake meanwhile.
    """
    new, old = (Lake(lake.folder.with_name(f"{lake.folder.name}-{name}")) for name in ("new", "old"))
    if not lake.folder.exists() and old.folder.exists():  # it died between the two renames
        old.folder.rename(lake.folder)
    shutil.rmtree(new.folder, ignore_errors=True)
    new.folder.mkdir(parents=True)
    files = IngestedFiles(lake).restore(new)
    carried, lost = _carry(lake, new, starts)
    taken = take(new)
    shutil.rmtree(old.folder, ignore_errors=True)
    if lake.folder.exists():
        lake.folder.rename(old.folder)
    new.folder.rename(lake.folder)
    shutil.rmtree(old.folder, ignore_errors=True)
    return Rebuilt(files, taken, carried, lost)


def taken_records(log: EventLog, group: str, topics: Sequence[Topic]) -> Iterator[list[Record]]:
    """What a group has taken of topics and the log still has, some records at a time."""
    ends = {
        Place(topic.name, n): position.offset for topic in topics for n, position in log.committed(group, topic).items()
    }
    begin = {Place(topic.name, n): start for topic in topics for n, start in log.starts(topic).items()}
    with closing(log.reader({place: begin[place] for place in ends})) as reader:
        while any(reader.positions[place] < end for place, end in ends.items()):
            records = reader.poll(5_000, 1.0)
            yield [record for record in records if record.offset < ends[Place(record.topic, record.partition)]]
            if not records:
                return


def _carry(lake: Lake, new: Lake, starts: Mapping[str, Mapping[int, int]]) -> tuple[int, int]:
    """Take over what came by the log before its start; gives the rows, and the files that cannot be read."""
    carried = lost = 0
    for table, offsets in starts.items():
        begin = pl.col("partition").replace_strict(offsets, default=0, return_dtype=pl.Int64)
        for path in sorted((lake.folder / table).glob("date=*/*.parquet")):
            if path.stem.startswith(HISTORY):
                continue
            try:
                rows = read_parquet(path)
            except LakeCorrupt as error:
                logger.warning("%s", error)
                lost += 1
                continue
            rows = rows.filter(pl.col("offset") >= 0, pl.col("offset") < begin)
            if not rows.is_empty():
                new.write(table, rows, batch=f"carried-{path.stem}")
            carried += rows.height
    return carried, lost
