"""The event stream of a page: changes, twice a second, to at most 20 clients."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.api import problem

EVERY = 0.5  # seconds between two looks at what is new
STREAMS = 20  # clients at a time: each costs the service a millisecond a second
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Streams:
    """Those that are open; they end when `stopping` says so, or the service would wait for every client."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.stopping, self.open = stopping, 0

    def answer(self, news: AsyncIterator[list[str]]) -> StreamingResponse:
        """`news` gives, whenever it is asked, the events since it was asked before."""
        return _Stream(self, news)


class _Stream(StreamingResponse):
    def __init__(self, streams: Streams, news: AsyncIterator[list[str]]) -> None:
        super().__init__(self._events(news), media_type="text/event-stream", headers=HEADERS)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counted here, and before the first await: nothing can come between the look, the count and its end."""
        if self._streams.open >= STREAMS:
            full = problem(503, f"{STREAMS} clients watch already", headers={"Retry-After": "10"})
            return await full(scope, receive, send)
        self._streams.open += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.open -= 1

    async def _events(self, news: AsyncIterator[list[str]]) -> AsyncIterator[str]:
        while not self._streams.stopping():
            for text in await anext(news):
                yield text
            await asyncio.sleep(EVERY)


def event(name: str, data: str) -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {data}\n\n"


def newest(*lines: Sequence[object]) -> tuple[int, ...]:
    """Another one when something was said in a line; lengths would not do, as the oldest are forgotten."""
    return tuple(id(line[-1]) if line else 0 for line in lines)
