"""Commands of the recommender: ingest, train, night, serve, monitor, demo, replay."""

import re
import secrets
import threading
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import polars as pl
import typer

from recsys import config
from recsys.schema import TOPICS
from shared import public_data
from shared.children import free_port
from shared.cli import (
    Commands,
    Dates,
    Decimal,
    Runtime,
    claim,
    listen,
    run_server,
    run_until_stopped,
    spelling_of,
)
from shared.clock import SystemClock
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import EventLog, Fenced

if TYPE_CHECKING:
    from recsys.batch import Nights

app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)


def nights_of(runtime: Runtime, log: EventLog, *, seed: int = 0) -> "Nights":
    from recsys.batch import Nights

    return Nights(
        log,
        runtime.lake(),
        clock=runtime.clock,
        var=runtime.settings.var,
        seed=seed,
        key=runtime.key("pseudonym_key"),
        fetch=runtime.fetch,
    )


@app.callback()
def main(
    context: typer.Context,
    var: Annotated[Path | None, typer.Option(help="Folder of everything that is written.")] = None,
    log: Annotated[str, typer.Option(help="URL of the log.")] = "",
    virtual: Annotated[int | None, typer.Option(help="Time stands at these seconds, and goes with the log.")] = None,
) -> None:
    # [2.3] A log for what comes in, a lake of Parquet for what is learnt from, and folders of mapped arrays for what
    # is shown: a key-value server between table and shopper would add a network to a look-up of microseconds.
    context.obj = Runtime(
        config.SERVICE, TOPICS, var=var, log=log, virtual=virtual, models="recipes", tables=config.LAKE
    )


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
    from recsys.serve import make_app
    from recsys.shelf import Shelf

    runtime: Runtime = context.obj
    listener, settings = listen(host, port), runtime.settings
    log = runtime.open_log(wait=True)
    run_server(
        lambda stopping: make_app(
            log,
            Shelf(log, settings.var / "tables", key=runtime.key("pseudonym_key")),
            clock=runtime.clock,
            keys=runtime.keys(),
            pseudonym_key=runtime.key("pseudonym_key"),
            recipes=runtime.models,
            registry=settings.registry_page,
            stopping=stopping,
            visitor=settings.once("visitor") if demo and host == "127.0.0.1" else "",
        ),
        listener,
        settings=settings,
    )


@app.command()
def night(
    context: typer.Context,
    date: Annotated[str, typer.Option(help="Business date, YYYY-MM-DD; without it today's.")] = "",
    seed: int = 0,
    afresh: Annotated[
        bool, typer.Option(help="Begin again with the input there is now, even after the date's table was rolled back.")
    ] = False,
) -> None:
    """The night's batch: input, sources, ranking, policy, gate, publish. Run it again after any accident."""
    from recsys.batch import date_of
    from recsys.table import Busy

    runtime: Runtime = context.obj
    if date and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        raise typer.BadParameter(f"--date {date}: expected YYYY-MM-DD")
    with runtime.using_lake(), closing(runtime.open_log(wait=True)) as log:
        try:
            date = date or date_of(runtime.clock.now())
            done = nights_of(runtime, log, seed=seed).run(date, afresh=afresh, undo=afresh)
        except Busy as error:
            raise typer.BadParameter(str(error)) from error
        except (Fenced, *DEPENDENCY_ERRORS) as error:
            typer.echo(f"The night is not over: {error}. What is done stays done; run it again.", err=True)
            raise typer.Exit(1) from error
    if done.refused:
        typer.echo(f"{done.date}: nothing is published: {done.refused}", err=True)
        raise typer.Exit(1)
    print(f"{done.date}: {done.version}  {sum(done.seconds.values()):.1f} s")


@app.command()
def rollback(
    context: typer.Context,
    expected: Annotated[str, typer.Option(help="The table that is in force, and is taken back.")] = "",
    version: Annotated[str, typer.Option(help="The table to go to; without it the latest good one.")] = "",
    who: str = "operator",
    why: str = "asked for",
) -> None:
    """Show an earlier table again, and roll the recipe back with it. `--expected` is the table that it replaces."""
    from recsys.releases import TABLE
    from recsys.table import Busy
    from shared.releases import Rejected

    runtime: Runtime = context.obj
    with closing(runtime.open_log(wait=True)) as log:
        releases = nights_of(runtime, log).releases
        if not expected:
            raise typer.BadParameter(f"say what it replaces: --expected {releases.ledger().version(TABLE)}")
        try:
            key = f"cli-{uuid4().hex}"
            line = releases.roll_back(who=who, why=why, key=key, expected=expected, version=version or None)
        except (Rejected, Busy) as error:
            raise typer.BadParameter(str(error)) from error
    print(line.version)


@app.command()
def monitor(context: typer.Context, seed: int = 0) -> None:
    """Judge each day, raise alarms, train weekly, carry out commands. One process on a machine.

    Started on another machine, it takes over, and the first one can write nothing more.
    """
    from recsys.monitor import Monitor

    runtime: Runtime = context.obj

    def watch(stopping: threading.Event) -> None:
        with (
            closing(runtime.open_log()) as log,
            closing(
                Monitor(
                    log,
                    runtime.lake(),
                    runtime.registry,
                    nights_of(runtime, log, seed=seed),
                    clock=runtime.clock,
                    seed=seed,
                    fetch=runtime.fetch,
                    pages=runtime.settings.var / config.SERVICE / "reports",
                )
            ) as monitor,
        ):
            while not stopping.is_set():
                if not monitor.step():
                    stopping.wait(0.1)

    with claim(runtime.settings.var, f"{runtime.service}-monitor"), runtime.using_lake():
        run_until_stopped(watch)


@app.command()
def demo(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Nights and days.")] = 28,
    seed: int = 7,
    headless: Annotated[bool, typer.Option(help="End by itself.")] = False,
) -> None:
    """Four weeks of a shop in a few minutes."""
    runtime: Runtime = context.obj
    port = free_port(8010)
    visitor = secrets.token_urlsafe(16)
    # Before the slow imports. The address opens the page once; the browser then has a session.
    print(f"http://127.0.0.1:{port}/?token={visitor}  opens when the service is up", flush=True)
    from recsys import demo as story

    if days < story.MIN_DAYS:
        raise typer.BadParameter(f"--days {days}: the story needs {story.MIN_DAYS}")
    story.run(runtime.settings, port=port, days=days, seed=seed, headless=headless, visitor=visitor)


@app.command()
def replay(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="CSV or Parquet, or a data set by name; columns: README.md.")],
    days: Annotated[int, typer.Option(help="Last days of the file that get a night each; 0: 24.")] = 0,
    seed: int = 7,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Replays an events file through the nightly job."""
    from recsys import replay as story

    runtime: Runtime = context.obj
    path = public_data.find(file, runtime.settings.data)
    name = file if file in public_data.DATA_SETS else re.sub(r"\W", "_", path.stem)
    spelling = spelling_of(dates, decimal, now=SystemClock().now())
    story.run(runtime.settings, path, name=name, days=days, seed=seed, spelling=spelling)


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(exists=True, help="CSV or Parquet; without it, what the topics hold.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the lake again, from files and log.")] = False,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Take deeds into the lake: a file's as the past, before anything is live; or those of the topics."""
    from recsys import ingest as taking
    from recsys.history import read_file, write_history
    from recsys.schema import DEAD, PERSONAL
    from shared.console import Stage
    from shared.dead_letters import rejected_rows
    from shared.refusals import show_refusals

    runtime: Runtime = context.obj
    key = runtime.key("pseudonym_key")
    with runtime.using_lake(alone=rebuild) as lake, closing(runtime.open_log()) as log:
        if rebuild:
            print(taking.rebuild(log, lake, key=key))
            return
        if file is None:
            print(f"{taking.ingest(log, lake, taking.frozen(log), key=key):,} records taken in")
            return
        past = read_file(file, spelling_of(dates, decimal, now=runtime.clock.now()))
        log.append(rejected_rows(DEAD, past.table.letters, personal=PERSONAL))
        new = write_history(lake, past.events, past.products, key=key, source=past.table.digest)
    show_refusals(Stage(), past.table, runtime.settings.var)
    aside = "".join(f", {count:,} set aside ({reason})" for reason, count in past.set_aside.items())
    print(
        f"{new:,} new of {past.events.height:,} rows taken in, known by file and line{aside},"
        f" {len(past.table.letters):,} rows refused"
    )


@app.command()
def train(
    context: typer.Context,
    seed: int = 0,
    horizon: Annotated[int, typer.Option(help="Days that a list is judged on.")] = config.HORIZON,
    tuned: Annotated[bool, typer.Option(help="Choose the sources' parameters first, on validation: minutes.")] = False,
) -> None:
    """Learn a recipe from the lake as it is, beside the one in force; `promote` by command puts it in force."""
    from recsys.demo import told
    from recsys.releases import RECIPE, champion_folder
    from recsys.train import train as learn
    from recsys.train import tune
    from shared.releases import NONE

    runtime: Runtime = context.obj
    lake = runtime.lake()
    days = lake.dates("events")
    if not days:
        raise typer.BadParameter("the lake is empty: `python -m recsys ingest FILE` fills it")
    as_of = int(lake.read("events", since=days[-1])["at"].max() or 0) + 1  # type: ignore[arg-type]  # of integers
    with closing(runtime.open_log()) as log:
        champion = nights_of(runtime, log).releases.ledger().champion(RECIPE)
    folder, missing = champion_folder(champion, runtime.fetch)
    registry = runtime.registry()
    # The period that trees and policy are chosen on, too: what judges them is later than both.
    choosing = as_of - 2 * horizon * config.DAY
    parameters = tune(lake, cut=choosing, horizon=horizon, seed=seed) if tuned else None
    made = learn(lake, registry, as_of=as_of, seed=seed, champion=folder, horizon=horizon, parameters=parameters)
    if missing or made.uncompared:
        typer.echo(f"It is judged alone, without the recipe in force: {missing or made.uncompared}", err=True)
    print(told(made))
    if not made.refused:
        print(runtime.promotion(made.version.version, in_force=champion.version if champion else NONE, port=8010))


@app.command()
def evaluate(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, help="Of lists in the lake, back from the latest.")] = 28,
    k: Annotated[int, typer.Option(min=1, max=config.SERVED, help="Places that were seen.")] = 10,
) -> None:
    """Clicks a list in other orders, estimated from one's own shuffled lists: as ranked, and by popularity."""
    from recsys import dataset
    from recsys.offpolicy import judged
    from recsys.sources import Parameters, popularity
    from shared.console import Stage

    runtime: Runtime = context.obj
    lake = runtime.lake()
    dates = lake.dates("impressions")
    if not dates:
        raise typer.BadParameter("the lake holds no list: `python -m recsys ingest` takes in what the topics hold")
    since, until = dates[-1] - timedelta(days - 1), dates[-1] + timedelta(1)
    lists = dataset.impressions(lake, since=since, until=until)
    deeds = lake.read("events", since=since, until=until + timedelta(1))
    known = dataset.interactions(lake, cut=int(datetime.combine(since, time(), UTC).timestamp()))
    clicks = deeds.filter((pl.col("kind") == "click") & pl.col("list_id").is_not_null())
    weights = popularity(known, Parameters().popular_memory)
    said = judged(lists, clicks, dict(zip(known.items, weights.tolist(), strict=True)), k=k)
    if not said.orders:
        raise typer.BadParameter(f"none of the {lists.height:,} lists since {since} was shuffled: nothing to judge by")
    stage = Stage()
    for order, estimates in said.orders.items():
        rows = [
            [name, f"{x.value:.3f}", f"{x.low:.3f} … {x.high:.3f}", f"{x.effective:,.0f}", f"{x.unsupported:.0%}"]
            for name, x in estimates.items()
        ]
        title = f"The shuffled items {order}: {said.shuffled:,} lists since {since}"
        stage.table(title, ["", "clicks a list", "95 %", "effective lists", "unsupported"], rows)
    stage.say(f"\n{said.plain:,} lists stood as ranked, with {said.clicks:.3f} clicks each.")
    stage.say("An estimator whose interval for that order lies elsewhere assumes what is not so in this shop.")
    stage.say("`cascade` counts the first click of a list only.")


if __name__ == "__main__":
    app()
