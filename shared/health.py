"""Readiness and liveness of a serving process, put together from its threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.clock import monotonic
from shared.follower import Follower
from shared.supervised_thread import SupervisedThread

LOOP_STALLED = 30.0  # seconds without a heartbeat of the event loop after which the process counts as hung


@dataclass
class Health:
    """`needed` are the followers that answers depend on; what `shown` knows only stands on the page.

    `threads` are the others that the process needs; `service` adds a reason of the service's own, `warns` a warning.
    """

    needed: Sequence[Follower]
    shown: Sequence[Follower] = ()
    threads: Sequence[SupervisedThread] = ()
    service: Callable[[], str] = lambda: ""
    warns: Callable[[], str] = lambda: ""
    beat: float = field(default_factory=monotonic)  # of the event loop; moved by the app

    def ready(self) -> str:
        """Why requests should not be sent; empty if they may."""
        reasons = [follower.ready() for follower in self.needed]
        reasons += [thread.trouble for thread in self.threads]
        return next(filter(None, [*reasons, self.service()]), "")

    def warnings(self) -> list[str]:
        """What is wrong, and does not keep the service from answering."""
        said = [warning for follower in (*self.needed, *self.shown) for warning in follower.warnings()]
        late = [(follower.ready(), follower.age()) for follower in self.shown]
        said += [f"page: {why} ({age:.0f} s old)" for why, age in late if why]
        return said + list(filter(None, [self.warns()]))

    def live(self) -> str:
        """Why only a new process helps; empty if this one can go on."""
        if (silent := monotonic() - self.beat) > LOOP_STALLED:
            return f"the event loop has not run for {silent:.0f} s"
        threads = [*(follower.thread for follower in (*self.needed, *self.shown)), *self.threads]
        return next(filter(None, (thread.fatal_reason() for thread in threads)), "")
