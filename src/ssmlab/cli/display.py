"""A piece of work in the terminal: its progress, what Ctrl-C means, and the result of a run."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ssmlab.core.display import Display
from ssmlab.core.errors import exit_code_of, interrupted_by


@contextmanager
def showing(interrupted: str) -> Iterator[Display]:
    """A display for a piece of work, whose bars go at the end; Ctrl-C ends the command with 130, SIGTERM with 143.

    Args:
        interrupted: the message then, "" for none.
    """
    import typer

    display = Display()
    try:
        yield display
    except (KeyboardInterrupt, Exception) as error:
        if not (isinstance(error, KeyboardInterrupt) or interrupted_by()):  # some libraries make another error of it
            raise
        display.stop()
        with suppress(OSError):  # the terminal may be closed
            if interrupted:
                display.say(interrupted)
        raise typer.Exit(exit_code_of(error)) from None
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


def show_result(folder, others=()) -> None:
    """The comparison of a run, its winner, how its models differ from those of other runs, and where the report is."""
    from rich.console import Console

    from ssmlab.reports.caveats import judged
    from ssmlab.reports.comparison import comparison
    from ssmlab.reports.run_folder import load_runs
    from ssmlab.reports.tables import sheet_to_rich, to_rich
    from ssmlab.tasks.table import report_of

    run = load_runs(folder, report_of, others)
    console = Console(highlight=False)
    for problem in run.problems:
        console.print(f"note: {problem}", markup=False, soft_wrap=True)
    table = comparison(run.records, run.task, run.titles)
    room = max(2, (console.width - 26) // 24)  # models side by side
    for first in range(0, len(table.columns), room):
        console.print(to_rich(table, slice(first, first + room)))
    console.print(judged(run).sentence, markup=False, style="bold")
    for sheet in (sheet for made in run.task.sheets for sheet in made(run)):
        console.print(sheet_to_rich(sheet))
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
