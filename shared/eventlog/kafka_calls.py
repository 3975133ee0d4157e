"""Calls to a broker with a time limit; nothing is left running."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from shared.eventlog.port import LogUnavailable

T = TypeVar("T")

ANSWER = 5.0  # seconds for the broker to answer
GIVE_UP = 9.0  # seconds after which a call ends, whatever became of it
LOOK = 0.05  # seconds to wait for what is known to come


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call gives, or TimeoutError: some calls of the library wait for a dead broker for ever."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def made(kind: Callable[..., T], **options: Any) -> T:
    """A client; one that finds no broker would leave its thread and its sockets behind."""
    networks: list[KafkaNetClient] = []

    def network(**config: Any) -> KafkaNetClient:
        networks.append(KafkaNetClient(**config))
        return networks[-1]

    try:
        return kind(kafka_client=network, **options)
    except BaseException:
        for opened in networks:
            opened.close()
        raise


@contextmanager
def or_unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"{what}: {type(error).__name__} {error}") from error


def end(producer: KafkaProducer) -> None:
    """At once: what is still in its buffer is given up, as the writer has been told."""
    producer._sender.force_close()  # `close` alone raises, and goes on sending, when the broker is away
    with suppress(KafkaError):
        producer.close(timeout=1)
