"""The stream of a page: what is new, twice a second, to so many browsers and no more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

EVERY = 0.5  # seconds between two looks at what is new
STREAMS = 20  # browsers at a time: each costs the service a millisecond a second
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Streams:
    """Those that are open; they end when `stopping` says so, or the service would wait for everybody who watches."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping, self._open = stopping, 0

    def answer(self, news: AsyncIterator[list[str]]) -> StreamingResponse:
        """`news` gives, whenever it is asked, the events since it was asked before."""
        if self._open >= STREAMS:
            raise HTTPException(503, f"{STREAMS} browsers watch already", headers={"Retry-After": "10"})
        return StreamingResponse(self._followed(news), media_type="text/event-stream", headers=HEADERS)

    async def _followed(self, news: AsyncIterator[list[str]]) -> AsyncIterator[str]:
        self._open += 1
        try:
            while not self._stopping():
                for text in await anext(news):
                    yield text
                await asyncio.sleep(EVERY)
        finally:
            self._open -= 1


def event(name: str, data: str) -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {data}\n\n"


def newest(*lines: Sequence[object]) -> tuple[int, ...]:
    """Another one when something was said in a line; lengths would not do, as the oldest are forgotten."""
    return tuple(id(line[-1]) if line else 0 for line in lines)
