"""Importing a module does nothing: no file, no thread, no output."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.checklist import ROOT, SERVICES, tracked

MODULES = [
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in tracked()
    if path.parts[0] in (*SERVICES, "shared") and path.suffix == ".py"
]
IMPORT = """
import importlib, sys, threading
sys.path.insert(0, sys.argv[1])
for module in sys.argv[2:]:
    importlib.import_module(module)
    ours = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert not ours, f"importing {module} started {ours}"
"""


def imported(root: Path, folder: Path, *modules: str) -> tuple[int, str, list[str]]:
    """Exit code, what was printed and the files that appeared, when the modules are imported in an empty folder."""
    command = [sys.executable, "-c", IMPORT, str(root), *modules]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, [path.name for path in folder.iterdir()]


@pytest.mark.slow
def test_importing_does_nothing(tmp_path: Path) -> None:
    assert imported(ROOT, tmp_path, *MODULES) == (0, "", [])


@pytest.mark.parametrize(
    "source",
    [
        "open('left-behind', 'w').close()",
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "print('hello')",
    ],
)
def test_a_module_that_does_something_is_caught(source: str, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "busy.py").write_text(source)
    (tmp_path / "empty").mkdir()
    assert imported(tmp_path / "library", tmp_path / "empty", "busy") != (0, "", [])
