"""The command line, and the ONE place where parts are built from settings."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sentiment import config
from sentiment.schema import POSTS, TOPICS, Tick
from shared import public_data
from shared.champion import Champion
from shared.children import free_port
from shared.clock import Clock, SystemClock, VirtualClock
from shared.daemon import opened, opened_at_last, supervised, until_stopped
from shared.eventlog.port import Entry, EventLog, LogUnavailable
from shared.lake import Lake
from shared.settings import Settings

if TYPE_CHECKING:  # half a second of imports, which not every command needs
    from sentiment.artifact import Artifact
    from sentiment.mentions import Brands
    from sentiment.opinions import Reader

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


class Parts(NamedTuple):
    """What every command is built from."""

    # [2.3] The log keeps what came in which order; the lake what is learnt and counted again from, a day at a time;
    # the batch view is a file an hour and version, so that publishing is one rename and a request opens few files.
    settings: Settings
    clock: Clock
    brands: str  # the section of brands.toml
    options: list[str]  # those that a child command has to be given

    def log(self) -> EventLog:
        return opened(self.settings, self.clock, TOPICS)

    def log_at_last(self) -> EventLog:
        return opened_at_last(self.settings, self.clock, TOPICS)

    def lake(self) -> Lake:
        return Lake(self.settings.var / "lake")

    def table(self) -> "Brands":
        from sentiment.mentions import Brands

        return Brands.read(self.brands)

    def reader(self) -> "Reader":
        from sentiment.opinions import Reader

        return Reader(self.table(), secret=self.settings.key("pseudonym_key"))

    def champion(self) -> "Champion[Artifact]":
        from sentiment.artifact import Artifact

        return Champion(cache=self.settings.var / "models", fetch=self.fetch, load=Artifact.load)

    def fetch(self, artifact: str, digest: str) -> Path:
        """A model's folder from the registry. MLflow takes seconds to import: who has the files needs none."""
        from shared.registry import Registry

        registry = Registry(self.settings.mlflow, config.SERVICE)
        return registry.fetch(artifact, digest=digest, into=self.settings.var / "models")

    def child(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "sentiment", *self.options, *command])


@app.callback()
def main(
    context: typer.Context,
    var: Annotated[Path | None, typer.Option(help="Folder of everything that is written.")] = None,
    log: Annotated[str, typer.Option(help="URL of the log.")] = "",
    virtual: Annotated[int | None, typer.Option(help="Time stands at these seconds, and goes with the log.")] = None,
    brands: Annotated[str, typer.Option(help="Section of brands.toml.")] = "simulated",
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    settings = settings if var is None else settings.under(var)
    settings = settings.model_copy(update={"log": log}) if log else settings
    options = ["--var", str(settings.var), "--log", settings.log, "--brands", brands]
    options += [] if virtual is None else ["--virtual", str(virtual)]
    context.obj = Parts(settings, SystemClock() if virtual is None else VirtualClock(virtual), brands, options)


# [4.2] One code base and one log, but a process for each pace: the edge answers in milliseconds, the worker scores
# for seconds, batch counts an hour, the monitor trains for minutes. Each may die without the others.
@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8000,
    host: str = "127.0.0.1",
    demo: Annotated[bool, typer.Option("--demo", help="For a demo: let its visitor in.")] = False,
) -> None:
    """The HTTP edge, the page to watch at /, and one worker beside it."""
    import uvicorn

    from sentiment.edge import Edge
    from sentiment.serve import make_app

    parts: Parts = context.obj
    try:  # before anything else starts: a second worker of that slot would take over from the first
        listener = socket.create_server((host, port))
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    settings, log = parts.settings, parts.log_at_last()
    stopping = threading.Event()
    alive = supervised(lambda: parts.child("worker", "--slot", "0", "--parent", str(os.getpid())), stopping)
    if isinstance(parts.clock, SystemClock):
        threading.Thread(target=_tick, args=(log, parts.clock, stopping), daemon=True).start()
    app = make_app(
        lambda metrics: Edge(log, parts.champion(), folder=settings.var / "batch", clock=parts.clock, metrics=metrics),
        parts.reader(),
        clock=parts.clock,
        api_key=settings.key("api_key"),
        pseudonym_key=settings.key("pseudonym_key"),
        workers=alive,
        models=settings.var / "models",
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
    parent: Annotated[int | None, typer.Option(help="Process that started this, and with which this ends.")] = None,
) -> None:
    """Scores and counts; start as many as there are cores, each with a slot of its own."""
    from sentiment.stream import Worker

    parts: Parts = context.obj

    def wanted() -> bool:
        """A worker that outlived its supervisor would fight over the slot with the next one's."""
        return parent in (None, os.getppid())

    def work(stopping: threading.Event) -> None:
        with closing(parts.log()) as log:
            worker = Worker(log, parts.champion(), parts.reader(), slot=slot, clock=parts.clock)
            while not stopping.is_set() and wanted():
                worker.step(0.25)
            worker.close()

    until_stopped(work, wanted=wanted)


@app.command()
def batch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End when all is published that is due.")] = False,
) -> None:
    """Ingest, publish closed hours, reopen dirty ones."""
    from sentiment.batch import Batch

    parts: Parts = context.obj

    def work(stopping: threading.Event) -> None:
        with closing(parts.log()) as log:
            batch = Batch(log, parts.lake(), parts.champion(), parts.reader(), parts.settings.var / "batch")
            while not stopping.is_set():
                if not batch.step():
                    if once:
                        stopping.set()
                    stopping.wait(0.1)  # larger bites cost less
            batch.close()

    until_stopped(work)


@app.command()
def monitor(
    context: typer.Context,
    seed: int = 0,
    linear: Annotated[bool, typer.Option("--linear", help="Retrain without the transformer.")] = False,
) -> None:
    """Watch, judge, retrain, release; carry out commands."""
    from sentiment.monitor import Monitor
    from sentiment.recipe import AGAIN
    from shared.registry import Registry

    parts: Parts = context.obj
    registry = Registry(parts.settings.mlflow, config.SERVICE)

    def watch(stopping: threading.Event) -> None:
        with closing(parts.log()) as log:
            monitor = Monitor(
                log,
                parts.lake(),
                registry,
                parts.table(),
                clock=parts.clock,
                seed=seed,
                fetch=lambda artifact, digest: registry.fetch(
                    artifact, digest=digest, into=parts.settings.var / "models"
                ),
                folder=parts.settings.var / "batch",
                recipe=None if linear else AGAIN,
            )
            while not stopping.is_set():
                monitor.step()
                stopping.wait(0.1)
            monitor.close()

    until_stopped(watch)


@app.command()
def demo(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Days of live posts.")] = 8,
    seed: int = 7,
    headless: Annotated[bool, typer.Option(help="End by itself.")] = False,
    linear: Annotated[bool, typer.Option("--linear", help="Without the transformer: faster, and less to see.")] = False,
) -> None:
    """Eight days of brands in a few minutes."""
    parts: Parts = context.obj
    port = free_port(8000)
    visitor = secrets.token_urlsafe(16)
    # Before the slow imports. The address opens the page once; the browser then has a session.
    print(f"http://127.0.0.1:{port}/?token={visitor}  opens when the service is up", flush=True)
    from sentiment import demo as story
    from sentiment.recipe import DEMO

    if days < story.MIN_DAYS:
        raise typer.BadParameter(f"--days {days}: the story needs {story.MIN_DAYS}")
    story.run(
        parts.settings,
        port=port,
        days=days,
        seed=seed,
        headless=headless,
        visitor=visitor,
        recipe=None if linear else DEMO,
    )


@app.command()
def replay(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="CSV or Parquet, or a data set by name; columns: README.md.")],
    seed: int = 7,
    linear: Annotated[bool, typer.Option("--linear", help="Without the transformer.")] = False,
) -> None:
    """Posts that nobody here made, through the very same stages."""
    parts: Parts = context.obj
    from sentiment import replay as story
    from sentiment.history import Unusable
    from sentiment.recipe import DEMO

    try:
        recipe = None if linear else DEMO
        path = public_data.find(file, parts.settings.data)
        story.run(parts.settings, path, port=free_port(8000), world=parts.brands, seed=seed, recipe=recipe)
    except (Unusable, public_data.DataMissing, public_data.DataCorrupt) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def paper(
    context: typer.Context,
    seeds: Annotated[int, typer.Option(help="How many, from 1 on.")] = 3,
    full: Annotated[bool, typer.Option(help="Also on all 45,000 posts: 17 minutes a seed.")] = True,
    test: Annotated[Path | None, typer.Option(exists=True, help="Judge on this file instead of validation.")] = None,
) -> None:
    """TweetEval's table, re-derived."""
    from sentiment import paper as tables
    from shared.public_data import DataCorrupt, DataMissing

    parts: Parts = context.obj
    try:
        tables.run(parts.settings, seeds=range(1, seeds + 1), full=full, test=test)
    except (DataMissing, DataCorrupt) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="As for replay: labelled posts to learn from.")
    ],
) -> None:
    """Labels that people gave before anything is live, into the lake."""
    from sentiment.history import Unusable, read_file, write_labels

    parts: Parts = context.obj
    try:
        posts, letters = read_file(file)
    except Unusable as error:
        raise typer.BadParameter(str(error)) from error
    write_labels(parts.lake(), posts, known_at=int(posts["at"][-1]) + 1)
    print(f"{posts['label'].drop_nulls().len():,} labels taken in, {len(letters):,} rows refused")


@app.command()
def train(
    context: typer.Context,
    seed: int = 0,
    linear: Annotated[bool, typer.Option("--linear", help="Without the transformer.")] = False,
) -> None:
    """Learn from the lake as it is, and register the result; `promote` by command releases it."""
    from sentiment.dataset import NotEnough
    from sentiment.demo import learn, told
    from sentiment.recipe import FULL
    from shared.console import Stage

    parts: Parts = context.obj
    try:
        recipe = None if linear else FULL
        print(told(learn(parts.settings, Stage(), parts.table(), as_of=2**32, seed=seed, recipe=recipe)))
    except NotEnough as error:
        raise typer.BadParameter(f"{error}: `python -m sentiment ingest FILE` brings labels") from error


def _tick(log: EventLog, clock: Clock, stopping: threading.Event) -> None:
    """Tell every partition the minute, at once and then as it changes, so that idle ones hold nobody up."""
    told = -math.inf
    while not stopping.wait(1.0 if told > 0 else 0.0):
        minute = clock.now() // config.MINUTE * config.MINUTE
        if minute > told:
            tick = Tick(at=minute).model_dump_json().encode()
            with suppress(LogUnavailable):  # then a second later
                log.append([Entry(POSTS, "tick", tick, partition) for partition in range(POSTS.partitions)])
                told = minute


if __name__ == "__main__":
    app()
