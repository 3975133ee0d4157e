"""`make test ALL=1` leaves no test out."""

from pathlib import Path

import pytest

TESTS = """
import pytest

def test_skips_itself():
    pytest.skip("no server")

@pytest.mark.slow
def test_takes_long():
    pass

@pytest.mark.xfail
def test_known_fault():
    assert False
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent.parent / "conftest.py").read_text())
    pytester.makepyprojecttoml('[tool.pytest]\nmarkers = ["slow"]')
    pytester.makepyfile(TESTS)
    return pytester


def test_a_person_in_a_hurry_is_told_what_was_left_out(pytester: pytest.Pytester) -> None:
    pytester.runpytest().assert_outcomes(skipped=2, xfailed=1)


def test_under_all_a_skip_is_a_failure(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--all").assert_outcomes(failed=1, passed=1, xfailed=1)


def test_under_all_a_file_that_skips_itself_is_a_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_module='import pytest; pytest.importorskip("no_such_library")')
    pytester.runpytest("--all", "test_module.py").assert_outcomes(errors=1)
