"""`grep -n '^\"\"\"' fraud/*.py` prints the flow: the stages say what goes in and what comes out."""

import ast
import re
from pathlib import Path

import pytest

from shared.checklist import ROOT, SERVICES, tracked

STAGES = ("features", "model", "policy", "batch", "stream")
MODULES = [path for path in tracked() if path.parts[0] in SERVICES and path.stem in STAGES]
FLOW = re.compile(r"[A-Z]\w*(?:(?:, | and | or | -> )[A-Z]\w*)*")


def docstring(source: str) -> str:
    return ast.get_docstring(ast.parse(source)) or ""


def nouns(schema: str) -> set[str]:
    """The names that a schema defines itself, not those it imports."""
    found = set()
    for node in ast.parse(schema).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def fault(opening: str, known: set[str]) -> str:
    """What is wrong with a docstring that should open with `In -> Out.`; empty when nothing is."""
    flow = opening.split(".")[0]
    if not FLOW.fullmatch(flow) or " -> " not in flow:
        return f"opens with {flow!r}, not with In -> Out."
    unknown = set(re.findall(r"[A-Z]\w*", flow)) - known
    return f"schema.py has no {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_stage_opens_with_what_goes_in_and_out(path: Path) -> None:
    known = nouns((ROOT / path).with_name("schema.py").read_text())
    assert fault(docstring((ROOT / path).read_text()), known) == ""


@pytest.mark.parametrize("opening", ["Computes features.", "Event to Score.", "Event -> Magic. Then more.", "Event."])
def test_other_openings_are_refused(opening: str) -> None:
    assert fault(opening, {"Event", "Score"})


def test_every_module_says_what_it_is() -> None:
    modules = [path for path in tracked() if path.suffix == ".py"]
    assert [path for path in modules if not docstring((ROOT / path).read_text())] == []
