"""Event -> Interactions -> Candidates -> Ranked -> TopK. The night: each step leaves its result, a rerun goes on.

freeze     where the input ends, the moment, and the recipe        offsets, cut, recipe
ingest     topics -> lake                                          rows by date
sources    five sources, fitted anew                               sources.npz
rank       best 150 of every user                                  (users · 150)
table      policy, exploration, files                              (users, 100) int32
gate       compared with yesterday's                               a reason, or none
publish    one rename, a line in the ledger                        CURRENT
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import config, dataset, table
from recsys.evaluate import gate_table
from recsys.features import Facts
from recsys.ingest import frozen, ingest
from recsys.ledger import Ledger, entry
from recsys.recipe import Recipe
from recsys.schema import (
    SOURCES,
    Alarm,
    Interactions,
    Night,
    Ranked,
    in_force,
)
from recsys.sources import Sources, fit
from recsys.table import Manifest, Table
from recsys.topk import DEEP, arranged, latest, nearest
from shared.champion import Champion, NotSwapped
from shared.clock import Clock, perf_counter
from shared.eventlog.port import EventLog
from shared.lake import Lake

logger = logging.getLogger(__name__)


class Frozen(NamedTuple):
    """What a night was begun with; a rerun is begun with the same."""

    cut: int
    offsets: dict[str, dict[int, int]]
    recipe: str
    artifact: str
    digest: str


class Nights:
    """Runs nights, one at a time. `fetch` gives the folder of a recipe's artifact."""

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        *,
        clock: Clock,
        var: Path,
        seed: int,
        fetch: Callable[[str, str], Path],
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`reached` is told each step as it begins."""
        self._log, self._lake, self._clock, self._seed = log, lake, clock, seed
        self.tables, self._nights, self._reached = var / "tables", var / "nights", reached
        self.ledger = Ledger(log, self.tables, clock=clock)
        self._champion = Champion(cache=var / "recipes", fetch=fetch, load=Recipe.load)

    def run(self, date: str, *, who: str = "nightly", why: str = "the night", afresh: bool = False) -> Night:
        """The night of a business date. Who runs it again publishes the same again; `afresh`: with input as of now.

        Raises:
            Busy: another one is at work. LogUnavailable: the log is away; what was done stays done.
        """
        with table.sole(self.tables):
            self.ledger.repair()
            folder = self._nights / date
            if afresh:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            night = self._steps(folder, date, who=who, why=why)
            logger.info("night of %s: %s", date, night.refused or f"published {night.version}")
            return night

    def _steps(self, folder: Path, date: str, *, who: str, why: str) -> Night:
        seconds: dict[str, float] = {}

        def step(name: str) -> None:
            now = perf_counter()
            if seconds:
                last = next(reversed(seconds))
                seconds[last] = round(now - seconds[last], 3)
            seconds[name] = now
            self._reached(name)

        step("freeze")
        begun = self._freeze(folder / "frozen.json")
        recipe = self._recipe(begun)
        step("ingest")
        ingest(self._log, self._lake, begun.offsets)
        step("sources")
        known = dataset.interactions(self._lake, cut=begun.cut, offsets=begun.offsets)
        sources = self._sources(folder / "sources.npz", known, recipe)
        step("rank")
        ranked = self._ranked(folder / "ranked.npz", known, recipe, sources)
        step("table")
        made = self._table(folder / "table", date, begun, known, recipe, sources, ranked)
        step("gate")
        figures = self._figures(made, known, ranked)
        refused = gate_table(figures)
        step("publish")
        version = "" if refused else self._publish(made, begun, figures, who=who, why=why)
        step("end")
        seconds.pop("end")
        night = Night(
            date=date,
            at=begun.cut,
            version=version,
            refused=refused,
            recipe=begun.recipe,
            seconds=seconds,
            figures=figures,
        )
        said = [entry(night)]
        if refused:
            # [4.3] Yesterday's list is a good list: a table that fails its gate costs a day's freshness, not a day.
            said.append(
                entry(Alarm(kind="gate", at=begun.cut, message=f"{date}: {refused}", action="yesterday's table stays"))
            )
            shutil.rmtree(folder)  # the next attempt begins with whatever input there is by then
        self._log.append(said)
        return night

    # --- steps --------------------------------------------------------------------------------------

    def _freeze(self, path: Path) -> Frozen:
        if not path.exists():
            recipe = in_force(self.ledger.lines(), "recipe")
            begun = Frozen(
                self._clock.now(),
                frozen(self._log),
                *((recipe.version, recipe.artifact, recipe.digest) if recipe else ("", "", "")),
            )
            _atomic(path, lambda new: new.write_text(json.dumps(begun._asdict())))
        kept = json.loads(path.read_text())
        offsets = {topic: {int(number): end for number, end in ends.items()} for topic, ends in kept["offsets"].items()}
        return Frozen(**(kept | {"offsets": offsets}))

    def _recipe(self, begun: Frozen) -> Recipe:
        if not begun.recipe:
            return Recipe()
        if self._champion.version != begun.recipe:
            try:
                self._champion.swap(begun.recipe, artifact=begun.artifact, digest=begun.digest)
            except NotSwapped as error:
                alarm = Alarm(kind="recipe", at=begun.cut, message=str(error), action="the plain blend ranks tonight")
                self._log.append([entry(alarm)])
                return Recipe()
        assert self._champion.model is not None
        return self._champion.model

    def _sources(self, path: Path, known: Interactions, recipe: Recipe) -> Sources:
        if path.exists():
            return Sources.load(path)
        sources = fit(known, recipe.parameters, seed=self._seed)
        _atomic(path, sources.save)
        return sources

    def _ranked(self, path: Path, known: Interactions, recipe: Recipe, sources: Sources) -> Ranked:
        if not path.exists():
            ranked = recipe.rank(Facts.of(known), sources, np.arange(len(known.users)), most=DEEP)
            _atomic(path, lambda new: np.savez(new, **ranked._asdict()))
        with np.load(path, allow_pickle=False) as arrays:
            return Ranked(*(arrays[name] for name in Ranked._fields))

    def _table(
        self,
        folder: Path,
        date: str,
        begun: Frozen,
        known: Interactions,
        recipe: Recipe,
        sources: Sources,
        ranked: Ranked,
    ) -> Table:
        published = _marker(folder)
        if published is not None and (self.tables / published).is_dir():
            return Table.open(self.tables / published)
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            temporary = folder.with_name(".table")
            shutil.rmtree(temporary, ignore_errors=True)
            top, scores, extras = arranged(known, recipe.policy, sources, ranked, date=date)
            manifest = Manifest(
                date=date,
                cut=begun.cut,
                recipe=begun.recipe,
                recipe_digest=begun.digest,
                offsets=begun.offsets,
                tables={},
                files={},
                samples={},
            )
            table.write(
                temporary,
                manifest,
                users=known.users,
                top=top,
                history=latest(known),
                scores=scores,
                neighbours=nearest(sources),
                extras=extras,
            )
            temporary.replace(folder)
        return Table.open(folder)

    def _figures(self, made: Table, known: Interactions, ranked: Ranked) -> dict[str, float]:
        day, week = config.DAY, 7 * config.DAY
        at = pl.concat([known.bought["at"], known.seen["at"]])
        begun = int(at.min() or 0)  # type: ignore[arg-type]  # of integers
        earlier = at.filter(at.is_between(known.cut - week - day, known.cut - day, closed="left")).len()
        days = float(np.clip((known.cut - day - begun) / day, 1.0, 7.0))
        # A shop that rests on Saturdays has no Saturday to miss.
        same = at.filter(at.is_between(known.cut - week - day, known.cut - week, closed="left")).len()
        now, filled = made.first_ten(), made.stored()
        figures = {
            "users": float(len(made)),
            "stored": float(filled.size),
            "fallbacks": float((filled == SOURCES.index("popular")).mean()) if filled.size else 1.0,
            "input": float(at.filter(at >= known.cut - day).len()),
            "input_usual": min(earlier / days, float(same)) if days == 7 else earlier / days,
            "ranked": float(ranked.users.size),
        }
        before = table.current(self.tables)
        if before is None or before == made.manifest.version:
            return figures
        old = Table.open(self.tables / before, verify=False)
        figures |= {"users_yesterday": float(len(old)), "overlap": _overlap(old, made, now)}
        if old.manifest.recipe == made.manifest.recipe:
            figures["shift"] = _distance(old.scores, made.scores)
        return figures

    def _publish(self, made: Table, begun: Frozen, figures: dict[str, float], *, who: str, why: str) -> str:
        version = made.manifest.version
        target = self.tables / version
        if not target.is_dir():
            # The pointer to the folder first, so that a rerun after a kill right here finds where it went.
            _atomic(made.folder.with_name("published"), lambda new: new.write_text(version))
            made.folder.replace(target)
            table.fsync(self.tables)
        table.point(self.tables, version)
        self.ledger.publish(version, figures, at=begun.cut, who=who, why=why)
        table.prune(self.tables)
        for old in sorted(self._nights.iterdir())[: -config.VERSIONS]:
            shutil.rmtree(old)
        return version


def _overlap(old: Table, new: Table, now: tuple[list[str], NDArray[np.int32]]) -> float:
    """Of those in both: the mean share of yesterday's first ten that is among today's."""
    users, items = old.first_ten()
    row = {user: number for number, user in enumerate(now[0])}
    both = [(number, row[user]) for number, user in enumerate(users) if user in row]
    if not both:
        return 0.0
    old_rows, new_rows = np.array(both).T
    renumber = np.array([new.number.get(item, -2) for item in old.extras.items] + [-1])
    then, today = renumber[items[old_rows]], now[1][new_rows]
    return float((then[:, :, None] == today[:, None, :]).any(axis=2).mean())


def _distance(old: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    """Jensen-Shannon distance of the first scores, on ten bins of yesterday's."""
    from shared.drift import Reference

    frame = pl.DataFrame({"score": np.asarray(old).ravel()})
    return Reference.of(frame).distances(pl.DataFrame({"score": np.asarray(new).ravel()}))["score"]


def _marker(folder: Path) -> str | None:
    path = folder.with_name("published")
    return path.read_text() if path.exists() else None


def _atomic(path: Path, write: Callable[[Path], object]) -> None:
    """All of a file or none of it."""
    temporary = path.with_name(f".{path.stem}{path.suffix}")
    write(temporary)
    table.fsync(temporary)
    temporary.replace(path)
    table.fsync(path.parent)


def date_of(at: int) -> str:
    """The business date of a moment."""
    return str(dataset.day_of(at))
