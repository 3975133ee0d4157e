"""Annotations are found where they stand, and an unknown point is an error."""

import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from shared.checklist import POINTS, ROOT, UnknownPoint, places, table


def note(point: str, *, sign: str = "#") -> str:
    """An annotation; put together here, or the checklist would find it in this file."""
    return f"{sign} [{point}] why\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a service, a shared module and a document; only fraud exists."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name, text in {
        "fraud/model.py": "first\nx = 1  " + note("3.1"),
        "fraud/page/page.js": note("7.2", sign="//"),
        "tests/fraud/test_model.py": note("6.1"),
        "shared/log.py": note("4.3"),
        "Makefile": note("5.1"),
        "README.md": note("1.1"),
        "tests/exercises/step-up.patch": "+" + note("7.1"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_places(root: Path) -> None:
    assert places(root) == {
        ("3.1", "fraud"): ["fraud/model.py:2"],
        ("7.2", "fraud"): ["fraud/page/page.js:1"],
        ("6.1", "fraud"): ["tests/fraud/test_model.py:1"],
        ("4.3", "fraud"): ["shared/log.py:1"],
        ("5.1", "fraud"): ["Makefile:1"],
    }


def test_what_all_share_counts_for_all(root: Path) -> None:
    (root / "recsys").mkdir()
    assert places(root)["4.3", "recsys"] == ["shared/log.py:1"]


@pytest.mark.parametrize("point", ["9.9", "4.30", "4.3, 5.1"])
def test_an_unknown_point_is_an_error(root: Path, point: str) -> None:
    (root / "fraud" / "model.py").write_text(note(point))
    with pytest.raises(UnknownPoint, match=r"fraud/model\.py:1"):
        places(root)


def test_the_table_has_21_points(root: Path) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(root))
    assert len(POINTS) == 21
    assert all(point in captured.get() for point in POINTS)
    assert "fraud/model.py:2" in captured.get()


def test_this_repository_names_no_unknown_point() -> None:
    assert places(ROOT)
