"""Test payments against a gateway whose time goes by what it has decided, as on a virtual clock."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fraud.config import DAY, MAX_AHEAD
from fraud.probes import SENDERS, Probes
from shared.clock import monotonic, sleep

START = 1_767_225_600


@contextmanager
def gateway(start: int) -> Iterator[int]:
    """The port of one that refuses what is too far ahead of the latest payment that it has decided."""

    class Handler(BaseHTTPRequestHandler):
        now = start

        def do_POST(self) -> None:
            at = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["at"]
            refused = at > Handler.now + MAX_AHEAD
            if not refused:
                Handler.now = max(Handler.now, at)
            self.send_response(422 if refused else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"path": "rules", "at": at, "now": Handler.now}).encode())

        def log_message(self, *_: object) -> None:
            """Tests are silent."""

    class Server(ThreadingHTTPServer):
        request_queue_size = SENDERS  # all may connect at once

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_a_gap_of_days_is_crossed_in_steps_that_the_gateway_takes() -> None:
    with gateway(START) as port:
        probes = Probes(port, "key", rate=200.0, now=START)
        probes.now.value = START + 5 * DAY
        until = monotonic() + 20
        while probes.answered.value < probes.now.value and monotonic() < until:
            sleep(0.01)
        answers = probes.stop()
    assert answers.failures == []
    assert probes.answered.value == START + 5 * DAY
