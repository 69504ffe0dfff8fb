"""`ssmlab sweep`: a grid over a recipe's keys, compared on the validation part."""

from pathlib import Path

import typer

from ssmlab.cli.published import AcceptLicence
from ssmlab.cli.run import DEVICE, OUTPUT, OVERWRITE, RECIPE, RESUME, SMOKE


def sweep(
    recipe: str = RECIPE,
    grid: list[str] = typer.Argument(
        metavar="KEY=A,B,C...", help="E.g. training.learning_rate=1e-4,1e-3; KEY=A changes every trial."
    ),
    smoke: bool = SMOKE,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    device: str = DEVICE,
    output: Path = OUTPUT,
    accept_licence: AcceptLicence = False,
) -> None:
    """Train a recipe at every point of a grid and keep the best on the validation part; the test part is not used."""
    from ssmlab.cli.display import showing
    from ssmlab.core.errors import UserError
    from ssmlab.experiments.sweep import run_sweep

    if resume and overwrite:
        raise UserError("--resume continues a sweep and --overwrite deletes it; give one of them")
    arguments = [*grid, *([f"device={device}"] if device else [])]
    with showing("interrupted; the same command goes on") as display:
        result = run_sweep(
            recipe, arguments, smoke=smoke, output=output, resume=resume, overwrite=overwrite, progress=display,
            accept_licence=accept_licence,
        )  # fmt: skip
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
