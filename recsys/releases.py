"""Which table and which model are in force, and every change of them, under one lock."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recsys import table
from recsys.schema import RELEASES, Release
from recsys.table import Table, TableCorrupt
from shared.clock import Clock
from shared.eventlog.port import Entry, EventLog
from shared.releases import NONE, Ledger, ReleaseManager, read_ledger
from shared.releases import entry as line_entry

TABLE, RECIPE = "table", "recipe"  # subjects

logger = logging.getLogger(__name__)


class Releases:
    """`tables` is the folder with the pointer; `prepare` readies the files of a recipe before it is in force."""

    def __init__(
        self,
        log: EventLog,
        tables: Path,
        *,
        clock: Clock,
        prepare: Callable[[Release], None] = lambda _: None,
    ) -> None:
        self._log, self._tables, self._clock, self._prepare = log, tables, clock, prepare
        self._manager = ReleaseManager(log, RELEASES, Release, clock=clock, append=self._append, switch=self._switch)

    def ledger(self) -> Ledger[Release]:
        """As it stands in the log. Raises LogUnavailable."""
        return read_ledger(self._log, RELEASES, Release)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Alone with the tables, and with everything finished that a process which died had begun.

        Raises:
            Busy: another process changes them.
        """
        with table.sole(self._tables):
            self._recover()
            yield

    def publish(self, line: Release) -> Release:
        """Put a table in force; call it within `changing`.

        Raises:
            Rejected: the table was rolled back.
        """
        return self._manager.promote(line, expected=self.ledger().version(TABLE))

    def promote(self, line: Release, *, expected: str | None, force: bool = False) -> Release:
        """Put a recipe in force, from the next night on. Raises Busy, Rejected."""
        with self.changing():
            return self._manager.promote(line, expected=expected, force=force)

    def withdraw(self, *, who: str, why: str, key: str, expected: str | None) -> Release:
        """Take the recipe in force away: the hand blend ranks from the next night on. Raises Busy, Rejected."""
        with self.changing():
            return self._manager.withdraw(subject=RECIPE, who=who, why=why, key=key, expected=expected)

    def roll_back(self, *, who: str, why: str, key: str, expected: str | None, version: str | None = None) -> Release:
        """To a kept table that was never rolled back, the latest if none is named; its recipe comes back with it.

        Raises:
            Busy, Rejected.
        """
        with self.changing():
            return self._manager.roll_back(
                subject=TABLE,
                who=who,
                why=why,
                key=key,
                expected=expected,
                version=version,
                kept=table.versions(self._tables),
            )

    def _append(self, entries: Sequence[Entry]) -> None:
        self._log.append(entries)

    def _switch(self, line: Release) -> None:
        if line.subject == RECIPE:
            if line.action != "withdraw":
                self._prepare(line)
            return
        if line.version not in table.versions(self._tables):  # a look-up: a version that is a path is none
            raise TableCorrupt(f"no table {line.version!r} is kept")
        Table.open(self._tables / line.version, verify=line.action == "rollback")
        # The pointer is first: when it cannot be written, nothing has changed.
        table.point(self._tables, line.version)
        if line.action == "rollback":
            self._roll_recipe_back(line)

    def _roll_recipe_back(self, back: Release) -> None:
        """Roll the recipe back within the table's change; recovery after a crash in between finishes both."""
        # [5.2] The recipe goes back with the table, or the next night publishes the fault again.
        ledger, wanted = self.ledger(), back.recipe or NONE
        champion = ledger.champion(RECIPE)
        if champion is None or champion.version == wanted or ledger.by_key(back.key, RECIPE) is not None:
            return
        good = next((line for line in ledger.fallbacks(RECIPE) if line.version == wanted), None)
        change = {
            "action": "rollback" if good else "withdraw",
            "at": back.at,
            "who": back.who,
            "why": back.why,
            "key": back.key,
        }
        self._append([line_entry(RELEASES, (good or champion).model_copy(update=change))])

    def _recover(self) -> None:
        """Finish open changes. After that the pointer names the ledger's table; one that it does not know is added."""
        self._manager.recover()
        ledger, now = self.ledger(), table.current(self._tables)
        wanted = ledger.version(TABLE)
        if now == wanted or (now is None and wanted == NONE):
            return
        if now is None or any(line.version == now for line in ledger.lines if line.subject == TABLE):
            if wanted in table.versions(self._tables):
                logger.warning("the pointer named table %s, the ledger says %s", now or NONE, wanted)
                table.point(self._tables, wanted)
            return
        try:
            made = Table.open(self._tables / now, verify=False)
        except TableCorrupt as error:
            logger.warning("not in the ledger, and cannot be read: %s", error)
            return
        why = "published, but not in the ledger"
        line = published(made, {}, at=self._clock.now(), who="repair", why=why, key="")
        self._append([line_entry(RELEASES, line)])


def published(made: Table, figures: dict[str, float], *, at: int, who: str, why: str, key: str) -> Release:
    """The line of the ledger that puts a table in force."""
    return Release(
        subject=TABLE,
        action="publish",
        version=made.version,
        recipe=made.manifest.recipe,
        digest=made.version.rsplit("-", 1)[1],
        offsets=made.manifest.offsets,
        at=at,
        who=who,
        why=why,
        figures=figures,
        key=key,
    )


def champion_folder(champion: Release | None, fetch: Callable[[str, str], Path]) -> tuple[Path | None, str]:
    """The folder of the recipe that a new one is to beat, or why it cannot be had."""
    try:
        return (None if champion is None else fetch(champion.artifact, champion.digest)), ""
    except Exception as error:  # whatever is wrong with it, another one is learnt all the more
        return None, str(error)
