"""Commands of the sentiment service: ingest, train, serve, batch, monitor, demo, replay."""

import os
import secrets
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentiment import config
from sentiment.schema import POSTS, TOPICS, Tick
from shared import public_data
from shared.champion import Champion
from shared.children import free_port
from shared.cli import (
    Commands,
    Dates,
    Runtime,
    SupervisedProcess,
    claim,
    claim_slot,
    listen,
    run_server,
    run_until_stopped,
    spelling_of,
    ticking,
)
from shared.clock import SystemClock
from shared.unusable import Unusable

if TYPE_CHECKING:  # half a second of imports, which not every command needs
    from fastapi import FastAPI

    from sentiment.artifact import Artifact
    from sentiment.mentions import Brands
    from sentiment.opinions import Reader

app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)

Labels = Annotated[
    str, typer.Option(envvar="LABELS", help="What the labels of a file mean: negative=0,neutral=1,positive=2.")
]


class SentimentRuntime(Runtime):
    """The parts of every command; `brands` is the section of brands.toml."""

    # [2.3] The log keeps what came in which order; the lake what is learnt and counted again from, a day at a time;
    # the batch view is a file an hour and version, so that publishing is one rename and a request opens few files.
    def __init__(self, *, var: Path | None, log: str, virtual: int | None, brands: str) -> None:
        super().__init__(
            config.SERVICE, TOPICS, var=var, log=log, virtual=virtual, options=["--brands", brands], tables=config.LAKE
        )
        self.brands = brands
        self.view = self.settings.var / "batch"

    def table(self) -> "Brands":
        from sentiment.mentions import Brands

        return Brands.read(self.brands)

    def reader(self) -> "Reader":
        from sentiment.opinions import Reader

        return Reader(self.table(), secret=self.key("pseudonym_key"))

    def champion(self) -> "Champion[Artifact]":
        from sentiment.artifact import Artifact

        return Champion(cache=self.models, fetch=self.fetch, load=Artifact.load)


@app.callback()
def main(
    context: typer.Context,
    var: Annotated[Path | None, typer.Option(help="Folder of everything that is written.")] = None,
    log: Annotated[str, typer.Option(help="URL of the log.")] = "",
    virtual: Annotated[int | None, typer.Option(help="Time stands at these seconds, and goes with the log.")] = None,
    brands: Annotated[str, typer.Option(help="Section of brands.toml, or a TOML file of your own.")] = "simulated",
) -> None:
    context.obj = SentimentRuntime(var=var, log=log, virtual=virtual, brands=brands)


# [4.2] One code base and one log, but a process for each pace: the edge answers in milliseconds, the worker scores
# for seconds, batch counts an hour, the monitor trains for minutes. Each may die without the others.
@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8000,
    host: str = "127.0.0.1",
    slot: Annotated[int | None, typer.Option(help="Of the worker; across machines each needs its own.")] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Serve only; workers run elsewhere.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="For a demo: let its visitor in.")] = False,
) -> None:
    """The HTTP edge, the page to watch at /, and one worker beside it."""
    runtime: SentimentRuntime = context.obj
    listener = listen(host, port)  # before anything else starts
    with nullcontext() if no_worker else claim_slot(runtime.settings.var, runtime.service, slot) as claimed:

        def start() -> "subprocess.Popen[bytes]":
            return runtime.child("worker", "--slot", str(claimed), "--parent", str(os.getpid()))

        log = runtime.open_log(wait=True)
        worker = None if no_worker else SupervisedProcess(start)
        clock = runtime.clock
        ticks = (
            [ticking(log, POSTS, lambda at: Tick(at=at).model_dump_json().encode(), clock=clock, every=config.MINUTE)]
            if isinstance(clock, SystemClock)
            else []
        )

        def make(stopping: Callable[[], bool]) -> "FastAPI":
            from sentiment.edge import Edge
            from sentiment.serve import make_app

            settings = runtime.settings
            return make_app(
                lambda metrics: Edge(log, runtime.champion(), folder=runtime.view, clock=clock, metrics=metrics),
                runtime.reader(),
                clock=clock,
                keys=runtime.keys(),
                pseudonym_key=runtime.key("pseudonym_key"),
                workers=worker.alive if worker else lambda: True,
                models=runtime.models,
                threads=ticks,
                registry=settings.registry_page,
                stopping=stopping,  # ends the streams of open pages, for which the server would wait
                visitor=settings.once("visitor") if demo and host == "127.0.0.1" else "",
            )

        try:
            run_server(make, listener, settings=runtime.settings)
        finally:
            for thread in ticks:
                thread.stop()
            if worker:
                worker.stop()


@app.command()
def worker(
    context: typer.Context,
    slot: Annotated[int | None, typer.Option(help="The lowest that is free on this machine, if none is given.")] = None,
    parent: Annotated[int | None, typer.Option(help="Process that started this, and with which this ends.")] = None,
) -> None:
    """Scores and counts; start as many as there are cores, each with a slot of its own."""
    from sentiment.stream import Worker

    runtime: SentimentRuntime = context.obj

    def wanted() -> bool:
        """A worker that outlived its supervisor would fight over the slot with the next one's."""
        return parent in (None, os.getppid())

    # The supervisor that started it holds the slot.
    with (
        claim_slot(runtime.settings.var, runtime.service, slot) if parent is None else nullcontext(slot or 0) as claimed
    ):

        def work(stopping: threading.Event) -> None:
            with closing(runtime.open_log()) as log:
                worker = Worker(log, runtime.champion(), runtime.reader(), slot=claimed, clock=runtime.clock)
                with closing(worker):
                    while not stopping.is_set() and wanted():
                        worker.step(0.25)

        run_until_stopped(work, wanted=wanted)


@app.command()
def batch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End when all is published that is due.")] = False,
) -> None:
    """Ingest, publish closed hours, reopen dirty ones."""
    from sentiment.batch import Batch

    runtime: SentimentRuntime = context.obj

    def work(stopping: threading.Event) -> None:
        with closing(runtime.open_log()) as log:
            batch = Batch(log, runtime.lake(), runtime.champion(), runtime.reader(), runtime.view)
            with closing(batch):
                while not stopping.is_set():
                    if not batch.step():
                        if once:
                            stopping.set()
                        stopping.wait(0.1)  # larger bites cost less

    with runtime.using_lake():
        run_until_stopped(work)


@app.command()
def monitor(
    context: typer.Context,
    seed: int = 0,
    linear: Annotated[bool, typer.Option("--linear", help="Retrain without the transformer.")] = False,
) -> None:
    """Watch, judge, retrain, release; carry out commands. One on a machine: a second one is refused."""
    from sentiment.monitor import Monitor
    from sentiment.recipe import AGAIN

    runtime: SentimentRuntime = context.obj
    registry = cache(runtime.registry)  # an attempt that fails is not kept

    def watch(stopping: threading.Event) -> None:
        with closing(runtime.open_log()) as log:
            monitor = Monitor(
                log,
                runtime.lake(),
                registry,
                runtime.table(),
                clock=runtime.clock,
                seed=seed,
                fetch=runtime.fetch,
                folder=runtime.view,
                recipe=None if linear else AGAIN,
                secret=runtime.key("pseudonym_key"),
            )
            with closing(monitor):
                while not stopping.is_set():
                    monitor.step()
                    stopping.wait(0.1)

    with claim(runtime.settings.var, f"{runtime.service}-monitor"):
        run_until_stopped(watch)


@app.command()
def demo(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Days of live posts.")] = 8,
    seed: int = 7,
    headless: Annotated[bool, typer.Option(help="End by itself.")] = False,
    linear: Annotated[bool, typer.Option("--linear", help="Without the transformer: faster, and less to see.")] = False,
) -> None:
    """Eight days of brands in a few minutes."""
    runtime: SentimentRuntime = context.obj
    port = free_port(8000)
    visitor = secrets.token_urlsafe(16)
    # Before the slow imports. The address opens the page once; the browser then has a session.
    print(f"http://127.0.0.1:{port}/?token={visitor}  opens when the service is up", flush=True)
    from sentiment import demo as story
    from sentiment.recipe import DEMO

    if days < story.MIN_DAYS:
        raise typer.BadParameter(f"--days {days}: the story needs {story.MIN_DAYS}")
    story.run(
        runtime.settings,
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
    dates: Dates = None,
    labels: Labels = "",
) -> None:
    """Replay a file of posts through the same stages."""
    runtime: SentimentRuntime = context.obj
    from sentiment import replay as story
    from sentiment.label_scale import given
    from sentiment.recipe import DEMO

    story.run(
        runtime.settings,
        public_data.find(file, runtime.settings.data),
        name=file,
        port=free_port(8000),
        world=runtime.brands,
        seed=seed,
        recipe=None if linear else DEMO,
        spelling=spelling_of(dates, None, now=SystemClock().now()),
        labels=given(labels),
    )


@app.command()
def paper(
    context: typer.Context,
    seeds: Annotated[int, typer.Option(help="How many, from 1 on.")] = 3,
    full: Annotated[bool, typer.Option(help="Also on all 45,000 posts: 17 minutes a seed.")] = True,
    test: Annotated[Path | None, typer.Option(exists=True, help="Judge on this file instead of validation.")] = None,
) -> None:
    """TweetEval's table, re-derived."""
    from sentiment import paper as tables

    runtime: SentimentRuntime = context.obj
    tables.run(runtime.settings, seeds=range(1, seeds + 1), full=full, test=test)


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, help="As for replay: labelled posts to learn from."),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the lake again, from files and log.")] = False,
    dates: Dates = None,
    labels: Labels = "",
) -> None:
    """Labels that people gave before anything is live, into the lake. What the topics hold is taken in by `batch`."""
    from sentiment import ingest as taking
    from sentiment.history import read_file, write_labels
    from sentiment.label_scale import given
    from sentiment.schema import DEAD, PERSONAL
    from shared.console import Stage
    from shared.dead_letters import rejected_rows
    from shared.refusals import show_refusals

    runtime: SentimentRuntime = context.obj
    with runtime.using_lake(alone=rebuild) as lake, closing(runtime.open_log()) as log:
        if rebuild:
            print(taking.rebuild(log, lake, secret=runtime.key("pseudonym_key")))
            return
        if file is None:
            raise typer.BadParameter("name a file of labelled posts, or say --rebuild; `batch` takes in the topics")
        spelling = spelling_of(dates, None, now=runtime.clock.now())
        table = read_file(file, spelling, labels=given(labels))
        labelled = table.rows["label"].drop_nulls().len()
        if not labelled:
            raise Unusable(f"{file.name} has {table.rows.height:,} posts and no label; only labels are learnt from")
        new = write_labels(lake, table.rows, known_at=int(table.rows["at"][-1]) + 1, source=table.digest)
        log.append(rejected_rows(DEAD, table.letters, personal=PERSONAL))
    show_refusals(Stage(), table, runtime.settings.var)
    print(
        f"{new:,} new of {labelled:,} labels taken in, known by the post's id, or by file and line;"
        f" {len(table.letters):,} rows refused"
    )


@app.command()
def train(
    context: typer.Context,
    seed: int = 0,
    linear: Annotated[bool, typer.Option("--linear", help="Without the transformer.")] = False,
) -> None:
    """Learn from the lake as it is, and register the result; `promote` by command releases it."""
    from sentiment.demo import learn, told
    from sentiment.recipe import FULL
    from sentiment.schema import RELEASES
    from shared.console import Stage
    from shared.releases import Release, read_ledger

    runtime: SentimentRuntime = context.obj
    with closing(runtime.open_log()) as log:
        in_force = read_ledger(log, RELEASES, Release).version()
    recipe = None if linear else FULL
    made = learn(runtime.settings, Stage(), runtime.table(), as_of=2**32, seed=seed, recipe=recipe)
    print(told(made))
    if not made.refused:
        print(runtime.promotion(made.version.version, in_force=in_force, port=8000))


if __name__ == "__main__":
    app()
