"""Share a folder between the processes of a test run: the first process fills it, the others wait."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


def run_once(folder: Path, fill: Callable[[], None]) -> None:
    """Call `fill`, which writes into `folder`, unless a process has already done so.

    A folder that a failed call left incomplete is removed and filled again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete = folder / "complete"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            fill()
            complete.touch()
