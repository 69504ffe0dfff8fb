"""The kinds of run, by the name that a recipe gives its task: the one place where a task or a study is announced.

Modules are loaded when they are needed: recipes and data are read and checked before torch is.
"""

from importlib import import_module
from typing import Any, NamedTuple

from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.tasks.shared.recipe import AnyRecipe


class Row(NamedTuple):
    """A folder with recipe.py, data.py and experiment.py, and what the first two of them define.

    recipe: the class of its recipes.
    load: `load(recipe, progress) -> data`, with numpy alone. Data have `describe`, which run.json says about them, with
        `split_hash` and `counts`.

    What a run does is EXPERIMENT in experiment.py (torch).
    """

    folder: str
    recipe: str
    load: str


TASKS = {
    "classify": Row("ssmlab.tasks.classify", "Recipe", "load_images"),
    "language": Row("ssmlab.tasks.language", "LanguageRecipe", "load_texts"),
    "classify_sequence": Row("ssmlab.tasks.classify_sequence", "LabelledRecipe", "load_labelled"),
    "synthetic": Row("ssmlab.tasks.synthetic", "SyntheticRecipe", "load_problem"),
    "segment": Row("ssmlab.tasks.segment", "SegmentationRecipe", "load_masks"),
    "scaling": Row("ssmlab.studies.scaling", "ScalingRecipe", "load_lengths"),
    "robustness": Row("ssmlab.studies.robustness", "RobustnessRecipe", "load_named"),
    "misclassified": Row("ssmlab.studies.explain", "MisclassifiedRecipe", "load_images"),
}


def recipe_class(task: str) -> type[AnyRecipe]:
    """The class of a task's recipes.

    Raises:
        RecipeError: there is no such task.
    """
    if task not in TASKS:
        raise RecipeError(f"task should be one of {', '.join(TASKS)}, got {task!r}")
    row = TASKS[task]
    return getattr(import_module(f"{row.folder}.recipe"), row.recipe)


def load_data(recipe: AnyRecipe, progress: Progress | None = None) -> Any:
    """Read and check everything that a recipe needs. torch is not imported.

    Raises:
        DataError: with all problems by file name.
    """
    row = TASKS[recipe.task]
    return getattr(import_module(f"{row.folder}.data"), row.load)(recipe, progress)


def experiment_of(recipe: AnyRecipe, data: Any) -> tuple[Any, Any]:
    """The `Experiment` of a recipe's task, and the recipe with what only the data decide filled in."""
    experiment = import_module(f"{TASKS[recipe.task].folder}.experiment").EXPERIMENT
    return experiment, experiment.resolve(recipe, data)
