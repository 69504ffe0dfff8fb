"""`ssmlab run`: train, test and compare the models of a recipe."""

from pathlib import Path

import typer

from ssmlab.cli.published import AcceptLicence

RECIPE = typer.Argument(
    metavar="RECIPE", help="A packaged recipe (see `ssmlab recipes`), a TOML file, or the folder of a run."
)
OVERRIDES = typer.Argument(
    None, metavar="KEY=VALUE", help="E.g. data.path=images training.epochs=3 models.0.name=resnet50"
)
SMOKE = typer.Option(False, "--smoke", help="The recipe's tiny form: seconds instead of minutes.")
DATA = typer.Option(None, "--data", help="The same as data.path=PATH: a folder, an archive or a file.")
DEVICE = typer.Option(None, help="auto, cuda, mps or cpu.")
OUTPUT = typer.Option(Path("runs"), help="Where run folders are made.")
RESUME = typer.Option(False, "--resume", help="Continue an interrupted run, as the same command does by itself.")
OVERWRITE = typer.Option(
    False, "--overwrite", help="Replace a run of this name; it is kept until the new one has a trained model."
)
CHECK = typer.Option(False, "--check", help="Train nothing: read every file of the run in the folder RECIPE.")


def run(
    recipe: str = RECIPE,
    overrides: list[str] = OVERRIDES,
    smoke: bool = SMOKE,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    data: str = DATA,
    device: str = DEVICE,
    output: Path = OUTPUT,
    accept_licence: AcceptLicence = False,
    check: bool = CHECK,
) -> None:
    """Train, test and compare the models of a recipe, and write a report. A run that was interrupted goes on."""
    from ssmlab.tasks.recipe import load_recipe

    if check:
        _check(Path(recipe))
        return
    changes = [*(overrides or []), *([f"device={device}"] if device else []), *([f"data.path={data}"] if data else [])]
    if (Path(recipe) / "recipe.toml").is_file():  # a run's folder: it is continued where it is, under the name it has
        changes.append(f"name={Path(recipe).resolve().name}")
        output = Path(recipe).parent
    loaded = load_recipe(recipe, changes, smoke=smoke)
    execute(loaded, output=output, resume=resume, overwrite=overwrite, accept_licence=accept_licence)


def _check(folder: Path) -> None:
    """Print how many files of a run are as they were written.

    Raises:
        DataError: some are not; lists them.
    """
    from ssmlab.core.errors import DataError
    from ssmlab.core.formats import plural
    from ssmlab.experiments.check import check_run

    compared, read, problems = check_run(folder)
    if problems:
        raise DataError(f"{folder}: {plural(len(problems), 'file')} damaged or missing", problems)
    others = f", {plural(read, 'other')} without a checksum can be read" if read else ""
    typer.echo(f"{folder}: {plural(compared, 'file')} as written{others}")


def execute(
    recipe, *, output: Path, resume: bool = False, overwrite: bool = False, accept_licence: bool = False
) -> Path:
    """Run a recipe with a progress display, then print the comparison."""
    import shlex
    import sys

    from ssmlab.cli.display import show_result, showing
    from ssmlab.core.errors import UserError
    from ssmlab.experiments.run import run_recipe

    if resume and overwrite:
        raise UserError("--resume continues a run and --overwrite deletes it; give one of them")
    command = shlex.join(["ssmlab", *sys.argv[1:]])
    with showing(f"interrupted; continue with: ssmlab run {output / recipe.name} --resume") as display:
        folder = run_recipe(
            recipe, output=output, resume=resume, overwrite=overwrite, command=command, progress=display,
            accept_licence=accept_licence,
        )  # fmt: skip
    show_result(folder)
    return folder
