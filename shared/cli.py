"""What all command lines share: parts from the settings, servers, worker slots, loops, and one-sentence errors."""

import fcntl
import json
import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

from shared.champion import is_digest, whole
from shared.clock import Clock, SystemClock, VirtualClock, monotonic, sleep
from shared.dependencies import DEPENDENCY_ERRORS, DependencyUnavailable
from shared.eventlog import open_log
from shared.eventlog.port import DAY, Entry, EventLog, Fenced, LogUnavailable, Topic, for_ever
from shared.lake import Lake, LakeCorrupt
from shared.lake_rebuild import put_back
from shared.old_lake import take_over
from shared.privacy import masked
from shared.settings import Settings, ask_no_proxy_for_this_machine, check_driver, read_settings
from shared.supervised_thread import SupervisedThread
from shared.unusable import Unusable

if TYPE_CHECKING:
    from fastapi import FastAPI

    from shared.auth import Keys
    from shared.registry import Registry
    from shared.store.port import Store
    from shared.table_files.cells import Spelling

SLOTS = 64  # workers of one machine at most
LOOK = 0.25  # seconds between two looks at a child
PAUSE = 0.5  # seconds before a loop or a process that ended begins again; doubled when it ends again and again
LONGEST_PAUSE = 10.0  # seconds
STEADY = 60.0  # seconds that it has to run before its earlier failures are forgotten

logger = logging.getLogger(__name__)


# The names are those of the variables of make, which hands them on in the environment.
Dates = Annotated[
    Literal["dmy", "mdy"] | None, typer.Option(envvar="DATES", help="Whether the day or the month comes first.")
]
Decimal = Annotated[Literal[".", ","] | None, typer.Option(envvar="DECIMAL", help="What sets off the fractions.")]


class Commands(TyperGroup):
    """The commands of a service. What a person can mend ends one with a sentence and exit code 2, not a traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer names its own click nowhere else
        try:
            return super().invoke(ctx)
        except (Unusable, DependencyUnavailable, LakeCorrupt) as error:
            raise typer.BadParameter(str(error)) from error
        except OSError as error:  # a disk that is full or read-only, a folder that is none
            said = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            raise typer.BadParameter(said) from error


class MaskedLines(logging.Formatter):
    """Lines of the log that name no person, whatever a message or the error behind it quotes."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class Runtime:
    """The parts of one service, built from its settings.

    `models` is the folder, below `var`, of what is fetched from the registry; `options` are given to child commands;
    `tables` are those of its lake, each with a column that tells it from another service's.
    """

    def __init__(
        self,
        service: str,
        topics: Sequence[Topic],
        *,
        var: Path | None,
        log: str,
        virtual: int | None,
        models: str = "models",
        options: Sequence[str] = (),
        tables: Mapping[str, str] | None = None,
    ) -> None:
        for stream in (sys.stdout, sys.stderr):  # a terminal without Unicode gets question marks
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        handler = logging.StreamHandler()
        handler.setFormatter(MaskedLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        settings = read_settings()
        settings = settings if var is None else settings.under(var)
        if found := set("%?#") & set(str(settings.var)):
            said = f"the folder {settings.var} has {' and '.join(sorted(found))} in its name"
            raise typer.BadParameter(f"{said}, which means something in a URL: choose another one in MLSD_VAR or --var")
        ask_no_proxy_for_this_machine()
        self.settings = settings.model_copy(update={"log": log}) if log else settings
        try:
            check_driver(settings.mlflow)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        take_over(self.settings.var, self.settings.lake(service), tables or {})
        self.service, self.topics = service, topics
        self.clock: Clock = SystemClock() if virtual is None else VirtualClock(virtual)
        self.models = self.settings.var / models
        self.options = ["--var", str(self.settings.var), "--log", self.settings.log, *options]
        self.options += [] if virtual is None else ["--virtual", str(virtual)]

    def key(self, name: str) -> bytes:
        """The secret of that name. Raises typer.BadParameter: it is empty."""
        try:
            return self.settings.key(name)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def keys(self) -> "Keys":
        """What callers show, one secret a role. Raises typer.BadParameter: one is empty, or two are the same."""
        from shared.auth import Keys

        given = {role: self.key(f"{role}_key") for role in ("client", "analyst", "operator")}
        try:
            return Keys(self.service, **given)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def open_log(self, *, wait: bool = False) -> EventLog:
        """The log, with the topics of the service; `wait`: however long it is away.

        Raises:
            LogUnavailable: it is away, without `wait`.
            typer.BadParameter: it is none that this version can read.
            Unusable: the settings want topics kept as they cannot be.
        """
        while True:
            try:
                log = open_log(self.settings.log, clock=self.clock)
                try:
                    log.create(self._kept())
                except BaseException:
                    log.close()
                    raise
                return log
            except ValueError as error:
                raise typer.BadParameter(str(error)) from error
            except LogUnavailable as error:
                if not wait:
                    raise
                logger.warning("waiting for the log: %s", error)
                sleep(PAUSE)

    def _kept(self) -> list[Topic]:
        """The topics, each with the days for which the settings want it kept.

        With a virtual clock, which only demos and replays have, all records stay: the closing report reads them.

        Raises:
            Unusable: the settings name a topic that there is not, or days that it cannot have.
        """
        wanted = self.settings.retention
        if unknown := wanted.keys() - {topic.name for topic in self.topics}:
            from shared.checklist import SERVICES

            # Those of other services are theirs to check.
            unknown = {name for name in unknown if name.partition(".")[0] not in {*SERVICES} - {self.service}}
        if unknown:
            known = ", ".join(topic.name for topic in self.topics)
            raise Unusable(f"MLSD_RETENTION names {', '.join(sorted(unknown))}; the topics are {known}")
        for topic in self.topics:
            days = wanted.get(topic.name)
            if days is not None and topic.days is None:
                raise Unusable(f"MLSD_RETENTION gives {topic.name} {days} days, and it has to be kept for ever")
            if days is not None and days < topic.least:
                raise Unusable(f"MLSD_RETENTION gives {topic.name} {days} days, and it needs {topic.least} at least")
        if isinstance(self.clock, VirtualClock):
            return for_ever(self.topics)
        return [topic._replace(days=wanted.get(topic.name, topic.days)) for topic in self.topics]

    def lake(self) -> Lake:
        return Lake(self.settings.lake(self.service))

    @contextmanager
    def using_lake(self, *, alone: bool = False) -> Iterator[Lake]:
        """The lake, for a command that writes to it; or `alone`, for the one that makes it again.

        Raises:
            typer.BadParameter: it is being made again; or, alone, another command writes to it.
        """
        said = "stop the commands that write to it first" if alone else "it is being made again; try when that is over"
        with ExitStack() as held:
            try:
                held.enter_context(claim(self.settings.var, f"{self.service}-lake", alone=alone))
            except Held as error:
                raise typer.BadParameter(f"the lake of {self.service} is in use: {said}") from error
            put_back(lake := self.lake())
            yield lake

    def store(self, source: Topic) -> "Store":
        """Views of a topic; they keep rows as long as the log keeps the topic."""
        from shared.store import open_store

        (days,) = (topic.days for topic in self._kept() if topic.name == source.name)
        return open_store(self.settings.store, clock=self.clock, keep=None if days is None else days * DAY)

    def registry(self) -> "Registry":
        """MLflow takes seconds to import, so a process that has its files at hand never does."""
        from shared.registry import Registry

        return Registry(self.settings.mlflow, self.service)

    def fetch(self, artifact: str, digest: str) -> Path:
        """The folder of a bundle. The registry, which may be away, is not asked for files that are at hand."""
        if is_digest(digest) and whole(folder := self.models / digest, digest):
            return folder
        return self.registry().fetch(artifact, digest=digest, into=self.models)

    def promotion(self, version: str, *, in_force: str, port: int) -> str:
        """What a person types next, to put a version in force; `port`: that of `serve`."""
        wanted = json.dumps({"kind": "promote", "version": version, "expected_champion": in_force})
        return (
            f"To release it, while serve and monitor run:\ncurl http://127.0.0.1:{port}/v1/commands"
            f' -H "X-API-Key: $(cat {shlex.quote(str(self.settings.var / "operator_key.secret"))})"'
            f" -H \"Content-Type: application/json\" -d '{wanted}'"
        )

    def child(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", self.service, *self.options, *command])


def listen(host: str, port: int) -> socket.socket:
    """The socket of a server, taken before anything else starts. Raises typer.BadParameter: it is taken."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {said}; choose another --port") from error


def run_server(
    make_app: "Callable[[Callable[[], bool]], FastAPI]", listener: socket.socket, *, settings: Settings
) -> None:
    """Serve until SIGINT or SIGTERM. `make_app` is given a function that says whether the server is about to end."""
    import uvicorn

    app = make_app(lambda: server.should_exit)
    # uvicorn ends in good order, and then sends itself the signal again; what stands beside it has to end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Without handlers of its own: what a request raised is logged as all else is, and names no person.
    about = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    server = uvicorn.Server(about)
    host, port = listener.getsockname()[:2]
    typer.echo(
        f"http://{host}:{port} shows the page, and /docs there the API. Callers send a key as X-API-Key:"
        f" {settings.var}/<role>_key.secret has it, unless MLSD_<ROLE>_KEY sets it"
    )
    with suppress(KeyboardInterrupt):
        server.run([listener])


def run_until_stopped(run: Callable[[threading.Event], None], *, wanted: Callable[[], bool] = lambda: True) -> None:
    """Run until SIGINT or SIGTERM; whatever it raises, begin afresh with nothing remembered.

    `wanted` is asked before each beginning, so that a process which fails while it starts still ends with its parent.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    pause = PAUSE
    while not stopping.is_set() and wanted():
        began = monotonic()
        try:
            run(stopping)
        except typer.BadParameter:
            raise
        except (Fenced, *DEPENDENCY_ERRORS) as error:
            logger.warning("beginning afresh: %s", error)
            stopping.wait(PAUSE)
        except Exception:
            pause = longer(pause, began)
            logger.exception("beginning afresh in %s s after an error", pause)
            stopping.wait(pause)


def longer(pause: float, began: float) -> float:
    """The pause before what began at a time, and has failed, begins again."""
    return PAUSE if monotonic() - began > STEADY else min(pause * 2, LONGEST_PAUSE)


class SupervisedProcess:
    """A child command that is started again when it ends, until it is stopped."""

    def __init__(self, start: "Callable[[], subprocess.Popen[bytes]]") -> None:
        self._start_child = start
        self._child = start()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        return self._child.poll() is None

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._child.terminate()
        self._child.wait()

    def _watch(self) -> None:
        pause, began = PAUSE, monotonic()
        while not self._stopping.wait(LOOK):
            if self.alive():
                continue
            if self._child.returncode > 0:  # it failed by itself: one that cannot start must not take a whole core
                pause = longer(pause, began)
                self._stopping.wait(pause)
            began = monotonic()
            if not self._stopping.is_set():
                with suppress(OSError):  # such as no memory: the next look tries again
                    self._child = self._start_child()


class Held(typer.BadParameter):
    """Another process on this machine has the name."""


def spelling_of(dates: str | None, decimal: str | None, *, now: int) -> "Spelling":
    """How a file that a person named writes its dates and numbers; `now`: seconds since the epoch."""
    from shared.table_files.cells import Spelling

    return Spelling(dates=dates or "", decimal=decimal or "", now=now)


@contextmanager
def claim(folder: Path, name: str, *, alone: bool = True) -> Iterator[None]:
    """Hold a name, such as `fraud-monitor`, on this machine; at most one process does.

    Not `alone`: together with others that do not want it for themselves either.

    It is a lock on a file in `folder`, so it is free again when the process ends, even by SIGKILL. Machines do not
    share it.

    Raises:
        Held: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            said = f"{name} is already running on this machine (process {holder}, {file.name}); stop that process first"
            raise Held(said) from None
        if alone:
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


@contextmanager
def claim_slot(folder: Path, service: str, given: int | None = None) -> Iterator[int]:
    """The lowest worker slot of the service that no other process on this machine holds, or the one that was given.

    The supervisor holds it as long as it lives, so a worker that is restarted keeps its slot. Across machines no lock
    is shared: there the operator gives each worker its own.

    Raises:
        typer.BadParameter: the slot that was given is held, or all are.
    """
    with ExitStack() as held:
        for slot in range(SLOTS) if given is None else [given]:
            try:
                held.enter_context(claim(folder, f"{service}-worker-{slot}"))
            except Held:
                continue
            yield slot
            return
    said = f"worker slot {given} is" if given is not None else f"all {SLOTS} worker slots are"
    raise typer.BadParameter(f"{said} held by another process on this machine; choose another --slot")


def ticking(log: EventLog, topic: Topic, make: Callable[[int], bytes], *, clock: Clock, every: int) -> SupervisedThread:
    """A thread that tells every partition the time, at once and then every `every` seconds, so that idle ones go on.

    `make` gives the message of a tick at an event time.
    """
    told = -math.inf

    def tell(stopping: threading.Event) -> None:
        nonlocal told
        while not stopping.wait(0.0 if told == -math.inf else 1.0):
            now = clock.now() // every * every
            if now > told:
                log.append([Entry(topic, "tick", make(now), partition) for partition in range(topic.partitions)])
                told = now
            thread.healthy()

    thread = SupervisedThread("ticks", tell)
    thread.start()
    return thread
