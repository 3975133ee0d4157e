"""Whether the tests would notice: small changes to the code that decides, one at a time, each against its own tests.

`tests/mutants/mutants.toml` names for each module its tests, the functions of which every change has to be noticed, and
of how many others a sample is drawn. A change that cannot be noticed stands there with its reason. What has been tried
is kept in var/mutants, so that a run goes on where it was; a module whose code or tests have changed begins anew.
"""

import hashlib
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkItem

from shared.checklist import ROOT
from shared.console import Stage
from shared.settings import Settings

LIST = Path(__file__).with_name("mutants.toml")
ENOUGH = 0.85  # of a sample
LONGEST = 120  # seconds of the tests of one module; a change that makes them endless is noticed
# Of the dozen ways to replace an operator, those that a person gets wrong: the boundary, the opposite, the neighbour.
OPERATORS = frozenset(
    {
        *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul")),
        *(f"ReplaceBinaryOperator_{pair}" for pair in ("FloorDiv_Div", "Mod_FloorDiv", "BitAnd_BitOr", "BitOr_BitAnd")),
        *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE")),
        *(f"ReplaceComparisonOperator_{pair}" for pair in ("GtE_Gt", "GtE_Lt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot")),
        *("ReplaceComparisonOperator_IsNot_Is", "ReplaceUnaryOperator_Delete_Invert", "ReplaceUnaryOperator_USub_UAdd"),
        *("ReplaceUnaryOperator_Delete_Not", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr"),
        *("ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
        *("AddNot", "NumberReplacer"),
    }
)


class Module(NamedTuple):
    """A module, and what is tried on it."""

    path: str
    tests: tuple[str, ...]
    functions: frozenset[str]  # every change in them has to be noticed
    sample: int  # changes elsewhere in it


class Tried(NamedTuple):
    """A change, and what came of it."""

    module: str
    function: str
    named: bool  # whether every change of its function has to be noticed
    noticed: bool
    diff: str

    @property
    def key(self) -> str:
        """What stands for the change in the list of those that cannot be noticed: the lines, old and new."""
        lines = [line for line in self.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return f"{self.function}: " + " => ".join(line[1:].strip() for line in lines)


def main(only: Annotated[str, typer.Option(help="Part of a module's path.")] = "") -> None:
    stage, folder = Stage(), (Settings().var / "mutants").resolve()
    listed = tomllib.loads(LIST.read_text())
    modules = [_module(entry) for entry in listed["module"] if only in entry["path"]]
    accepted = {entry["change"]: entry["why"] for entry in listed.get("accepted", ())}
    with stage.act(f"Changes to {len(modules)} modules, each against its own tests") as act:
        with ProcessPoolExecutor(os.cpu_count(), initializer=_copy, initargs=(folder,)) as pool:
            work = [pool.submit(_try_module, module, folder) for module in modules]
            with stage.progress(len(work), "modules") as advance:
                found = []
                for done in as_completed(work):
                    found += done.result()
                    advance(1)
        act.outcome = f"{len(found):,} changes, {sum(one.noticed for one in found):,} noticed"
    missed = [one for one in found if not one.noticed and one.key not in accepted]
    rows, failed = [], False
    for module in modules:
        mine = [one for one in found if one.module == module.path]
        named, others = ([one for one in mine if one.named is kind] for kind in (True, False))
        left = [one for one in missed if one in named]
        noticed = sum(one.noticed or one.key in accepted for one in others)
        failed |= bool(left) or noticed < ENOUGH * len(others)
        rows.append([module.path, len(named), len(left), f"{noticed} of {len(others)}"])
    stage.table("What the tests notice", ["module", "named", "of these missed", "sample noticed"], rows)
    for one in sorted(missed):
        stage.say(f"\n{'MUST BE NOTICED' if one.named else 'missed'}  {one.module}  {one.key}")
    raise typer.Exit(1 if failed else 0)


def _module(entry: dict[str, Any]) -> Module:
    return Module(entry["path"], tuple(entry["tests"]), frozenset(entry.get("functions", ())), entry.get("sample", 30))


def _copy(folder: Path) -> None:
    """Each process changes a copy of its own of what is committed."""
    copy = folder / f"copy-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    os.chdir(copy)


def _try_module(module: Module, folder: Path) -> list[Tried]:
    state = hashlib.sha256()
    for path in (module.path, *module.tests):
        state.update(Path(path).read_bytes())
    database = folder / f"{module.path.replace('/', '-')}-{state.hexdigest()[:12]}.sqlite"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--numprocesses", "0"]
    whole = " ".join([*command, *module.tests])
    before = subprocess.run(whole.split(), capture_output=True, text=True, check=False)
    if before.returncode:
        raise RuntimeError(f"the tests of {module.path} fail without any change:\n{before.stdout[-2000:]}")
    found = []
    with use_db(str(database), WorkDB.Mode.create) as work:
        if not work.num_work_items:
            init([Path(module.path)], work, {})
        tried = {item.job_id: result for item, result in work.completed_work_items}
        for item, named in _chosen(module, work):
            if item.job_id not in tried:
                result = mutate_and_test(item.mutations, whole, LONGEST)
                work.set_result(item.job_id, result)
                tried[item.job_id] = result
            result = tried[item.job_id]
            function = item.mutations[0].definition_name or ""
            found.append(Tried(module.path, function, named, result.is_killed, result.diff or ""))
    return found


def _chosen(module: Module, work: WorkDB) -> Iterator[tuple[WorkItem, bool]]:
    """The changes that are tried, each with whether it has to be noticed."""
    lines = Path(module.path).read_text().splitlines()

    def is_for_the_type_checker(item: WorkItem) -> bool:
        """The star before arguments that are given by name."""
        row, column = item.mutations[0].start_pos
        return lines[row - 1][column : column + 2] == "*,"

    items = [item for item in work.work_items if item.mutations[0].operator_name.partition("/")[2] in OPERATORS]
    items = [item for item in items if not is_for_the_type_checker(item)]
    items.sort(
        key=lambda item: (item.mutations[0].start_pos, item.mutations[0].operator_name, item.mutations[0].occurrence)
    )
    others = []
    for item in items:
        if (item.mutations[0].definition_name or "") in module.functions:
            yield item, True
        else:
            others.append(item)
    drawn = random.Random(7).sample(others, min(module.sample, len(others)))
    yield from ((item, False) for item in drawn)


if __name__ == "__main__":
    typer.run(main)
