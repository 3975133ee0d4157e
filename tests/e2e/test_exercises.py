"""Every exercise can be done: its spec is red without the solution, green with it, and nothing else breaks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.checklist import ROOT, SERVICES, tracked

PATCHES = sorted((ROOT / "tests" / "exercises").glob("*.patch"))
# What no exercise of the service changes, as it lies below the policy, or stands on tests of its own on both logs.
BELOW = {
    "fraud": ("features", "windows", "terminals", "order", "history", "snapshot", "model", "ingest", "race"),
    "recsys": (
        "features",
        "sources",
        "dataset",
        "history",
        "ingest",
        "simulate",
        "offpolicy",
        "table",
        "serve",
        "monitor",
    ),
    # Long, and they count what they are given, whatever it is called.
    "sentiment": (
        "features",
        "finetune",
        "mentions",
        "simulate",
        "stream",
        "seam",
        "batch",
        "monitor",
        "dataset",
        "crisis",
    ),
}
LONG = (  # left to the proof, as they need a service that has learnt
    *("batch", "dataset", "explanation", "faults", "leak", "monitor"),
    *("openapi", "page", "serve", "shelf", "stream", "train", "watch"),
)
# No server, and no import of everything there is, which takes longer than the rest.
LEFT_OUT = ("kafka", "redis", "that_dies_leaves", "importing_does_nothing")
QUICK = [
    *("-m", "not (kill or e2e or bench or slow or data)"),
    *("-k", " and ".join(f"not {name}" for name in LEFT_OUT)),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The tracked files, as a repository of its own, for the tests that ask git what there is."""
    folder = tmp_path / "checkout"
    for path in tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    git(folder, "init", "-q")
    return folder


def git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """pytest in the checkout, in the environment of this one."""
    scratch = f"--basetemp={folder.parent / arguments[0].replace('/', '-')}"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", scratch, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def service_of(patch: Path) -> str:
    """The service whose EXERCISES.md puts the exercise."""
    briefs = {service: ROOT / service / "EXERCISES.md" for service in SERVICES}
    named = [service for service, brief in briefs.items() if brief.exists() and patch.name in brief.read_text()]
    assert len(named) == 1, f"{patch.name} stands in the exercises of {named}"
    return named[0]


def spec_of(patch: Path) -> str:
    return f"tests/exercises/{patch.stem.replace('-', '_')}.py"


def test_every_exercise_has_a_spec_that_a_run_of_all_tests_leaves_out(pytestconfig: pytest.Config) -> None:
    assert PATCHES
    for spec in map(spec_of, PATCHES):
        assert (ROOT / spec).exists()
        assert not any(Path(spec).match(pattern) for pattern in pytestconfig.getini("python_files"))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_spec_is_red_without_the_solution_and_green_with_it(patch: Path, checkout: Path, proof: bool) -> None:
    spec, service = spec_of(patch), service_of(patch)
    red = started(checkout, spec)
    said = red.communicate()[0]
    assert red.returncode == 1, said
    # Red in words: what is missing must not come as the library's own complaint, or as a line of the spec.
    assert "\nE  " not in said, said

    git(checkout, "apply", f"tests/exercises/{patch.name}")
    left = BELOW[service] if proof else BELOW[service] + LONG
    tests = [path.stem.removeprefix("test_") for path in sorted((checkout / "tests" / service).glob("test_*.py"))]
    touched = [f"tests/{service}/test_{name}.py" for name in tests if name not in left]
    runs = [  # at once, as they mostly wait
        started(checkout, "tests/architecture", *touched[::2], *QUICK),
        started(checkout, spec, *touched[1::2], *QUICK),
    ]
    for run in runs:
        said = run.communicate()[0]
        assert run.returncode == 0, said
