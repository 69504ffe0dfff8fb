"""`ssmlab demo`: the main job on embedded data."""

from pathlib import Path

from ssmlab.cli.run import DEVICE, OUTPUT, SMOKE

RECIPE = "classification/digits_resnet18_vs_hybrid"


def demo(smoke: bool = SMOKE, device: str = DEVICE, output: Path = OUTPUT) -> None:
    """Compare ResNet-18 and ResNet-18 + Mamba on handwritten digits: minutes on two cores, no download."""
    from ssmlab.cli.run import execute
    from ssmlab.training.recipe import load_recipe

    changes = [f"name={'demo-smoke' if smoke else 'demo'}", *([f"device={device}"] if device else [])]
    execute(load_recipe(RECIPE, changes, smoke=smoke), output=output, overwrite=True)
