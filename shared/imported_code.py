"""The modules behind a recorded figure, and a digest of their code."""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path


def imported(names: Sequence[str], root: Path) -> list[Path]:
    """The files of modules below `root`, and of all that they import from there, at the top or in a function."""
    found, waiting = set[Path](), list(names)
    while waiting:
        path = _file(waiting.pop(), root)
        if path is None or path in found:
            continue
        found.add(path)
        waiting += _imports(path)
    return sorted(found)


def digest(names: Sequence[str], root: Path) -> str:
    """Of the syntax trees of `imported`, without docstrings and comments, and of the tables (TOML) beside them."""
    whole = hashlib.sha256()
    files = imported(names, root)
    tables = {table for folder in {path.parent for path in files} for table in folder.glob("*.toml")}
    for path in files:
        whole.update(f"{path.relative_to(root)}\n{ast.dump(_plain(path))}\n".encode())
    for table in sorted(tables):
        whole.update(table.read_bytes())
    return whole.hexdigest()[:16]


def _file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """The names that a module imports; of `from a import b` also `a.b`, which may be a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _plain(path: Path) -> ast.AST:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree
