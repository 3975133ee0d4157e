"""Documents say what is so: figures as recorded, the tree as it is, commands and links that work."""

import re
from pathlib import Path

import pytest

from shared.checklist import ROOT, tracked
from shared.results import render

DOCUMENTS = [path for path in tracked() if path.suffix == ".md"]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")  # without those to other sites
COMMAND = re.compile(r"^\s*make ([a-z-]+)|`make ([a-z-]+)", re.MULTILINE)


def commands(text: str) -> set[str]:
    return {line or inline for line, inline in COMMAND.findall(text)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_figures_and_tree_are_current(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert text == render(text), "make docs"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_resolve(path: Path) -> None:
    targets = LINK.findall((ROOT / path).read_text())
    assert [target for target in targets if not (ROOT / path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_make_commands_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands((ROOT / path).read_text()) <= targets


def test_a_wrong_command_would_be_seen() -> None:
    assert commands("Run `make coffee`, or\n\n    make tea SUGAR=1\n") == {"coffee", "tea"}
