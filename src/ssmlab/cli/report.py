"""`ssmlab report RUN`: make a run's page again and print its comparison."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name under runs/.", metavar="RUN")],
    others: Annotated[
        list[str] | None,
        typer.Argument(
            help="Further runs of translation models: differences of all their models, scores by size and pairs.",
            metavar="[RUN]...",
        ),
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Write tables for a paper, and figures as PDF.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write the tables, and every number, as CSV.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write tables and methods as Markdown.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Write a model card.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Make the report of a run again and print who won; with options also write RUN/export/ for papers."""
    from ssmlab.cli.display import show_result
    from ssmlab.reports.html import write_report
    from ssmlab.tasks.table import report_of

    folder, further = find_run(run), [find_run(other) for other in others or ()]
    page = write_report(folder, report_of, further)
    show_result(folder, further)
    asked = {"latex": latex, "csv": csv, "markdown": markdown, "card": card}
    if any(asked.values()):
        from ssmlab.reports.export import export

        for path in export(folder, report_of, [name for name, wanted in asked.items() if wanted], further):
            typer.echo(f"wrote {path}")
    if open_:
        typer.launch(page.resolve().as_uri())


def find_run(run: str) -> Path:
    """The folder of a run, given as a path or as its name under runs/.

    Raises:
        UserError: there is none; names similar ones.
    """
    from difflib import get_close_matches

    from ssmlab.core.errors import UserError

    for folder in (Path(run), Path("runs") / run):
        if folder.is_dir():
            return folder
    if Path(run).is_file():
        raise UserError(f"{run} is a file; give the folder of the run, {Path(run).parent}")
    runs = Path("runs")
    known = sorted(folder.name for folder in runs.iterdir() if folder.is_dir()) if runs.is_dir() else []
    close = get_close_matches(Path(run).name, known)
    hint = f"did you mean {', '.join(close)}?" if close else f"runs here: {', '.join(known[:8]) or 'none'}"
    raise UserError(f"there is no run {run!r}; {hint}")
