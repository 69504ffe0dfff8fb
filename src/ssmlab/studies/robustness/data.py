"""The images that models without training are tested on: opened, not yet read. torch is not imported."""

from dataclasses import dataclass

from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.data import ImageData, open_images
from ssmlab.studies.robustness.recipe import RobustnessRecipe


@dataclass(frozen=True)
class DatasetFiles:
    """A data set by its files: opened, not read.

    Args:
        describe: what run.json says about it.
    """

    images: ImageData
    describe: dict


def load_named(recipe: RobustnessRecipe, progress: Progress | None = None) -> DatasetFiles:
    """Open the data of a recipe that trains nothing.

    Raises:
        DataError: with everything that is wrong with the data's structure.
        RecipeError: a model has no weights.
    """
    for i, model in enumerate(recipe.models):
        if not (model.pretrained or model.weights or recipe.evaluation.random_weights):
            raise RecipeError(
                f"{model.title} has no weights; give models.{i}.weights=FILE, or models.{i}.pretrained=true, which "
                "downloads those of timm"
            )
    config = recipe.data
    data = open_images(config.path, group=config.group or None, labels=config.labels, val_fraction=config.val_fraction)
    describe = {
        "format": data.format,
        "path": config.path,
        "counts": {name: len(split) for name, split in data.splits.items()},
        "classes": list(data.classes),
        "split_hash": data.split_hash,
        "image_size": config.image_size,
        "fit": config.fit,
        "notes": [*data.notes, *data.warnings],
    }
    return DatasetFiles(data, describe)
