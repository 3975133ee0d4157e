"""If you have read one service, you know the others: the same files in the same layers, and no others."""

import re
import tomllib

import pytest

from shared.checklist import ROOT, SERVICES, tracked

TOP = {"README.md", "Makefile", "pyproject.toml", "LICENSE", "shared", *SERVICES, "infra", "tests"}

SHAPE = {
    *("__init__.py", "__main__.py", "README.md", "DESIGN.md", "EXERCISES.md", "results.json", "schema.py", "config.py"),
    *("simulate.py", "ingest.py", "dataset.py", "features.py", "model.py", "policy.py", "evaluate.py", "train.py"),
    *("serve.py", "monitor.py", "demo.py", "paper.py", "page"),
}
PATTERN = {"recsys": {"batch.py"}, "fraud": {"stream.py"}, "sentiment": {"batch.py", "stream.py", "brands.toml"}}

# Files of a later issue. What exists must leave this list, so it only shrinks.
PENDING = {"fraud": {"paper.py"}, "recsys": {"paper.py"}}

EXISTING = [service for service in SERVICES if (ROOT / service).is_dir()]


def names(folder: str) -> set[str]:
    return {path.parts[1] for path in tracked() if path.parts[0] == folder}


def test_nothing_new_at_the_top() -> None:
    assert {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")} <= TOP


@pytest.mark.parametrize("service", EXISTING)
def test_a_service_has_the_files_of_its_pattern(service: str) -> None:
    expected, found = SHAPE | PATTERN[service], names(service)
    assert expected - found == PENDING.get(service, set())
    # A Python file too many is found by import-linter: every module stands in a layer.
    assert {name for name in found - expected if not name.endswith(".py")} == set()
    assert found.isdisjoint({"batch.py", "stream.py"} - expected)


def test_the_import_contracts_cover_every_service() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(config["root_packages"]) == {*EXISTING, "shared"}
    for contract in config["contracts"]:
        assert set(contract.get("containers", EXISTING)) == set(EXISTING), contract["name"]
        for module in contract.get("source_modules", ()):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), contract["name"]


def test_every_version_is_pinned() -> None:
    lines = (ROOT / "infra" / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", line)] == []


def test_no_file_is_called_utils() -> None:
    assert [path for path in tracked() if re.search("utils?|helpers?|common|misc", path.stem)] == [], "split by noun"
