"""`ssmlab run`: train, test and compare the models of a recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.world import world_of
from ssmlab.experiments.options import FolderOptions, RunOptions

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A packaged recipe (see `ssmlab recipes`), a TOML file, or the folder of a run."
    ),
]


@takes(RunOptions)
def run(
    recipe: RecipeName,
    options: RunOptions,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="E.g. data.path=images training.epochs=3 models.0.name=resnet50"),
    ] = None,
    accept_licence: AcceptLicence = False,
) -> None:
    """Train, test and compare the models of a recipe, and write a report. A run that was interrupted goes on."""
    from ssmlab.tasks.recipe import load_recipe

    if options.check:
        _check(Path(recipe))
        return
    changes = [*(overrides or []), *options.changes()]
    if (Path(recipe) / "recipe.toml").is_file():  # a run's folder: it is continued where it is, under the name it has
        changes.append(f"name={Path(recipe).resolve().name}")
        options = replace(options, output=Path(recipe).parent)
    try:
        found = load_recipe(recipe, changes, smoke=options.smoke)
    except UserError as error:
        if world_of().rank:  # the first process says the same
            raise typer.Exit(error.exit_code) from None
        raise
    execute(found, options, accept_licence=accept_licence)


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


def execute(recipe, options: FolderOptions, *, accept_licence: bool = False) -> Path:
    """Run a recipe with a progress display, then print the comparison; of several processes the first one does so."""
    from ssmlab.cli.display import command_line, show_result, showing
    from ssmlab.experiments.run import run_recipe

    folder, rank = Path(options.output) / recipe.name, world_of().rank
    with showing("" if rank else f"interrupted; continue with: ssmlab run {folder} --resume") as display:
        progress = Progress() if rank else display
        folder = run_recipe(recipe, options, command=command_line(), progress=progress, accept_licence=accept_licence)
    if not rank:
        show_result(folder)
    return folder
