"""What `make mutants` is told to change exists."""

import ast
import tomllib

import pytest

from shared.checklist import ROOT

MODULES = tomllib.loads((ROOT / "tests" / "mutants" / "mutants.toml").read_text())["module"]


@pytest.mark.parametrize("module", MODULES, ids=[module["path"] for module in MODULES])
def test_its_tests_and_functions_are_there(module: dict[str, list[str]]) -> None:
    assert [name for name in module["tests"] if not (ROOT / name).is_file()] == []
    tree = ast.parse((ROOT / str(module["path"])).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(module.get("functions", ())) - functions == set()
