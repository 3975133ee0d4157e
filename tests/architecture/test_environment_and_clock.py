"""Only shared/settings.py reads the environment, only shared/clock.py the time; the ruff rule has no way round."""

import ast

import pytest

from shared.checklist import ROOT, tracked

ENVIRONMENT = {"environ", "environb", "getenv"}
NOW = {"now", "utcnow", "today"}


def reads(source: str) -> set[str]:
    """Which of the two a module reads."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in ENVIRONMENT:
                found.add("environment")
            case ast.ImportFrom(module="os", names=names) if any(alias.name in ENVIRONMENT for alias in names):
                found.add("environment")
            case ast.ClassDef(bases=bases) if any(
                isinstance(base, ast.Name) and base.id == "BaseSettings" for base in bases
            ):
                found.add("environment")
            case ast.Import(names=names) if any(alias.name == "time" for alias in names):
                found.add("time")
            case ast.ImportFrom(module="time"):
                found.add("time")
            case ast.Attribute(
                value=ast.Name(id="datetime" | "date") | ast.Attribute(attr="datetime" | "date"), attr=name
            ):
                if name in NOW:
                    found.add("time")
    return found


def test_each_is_read_in_one_place() -> None:
    readers = {str(path): reads((ROOT / path).read_text()) for path in tracked() if path.suffix == ".py"}
    assert {path: what for path, what in readers.items() if what} == {
        "shared/clock.py": {"time"},
        "shared/settings.py": {"environment"},
    }


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import os; os.environ['A']", {"environment"}),
        ("from os import getenv", {"environment"}),
        ("class S(BaseSettings): ...", {"environment"}),
        ("import time as t", {"time"}),
        ("import datetime; datetime.datetime.now()", {"time"}),
        ("date.today()", {"time"}),
        ("import os; os.replace(a, b); clock.now()", set()),
    ],
)
def test_a_reader_is_recognised(source: str, what: set[str]) -> None:
    assert reads(source) == what


def test_nothing_switches_the_rule_off() -> None:
    rule = "TID" + "251"
    assert [path for path in tracked() if path.suffix == ".py" and rule in (ROOT / path).read_text()] == []
