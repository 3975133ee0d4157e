"""A service as a user runs it: its commands on one folder, and what its server answers."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from shared.checklist import ROOT
from tests.servers import free_ports


class CommandLine:
    """The commands of `name` on the folder `var`."""

    def __init__(self, name: str, var: Path) -> None:
        (self.port,) = free_ports(1)
        self.name, self.var = name, var
        self.url = f"http://127.0.0.1:{self.port}"

    def run(self, *words: str) -> str:
        """Run a command to its end; gives what it printed."""
        done = subprocess.run(self._command(words), capture_output=True, text=True, cwd=ROOT, timeout=400, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def started(self, *words: str) -> Iterator[None]:
        """A command that goes on until it is told to end."""
        with (self.var / f"{words[0]}.log").open("w") as log:
            child = subprocess.Popen(self._command(words), stdout=log, stderr=log, cwd=ROOT)
        try:
            yield
        finally:
            child.terminate()
            assert child.wait(60) == 0

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers the operator."""
        key = (self.var / "operator_key.secret").read_text().strip()
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read())

    def ready(self) -> bool:
        try:
            return bool(self.ask("GET", "/health/ready"))
        except (URLError, OSError):
            return False

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", self.name, "--var", str(self.var), *words]
