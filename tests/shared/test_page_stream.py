"""The limit of event streams, with clients that come and go all at once, before a real server."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from shared.clock import monotonic, sleep
from shared.page.stream import STREAMS, Streams, event, newest

CLIENTS = 100


class Served:
    """An app with one stream, in a thread."""

    def __init__(self) -> None:
        self.stopping = False
        self.streams = Streams(lambda: self.stopping)
        self.fails = False
        app = FastAPI()

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            await asyncio.sleep(0.01)  # as looking up a session may take
            return self.streams.answer(self.news())

        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/stream"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", loop="uvloop", http="httptools"))
        self.thread = threading.Thread(target=self.server.run, args=[[self.listener]])

    async def news(self) -> AsyncIterator[list[str]]:
        n = 0
        while True:
            n += 1
            if self.fails:
                raise RuntimeError("a fault of ours")
            yield [event("state", f'{{"n": {n}}}')]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("shared.page.stream.EVERY", 0.02)
    served = Served()
    served.thread.start()
    yield served
    served.stopping = served.server.should_exit = True
    served.thread.join()
    served.listener.close()


async def watched(url: str, clients: int) -> list[httpx.Response]:
    """The answers that so many clients get who come at once, and stay until all have theirs."""
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client, AsyncExitStack() as opened:
        streams = [opened.enter_async_context(client.stream("GET", url)) for _ in range(clients)]
        answers = await asyncio.gather(*streams)
        for answer in answers:
            if answer.status_code == 200:
                assert await anext(answer.aiter_text()) == 'event: state\ndata: {"n": 1}\n\n'
            else:
                await answer.aread()
        return answers


def free(served: Served) -> None:
    """Waits until the server has noticed that its clients are gone."""
    until = monotonic() + 10
    while served.streams.open:
        assert monotonic() < until, served.streams.open
        sleep(0.01)


def test_of_a_hundred_that_connect_at_once_twenty_are_served(served: Served) -> None:
    for _ in range(2):
        answers = asyncio.run(watched(served.url, CLIENTS))
        assert Counter(answer.status_code for answer in answers) == {200: STREAMS, 503: CLIENTS - STREAMS}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.json()["detail"] == "20 clients watch already"
                assert answer.headers["retry-after"] == "10"
                assert answer.headers["content-type"] == "application/problem+json"
            else:
                assert answer.headers["content-type"].startswith("text/event-stream")
        free(served)


def test_clients_that_leave_before_they_are_answered_leave_their_place(served: Served) -> None:
    port = served.listener.getsockname()[1]
    for _ in range(CLIENTS):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    until = monotonic() + 10
    while {answer.status_code for answer in asyncio.run(watched(served.url, STREAMS))} != {200}:
        assert monotonic() < until, served.streams.open  # some are still on their way in
        sleep(0.1)


def test_a_stream_that_fails_leaves_its_place(served: Served) -> None:
    served.fails = True
    for _ in range(STREAMS + 1):
        with pytest.raises(httpx.HTTPError), httpx.stream("GET", served.url) as answer:
            answer.read()
    assert served.streams.open == 0


def test_streams_end_when_the_service_stops(served: Served) -> None:
    timer = threading.Timer(0.2, lambda: setattr(served, "stopping", True))
    timer.start()
    assert httpx.get(served.url, timeout=20).text.startswith("event: state\n")
    timer.join()


def test_the_newest_line_of_each_list_is_told_apart() -> None:
    first, second = object(), object()
    assert newest([], [first]) == newest([], [first]) != newest([], [first, second])
    assert newest([]) == (0,)
