"""A run writes figures, `record` takes them over, documents read them."""

import subprocess
from pathlib import Path

import pytest

from shared import results
from shared.imported_code import digest, imported
from shared.results import (
    Figure,
    FigureMissing,
    Run,
    confirm,
    differences,
    met,
    read,
    render,
    stale,
    take_over,
    tree,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "fraud" / "page").mkdir(parents=True)
    (tmp_path / "fraud" / "__init__.py").write_text('"""The problem.\n\nMore."""\n')
    (tmp_path / "fraud" / "serve.py").write_text('"""The edge."""\n')
    (tmp_path / "fraud" / "page" / "__init__.py").write_text('"""To watch."""\n')
    return tmp_path


def run(root: Path) -> Run:
    return Run("fraud", command="make demo-fraud", at=0, var=root / "var", modules=["shared.results"])


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


def test_a_figure_without_a_recorded_run_is_an_error(root: Path) -> None:
    with pytest.raises(FigureMissing, match=r"fraud:demo\.seconds"):
        render("<!-- fraud:demo.seconds .0f -->132<!-- / -->", root)


def test_tree(root: Path) -> None:
    packages = ["fraud/                 The problem.", "  page/                To watch."]
    assert tree(root).splitlines() == packages
    files = tree(root, "fraud")
    assert files.splitlines() == [packages[0], "  serve.py             The edge.", packages[1]]
    assert tree(root, "recsys") == ""
    assert render("<!-- tree fraud -->old<!-- / -->", root) == f"<!-- tree fraud -->\n```\n{files}\n```\n<!-- / -->"
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


# --- the code behind figures ------------------------------------------------------------------------------

MODULES = {
    "fraud/demo.py": '"""A story."""\nfrom shared import told\n\ndef run():\n    from fraud import late\n',
    "fraud/late.py": "X = 1\n",
    "fraud/other.py": "X = 1\n",
    "shared/told.py": "import json\nX = 1\n",
    "shared/__init__.py": "",
}


@pytest.fixture
def code(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in MODULES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(results, "ROOT", root)
    return root


def demo(root: Path) -> Run:
    return Run("fraud", command="make demo-fraud", at=0, var=root / "var", modules=["fraud.demo"])


def test_the_code_of_a_module_is_all_that_it_imports_even_late(code: Path) -> None:
    files = [str(path.relative_to(code)) for path in imported(["fraud.demo"], code)]
    assert files == ["fraud/__init__.py", "fraud/demo.py", "fraud/late.py", "shared/__init__.py", "shared/told.py"]


CHANGES = {
    "a docstring": ("fraud/demo.py", MODULES["fraud/demo.py"].replace("A story", "Another"), False),
    "a comment": ("fraud/late.py", "X = 1  # one\n", False),
    "code that it does not import": ("fraud/other.py", "X = 2\n", False),
    "code that it imports late": ("fraud/late.py", "X = 2\n", True),
    "shared code": ("shared/told.py", "import json\nX = 2\n", True),
    "a table beside the code": ("fraud/brands.toml", "a = 1", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_figure_is_stale_when_what_its_code_does_has_changed(code: Path, change: str) -> None:
    demo(code).figure("demo.saved", 2.0, unit="ratio")
    take_over(code / "var", code)
    assert stale(code) == {}
    name, text, changed = CHANGES[change]
    (code / name).write_text(text)
    assert stale(code) == ({"make demo-fraud": ["fraud:demo.saved"]} if changed else {})


def test_a_figure_of_which_no_code_is_known_is_stale(code: Path) -> None:
    (code / "fraud" / "results.json").write_text('{"figures": {"x": {"command": "make demo-fraud"}}}')
    assert stale(code) == {"make demo-fraud": ["fraud:x"]}


@pytest.mark.parametrize("saved", [2.0, 2.1])
def test_a_renaming_is_confirmed_by_the_same_figures_only(code: Path, saved: float) -> None:
    for name, value, unit in (("demo.saved", 2.0, "ratio"), ("demo.seconds", 99.0, "s")):
        demo(code).figure(name, value, unit=unit)
    take_over(code / "var", code)
    (code / "fraud/late.py").write_text("Y = 1\n")
    for name, value, unit in (("demo.saved", saved, "ratio"), ("demo.seconds", 50.0, "s")):
        demo(code).figure(name, value, unit=unit)
    same = saved == 2.0
    assert confirm(code / "var", code) == ({} if same else {"fraud:demo.saved": (2.0, 2.1)})
    assert stale(code) == ({} if same else {"make demo-fraud": ["fraud:demo.saved", "fraud:demo.seconds"]})
    assert read(code / "fraud" / "results.json")["demo.seconds"]["value"] == 99.0


def test_runs_of_one_seed_differ_in_nothing_but_time(code: Path) -> None:
    before: results.Figures = {}
    for saved, seconds in ((2.0, 99.0), (2.1, 50.0)):
        demo(code).figure("demo.saved", saved, unit="ratio")
        demo(code).figure("demo.throughput", seconds, unit="events/s")
        before = before or read(code / "var/results/fraud.json")
    after = read(code / "var/results/fraud.json")
    assert differences(before, after) == {"demo.saved": (2.0, 2.1)}
    assert differences(before, {}) == {"demo.saved": (2.0, None)}


def test_the_digest_is_of_what_code_does(code: Path) -> None:
    one = digest(["fraud.late"], code)
    (code / "fraud/late.py").write_text("X  =  1\n")
    assert digest(["fraud.late"], code) == one
