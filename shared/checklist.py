"""The 21 points of the interview, and the places in the code that answer each.

A place is a comment that opens with the id of a point in square brackets. It belongs to the service
whose name its path holds; what stands in no service's folder, such as `shared/`, counts for all that exist.
"""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("recsys", "fraud", "sentiment")
NOT_CODE = (".md", ".txt", ".patch")  # a patch is what the code could become

POINTS = {
    "1.1": ("Problem definition", "the problem being solved"),
    "1.2": ("Problem definition", "business context and requirements"),
    "1.3": ("Problem definition", "stakeholders and their needs"),
    "2.1": ("Data requirements", "the type of data needed"),
    "2.2": ("Data requirements", "sources and acquisition"),
    "2.3": ("Data requirements", "storage: SQL, NoSQL, data lake"),
    "3.1": ("Model selection", "algorithms that fit the problem type"),
    "3.2": ("Model selection", "complexity against interpretability"),
    "3.3": ("Model selection", "pre-trained models, transfer learning"),
    "4.1": ("System architecture", "ingestion, processing, serving"),
    "4.2": ("System architecture", "microservices against a monolith"),
    "4.3": ("System architecture", "scalability and fault tolerance"),
    "5.1": ("Deployment strategy", "the deployment process, CI/CD"),
    "5.2": ("Deployment strategy", "model versioning and rollback"),
    "5.3": ("Deployment strategy", "monitoring and logging of the model"),
    "6.1": ("Performance metrics", "success metrics of the model"),
    "6.2": ("Performance metrics", "evaluation in production"),
    "6.3": ("Performance metrics", "A/B testing and user feedback"),
    "7.1": ("Ethical considerations", "biases in data and models"),
    "7.2": ("Ethical considerations", "what decisions do to users and society"),
    "7.3": ("Ethical considerations", "regulation: GDPR, CCPA"),
}

ANNOTATION = re.compile(r"(?:#|//|/\*|<!--|--) *\[(\d+\.\d+[^]]*)\]")


class UnknownPoint(Exception):
    """An annotation names a point that the checklist does not have."""


def tracked(root: Path = ROOT) -> list[Path]:
    """The repository's files, relative to its root: those git knows, and those about to be added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({Path(name) for name in names if name and (root / name).is_file()})


def places(root: Path = ROOT) -> dict[tuple[str, str], list[str]]:
    """By (point, service), each `file:line` that answers it.

    Raises:
        UnknownPoint: an annotation is none of the 21.
    """
    existing = [service for service in SERVICES if (root / service).is_dir()]
    found = defaultdict(list)
    for path in tracked(root):
        if path.suffix in NOT_CODE:
            continue
        services = [service for service in existing if service in path.parts] or existing
        for number, line in enumerate((root / path).read_text(errors="replace").splitlines(), start=1):
            for point in ANNOTATION.findall(line):
                if point not in POINTS:
                    raise UnknownPoint(f"{path}:{number}: [{point}] is none of the 21 points of shared/checklist.py")
                for service in services:
                    found[point, service].append(f"{path}:{number}")
    return dict(found)


def table(root: Path = ROOT) -> Table:
    """The 21 × 3 cells."""
    found = places(root)
    table = Table("", "", *(Column(service, overflow="fold") for service in SERVICES))
    last = ""
    for point, (consideration, text) in POINTS.items():
        if consideration != last:
            table.add_section()
            table.add_row("", f"[bold]{consideration}")
            last = consideration
        table.add_row(point, text, *("\n".join(found.get((point, service), ())) for service in SERVICES))
    return table


if __name__ == "__main__":
    Console().print(table())
