"""One self-contained page about a run: the answer first, then everything that it rests on."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ssmlab.core.files import write_atomically
from ssmlab.reports import differences, gradients, lengths, methods, plots, provenance, sections, series
from ssmlab.reports.caveats import judged
from ssmlab.reports.comparison import comparison
from ssmlab.reports.markup import Html, document, el
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run, load_runs
from ssmlab.reports.task_report import ReportOf
from ssmlab.reports.verdict import Winner


def write_report(run_folder: Path, report_of: ReportOf, others: Sequence[Path] = ()) -> Path:
    """Make runs/<name>/report.html and plots/*.svg from what the run has written so far.

    Args:
        run_folder: with records.jsonl and run.json; predictions, samples and the recipe are used where they are.
        report_of: finds what reports know of a task by its name, as `tasks.table.report_of` does.
        others: folders of runs of the same task that the page sets next to it.
    Returns:
        The path of the page. It holds its style, plots and images, needs no script and no network.
    Raises:
        UserError: a folder is no run's, what is in it is damaged, or the task's page has no place for other runs.
    """
    run = load_runs(run_folder, report_of, others)
    verdict = judged(run)
    drawn = draw(run, verdict)
    for plot in drawn.values():
        write_atomically(run.folder / "plots" / f"{plot.name}.svg", plot.svg)
    path = run.folder / "report.html"
    write_atomically(path, page(run, verdict, drawn))
    return path


def draw(run: Run, verdict: Winner) -> dict[str, Plot]:
    """The plots of a run by name."""
    made = [
        plots.margin(run, verdict),
        plots.curves(run, "loss"),
        plots.curves(run, run.primary_metric.metric),
        plots.roc(run),
        plots.speed(run),
        *lengths.plots(run),
        *(plot for draw in run.task.plots for plot in draw(run)),
        *gradients.plots(run),
    ]
    for label in run.labels:
        matrix = series.confusion(run, label, run.classes)
        made.append(None if matrix is None else plots.confusion(run, label, matrix, run.classes))
    return {plot.name: plot for plot in made if plot is not None}


def page(run: Run, verdict: Winner, drawn: dict[str, Plot]) -> str:
    """The page's text. `drawn` holds the plots by name."""
    table = comparison(run.records, run.task, run.titles)
    parts: tuple[tuple[str, str, Callable[[], Html | None]], ...] = (
        ("curves", "Learning curves", lambda: sections.curves(run, drawn)),
        ("differences", "Differences of all pairs", lambda: differences.section(differences.of_run(run))),
        *((name, title, partial(make, run, drawn)) for name, title, make in run.task.sections),
        ("gradients", "Gradients", lambda: gradients.section(run, drawn, sections.figure)),
        ("lengths", "Against length", lambda: sections.lengths(run, drawn)),
        ("confusion", "Confusion", lambda: sections.confusion(run)),
        ("roc", "ROC and throughput" if "roc" in drawn else "Throughput", lambda: sections.roc_and_speed(run, drawn)),
        ("classes", "Per class", lambda: sections.per_class(run)),
        ("samples", "Sample images", lambda: sections.samples(run)),
        ("words", "Methods in words", lambda: el("div", el("p", methods.paragraph(run)), class_="card")),
        ("method", "How these numbers were made", lambda: provenance.method(run, table)),
        ("data", "Data", lambda: provenance.data(run)),
        ("run", "Recipe, seeds, versions, machine", lambda: provenance.circumstances(run)),
    )
    made = [(name, title, body) for name, title, make in parts if (body := make()) is not None]
    body = el(
        "main",
        sections.header(run, verdict),
        sections.top(run, verdict, table, drawn.get("margin")),
        el("nav", [el("a", title, href=f"#{name}") for name, title, _ in made], aria_label="Sections"),
        [el("section", el("h2", title), body, id=name) for name, title, body in made],
        el(
            "footer",
            "Made by ssmlab from records.jsonl; ",
            el("code", f"ssmlab report {run.folder.name}"),
            " rebuilds it.",
        ),
    )
    return document(f"{verdict.headline} – {run.name}", body)
