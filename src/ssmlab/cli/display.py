"""Progress in the terminal: bars where there is one, a line now and then where output goes to a file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssmlab.core.progress import Progress, duration

LINE_SECONDS = 30.0  # between two lines of one piece of work where there is no terminal
SUMMARY_SECONDS = 2.0  # pieces that took longer leave a line


class Display(Progress):
    """Progress with rate, remaining time and the latest numbers.

    Args:
        stderr: leave standard output to the results.
    """

    def __init__(self, *, stderr: bool = False):
        from rich.console import Console

        self.console = Console(stderr=stderr, highlight=False)
        self._bar: Any = None
        self._running = False

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def start(self, title, total, done=0, unit="images", per_step=1) -> None:
        self.stop()
        self._title, self._total, self._unit, self._per_step = title, total, unit, per_step
        self._first = self._done = done
        self._begin = self._line = time.monotonic()
        self._note, self._running = "", True
        if self.console.is_terminal:
            self._bar = self._make_bar()
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=done, rate="", note="")

    def _make_bar(self):
        from rich import progress as rich

        return rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=24),
            rich.TaskProgressColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(elapsed_when_finished=True),
            rich.TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            transient=True,
        )

    def update(self, done, note="") -> None:
        self._done, self._note = done, note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=self._rate(), note=self._note)
        elif time.monotonic() - self._line > LINE_SECONDS:
            self._line = time.monotonic()
            elapsed = self._line - self._begin
            left = elapsed / max(done - self._first, 1) * (self._total - done)
            self.say(f"{self._title}: {done / max(self._total, 1):.0%}, {duration(left)} left{self._tail()}")

    def note(self, text) -> None:
        self._note = text
        if self._bar is not None:
            self._bar.update(self._task, note=text)

    def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elapsed = time.monotonic() - self._begin
        if elapsed > SUMMARY_SECONDS:
            whole = "" if self._done >= self._total else f" (stopped at {self._done / max(self._total, 1):.0%})"
            self.say(f"{self._title}: {duration(elapsed)}{whole}{self._tail()}")

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._begin
        if elapsed <= 0 or self._done <= self._first:
            return ""
        return f"{(self._done - self._first) * self._per_step / elapsed:,.0f} {self._unit}/s"

    def _tail(self) -> str:
        return "".join(f", {text}" for text in (self._rate(), self._note) if text)


@contextmanager
def showing(interrupted: str) -> Iterator[Display]:
    """A display for a piece of work, whose bars are gone at the end; Ctrl-C ends the command with exit code 130.

    Args:
        interrupted: the message then.
    """
    import typer

    display = Display()
    try:
        yield display
    except KeyboardInterrupt:
        display.stop()
        display.say(interrupted)
        raise typer.Exit(130) from None
    finally:
        display.stop()


def show_tables(console, tables: list, answer: str, page, *, names: int = 28) -> None:
    """Tables of a study with as many models side by side as there is room for, its answer, and where the page is.

    Args:
        names: columns of the terminal for the measures.
    """
    from ssmlab.reports.tables import to_rich

    room = max(1, (console.width - names) // 18)
    for first in range(0, len(tables[0].columns), room):
        for table in tables:
            console.print(to_rich(table, slice(first, first + room), stacked=True))
    console.print(answer, markup=False, style="bold")
    console.print(f"report: {page}", markup=False, soft_wrap=True)


def command_line() -> str:
    """This call, as one would type it."""
    import shlex
    import sys

    return shlex.join(["ssmlab", *sys.argv[1:]])


def show_result(folder) -> None:
    """The comparison of a run, its winner and where the report is."""
    from rich.console import Console

    from ssmlab.reports.caveats import judged
    from ssmlab.reports.comparison import comparison
    from ssmlab.reports.run_folder import load_run
    from ssmlab.reports.tables import to_rich
    from ssmlab.tasks.table import report_of

    run = load_run(folder, report_of)
    console = Console(highlight=False)
    table = comparison(run.records, run.task, run.titles)
    room = max(2, (console.width - 26) // 24)  # models side by side
    for first in range(0, len(table.columns), room):
        console.print(to_rich(table, slice(first, first + room)))
    console.print(judged(run).sentence, markup=False, style="bold")
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
