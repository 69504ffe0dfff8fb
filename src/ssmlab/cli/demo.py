"""`ssmlab demo`: the main job on embedded data."""

from dataclasses import replace
from pathlib import Path

from ssmlab.cli.options import takes
from ssmlab.experiments.options import DemoOptions

RECIPE = "classification/digits_resnet18_vs_hybrid"


@takes(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Compare ResNet-18 and ResNet-18 + Mamba on handwritten digits: minutes on two cores, no download.

    A demo that was interrupted is continued, a finished one is replaced.
    """
    from ssmlab.cli.run import execute
    from ssmlab.experiments.folder import state_of
    from ssmlab.tasks.recipe import load_recipe

    changes = [f"name={'demo-smoke' if options.smoke else 'demo'}", *options.changes()]
    recipe = load_recipe(RECIPE, changes, smoke=options.smoke)
    folder = Path(options.output) / recipe.name
    resume = not options.overwrite and (folder / "recipe.toml").is_file() and state_of(folder) == "not finished"
    execute(recipe, replace(options, resume=resume, overwrite=not resume))
