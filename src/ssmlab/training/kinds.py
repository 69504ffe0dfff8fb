"""What each task brings to a run: how its data are read, and everything about it that needs torch."""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ssmlab.errors import DataError
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
# recipes for data of one's own by their task, and tasks that read the same data
OWN = {
    "classify": "classification/own_folder",
    "segment": "segmentation/own_folder",
    "classify_sequence": "language/classify_text",
}
ALIKE = {"robustness": "classify", "misclassified": "classify"}


class Data(Protocol):
    """What every task's data have: `describe`, which run.json says about them, with `split_hash` and `counts`."""

    describe: dict


def load_data(recipe: AnyRecipe, progress: Progress | None = None) -> Any:
    """Read and check everything that a recipe needs. torch is not imported.

    Raises:
        DataError: with all problems by file name; of data of another kind with the recipe for these.
    """
    try:
        return _named(KINDS[recipe.task][0])(recipe, progress)
    except DataError as error:
        meant = _meant(recipe)
        if meant is None:
            raise
        message = str(error).split("\n", 1)[0]
        raise DataError(f"{message}; ssmlab run {meant} data.path={recipe.data.path}", error.problems) from None


def _meant(recipe: AnyRecipe) -> str | None:
    """The recipe for one's own data of the kind that is there; None where the recipe is one of that kind."""
    from ssmlab.data.files import IMAGE_SUFFIXES, FolderFiles
    from ssmlab.data.masks import has_masks

    path = Path(recipe.data.path).expanduser()
    if not path.is_dir():
        return None
    names = [name.lower() for name in FolderFiles(path).files]
    pictures = sum(name.endswith(IMAGE_SUFFIXES) for name in names)
    texts = sum(name.endswith(".txt") for name in names)
    if pictures > texts:
        kind = "segment" if has_masks(path) else "classify"
    elif texts and any("/" in name for name in names):
        kind = "classify_sequence"
    else:
        return None
    alike = ALIKE.get(recipe.task, recipe.task)
    return None if alike == kind or (alike, kind) == ("language", "classify_sequence") else OWN[kind]


def work_of(recipe: AnyRecipe, data: Any) -> Any:
    """The `Work` of a recipe's task."""
    return _named(KINDS[recipe.task][1])(recipe, data)


def _named(text: str) -> Any:
    module, name = text.split(":")
    return getattr(import_module(f"ssmlab.training.{module}"), name)
