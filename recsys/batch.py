"""Event -> Interactions -> Candidates -> Ranked -> TopK. The nightly job: a rerun goes on after the last step.

freeze     where the input ends, the moment, and the recipe        offsets, cut, recipe
ingest     topics -> lake                                          rows by date
sources    five sources, fitted anew                               sources.npz
rank       best 150 of every user                                  (users · 150)
table      policy, exploration, files                              (users, 100) int32
gate       compared with yesterday's                               a reason, or none
publish    one rename, a line in the ledger                        CURRENT
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import config, dataset, table
from recsys.evaluate import gate_table
from recsys.features import Facts
from recsys.ingest import frozen, ingest
from recsys.recipe import Recipe
from recsys.releases import RECIPE, TABLE, Releases, published
from recsys.schema import Alarm, Interactions, Night, Ranked, Release, entry
from recsys.sources import Sources, fit
from recsys.table import Manifest, Table, TableCorrupt
from recsys.topk import DEEP, arranged, latest, nearest
from shared.champion import Champion, NotSwapped
from shared.clock import Clock, perf_counter
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import EventLog, Fenced
from shared.lake import Lake
from shared.messages import Message
from shared.releases import NONE, Rejected

WORK = ("sources.npz", "ranked.npz")  # what steps leave to the next ones

Made = TypeVar("Made")
logger = logging.getLogger(__name__)


class Frozen(Message):
    """What a night was begun with; a rerun is begun with the same."""

    cut: int
    offsets: dict[str, dict[int, int]]
    recipe: str  # in force then; empty: none
    artifact: str
    digest: str


class StepFailed(Exception):
    """A step of the night failed, and would fail again with the same input; says which, and why."""


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
        key: bytes,
        fetch: Callable[[str, str], Path],
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`key`: of the pseudonyms. `reached` is told each step as it begins."""
        self._log, self._lake, self._clock, self._seed, self._key = log, lake, clock, seed, key
        self.tables, self._nights, self._reached = var / "tables", var / "nights", reached
        self.releases = Releases(log, self.tables, clock=clock, prepare=self._prefetch)
        self._fetch = fetch
        self._champion = Champion(cache=var / "recipes", fetch=fetch, load=Recipe.load)

    def run(
        self,
        date: str,
        *,
        who: str = "nightly",
        why: str = "the night",
        afresh: bool = False,
        undo: bool = False,
        key: str = "",
    ) -> Night:
        """The night of a business date. A rerun publishes the same again; `afresh`: with the input there is now.

        What is wrong with it stands in `refused`, and then yesterday's table stays. A night whose table was rolled
        back is refused, unless the operator said `undo`. `key`: of a command.

        Raises:
            Busy: another one is at work. DEPENDENCY_ERRORS, Fenced: run it again; what was done stays done.
        """
        with self.releases.changing():
            at = self._clock.now()
            try:
                night = self._steps(date, who=who, why=why, afresh=afresh, undo=undo, key=key)
            except Rejected as error:
                night = Night(date=date, at=at, refused=str(error))
                self._log.append([entry(night)])
            except StepFailed as error:
                night = Night(date=date, at=at, refused=str(error))
                action = "yesterday's table stays; the next run begins this step again"
                alarm = Alarm(kind="night", at=at, message=f"{date}: {error}", action=action)
                self._log.append([entry(night), entry(alarm)])
            logger.info("night of %s: %s", date, night.refused or f"published {night.version}")
            return night

    def _steps(self, date: str, *, who: str, why: str, afresh: bool, undo: bool, key: str) -> Night:
        seconds: dict[str, float] = {}

        def step(name: str, work: Callable[[], Made]) -> Made:
            self._reached(name)
            began = perf_counter()
            try:
                return work()
            except (Rejected, Fenced, *DEPENDENCY_ERRORS):
                raise
            except Exception as error:
                logger.exception("night of %s, step %s", date, name)
                raise StepFailed(f"step {name} failed, {type(error).__name__}: {error}"[:500]) from error
            finally:
                seconds[name] = round(perf_counter() - began, 3)

        folder = self._nights / date
        begun = step("freeze", lambda: self._freeze(folder, date, afresh=afresh, undo=undo))
        recipe, bundle = self._recipe(folder, begun)
        step("ingest", lambda: ingest(self._log, self._lake, begun.offsets, key=self._key))
        known, sources = step("sources", lambda: self._sources(folder / WORK[0], begun, recipe))
        ranked = step("rank", lambda: self._ranked(folder / WORK[1], known, recipe, sources))
        made = step("table", lambda: self._table(folder, date, begun, known, recipe, bundle, sources, ranked))
        figures = step("gate", lambda: self._figures(made, known, ranked))
        refused = gate_table(figures)
        version = step(
            "publish",
            lambda: "" if refused else self._publish(made, figures, at=begun.cut, who=who, why=why, key=key),
        )
        self._reached("end")
        night = Night(
            date=date,
            at=begun.cut,
            version=version,
            refused=refused,
            recipe=made.manifest.recipe or NONE,
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

    def _freeze(self, folder: Path, date: str, *, afresh: bool, undo: bool) -> Frozen:
        """Where the input ends. Raises Rejected when what came of it would not be published."""
        ledger, now = self.releases.ledger(), table.current(self.tables)
        taken_back = sorted(version for version in ledger.known_bad(TABLE) if version.startswith(date))
        if taken_back and not undo:
            said = "the next date's night publishes again, or `night --afresh` for this date"
            raise Rejected(f"{taken_back[-1]} was rolled back: {said}")
        if now is not None and date < now[: len(date)]:
            raise Rejected(f"a newer table, {now}, is in force")
        path = folder / "frozen.json"
        begun = None if afresh else _kept(path, lambda kept: Frozen.model_validate_json(kept.read_bytes()))
        if begun is None or begun.recipe in ledger.known_bad(RECIPE):
            shutil.rmtree(folder, ignore_errors=True)  # what was made of another input, or by a recipe taken back
            folder.mkdir(parents=True)
            recipe = ledger.champion(RECIPE)
            begun = Frozen(
                cut=self._clock.now(),
                offsets=frozen(self._log),
                recipe=recipe.version if recipe else "",
                artifact=recipe.artifact if recipe else "",
                digest=recipe.digest if recipe else "",
            )
            text = begun.model_dump_json()
            _atomic(path, lambda new: new.write_text(text))
        if (old := self._in_force()) is not None and begun.cut < old.manifest.cut:
            raise Rejected(f"a newer table, {now}, is in force")
        return begun

    def _recipe(self, folder: Path, begun: Frozen) -> tuple[Recipe, str]:
        """What ranks tonight, and its version; the hand blend when the recipe in force cannot be had."""
        recipe, bundle = Recipe(), NONE
        if begun.recipe:
            try:
                if self._champion.version != begun.recipe:
                    self._champion.swap(begun.recipe, artifact=begun.artifact, digest=begun.digest)
                assert self._champion.model is not None
                recipe, bundle = self._champion.model, begun.recipe
            except NotSwapped as error:
                self._alarm("recipe", str(error), action="the hand blend ranks tonight")
        marker = folder / "bundle"
        if marker.exists() and marker.read_text() != bundle and not (folder / "published").exists():
            for name in WORK:  # of an earlier attempt, by another ranker
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / table.MAKING, ignore_errors=True)
        _atomic(marker, lambda new: new.write_text(bundle))
        return recipe, bundle

    def _sources(self, path: Path, begun: Frozen, recipe: Recipe) -> tuple[Interactions, Sources]:
        known = dataset.interactions(self._lake, cut=begun.cut, offsets=begun.offsets)
        sources = _kept(path, Sources.load)
        if sources is None:
            sources = fit(known, recipe.parameters, seed=self._seed)
            _atomic(path, sources.save)
        return known, sources

    def _ranked(self, path: Path, known: Interactions, recipe: Recipe, sources: Sources) -> Ranked:
        ranked = _kept(path, _load_ranked)
        if ranked is None:
            ranked = recipe.rank(Facts.of(known), sources, np.arange(len(known.users)), most=DEEP)
            _atomic(path, lambda new: np.savez(new, **ranked._asdict()))
        return ranked

    def _table(
        self,
        folder: Path,
        date: str,
        begun: Frozen,
        known: Interactions,
        recipe: Recipe,
        bundle: str,
        sources: Sources,
        ranked: Ranked,
    ) -> Table:
        marker, making = folder / "published", folder / table.MAKING
        if marker.exists() and (made := _kept(self.tables / marker.read_text(), Table.open)) is not None:
            return made
        if (made := _kept(making, Table.open)) is None:
            temporary = folder / ".table"
            for half_written in (making, temporary):
                shutil.rmtree(half_written, ignore_errors=True)
            top, scores, extras = arranged(known, recipe.policy, sources, ranked, date=date)
            manifest = Manifest(
                date=date,
                cut=begun.cut,
                recipe=bundle,
                bundle=bundle,
                recipe_digest="" if bundle == NONE else begun.digest,
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
            temporary.replace(making)
            made = Table.open(making)
        return _kept(self.tables / made.version, Table.open) or made

    def _figures(self, made: Table, known: Interactions, ranked: Ranked) -> dict[str, float]:
        users, places = float(len(made)), made.stored(config.SERVED).size
        # Not what popularity has proposed: a blend may rank by that alone.
        candidates = np.minimum(np.bincount(ranked.users), config.SERVED).sum()
        figures = {
            "users": users,
            "stored": float(made.stored().size),
            "fallbacks": max(0.0, 1.0 - float(candidates) / places) if places else 1.0,
            "for_sale": float(known.products["in_stock"].sum()),
            "titled": _titled(made),
            "ranked": float(ranked.users.size),
            **_volume(known),
        }
        old = self._in_force()
        if old is None or old.version == made.version:
            return figures
        figures |= {"users_yesterday": float(len(old)), "overlap": _overlap(old, made)}
        figures["titled_yesterday"] = _titled(old)
        lines = self.releases.ledger().lines
        line = next((line for line in reversed(lines) if (line.subject, line.version) == (TABLE, old.version)), None)
        told = {} if line is None else line.figures
        figures |= {f"{name}_yesterday": told[name] for name in ("for_sale", "fallbacks") if name in told}
        if old.manifest.recipe == made.manifest.recipe:
            figures["shift"] = _distance(old.scores, made.scores)
        return figures

    def _publish(self, made: Table, figures: dict[str, float], *, at: int, who: str, why: str, key: str) -> str:
        target = self.tables / made.version
        if made.folder != target:
            shutil.rmtree(target, ignore_errors=True)  # damaged, or it would have been taken
            # The pointer to the folder first, so that a rerun after a kill right here finds where it went.
            _atomic(made.folder.with_name("published"), lambda new: new.write_text(made.version))
            made.folder.replace(target)
            table.fsync(self.tables)
        # No two releases share a key: a table may come into force again, after another one of the same night.
        key = key or f"night-{made.version}-{len(self.releases.ledger().lines)}"
        line = self.releases.publish(published(made, figures, at=at, who=who, why=why, key=key))
        table.prune(self.tables)
        dataset.fold_catalogue(self._lake, cut=at)
        folders = sorted(self._nights.iterdir())
        for old in folders[: -config.VERSIONS]:
            shutil.rmtree(old, ignore_errors=True)
        for done in (folder for folder in folders if (folder / "published").exists()):
            for name in WORK:  # several times as large as the table; only a night that is not over needs them
                (done / name).unlink(missing_ok=True)
        return line.version

    # --- what the steps share -------------------------------------------------------------------------

    def _prefetch(self, line: Release) -> None:
        """Now, so that the night need not wait for the registry; if that is away, the night tries again."""
        if not self._champion.at_hand(line.digest):
            try:
                self._fetch(line.artifact, line.digest)
            except DEPENDENCY_ERRORS as error:
                logger.warning("recipe %s is in force, but not here yet: %s", line.version, error)

    def _in_force(self) -> Table | None:
        """Yesterday's table; None without one, and for one that is damaged, which must not end the next night."""
        if (now := table.current(self.tables)) is None:
            return None
        try:
            return Table.open(self.tables / now, verify=False)
        except TableCorrupt as error:
            self._alarm("table", str(error), action="tonight's table is not compared with it")
            return None

    def _alarm(self, kind: str, message: str, *, action: str) -> None:
        self._log.append([entry(Alarm(kind=kind, at=self._clock.now(), message=message, action=action))])


def _volume(known: Interactions) -> dict[str, float]:
    """Events of the last day, and how many are usual."""
    day, week = config.DAY, 7 * config.DAY
    at = pl.concat([known.bought["at"], known.seen["at"]])
    begun = int(at.min() or known.cut)  # type: ignore[arg-type]  # of integers

    def between(since: int, until: int) -> int:
        return at.filter(at.is_between(since, until, closed="left")).len()

    days = float(np.clip((known.cut - day - begun) / day, 1.0, 7.0))
    usual = between(known.cut - week - day, known.cut - day) / days
    # A shop that rests on Saturdays has no Saturday to miss; one Saturday of four without input was an outage.
    ends = [known.cut - weeks * week for weeks in range(1, config.REST_WEEKS + 1)]
    same = [between(end - day, end) for end in ends if end - day >= begun]
    return {
        "input": float(between(known.cut - day, known.cut)),
        "input_usual": min(usual, float(max(same))) if same else usual,
    }


def _titled(made: Table) -> float:
    """Items that the catalogue has a title for."""
    return float(sum(bool(title) for title in made.extras.titles))


def _overlap(old: Table, new: Table) -> float:
    """Of those in both: the mean share of yesterday's first ten that is among today's."""
    (users, items), now = old.first_ten(), new.first_ten()
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


def _load_ranked(path: Path) -> Ranked:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Ranked(*(arrays[name] for name in Ranked._fields))


def _kept(path: Path, read: Callable[[Path], Made]) -> Made | None:
    """What an earlier attempt left; None if that is nothing, or damaged, and has to be made again."""
    if not path.exists():
        return None
    try:
        return read(path)
    except MemoryError:
        raise
    except Exception as error:
        logger.warning("%s is damaged and is made again: %s", path, error)
        return None


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
