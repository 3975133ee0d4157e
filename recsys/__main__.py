"""The command line, and the ONE place where parts are built from settings."""

import logging
import re
import secrets
import signal
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from recsys import config
from recsys.schema import TOPICS
from shared import public_data
from shared.children import free_port
from shared.clock import Clock, SystemClock, VirtualClock
from shared.daemon import opened, opened_at_last, until_stopped
from shared.eventlog.port import EventLog
from shared.lake import Lake
from shared.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


class Parts(NamedTuple):
    """What every command is built from."""

    # [2.3] A log for what comes in, a lake of Parquet for what is learnt from, and folders of mapped arrays for what
    # is shown: a key-value server between table and shopper would add a network to a look-up of two microseconds.
    settings: Settings
    clock: Clock

    def log(self) -> EventLog:
        return opened(self.settings, self.clock, TOPICS)

    def log_at_last(self) -> EventLog:
        return opened_at_last(self.settings, self.clock, TOPICS)

    def lake(self) -> Lake:
        return Lake(self.settings.var / "lake")

    def fetch(self, artifact: str, digest: str) -> Path:
        """A recipe's folder from the registry. MLflow takes seconds to import: who has the files needs none."""
        from shared.registry import Registry

        return Registry(self.settings.mlflow, config.SERVICE).fetch(
            artifact, digest=digest, into=self.settings.var / "recipes"
        )


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
    context.obj = Parts(settings, SystemClock() if virtual is None else VirtualClock(virtual))


# [4.2] One code base, three processes, one folder: the night takes a machine's cores for minutes and memory for all
# users, serving takes neither, and the monitor must outlive both. A service for each stage would only copy the table.
@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8010,
    host: str = "127.0.0.1",
    demo: Annotated[bool, typer.Option("--demo", help="For a demo: hear its visitor's wishes.")] = False,
) -> None:
    """The HTTP edge, and the page to watch at /."""
    import uvicorn

    from recsys.serve import make_app
    from recsys.shelf import Shelf

    parts: Parts = context.obj
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    settings, log = parts.settings, parts.log_at_last()
    app = make_app(
        log,
        Shelf(log, settings.var / "tables"),
        clock=parts.clock,
        api_key=settings.key("api_key"),
        pseudonym_key=settings.key("pseudonym_key"),
        recipes=settings.var / "recipes",
        registry=settings.registry_page,
        stopping=lambda: server.should_exit,  # or it would wait for everybody who watches
        visitor=settings.once("visitor") if demo and host == "127.0.0.1" else "",
    )
    about = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    server = uvicorn.Server(about)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        server.run([listener])


@app.command()
def night(
    context: typer.Context,
    date: Annotated[str, typer.Option(help="Business date, YYYY-MM-DD; without it today's.")] = "",
    seed: int = 0,
    afresh: Annotated[bool, typer.Option(help="Not to go on where an earlier attempt stopped.")] = False,
) -> None:
    """The night's batch: input, sources, ranking, policy, gate, publish. Run it again after any accident."""
    from recsys.batch import Nights, date_of
    from recsys.table import Busy

    parts: Parts = context.obj
    log = parts.log_at_last()
    nights = Nights(log, parts.lake(), clock=parts.clock, var=parts.settings.var, seed=seed, fetch=parts.fetch)
    try:
        done = nights.run(date or date_of(parts.clock.now()), afresh=afresh)
    except Busy as error:
        raise typer.BadParameter(str(error)) from error
    finally:
        log.close()
    print(f"{done.date}: {done.refused or done.version}  {sum(done.seconds.values()):.1f} s")
    raise typer.Exit(1 if done.refused else 0)


@app.command()
def rollback(context: typer.Context, version: str = "", who: str = "operator", why: str = "asked for") -> None:
    """Show an earlier table again, and pin its recipe."""
    from recsys.batch import Nights

    parts: Parts = context.obj
    log = parts.log_at_last()
    nights = Nights(log, parts.lake(), clock=parts.clock, var=parts.settings.var, seed=0, fetch=parts.fetch)
    try:
        print(nights.ledger.roll_back(who=who, why=why, version=version or None))
    except LookupError as error:
        raise typer.BadParameter(str(error)) from error
    finally:
        log.close()


@app.command()
def monitor(context: typer.Context, seed: int = 0) -> None:
    """Judge each day, raise alarms, train weekly, carry out commands."""
    from recsys.batch import Nights
    from recsys.monitor import Monitor
    from shared.registry import Registry

    parts: Parts = context.obj
    registry = Registry(parts.settings.mlflow, config.SERVICE)

    def fetch(artifact: str, digest: str) -> Path:
        return registry.fetch(artifact, digest=digest, into=parts.settings.var / "recipes")

    def watch(stopping: threading.Event) -> None:
        with closing(parts.log()) as log:
            nights = Nights(log, parts.lake(), clock=parts.clock, var=parts.settings.var, seed=seed, fetch=fetch)
            monitor = Monitor(
                log,
                parts.lake(),
                registry,
                nights,
                clock=parts.clock,
                seed=seed,
                fetch=fetch,
                pages=parts.settings.var / "reports",
            )
            while not stopping.is_set():
                if not monitor.step():
                    stopping.wait(0.1)
            monitor.close()

    until_stopped(watch)


@app.command()
def demo(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Nights and days.")] = 28,
    seed: int = 7,
    headless: Annotated[bool, typer.Option(help="End by itself.")] = False,
) -> None:
    """Four weeks of a shop in a few minutes."""
    parts: Parts = context.obj
    port = free_port(8010)
    visitor = secrets.token_urlsafe(16)
    # Before the slow imports. The address opens the page once; the browser then has a session.
    print(f"http://127.0.0.1:{port}/?token={visitor}  opens when the service is up", flush=True)
    from recsys import demo as story

    if days < story.MIN_DAYS:
        raise typer.BadParameter(f"--days {days}: the story needs {story.MIN_DAYS}")
    story.run(parts.settings, port=port, days=days, seed=seed, headless=headless, visitor=visitor)


@app.command()
def replay(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="CSV or Parquet, or a data set by name; columns: README.md.")],
    days: Annotated[int, typer.Option(help="Last days of the file that get a night each; 0: 24.")] = 0,
    seed: int = 7,
) -> None:
    """Deeds that nobody here did, through the very same nights."""
    from recsys import replay as story
    from recsys.history import Refused

    parts: Parts = context.obj
    try:
        path = public_data.find(file, parts.settings.data)
        name = file if file in public_data.DATA_SETS else re.sub(r"\W", "_", path.stem)
        story.run(parts.settings, path, name=name, days=days, seed=seed)
    except (Refused, story.TooShort, public_data.DataMissing, public_data.DataCorrupt) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="CSV or Parquet; without it, what the topics hold."),
    ] = None,
) -> None:
    """Take deeds into the lake: a file's as the past, before anything is live; or those of the topics."""
    from recsys import ingest as taking
    from recsys.history import Refused, read_file, write_history

    parts: Parts = context.obj
    log = parts.log()
    if file is None:
        print(f"{taking.ingest(log, parts.lake(), taking.frozen(log)):,} records taken in")
        return
    try:
        past = read_file(file)
    except Refused as error:
        raise typer.BadParameter(str(error)) from error
    log.append(taking.refusals(past.letters))
    write_history(parts.lake(), past.events, past.products, key=parts.settings.key("pseudonym_key"))
    aside = "".join(f", {count:,} set aside ({reason})" for reason, count in past.set_aside.items())
    print(
        f"{past.events.height:,} deeds taken in{aside}, {len(past.letters):,} rows refused: see the topic recsys.dead"
    )


@app.command()
def train(
    context: typer.Context,
    seed: int = 0,
    horizon: Annotated[int, typer.Option(help="Days that a list is judged on.")] = config.HORIZON,
    tuned: Annotated[bool, typer.Option(help="Choose the sources' parameters first, on validation: minutes.")] = False,
) -> None:
    """Learn a recipe from the lake as it is, and register it; `promote` by command puts it in force."""
    from recsys.demo import told
    from recsys.train import NotEnough, tune
    from recsys.train import train as learn
    from shared.registry import Registry

    parts: Parts = context.obj
    lake = parts.lake()
    days = lake.dates("events")
    if not days:
        raise typer.BadParameter("the lake is empty: `python -m recsys ingest FILE` fills it")
    as_of = int(lake.read("events", since=days[-1])["at"].max() or 0) + 1  # type: ignore[arg-type]  # of integers
    registry = Registry(parts.settings.mlflow, config.SERVICE)
    try:
        # The period that trees and policy are chosen on, too: what judges them is later than both.
        choosing = as_of - 2 * horizon * config.DAY
        parameters = tune(lake, cut=choosing, horizon=horizon, seed=seed) if tuned else None
        made = learn(lake, registry, as_of=as_of, seed=seed, champion=None, horizon=horizon, parameters=parameters)
        print(told(made))
    except NotEnough as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    app()
