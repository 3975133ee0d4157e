"""Races, on purpose."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Got = TypeVar("Got")


def at_once(*calls: Callable[[], Got]) -> list[Got]:
    """What threads get, one a call, that all start at the same moment; raises what one of them raises."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Got]) -> Got:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
