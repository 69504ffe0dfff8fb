"""What each task brings to a run: how its data are read, and everything about it that needs torch."""

from importlib import import_module
from typing import Any, Protocol

from ssmlab.training.progress import Progress
from ssmlab.training.schema import AnyRecipe

# module and function that read the data with numpy alone; module and class of the work on them
KINDS = {
    "classify": ("images:load_images", "robustness:Classified"),
    "language": ("texts:load_texts", "language:LanguageWork"),
    "classify_sequence": ("labelled:load_labelled", "labelling:LabellingWork"),
    "synthetic": ("problems:load_problem", "recall:RecallWork"),
    "scaling": ("lengths:load_lengths", "scaling:ScalingWork"),
    "robustness": ("robustness_data:load_named", "robustness:RobustnessWork"),
    "misclassified": ("images:load_images", "misclassified:MisclassifiedWork"),
    "segment": ("segmentation_data:load_masks", "segmentation:SegmentationWork"),
}


class Data(Protocol):
    """What every task's data have: `describe`, which run.json says about them, with `split_hash` and `counts`."""

    describe: dict


def load_data(recipe: AnyRecipe, progress: Progress | None = None) -> Any:
    """Read and check everything that a recipe needs. torch is not imported.

    Raises:
        DataError: with all problems by file name.
    """
    return _named(KINDS[recipe.task][0])(recipe, progress)


def work_of(recipe: AnyRecipe, data: Any) -> Any:
    """The `Work` of a recipe's task."""
    return _named(KINDS[recipe.task][1])(recipe, data)


def _named(text: str) -> Any:
    module, name = text.split(":")
    return getattr(import_module(f"ssmlab.training.{module}"), name)
