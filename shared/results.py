"""Recorded metrics: runs write them, `record` keeps them, documents quote them.

In a document a figure stands between two comments, the first with a format as in an f-string:
`<!-- fraud:demo.seconds .0f -->…<!-- / -->`, as does a constant of the design: `<!-- fraud:PARTITIONS d -->`.
The tree of all packages stands between `<!-- tree -->` and `<!-- / -->`, and that of the files of one package between
`<!-- tree fraud -->` and `<!-- / -->`.
"""

import ast
import json
import operator
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from shared.checklist import ROOT, SERVICES, tracked
from shared.imported_code import digest
from shared.settings import Settings

LIBRARIES = ("numpy", "polars", "scikit-learn", "lightgbm", "implicit", "torch", "onnxruntime", "fastapi", "mlflow")
FIGURE = re.compile(r"(<!-- (\w+):([\w.]+) ([^ ]+) -->).*?(<!-- / -->)", re.DOTALL)
TREE = re.compile(r"(<!-- tree ?(\w*) -->).*?(<!-- / -->)", re.DOTALL)
TARGET = re.compile(r"(>=|<=|==) (-?[\d.]+)")
COMPARE = {">=": operator.ge, "<=": operator.le, "==": operator.eq}

Value = float | int | str | None


class Figure(TypedDict):
    value: Value
    unit: str
    target: str | None  # such as ">= 0.73"
    command: str
    at: str  # ISO 8601, UTC
    commit: str  # the one the run started from
    cores: int | None
    versions: dict[str, str]
    modules: list[str]  # where the code behind it begins
    code: str  # digest of that code, see shared/imported_code.py


Figures = dict[str, Figure]


class FigureMissing(Exception):
    """A document quotes a figure that no recorded run has."""


class Run:
    """One run of a service's command; made when it starts, so that it knows the commit it started from."""

    def __init__(self, service: str, *, command: str, at: int, var: Path, modules: Sequence[str]) -> None:
        """`modules`: those that the command and its child processes run; the figures hang on all that they import."""
        self._path = var / "results" / f"{service}.json"
        self._command = command
        self._at = datetime.fromtimestamp(at, UTC).isoformat()
        self._commit = _commit()
        self._versions = _versions()
        self._modules, self._code = list(modules), digest(modules, ROOT)

    def figure(self, name: str, value: Value, *, unit: str, target: str | None = None) -> None:
        """Write one figure; an earlier one of that name is replaced, others stay."""
        if target is not None and not TARGET.fullmatch(target):
            raise ValueError(f"target {target!r} of {name}: expected such as '>= 0.73'")
        figure = Figure(
            value=value,
            unit=unit,
            target=target,
            command=self._command,
            at=self._at,
            commit=self._commit,
            cores=os.cpu_count(),
            versions=self._versions,
            modules=self._modules,
            code=self._code,
        )
        _write(self._path, read(self._path) | {name: figure})


def met(figure: Figure) -> bool | None:
    """Whether the target was reached; None without one. A figure that could not be measured missed it."""
    if figure["target"] is None:
        return None
    if not isinstance(value := figure["value"], int | float):
        return False
    sign, bound = figure["target"].split()
    return bool(COMPARE[sign](value, float(bound)))


def read(path: Path) -> Figures:
    if not path.exists():
        return {}
    figures: Figures = json.loads(path.read_text())["figures"]
    return figures


def timed(name: str, figure: Figure) -> bool:
    """Whether a figure hangs on the machine; the others hang on the seed alone."""
    return name.startswith("bench.") or figure["unit"] in ("s", "ms", "us") or figure["unit"].endswith("/s")


def differences(before: Figures, after: Figures) -> dict[str, tuple[Value, Value]]:
    """The figures that hang on the seed alone and are not the same in two runs, or are in one of them only."""
    names = [name for name, figure in sorted((before | after).items()) if not timed(name, figure)]
    pairs = {name: tuple(side[name]["value"] if name in side else None for side in (before, after)) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def stale(root: Path = ROOT) -> dict[str, list[str]]:
    """By command, the recorded figures whose code has changed since they were measured."""
    found: dict[str, list[str]] = {}
    now: dict[tuple[str, ...], str] = {}
    for service in SERVICES:
        for name, figure in read(root / service / "results.json").items():
            modules = tuple(figure.get("modules", ()))
            if modules not in now:
                now[modules] = digest(modules, root)
            if not modules or now[modules] != figure["code"]:
                found.setdefault(figure["command"], []).append(f"{service}:{name}")
    return found


def confirm(var: Path, root: Path = ROOT) -> dict[str, tuple[Value, Value]]:
    """After a change that changes no result: renew the code of recorded figures whose command has been run again.

    Where a run gives the figures of the seed anew, all figures of its command keep their value and commit. Otherwise
    nothing is renewed, and the differences are given.
    """
    renewed: dict[str, Figures] = {}
    wrong: dict[str, tuple[Value, Value]] = {}
    for service in SERVICES:
        new, recorded = read(var / "results" / f"{service}.json"), read(root / service / "results.json")
        commands = {figure["command"] for figure in new.values()}
        old = {name: figure for name, figure in recorded.items() if figure["command"] in commands}
        wrong |= {f"{service}:{name}": pair for name, pair in differences(old, new).items()}
        code = {figure["command"]: (figure["modules"], figure["code"]) for figure in new.values()}
        for figure in old.values():
            figure["modules"], figure["code"] = code[figure["command"]]
        renewed[service] = recorded | old
    if not wrong:
        for service, figures in renewed.items():
            _write(root / service / "results.json", figures)
    return wrong


def take_over(var: Path, root: Path = ROOT) -> Figures:
    """Merge what runs left in `var` into the recorded figures, by name; gives what was taken over."""
    taken: Figures = {}
    for service in SERVICES:
        if new := read(var / "results" / f"{service}.json"):
            recorded = root / service / "results.json"
            _write(recorded, read(recorded) | new)
            taken |= {f"{service}:{name}": figure for name, figure in new.items()}
    return taken


def render(text: str, root: Path = ROOT) -> str:
    """A document's text with its figures and its tree as they are now.

    Raises:
        FigureMissing: the text quotes a figure that is not recorded.
    """
    recorded = {service: read(root / service / "results.json") for service in SERVICES}

    def quote(match: re.Match[str]) -> str:
        opening, service, name, spec, closing = match.groups()
        if name.isupper():
            return f"{opening}{format(getattr(import_module(f'{service}.config'), name), spec)}{closing}"
        if name not in recorded.get(service, {}):
            raise FigureMissing(f"{service}:{name} is not in results.json: run its command, then `make record`")
        value = recorded[service][name]["value"]
        return f"{opening}{'none' if value is None else format(value, spec)}{closing}"

    text = FIGURE.sub(quote, text)
    return TREE.sub(lambda match: f"{match[1]}\n```\n{tree(root, match[2])}\n```\n{match[3]}", text)


def tree(root: Path = ROOT, package: str = "") -> str:
    """Each package with the first line of its docstring; or each file of one package."""
    modules = [path for path in tracked(root) if path.parts[0] in (*SERVICES, "shared") and path.suffix == ".py"]
    shown = [path for path in modules if (path.parts[0] == package if package else path.name == "__init__.py")]
    lines = []
    for path in sorted(shown, key=lambda path: (path.parent, path.name != "__init__.py", path.name)):
        is_package = path.name == "__init__.py"
        name = f"{path.parent.name}/" if is_package else path.name
        indent = "  " * (len(path.parts) - 1 - is_package)
        docstring = ast.get_docstring(ast.parse((root / path).read_text())) or "(no docstring)"
        lines.append(f"{indent + name:<23}{docstring.splitlines()[0]}")
    return "\n".join(lines)


def _commit() -> str:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _versions() -> dict[str, str]:
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return {"python": sys.version.split()[0]} | {name: installed[name] for name in LIBRARIES if name in installed}


def _write(path: Path, figures: Figures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"figures": figures}, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    new.replace(path)


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def record(
    confirmed: Annotated[bool, typer.Option("--confirm", help="Nothing but the code behind them has changed.")] = False,
) -> None:
    """Take the figures of the last runs over into results.json, in a checkout without changes."""
    if _commit().endswith("-dirty"):
        raise typer.BadParameter("the checkout has changes that no commit has: a figure must name the code behind it")
    if confirmed:
        if wrong := confirm(Settings().var):
            _tell(wrong)
            raise typer.BadParameter("these figures are others than those recorded, so the change was no pure renaming")
        print("The recorded figures hold for the code as it is now.")
        return
    for name, figure in take_over(Settings().var).items():
        verdict = {True: "reached", False: "MISSED", None: ""}[met(figure)]
        print(f"{name:<40} {figure['value']!s:>12} {figure['unit']:<8} {figure['target'] or '':<10} {verdict}")


@app.command("stale")
def tell_stale() -> None:
    """The recorded figures whose code has changed since, by the command that measures them anew."""
    for command, names in stale().items():
        print(f"{command:<60} {len(names):>3} stale figures, such as {names[0]}")


@app.command()
def compare(one: Path, other: Path) -> None:
    """Two folders `var` of runs with one seed: every figure that hangs on the seed alone has to be the same."""
    found: dict[str, tuple[Value, Value]] = {}
    for service in SERVICES:
        sides = [read(var / "results" / f"{service}.json") for var in (one, other)]
        found |= {f"{service}:{name}": pair for name, pair in differences(*sides).items()}
    _tell(found)
    raise typer.Exit(1 if found else 0)


def _tell(found: dict[str, tuple[Value, Value]]) -> None:
    for name, (old, new) in found.items():
        print(f"{name:<40} {old!s:>12} {new!s:>12}")


@app.command()
def docs() -> None:
    """Write figures and tree into the documents."""
    for path in tracked():
        if path.suffix == ".md" and (new := render(old := (ROOT / path).read_text())) != old:
            (ROOT / path).write_text(new)
            print(path)


if __name__ == "__main__":
    app()
