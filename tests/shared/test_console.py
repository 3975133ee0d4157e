"""What a file shows: the same words as a terminal, without colour, cursor or bars."""

from io import StringIO

import pytest
from rich.console import Console

from shared.console import Stage


def stage() -> tuple[Stage, StringIO]:
    out = StringIO()
    return Stage(Console(file=out, width=80, highlight=False)), out


def test_acts_are_numbered_and_say_what_came_of_them() -> None:
    shown, out = stage()
    with shown.act("History"), shown.progress(10, "days") as advance:
        advance(10)
    with shown.act("Attack") as act:
        act.outcome = "noticed on day 3 [drift]"
    lines = [line.rstrip("─ \n") for line in out.getvalue().splitlines() if line]
    assert lines[0] == "1  History"
    assert lines[2] == "2  Attack"
    assert lines[3].startswith("✓ noticed on day 3 [drift]  ")
    assert shown.acts["Attack"].seconds >= 0
    assert "\x1b" not in out.getvalue()


def test_an_act_that_fails_says_so() -> None:
    shown, out = stage()
    with pytest.raises(RuntimeError), shown.act("Attack"):
        raise RuntimeError
    assert "✗ stopped after" in out.getvalue()


def test_table_and_next_steps() -> None:
    shown, out = stage()
    shown.table("Money", ["", "EUR"], [["rules", 12], ["model [v2]", 3]])
    shown.next_steps([("make checklist", "where the code answers [4.3]")])
    assert "model [v2]" in out.getvalue()
    assert "  make checklist  where the code answers [4.3]\n" in out.getvalue()
