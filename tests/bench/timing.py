"""What the benches measure with."""

from collections.abc import Callable

from shared.clock import perf_counter


def per_call(call: Callable[[], object], *, calls: int = 300) -> float:
    """Seconds, the mean of many calls."""
    began = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - began) / calls
