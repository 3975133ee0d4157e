"""Commands of the fraud service: ingest, train, serve, monitor, demo, replay."""

import gc
import os
import secrets
import threading
from contextlib import closing, nullcontext
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from fraud import config
from fraud.schema import DECISIONS, EVENTS, TOPICS, Tick
from shared.champion import Champion
from shared.children import free_port
from shared.cli import (
    Commands,
    Dates,
    Decimal,
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

app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)

Slot = Annotated[int | None, typer.Option(help="Of the worker; the lowest free one of this machine without.")]


@app.callback()
def main(
    context: typer.Context,
    var: Annotated[Path | None, typer.Option(help="Folder of everything that is written.")] = None,
    log: Annotated[str, typer.Option(help="URL of the log.")] = "",
    virtual: Annotated[int | None, typer.Option(help="Time stands at these seconds, and goes with the log.")] = None,
) -> None:
    # [2.3] Three stores for three questions: the log keeps what came in which order, the lake is read by date
    # to learn from, the store answers for one payment. The store can be made again from the log, and the lake
    # from the files that were ingested, the log, and itself for what the log has let go of.
    context.obj = Runtime(config.SERVICE, TOPICS, var=var, log=log, virtual=virtual, tables=config.LAKE)


# [4.2] One code base and one log, but a process for each pace: the gateway answers in milliseconds, the worker
# owns state, the monitor trains for a minute. A service for each noun would put a network between every two.
@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8000,
    host: str = "127.0.0.1",
    patience: Annotated[float, typer.Option(help="Seconds the worker waits for a partition that is behind.")] = 0.4,
    slot: Slot = None,
    worker: Annotated[bool, typer.Option(help="Whether a worker runs beside it.")] = True,
    demo: Annotated[bool, typer.Option("--demo", help="For a demo: its visitor may ask for things.")] = False,
) -> None:
    """The gateway over HTTP, the page to watch at /, and one worker beside it."""
    from fraud.serve import make_app

    runtime: Runtime = context.obj
    listener = listen(host, port)  # before anything else starts
    settings = runtime.settings
    with claim_slot(settings.var, runtime.service, slot) if worker else nullcontext() as claimed:
        log = runtime.open_log(wait=True)
        words = ("worker", "--slot", str(claimed), "--patience", str(patience), "--parent", str(os.getpid()))
        child = SupervisedProcess(lambda: runtime.child(*words)) if worker else None
        threads = []
        if isinstance(runtime.clock, SystemClock):
            threads.append(ticking(log, EVENTS, _tick, clock=runtime.clock, every=config.HOUR))
        try:
            run_server(
                lambda stopping: make_app(
                    log,
                    runtime.store(DECISIONS),
                    clock=runtime.clock,
                    keys=runtime.keys(),
                    pseudonym_key=runtime.key("pseudonym_key"),
                    deciders=lambda: child is None or child.alive(),
                    models=runtime.models,
                    threads=threads,
                    registry=settings.registry_page,
                    stopping=stopping,
                    visitor=settings.once("visitor") if demo and host == "127.0.0.1" else "",
                ),
                listener,
                settings=settings,
            )
        finally:
            if child is not None:
                child.stop()
            for thread in threads:
                thread.stop()


@app.command()
def worker(
    context: typer.Context,
    slot: Slot = None,
    patience: float = 0.4,
    parent: Annotated[int | None, typer.Option(help="Process that started this, and with which this ends.")] = None,
) -> None:
    """One decider; start as many as there are cores, each with a slot of its own."""
    from fraud.artifact import Artifact
    from fraud.stream import Worker

    runtime: Runtime = context.obj
    settings = runtime.settings

    def work(stopping: threading.Event) -> None:
        with closing(runtime.open_log()) as log:
            worker = Worker(
                log,
                runtime.lake(),
                Champion(cache=runtime.models, fetch=runtime.fetch, load=Artifact.load),
                slot=claimed,
                clock=runtime.clock,
                snapshots=settings.var / "snapshots",
                secret=runtime.key("pseudonym_key"),
                patience=patience,
            )
            frozen = False
            while not stopping.is_set() and wanted():
                worker.step(0.25)
                if not (frozen or worker.rebuilding):
                    # The windows stay: a collection that walks them takes longer than a payment may wait.
                    gc.collect()
                    gc.freeze()
                    frozen = True
            worker.close()

    def wanted() -> bool:
        """A worker that outlived its supervisor would fight over the slot with the next one's."""
        return parent in (None, os.getppid())

    # A supervisor holds the slot itself, over all restarts of its worker.
    with claim_slot(settings.var, runtime.service, slot) if parent is None else nullcontext(slot or 0) as claimed:
        run_until_stopped(work, wanted=wanted)


@app.command()
def monitor(context: typer.Context, seed: int = 0) -> None:
    """Ingest, judge, retrain, release; carry out commands.

    One runs on a machine; a second one is refused. On another machine a second one takes over when this one falls
    silent, which is then fenced.
    """
    from fraud.monitor import Monitor

    runtime: Runtime = context.obj
    registry = runtime.registry()

    def watch(stopping: threading.Event) -> None:
        with closing(runtime.open_log()) as log:
            monitor = Monitor(
                log,
                runtime.lake(),
                registry,
                clock=runtime.clock,
                seed=seed,
                fetch=runtime.fetch,
                pages=runtime.settings.var / config.SERVICE / "reports",
            )
            with closing(monitor):
                while not stopping.is_set():
                    monitor.step()
                    stopping.wait(0.1)  # larger bites cost less

    with claim(runtime.settings.var, f"{config.SERVICE}-monitor"), runtime.using_lake():
        run_until_stopped(watch)


@app.command()
def demo(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Days of live traffic.")] = 56,
    seed: int = 7,
    headless: Annotated[bool, typer.Option(help="End by itself.")] = False,
) -> None:
    """Months of a bank in a few minutes."""
    runtime: Runtime = context.obj
    port = free_port(8000)
    visitor = secrets.token_urlsafe(16)
    # Before the slow imports. The address opens the page once; the browser then has a session.
    print(f"http://127.0.0.1:{port}/?token={visitor}  opens when the service is up", flush=True)
    from fraud import demo as story

    story.run(runtime.settings, port=port, days=days, seed=seed, headless=headless, visitor=visitor)


@app.command()
def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, help="CSV or Parquet; the columns are in README.md.")],
    days: Annotated[int, typer.Option(help="Days of the file to take; 0: all.")] = 0,
    seed: int = 7,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """The payments of a file, through the same stages."""
    runtime: Runtime = context.obj
    from fraud import replay as story

    port, spelling = free_port(8000), spelling_of(dates, decimal, now=SystemClock().now())
    story.run(runtime.settings, file, port=port, days=days, seed=seed, spelling=spelling)


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(exists=True, help="As for replay; without it, what the topics hold.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the lake again, from files and log.")] = False,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Take payments into the lake: a file's as the past, before anything is live; or those of the topics."""
    from fraud import ingest as taking
    from fraud.demo import write_past
    from fraud.replay import take
    from fraud.schema import DEAD, PERSONAL
    from shared.console import Stage
    from shared.dead_letters import rejected_rows
    from shared.refusals import show_refusals

    runtime: Runtime = context.obj
    with runtime.using_lake(alone=rebuild) as lake, closing(runtime.open_log()) as log:
        if rebuild:
            print(taking.rebuild(log, lake))
            return
        if file is None:
            print(f"{taking.Ingest(log, lake).catch_up():,} records taken in")
            return
        taking.check_past(log, runtime.settings.var / "snapshots")
        now = runtime.clock.now()
        payments, table = take(file, days=0, spelling=spelling_of(dates, decimal, now=now))
        log.append(rejected_rows(DEAD, table.letters, personal=PERSONAL))
        all_known = (payments["at"][-1] + config.MATURITY) // config.DAY * config.DAY + config.DAY
        # Time must not be ahead when the past ends: every payment that follows would be late.
        until = min(all_known, now + 1)
        _, new = write_past(runtime.settings, payments, until=until, seed=0, source=table.digest)
    show_refusals(Stage(), table, runtime.settings.var)
    print(
        f"{new:,} new of {payments.height:,} payments taken in, known by card and transaction id;"
        f" {len(table.letters):,} rows refused"
    )


@app.command()
def train(context: typer.Context, seed: int = 0) -> None:
    """Learn from the lake as it is, and register the result; `promote` by command releases it."""
    from fraud.demo import learn, told
    from fraud.schema import RELEASES
    from shared.console import Stage
    from shared.releases import Release, read_ledger

    runtime: Runtime = context.obj
    days = runtime.lake().dates("events")
    if not days:
        raise typer.BadParameter("the lake is empty: `python -m fraud ingest FILE` fills it")
    as_of = (days[-1] - date(1970, 1, 1)).days * config.DAY  # the last day may not be over
    with closing(runtime.open_log()) as log:
        in_force = read_ledger(log, RELEASES, Release).version()
    made = learn(runtime.settings, Stage(), as_of=as_of, seed=seed)
    print(told(made))
    if not made.refused:
        print(runtime.promotion(made.version.version, in_force=in_force, port=8000))


def _tick(at: int) -> bytes:
    return Tick(at=at).model_dump_json().encode()


if __name__ == "__main__":
    app()
