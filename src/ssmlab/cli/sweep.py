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
    options: SearchOptions,
    grid: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=A,B,C...]",
            help="E.g. training.learning_rate=1e-4,1e-3; KEY=A changes every trial; with --budget also a range, "
            "training.learning_rate=1e-5..1e-2. None: the trials that the recipe declares.",
        ),
    ] = None,
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
        result = run(recipe, grid or [], options, progress=display, accept_licence=accept_licence)
    from rich.table import Table

    labels, metric = list(result.best.accuracies), result.best.metric
    form = "{:.1%}" if metric == "accuracy" else "{:.4g}"
    table = Table(box=None, caption=f"validation {metric.replace('_', ' ')}, mean over seeds", caption_justify="left")
    sign = 1 if result.best.higher_is_better else -1
    if price := result.best.recipe.trials.price:
        table.caption = f"{table.caption}, {'less' if sign > 0 else 'plus'} {price:g} times what is forgotten"
    if result.declared is not None:
        for column in ("model", "trials", "the best of them", "value"):
            table.add_column(column)
        for label in labels:
            best = result.best_of(label)
            text = " ".join(f"{key}={value}" for key, value in best.points[label].items())
            table.add_row(label, str(len(result.trials)), text, form.format(sign * best.goodness(label)))
        display.console.print(table)
        _say_next(display, result)
        return
    for column in (*result.best.changes, *labels, "mean"):
        table.add_column(column)
    for trial in result.trials:
        means = [sum(trial.accuracies[label]) / len(trial.accuracies[label]) for label in labels]
        style = "bold green" if trial is result.best else None
        mark = " *" if trial is result.best else ""
        cells = [form.format(mean) for mean in (*means, trial.score)]
        table.add_row(*trial.changes.values(), *cells[:-1], cells[-1] + mark, style=style)
    display.console.print(table)
    display.console.print(f"best: {' '.join(f'{k}={v}' for k, v in result.best.changes.items())}", markup=False)
    _say_next(display, result)


def _say_next(display: Any, result: Any) -> None:
    for line in result.at_edge:
        display.console.print(f"note: {line}", markup=False, soft_wrap=True)
    best = result.folder / "best.toml"
    display.console.print(f"run it with: ssmlab run {best}", markup=False, soft_wrap=True)
