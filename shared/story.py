"""The steps of a demo, for the console and the page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from shared.clock import Clock
from shared.messages import Message

if TYPE_CHECKING:  # readers of scenes need no console
    from shared.console import Act, Stage


class Scene(Message):
    """One act; told when it begins, and again when it is over."""

    kind: Literal["scene"] = "scene"
    number: int
    title: str
    at: int  # event time, seconds
    outcome: str = ""  # once it is over
    marks: str = ""  # what begins with it, for the charts


@contextmanager
def scene(
    stage: "Stage", title: str, *, clock: Clock, tell: Callable[[Scene], None], marks: str = ""
) -> "Iterator[Act]":
    """An act on the console, and by `tell` on the page; `marks` is what begins with it."""
    with stage.act(title) as act:
        begun = Scene(number=len(stage.acts), title=title, at=clock.now(), marks=marks)
        tell(begun)
        yield act
    tell(begun.model_copy(update={"outcome": act.outcome}))
