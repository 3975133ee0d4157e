"""Rebuilds a lake from ingested files, from the log, and from the old lake for what the log no longer has."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import NamedTuple

import polars as pl

from shared.eventlog.port import EventLog, Place, Record, Topic
from shared.ingested_files import IngestedFiles
from shared.lake import HISTORY, Lake, LakeCorrupt, read_parquet
from shared.unusable import Unusable

Offsets = Mapping[str, Mapping[int, int]]  # by table and partition
ALL = 2**62  # an offset that no record has

logger = logging.getLogger(__name__)


class Rebuilt(NamedTuple):
    """Where the rows of a new lake are from."""

    files: int  # rows
    log: int  # records
    lake: int  # rows taken over from the old lake
    lost: int  # files of the old lake that cannot be read

    def __str__(self) -> str:
        lost = f"; {self.lost:,} files of the old lake cannot be read, and what only they had is lost" * bool(self.lost)
        return (
            f"the lake is made again: {self.files:,} rows of files, {self.log:,} records of the log,"
            f" {self.lake:,} rows of the old lake that the log may have let go of{lost}"
        )


def rebuild(log: EventLog, lake: Lake, take: Callable[[Lake], int], *, tables: Mapping[str, Topic | None]) -> Rebuilt:
    """Make the lake again, and put it in the place of the old one. Run it again after any accident.

    `take` writes what the log still has, and gives the number of records. `tables`: each with the topic that its rows
    come from; None: the offsets of its rows are not those of one topic. Nothing may write to the lake meanwhile.

    Raises:
        Unusable: the log is not the one that the lake was made of, or an earlier rebuild has left something behind.
    """
    put_back(lake)
    new, old, gone = (_beside(lake, name) for name in ("new", "old", "gone"))
    if old.folder.exists():
        raise Unusable(
            f"{old.folder} is left of a rebuild that did not come to its end: if {lake.folder} is whole, delete it"
        )
    for left in (new, gone):
        shutil.rmtree(left.folder, ignore_errors=True)
    new.folder.mkdir(parents=True)
    files = IngestedFiles(lake).restore(new)
    begin = _starts(log, tables)
    carried, lost = _carry(lake, new, until=begin, ends=_ends(log, tables))
    taken = take(new)
    # The log may have let go of more in the meantime, before it was read.
    more, _ = _carry(lake, new, since=begin, until=_starts(log, tables), ends={})
    if lake.folder.exists():
        lake.folder.rename(old.folder)
    new.folder.rename(lake.folder)
    if old.folder.exists():
        old.folder.rename(gone.folder)  # at once; to remove it takes a while, in which it may die
    shutil.rmtree(gone.folder, ignore_errors=True)
    return Rebuilt(files, taken, carried + more, lost)


def put_back(lake: Lake) -> None:
    """Put the old lake in its place again if a rebuild died when it had moved it away; not while one goes on."""
    if not lake.folder.exists():
        with suppress(FileNotFoundError):  # there is none, or another process was first
            _beside(lake, "old").folder.rename(lake.folder)


def _beside(lake: Lake, name: str) -> Lake:
    return Lake(lake.folder.with_name(f"{lake.folder.name}-{name}"))


def _starts(log: EventLog, tables: Mapping[str, Topic | None]) -> dict[str, dict[int, int]]:
    """Where the rows begin that the log has all of.

    A compacted topic has lost some, wherever it begins, so all are taken over; each place counts once.
    """
    return {table: {} if topic is None or topic.compacted else log.starts(topic) for table, topic in tables.items()}


def _ends(log: EventLog, tables: Mapping[str, Topic | None]) -> dict[str, dict[int, int]]:
    return {table: log.ends(topic) for table, topic in tables.items() if topic is not None}


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


def _carry(lake: Lake, new: Lake, *, until: Offsets, ends: Offsets, since: Offsets | None = None) -> tuple[int, int]:
    """Take over what came by the log, of these offsets; gives the rows, and the files that cannot be read.

    Raises Unusable: the lake has rows of records that the log does not have yet.
    """
    carried = lost = 0
    for table, offsets in until.items():
        begin = _bound(since[table]) if since else pl.lit(0)
        for path in sorted((lake.folder / table).glob("date=*/*.parquet")):
            if path.stem.startswith(HISTORY):
                continue
            try:
                rows = read_parquet(path).filter(pl.col("offset") >= 0)
            except LakeCorrupt as error:
                logger.warning("%s", error)
                lost += 1
                continue
            if table in ends and (ahead := rows.filter(pl.col("offset") >= _bound(ends[table]))).height:
                raise Unusable(
                    f"{table} of the lake has record {ahead['offset'][0]} of partition {ahead['partition'][0]}, and the"
                    f" log ends before: it is not the log that the lake was made of. The lake stays as it is"
                )
            rows = rows.filter(pl.col("offset") >= begin, pl.col("offset") < _bound(offsets))
            if not rows.is_empty():
                new.write(table, rows, batch=f"carried-{'later-' if since else ''}{path.stem}")
            carried += rows.height
    return carried, lost


def _bound(offsets: Mapping[int, int]) -> pl.Expr:
    return pl.col("partition").replace_strict(offsets, default=ALL, return_dtype=pl.Int64)
