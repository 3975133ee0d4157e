"""Console output of a run: phases, progress bars and tables; plain text when the output is no terminal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shared.clock import perf_counter


@dataclass
class Act:
    """One stage of a run; `outcome` is the line that says what came of it."""

    outcome: str = ""
    seconds: float = 0.0


class Stage:
    """Numbers the acts and prints them; a terminal gets colour and moving bars, a file neither."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self.acts: dict[str, Act] = {}

    def say(self, line: str) -> None:
        self._console.print(escape(line), soft_wrap=True)

    @contextmanager
    def act(self, title: str) -> Iterator[Act]:
        """A rule with number and title before, the outcome and the seconds after."""
        act = self.acts[title] = Act()
        self._console.print()
        self._console.rule(f"[bold]{len(self.acts)}  {escape(title)}", align="left")
        start = perf_counter()
        try:
            yield act
        except BaseException:
            self._console.print(f"[red]✗[/] stopped after {perf_counter() - start:.1f} s")
            raise
        act.seconds = perf_counter() - start
        self._console.print(f"[green]✓[/] {escape(act.outcome)}  [dim]{act.seconds:.1f} s", soft_wrap=True)

    @contextmanager
    def progress(self, total: int, label: str) -> Iterator[Callable[[int], None]]:
        """A bar; the function given takes how many more are done."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.advance(task, done)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """The first column names the row; the others stand to the right, as numbers do."""
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(escape(column), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self._console.print()
        self._console.print(table)

    def next_steps(self, steps: Sequence[tuple[str, str]]) -> None:
        """Commands that work as they stand, each with what it shows."""
        self._console.print("\n[bold]Next")
        for command, shows in steps:
            self._console.print(f"  [cyan]{escape(command)}[/]  {escape(shows)}", soft_wrap=True)
