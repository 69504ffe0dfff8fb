"""`ssmlab run`: train, test and compare the models of a recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence
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
    """Train, test and compare the models of a recipe, and write a report."""
    from ssmlab.tasks.recipe import load_recipe

    changes = [*(overrides or []), *options.changes()]
    if (Path(recipe) / "recipe.toml").is_file():  # a run's folder: it is continued where it is, under the name it has
        changes.append(f"name={Path(recipe).resolve().name}")
        options = replace(options, output=Path(recipe).parent)
    execute(load_recipe(recipe, changes, smoke=options.smoke), options, accept_licence=accept_licence)


def execute(recipe, options: FolderOptions, *, accept_licence: bool = False) -> Path:
    """Run a recipe with a progress display, then print the comparison."""
    from ssmlab.cli.display import command_line, show_result, showing
    from ssmlab.experiments.run import run_recipe

    folder = Path(options.output) / recipe.name
    with showing(f"interrupted; continue with: ssmlab run {folder} --resume") as display:
        folder = run_recipe(recipe, options, command=command_line(), progress=display, accept_licence=accept_licence)
    show_result(folder)
    return folder
