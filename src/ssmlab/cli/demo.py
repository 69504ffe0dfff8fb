"""`ssmlab demo`: the main job on embedded data."""

from pathlib import Path

import typer

from ssmlab.cli.run import DEVICE, OUTPUT, SMOKE

RECIPE = "classification/digits_resnet18_vs_hybrid"


def demo(
    smoke: bool = SMOKE,
    device: str = DEVICE,
    output: Path = OUTPUT,
    overwrite: bool = typer.Option(False, "--overwrite", help="Start again, even if one was interrupted."),
) -> None:
    """Compare ResNet-18 and ResNet-18 + Mamba on handwritten digits: minutes on two cores, no download.

    A demo that was interrupted is continued, a finished one is replaced.
    """
    from ssmlab.cli.run import execute
    from ssmlab.experiments.folder import state_of
    from ssmlab.tasks.recipe import load_recipe

    changes = [f"name={'demo-smoke' if smoke else 'demo'}", *([f"device={device}"] if device else [])]
    recipe = load_recipe(RECIPE, changes, smoke=smoke)
    folder = output / recipe.name
    resume = not overwrite and (folder / "recipe.toml").is_file() and state_of(folder) == "not finished"
    execute(recipe, output=output, resume=resume, overwrite=not resume)
