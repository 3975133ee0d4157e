"""A run writes figures, `record` takes them over, documents read them."""

import subprocess
from pathlib import Path

import pytest

from shared.results import Figure, FigureMissing, Run, met, read, render, take_over, tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "fraud" / "page").mkdir(parents=True)
    (tmp_path / "fraud" / "__init__.py").write_text('"""The problem.\n\nMore."""\n')
    (tmp_path / "fraud" / "serve.py").write_text('"""The edge."""\n')
    (tmp_path / "fraud" / "page" / "__init__.py").write_text('"""To watch."""\n')
    return tmp_path


def run(root: Path) -> Run:
    return Run("fraud", command="make demo-fraud", at=0, var=root / "var")


def test_a_run_says_where_its_figures_come_from(root: Path) -> None:
    run(root).figure("demo.seconds", 132.4, unit="s", target="<= 180")
    figure = read(root / "var" / "results" / "fraud.json")["demo.seconds"]
    assert set(figure) == set(Figure.__annotations__)
    assert figure["at"] == "1970-01-01T00:00:00+00:00"
    assert figure["command"] == "make demo-fraud"
    assert "python" in figure["versions"]


def test_record_merges_by_name(root: Path) -> None:
    run(root).figure("demo.seconds", 132.4, unit="s")
    run(root).figure("demo.failed_requests", 0, unit="requests")
    take_over(root / "var", root)
    run(root).figure("demo.seconds", 99.0, unit="s")
    assert set(take_over(root / "var", root)) == {"fraud:demo.seconds", "fraud:demo.failed_requests"}
    recorded = read(root / "fraud" / "results.json")
    assert {name: figure["value"] for name, figure in recorded.items()} == {
        "demo.seconds": 99.0,
        "demo.failed_requests": 0,
    }


def test_documents_quote_what_is_recorded(root: Path) -> None:
    run(root).figure("demo.seconds", 132.4, unit="s")
    run(root).figure("demo.saved_vs_rules", None, unit="ratio")
    take_over(root / "var", root)
    text = "<!-- fraud:demo.seconds .0f -->1<!-- / --> s, <!-- fraud:demo.saved_vs_rules .2f --><!-- / -->"
    rendered = "<!-- fraud:demo.seconds .0f -->132<!-- / --> s, <!-- fraud:demo.saved_vs_rules .2f -->none<!-- / -->"
    assert render(text, root) == rendered
    assert render(rendered, root) == rendered


def test_a_figure_nobody_recorded_is_an_error(root: Path) -> None:
    with pytest.raises(FigureMissing, match=r"fraud:demo\.seconds"):
        render("<!-- fraud:demo.seconds .0f -->132<!-- / -->", root)


def test_tree(root: Path) -> None:
    assert tree(root).splitlines() == [
        "fraud/                 The problem.",
        "  serve.py             The edge.",
        "  page/                To watch.",
    ]
    assert render("<!-- tree -->old<!-- / -->", root) == f"<!-- tree -->\n```\n{tree(root)}\n```\n<!-- / -->"


@pytest.mark.parametrize(
    ("value", "target", "reached"),
    [(0.74, ">= 0.73", True), (0.72, ">= 0.73", False), (0, "== 0", True), (None, "<= 3", False), (1, None, None)],
)
def test_targets(root: Path, value: float | None, target: str | None, reached: bool | None) -> None:
    run(root).figure("x", value, unit="", target=target)
    assert met(read(root / "var" / "results" / "fraud.json")["x"]) is reached


def test_a_target_that_cannot_be_checked_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="fast enough"):
        run(root).figure("x", 1, unit="", target="fast enough")
