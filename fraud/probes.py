"""Test payments of the operator, at a fixed rate over HTTP, on cards and terminals of their own.

Open loop: each has its moment, and its latency counts from then, whether or not the one before has
been answered. They run in a process of their own, so that they measure the service and not the demo.
"""

import http.client
import json
import multiprocessing
import signal
import threading
from collections import deque
from multiprocessing.sharedctypes import Synchronized
from typing import Any, NamedTuple

from fraud import config
from shared.clock import perf_counter, sleep

LATEST = 1_000_000  # answers that are kept, and a hundredth as many failures: a demo goes on until Ctrl-C
SENDERS = 32  # connections: more than wait at a time, or the loop would be closed


class Answers(NamedTuple):
    latencies: list[float]  # seconds, of all answers, from the intended moment
    failures: list[str]  # what was said to requests without a decision
    paths: dict[str, int]  # who decided


class Probes:
    """Sends until `stop`; `now` is the event time that they are stamped with, `name` what their ids begin with.

    The gateway's virtual clock goes by the decisions that it has read. So that it refuses no test payment, none is
    stamped further ahead of the latest one `answered` than a payment may be.
    """

    def __init__(self, port: int, operator_key: str, *, rate: float, now: int, name: str = "probe") -> None:
        context = multiprocessing.get_context("spawn")
        self.now: Synchronized[int] = context.Value("q", now)
        self.answered: Synchronized[int] = context.Value("q", now)  # event time of the latest one with a decision
        self._stopping = context.Event()
        self._results: Any = context.SimpleQueue()
        arguments = (port, operator_key, rate, self.now, self.answered, name, self._stopping, self._results)
        self._process = context.Process(target=_send_all, args=arguments, daemon=True)
        self._process.start()

    def stop(self) -> Answers:
        self._stopping.set()
        answers = Answers(*self._results.get())
        self._process.join()
        return answers


def _send_all(
    port: int,
    operator_key: str,
    rate: float,
    now: "Synchronized[int]",
    answered: "Synchronized[int]",
    name: str,
    stopping: Any,
    results: Any,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, and this ends with it
    headers = {"X-API-Key": operator_key, "Content-Type": "application/json"}
    latencies: deque[float] = deque(maxlen=LATEST)
    paths: dict[str, int] = {}
    failures: deque[str] = deque(maxlen=LATEST // 100)
    start, lock, count = perf_counter(), threading.Lock(), 0

    def send() -> None:
        nonlocal count
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        while not stopping.is_set():
            with lock:
                number, count = count, count + 1
            moment = start + number / rate
            sleep(max(0.0, moment - perf_counter()))
            at = min(now.value, answered.value + config.MAX_AHEAD)
            payment = {
                "card": f"probe-card-{number % 50}",
                "id": f"{name}-{number}",
                "terminal": f"probe-terminal-{number % 10}",
                "at": at,
                "cents": 1_000 + number % 5_000,
                "probe": True,
            }
            try:
                connection.request("POST", "/v1/decisions", json.dumps(payment), headers)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    raise OSError(f"{response.status}: {body[:200]!r}")
                path = json.loads(body)["path"]
                with lock:
                    latencies.append(perf_counter() - moment)
                    paths[path] = paths.get(path, 0) + 1
                    answered.value = max(answered.value, at)
            except (OSError, http.client.HTTPException) as error:
                failures.append(str(error))
                connection.close()

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    results.put((list(latencies), list(failures), paths))
