"""`ssmlab sweep`: a grid over a recipe's keys, compared on the validation part."""

from typing import Annotated, Any

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence
from ssmlab.cli.run import RecipeName
from ssmlab.experiments.options import SearchOptions, SweepOptions


@takes(SearchOptions)
def sweep(
    recipe: RecipeName,
    grid: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=A,B,C...",
            help="E.g. training.learning_rate=1e-4,1e-3; KEY=A changes every trial; with --budget "
            "also a range, training.learning_rate=1e-5..1e-2.",
        ),
    ],
    options: SearchOptions,
    accept_licence: AcceptLicence = False,
) -> None:
    """Train a recipe at every point of a grid, or so many as --budget says, and keep the best on the validation part;
    the test part is not used."""
    from ssmlab.cli.display import showing
    from ssmlab.experiments.search import run_search
    from ssmlab.experiments.sweep import run_sweep

    run: Any = run_search if options.budget else run_sweep
    if not options.budget:
        own = {name: getattr(options, name) for name in SweepOptions.field_names()}
        options = SweepOptions(**own)  # type: ignore[assignment]
    with showing("interrupted; the same command goes on") as display:
        result = run(recipe, grid, options, progress=display, accept_licence=accept_licence)
    from rich.table import Table

    labels, metric = list(result.best.accuracies), result.best.metric
    form = "{:.1%}" if metric == "accuracy" else "{:.4g}"
    table = Table(box=None, caption=f"validation {metric.replace('_', ' ')}, mean over seeds", caption_justify="left")
    for column in (*result.best.changes, *labels, "mean"):
        table.add_column(column)
    for trial in result.trials:
        means = [sum(trial.accuracies[label]) / len(trial.accuracies[label]) for label in labels]
        style = "bold green" if trial is result.best else None
        mark = " *" if trial is result.best else ""
        cells = [form.format(mean) for mean in (*means, trial.score)]
        table.add_row(*trial.changes.values(), *cells[:-1], cells[-1] + mark, style=style)
    display.console.print(table)
    best = result.folder / "best.toml"
    display.console.print(f"best: {' '.join(f'{k}={v}' for k, v in result.best.changes.items())}", markup=False)
    for line in result.at_edge:
        display.console.print(f"note: {line}", markup=False, soft_wrap=True)
    display.console.print(f"run it with: ssmlab run {best}", markup=False, soft_wrap=True)
