"""The command line, and the ONE place where parts are built from settings."""

import gc
import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, suppress
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from fraud import config
from fraud.schema import EVENTS, TOPICS, Tick
from shared.champion import Champion
from shared.children import free_port
from shared.clock import Clock, SystemClock, VirtualClock
from shared.daemon import opened, opened_at_last, supervised, until_stopped
from shared.eventlog.port import Entry, EventLog, LogUnavailable
from shared.lake import Lake
from shared.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


class Parts(NamedTuple):
    """What every command is built from."""

    # [2.3] Three stores for three questions: the log keeps what came in which order, the lake is read a month at
    # a time to learn from, the store answers for one payment. The last two can be made again from the log.
    settings: Settings
    clock: Clock
    options: list[str]  # those that a child command has to be given

    def log(self) -> EventLog:
        return opened(self.settings, self.clock, TOPICS)

    def log_at_last(self) -> EventLog:
        return opened_at_last(self.settings, self.clock, TOPICS)

    def lake(self) -> Lake:
        return Lake(self.settings.var / "lake")

    @property
    def models(self) -> Path:
        return self.settings.var / "models"

    def fetch(self, artifact: str, digest: str) -> Path:
        """A model's folder from the registry. MLflow takes seconds to import: who has the files needs none."""
        from shared.registry import Registry

        return Registry(self.settings.mlflow, config.SERVICE).fetch(artifact, digest=digest, into=self.models)

    def child(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "fraud", *self.options, *command])


@app.callback()
def main(
    context: typer.Context,
    var: Annotated[Path | None, typer.Option(help="Folder of everything that is written.")] = None,
    log: Annotated[str, typer.Option(help="URL of the log.")] = "",
    virtual: Annotated[int | None, typer.Option(help="Time stands at these seconds, and goes with the log.")] = None,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    settings = settings if var is None else settings.under(var)
    settings = settings.model_copy(update={"log": log}) if log else settings
    options = ["--var", str(settings.var), "--log", settings.log]
    options += [] if virtual is None else ["--virtual", str(virtual)]
    context.obj = Parts(settings, SystemClock() if virtual is None else VirtualClock(virtual), options)


# [4.2] One code base and one log, but a process for each pace: the edge answers in milliseconds, the worker
# owns state, the monitor trains for a minute. A service for each noun would put a network between every two.
@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8000,
    host: str = "127.0.0.1",
    patience: Annotated[float, typer.Option(help="Seconds the worker waits for a partition that is behind.")] = 0.4,
    demo: Annotated[bool, typer.Option("--demo", help="For a demo: hear its visitor's wishes.")] = False,
) -> None:
    """The HTTP edge, the page to watch at /, and one worker beside it."""
    import uvicorn

    from fraud.serve import make_app
    from shared.store import open_store

    parts: Parts = context.obj
    try:  # before anything else starts: a second worker of that slot would take over from the first
        listener = socket.create_server((host, port))
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    settings, log = parts.settings, parts.log_at_last()
    stopping = threading.Event()
    command = ("worker", "--slot", "0", "--patience", str(patience), "--parent", str(os.getpid()))
    alive = supervised(lambda: parts.child(*command), stopping)
    if isinstance(parts.clock, SystemClock):
        threading.Thread(target=_tick, args=(log, parts.clock, stopping), daemon=True).start()
    app = make_app(
        log,
        open_store(settings.store),
        clock=parts.clock,
        api_key=settings.key("api_key"),
        pseudonym_key=settings.key("pseudonym_key"),
        deciders=alive,
        models=parts.models,
        registry=settings.registry_page,
        stopping=lambda: server.should_exit,  # or it would wait for everybody who watches
        visitor=settings.once("visitor") if demo and host == "127.0.0.1" else "",
    )
    # uvicorn ends in good order, and then sends itself the signal again; the worker has to end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    server = uvicorn.Server(about)
    try:
        with suppress(KeyboardInterrupt):
            server.run([listener])
    finally:
        stopping.set()
        alive()


@app.command()
def worker(
    context: typer.Context,
    slot: int = 0,
    patience: float = 0.4,
    parent: Annotated[int | None, typer.Option(help="Process that started this, and with which this ends.")] = None,
) -> None:
    """One decider; start as many as there are cores, each with a slot of its own."""
    from fraud.artifact import Artifact
    from fraud.stream import Worker

    parts: Parts = context.obj

    def work(stopping: threading.Event) -> None:
        with closing(parts.log()) as log:
            worker = Worker(
                log,
                parts.lake(),
                Champion(cache=parts.models, fetch=parts.fetch, load=Artifact.load),
                slot=slot,
                clock=parts.clock,
                snapshots=parts.settings.var / "snapshots",
                secret=parts.settings.key("pseudonym_key"),
                patience=patience,
            )
            worker.step(0.0)
            gc.collect()
            gc.freeze()  # windows that live on: walking them stops the stream for longer than a payment may wait
            while not stopping.is_set() and wanted():
                worker.step(0.25)
            worker.close()

    def wanted() -> bool:
        """A worker that outlived its supervisor would fight over the slot with the next one's."""
        return parent in (None, os.getppid())

    until_stopped(work, wanted=wanted)


@app.command()
def monitor(context: typer.Context, seed: int = 0) -> None:
    """Ingest, judge, retrain, release; carry out commands."""
    from fraud.monitor import Monitor
    from shared.registry import Registry

    parts: Parts = context.obj
    registry = Registry(parts.settings.mlflow, config.SERVICE)

    def watch(stopping: threading.Event) -> None:
        with closing(parts.log()) as log:
            monitor = Monitor(
                log,
                parts.lake(),
                registry,
                clock=parts.clock,
                seed=seed,
                fetch=lambda artifact, digest: registry.fetch(artifact, digest=digest, into=parts.models),
                pages=parts.settings.var / "reports",
            )
            while not stopping.is_set():
                monitor.step()
                stopping.wait(0.1)  # larger bites cost less
            monitor.close()

    until_stopped(watch)


@app.command()
def demo(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Days of live traffic.")] = 56,
    seed: int = 7,
    headless: Annotated[bool, typer.Option(help="End by itself.")] = False,
) -> None:
    """Months of a bank in a few minutes."""
    parts: Parts = context.obj
    port = free_port(8000)
    visitor = secrets.token_urlsafe(16)
    # Before the slow imports. The address opens the page once; the browser then has a session.
    print(f"http://127.0.0.1:{port}/?token={visitor}  opens when the service is up", flush=True)
    from fraud import demo as story

    story.run(parts.settings, port=port, days=days, seed=seed, headless=headless, visitor=visitor)


@app.command()
def replay(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="CSV or Parquet; the columns are in README.md."),
    ],
    days: Annotated[int, typer.Option(help="Days of the file to take; 0: all.")] = 0,
    seed: int = 7,
) -> None:
    """Payments that nobody here made, through the very same stages."""
    parts: Parts = context.obj
    from fraud import replay as story
    from fraud.history import Refused

    try:
        story.run(parts.settings, file, port=free_port(8000), days=days, seed=seed)
    except (Refused, story.TooShort) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="As for replay; without it, what the topics hold."),
    ] = None,
) -> None:
    """Take payments into the lake: a file's as the past, before anything is live; or those of the topics."""
    from fraud.demo import write_past
    from fraud.history import Refused
    from fraud.ingest import Ingest, refusals
    from fraud.replay import TooShort, take

    parts: Parts = context.obj
    if file is None:
        print(f"{Ingest(parts.log(), parts.lake()).catch_up():,} records taken in")
        return
    try:
        payments, letters = take(file, days=0)
    except (Refused, TooShort) as error:
        raise typer.BadParameter(str(error)) from error
    parts.log().append(refusals(letters))
    all_known = (payments["at"][-1] + config.MATURITY) // config.DAY * config.DAY + config.DAY
    write_past(parts.settings, payments, until=all_known, seed=0)
    print(f"{payments.height:,} payments taken in, {len(letters):,} rows refused: see the topic fraud.dead")


@app.command()
def train(context: typer.Context, seed: int = 0) -> None:
    """Learn from the lake as it is, and register the result; `promote` by command releases it."""
    from fraud.demo import learn, told
    from shared.console import Stage

    parts: Parts = context.obj
    days = parts.lake().dates("events")
    if not days:
        raise typer.BadParameter("the lake is empty: `python -m fraud ingest FILE` fills it")
    as_of = (days[-1] - date(1970, 1, 1)).days * config.DAY  # the last day may not be over
    print(told(learn(parts.settings, Stage(), as_of=as_of, seed=seed)))


def _tick(log: EventLog, clock: Clock, stopping: threading.Event) -> None:
    """Tell every partition the hour, at once and then as it changes, so that idle ones close theirs."""
    told = -math.inf
    while not stopping.wait(1.0 if told > 0 else 0.0):
        hour = clock.now() // config.HOUR * config.HOUR
        if hour > told:
            tick = Tick(at=hour).model_dump_json().encode()
            with suppress(LogUnavailable):  # then a second later
                log.append([Entry(EVENTS, "tick", tick, partition) for partition in range(EVENTS.partitions)])
                told = hour


if __name__ == "__main__":
    app()
