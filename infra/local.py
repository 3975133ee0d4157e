"""Real servers as local processes, without Docker: a single-node Kafka from an unpacked release.

`python -m infra.local up | status | down`; tests start brokers of their own through `Kafka`.
"""

import os
import signal
import socket
import subprocess
import sys
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes
from typing import Annotated

import typer
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from shared.clock import monotonic, sleep
from shared.settings import Settings

PORT = 9092  # of the broker; its controller listens on the next one
START, STOP = 60.0, 30.0  # seconds to wait for each

WHERE = """Where is Kafka? Set KAFKA_HOME to the folder of an unpacked release (the one with libs/ in it), from
https://kafka.apache.org/downloads. It needs Java 17 or newer, and nothing else."""

# From offsets.retention on: committed offsets never expire, so that no worker decides old payments again after a
# holiday; a dead worker's transaction ends when it times out, not up to ten seconds later; tests may use short
# sessions; few internal partitions, small buffers and no topics by accident suit one node; and a broker that was
# killed is let in again after three seconds, not after the nine that its predecessor's session would have.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
offsets.retention.minutes=2147483647
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.min.session.timeout.ms=500
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
log.cleaner.dedupe.buffer.size=16777216
auto.create.topics.enable=false
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

LOGGING = """\
<Configuration status="ERROR">
  <Appenders>
    <File name="file" fileName="{folder}/kafka.log"><PatternLayout pattern="%d %p %c: %m%n"/></File>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"""


class NotStarted(Exception):
    """A server cannot be started: why, and what to do."""


class Kafka:
    """A broker and its controller in one process, with all it writes in one folder.

    `advertised` is the port that clients are told: that of a proxy, when one stands between.
    """

    def __init__(self, home: Path | None, folder: Path, *, port: int = PORT, controller: int = 0, advertised: int = 0):
        self._home, self._folder = home, folder.absolute()
        self.port, self._controller, self._advertised = port, controller or port + 1, advertised or port
        self._properties = self._folder / "server.properties"
        self._pid = self._folder / "kafka.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self._advertised}"

    @property
    def pid(self) -> int | None:
        """The process, if it runs: a number in a file alone may belong to another process by now."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        if not self._pid.exists():
            return None
        number = self._pid.read_text()
        shown = subprocess.run(["ps", "-p", number, "-o", "args="], capture_output=True, text=True, check=False)
        return int(number) if f"kafka.Kafka {self._properties}" in shown.stdout else None

    def start(self) -> None:
        """Start it, formatted if it is new; returns when it answers.

        Raises:
            NotStarted: no Kafka, no Java, a port that is taken, or it does not come up.
        """
        if self.pid is not None:
            return
        home = self._home
        if home is None or not any((home / "libs").glob("kafka*.jar")):
            raise NotStarted(WHERE if home is None else f"No Kafka in KAFKA_HOME={home}.\n{WHERE}")
        for port in (self.port, self._controller):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    raise NotStarted(f"Port {port} is taken by another process; end that, or choose another --port.")
        self._folder.mkdir(parents=True, exist_ok=True)
        logging = self._folder / "log4j2.xml"
        logging.write_text(LOGGING.format(folder=self._folder))
        self._properties.write_text(
            PROPERTIES.format(
                folder=self._folder, port=self.port, controller=self._controller, advertised=self._advertised
            )
        )
        java = ["java", f"-Dlog4j2.configurationFile={logging}", "-cp", f"{home.absolute()}/libs/*"]
        if not (self._folder / "data" / "meta.properties").exists():
            self._format(java)
        command = [*java[:1], "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", *java[1:], "kafka.Kafka"]
        with (self._folder / "kafka.out").open("ab") as out:
            # A session of its own: Ctrl-C in the shell that started it does not end it.
            self._process = subprocess.Popen(
                [*command, str(self._properties)], stdout=out, stderr=out, start_new_session=True
            )
        self._pid.write_text(str(self._process.pid))
        self._await()

    def _format(self, java: list[str]) -> None:
        identity = urlsafe_b64encode(b"\0" + token_bytes(15)).decode().rstrip("=")  # never with a minus in front
        tool = [*java, "kafka.tools.StorageTool", "format", "--standalone", "--cluster-id", identity]
        try:
            subprocess.run([*tool, "-c", str(self._properties)], capture_output=True, text=True, check=True)
        except FileNotFoundError as error:
            raise NotStarted("There is no java on the path; Kafka needs Java 17 or newer.") from error
        except subprocess.CalledProcessError as error:
            raise NotStarted(f"Kafka's storage cannot be formatted: {error.stderr or error.stdout}") from error

    def _await(self) -> None:
        """Ready means that topics can be listed, not that the port is open."""
        assert self._process is not None
        until = monotonic() + START
        while monotonic() < until and self._process.poll() is None:
            sleep(0.1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)):
                    continue  # the client would go on trying in a thread of its own
            with suppress(KafkaError), KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.port}") as admin:
                admin.list_topics()
                return
        self.kill()
        raise NotStarted(f"Kafka does not come up; see {self._folder}/kafka.out and kafka.log")

    def stop(self) -> bool:
        """End it in good order; whether it ran."""
        return self._end(signal.SIGTERM)

    def kill(self) -> bool:
        """End it without warning; whether it ran."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> bool:
        if (pid := self.pid) is None:
            return False
        until = monotonic() + STOP
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            while self.pid is not None:
                if monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                sleep(0.05)
        self._process = None
        self._pid.unlink(missing_ok=True)
        return True


def local(port: int | None = None) -> Kafka:
    """The one that `make up` starts; without a port, at the one where it was started last."""
    settings = Settings()
    folder = settings.var / "servers" / "kafka"
    last = folder / "port"
    if port is None:
        port = int(last.read_text()) if last.exists() else PORT
    else:
        folder.mkdir(parents=True, exist_ok=True)
        last.write_text(str(port))
    return Kafka(settings.kafka_home, folder, port=port)


app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def up(port: Annotated[int, typer.Option(help="Of the broker; its controller takes the next one.")] = PORT) -> None:
    """Start what does not run yet."""
    try:
        kafka = local() if local().pid else local(port)
        kafka.start()
    except NotStarted as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{kafka.url}  Kafka\n\nnext:  make demo-fraud LOG={kafka.url}")


@app.command()
def status() -> None:
    """What runs, and where."""
    kafka = local()
    print(f"{kafka.url}  Kafka, process {kafka.pid}" if kafka.pid else "Kafka does not run: make up")


@app.command()
def down() -> None:
    """End what `up` started, and nothing else."""
    kafka = local()
    print("Kafka has ended" if kafka.stop() else "Kafka does not run")


if __name__ == "__main__":
    app()
