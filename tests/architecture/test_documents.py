"""Documents say what is so: figures as recorded, the tree as it is, commands and links that work."""

import ast
import re
from pathlib import Path

import pytest

from shared.checklist import POINTS, ROOT, places, tracked
from shared.results import render

DOCUMENTS = [path for path in tracked() if path.suffix == ".md"]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([^)]*))?\)")  # without those to other sites
PARTS = ("Decision", "Rejected alternatives", "Evidence", "What would change it", "Follow-up")  # of an answer
DESIGNS = [path for path in DOCUMENTS if path.name == "DESIGN.md"]
COMMAND = re.compile(r"^\s*make ([a-z-]+)|`make ([a-z-]+)", re.MULTILINE)


def commands(text: str) -> set[str]:
    return {line or inline for line, inline in COMMAND.findall(text)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_figures_and_tree_are_current(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert text == render(text), "make docs"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_resolve(path: Path) -> None:
    for target, symbol in LINK.findall((ROOT / path).read_text()):
        file = ROOT / path.parent / target
        assert file.exists(), target
        assert not symbol or file.suffix != ".py" or symbol in symbols(file), f"{target} has no {symbol}"


def symbols(file: Path) -> set[str]:
    """What a module defines at its top, and in its classes."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found |= {node.name} | {f"{node.name}.{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name)}
    return found


@pytest.mark.parametrize("path", DESIGNS, ids=str)
def test_a_design_answers_each_point_in_full_and_in_order(path: Path) -> None:
    answers = re.split(r"^### (\d\.\d) .*$", (ROOT / path).read_text(), flags=re.MULTILINE)[1:]
    assert answers[::2] == list(POINTS)
    for point, answer in zip(answers[::2], answers[1::2], strict=True):
        said = re.split(r"^\*\*(.+?)\.\*\*", re.split(r"^## ", answer, flags=re.MULTILINE)[0], flags=re.MULTILINE)[1:]
        assert tuple(said[::2]) == PARTS, point
        assert all(len(words.split()) > 1 for words in said[1::2]), point


@pytest.mark.parametrize("path", DESIGNS, ids=str)
def test_every_point_of_a_design_stands_in_the_code_too(path: Path) -> None:
    found = places()
    assert [point for point in POINTS if (point, path.parts[0]) not in found] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_make_commands_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands((ROOT / path).read_text()) <= targets


def test_a_wrong_command_would_be_seen() -> None:
    assert commands("Run `make coffee`, or\n\n    make tea SUGAR=1\n") == {"coffee", "tea"}
