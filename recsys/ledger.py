"""Which recipe and which table are in force, since when, by whom and why; and the way back."""

from pathlib import Path

from recsys import table
from recsys.schema import ALARMS, NIGHTS, RELEASES, Alarm, Night, Release, before, in_force
from recsys.table import Table
from shared.clock import Clock
from shared.eventlog.port import Entry, EventLog, beginning


def entry(message: Alarm | Night | Release) -> Entry:
    """The message as a record of its topic."""
    if isinstance(message, Alarm):
        return Entry(ALARMS, message.kind, message.model_dump_json().encode())
    if isinstance(message, Night):
        return Entry(NIGHTS, message.date, message.model_dump_json().encode())
    return Entry(RELEASES, message.version, message.model_dump_json().encode())


class Ledger:
    """The lines stand in the log; `tables` is the folder with the pointer."""

    def __init__(self, log: EventLog, tables: Path, *, clock: Clock) -> None:
        self._log, self._tables, self._clock = log, tables, clock

    def lines(self) -> list[Release]:
        """Every release and rollback, oldest first."""
        reader = self._log.reader(beginning([RELEASES]))
        lines = []
        while records := reader.poll(10_000, 0.0):
            lines += [Release.model_validate_json(record.value) for record in records]
        reader.close()
        return lines

    def publish(self, version: str, figures: dict[str, float], *, at: int, who: str, why: str) -> None:
        """Write that a table is in force, unless that is the last word on tables."""
        last = in_force(self.lines(), "table")
        if last is not None and last.version == version:
            return
        manifest = Table.open(self._tables / version, verify=False).manifest
        self._log.append(
            [
                entry(
                    Release(
                        subject="table",
                        action="publish",
                        version=version,
                        recipe=manifest.recipe,
                        digest=version.rsplit("-", 1)[1],
                        offsets=manifest.offsets,
                        at=at,
                        who=who,
                        why=why,
                        figures=figures,
                    )
                )
            ]
        )

    def repair(self) -> None:
        """The pointer decides about tables; a line that is missing was about to be written when somebody died."""
        if (now := table.current(self._tables)) is not None:
            self.publish(now, {}, at=self._clock.now(), who="repair", why="published, but not in the ledger")

    def roll_back(self, *, who: str, why: str, version: str | None = None) -> str:
        """To an earlier table, the one before this if none is named; its recipe is pinned with it.

        Raises:
            LookupError: there is no such version. Busy, TableCorrupt.
        """
        with table.sole(self._tables):
            self.repair()
            lines = self.lines()
            now = table.current(self._tables)
            kept = table.versions(self._tables)
            chosen = version or before(lines, now, kept)
            if chosen is None or chosen not in kept:
                raise LookupError(f"no table {chosen or 'before this one'}; there are {', '.join(kept) or 'none'}")
            manifest = Table.open(self._tables / chosen).manifest
            table.point(self._tables, chosen)
            line = next(line for line in reversed(lines) if line.version == chosen)
            back = {"action": "rollback", "at": self._clock.now(), "who": who, "why": why}
            said = [entry(line.model_copy(update=back))]
            recipe = in_force(lines, "recipe")
            if recipe is not None and recipe.version != manifest.recipe:
                # [5.2] The recipe goes back with the table, or the next night publishes the fault again.
                old = [x for x in lines if x.subject == "recipe" and x.version == manifest.recipe]
                if old:
                    said.append(entry(old[-1].model_copy(update=back)))
            self._log.append(said)
            return chosen
