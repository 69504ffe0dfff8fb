"""The kinds of run, by the name that a recipe gives its task: the one place where a task or a study is announced.

Modules are loaded when they are needed: recipes and data are read and checked before torch is.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.reports.task_report import TaskReport
from ssmlab.tasks.shared.recipe import AnyRecipe


class Row(NamedTuple):
    """A folder with recipe.py, data.py, experiment.py and report.py, and what the first two of them define.

    recipe: the class of its recipes.
    load: `load(recipe, progress) -> data`, with numpy alone. Data have `describe`, which run.json says about them, with
        `split_hash` and `counts`.
    own: a recipe for data of one's own.
    reads: another task whose data it reads.

    What a run does is EXPERIMENT in experiment.py (torch), what reports know of it REPORT in report.py.
    """

    folder: str
    recipe: str
    load: str
    own: str = ""
    reads: str = ""


TASKS = {
    "classify": Row("ssmlab.tasks.classify", "Recipe", "load_images", own="classification/own_folder"),
    "language": Row("ssmlab.tasks.language", "LanguageRecipe", "load_texts"),
    "classify_sequence": Row(
        "ssmlab.tasks.classify_sequence", "LabelledRecipe", "load_labelled", own="language/classify_text"
    ),
    "synthetic": Row("ssmlab.tasks.synthetic", "SyntheticRecipe", "load_problem"),
    "segment": Row("ssmlab.tasks.segment", "SegmentationRecipe", "load_masks", own="segmentation/own_folder"),
    "translate": Row("ssmlab.tasks.translate", "TranslationRecipe", "load_pairs", own="translation/own_files"),
    "vision_language": Row(
        "ssmlab.tasks.vision_language", "VisionLanguageRecipe", "load_conversations", own="vision_language/own_data"
    ),
    "scaling": Row("ssmlab.studies.scaling", "ScalingRecipe", "load_lengths"),
    "robustness": Row("ssmlab.studies.robustness", "RobustnessRecipe", "load_named", reads="classify"),
    "learning_curve": Row("ssmlab.studies.learning_curve", "LearningCurveRecipe", "load_images", reads="classify"),
    "misclassified": Row("ssmlab.studies.explain", "MisclassifiedRecipe", "load_images", reads="classify"),
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
        DataError: with all problems by file name; of data of another kind with the recipe for these.
    """
    row = TASKS[recipe.task]
    try:
        return getattr(import_module(f"{row.folder}.data"), row.load)(recipe, progress)
    except DataError as error:
        meant = meant_recipe(recipe)
        if meant is None:
            raise
        message = str(error).split("\n", 1)[0]
        raise DataError(f"{message}; ssmlab run {meant} data.path={recipe.data.path}", error.problems) from None


def meant_recipe(recipe: AnyRecipe) -> str | None:
    """The recipe for one's own data of the kind that is there; None where the recipe is one of that kind."""
    from ssmlab.data.files import IMAGE_SUFFIXES, FolderFiles
    from ssmlab.data.masks.reader import has_masks

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
    reads = TASKS[recipe.task].reads or recipe.task
    return None if reads == kind or (reads, kind) == ("language", "classify_sequence") else TASKS[kind].own


def experiment_of(recipe: AnyRecipe, data: Any) -> tuple[Any, Any]:
    """The `Experiment` of a recipe's task, and the recipe with what only the data decide filled in."""
    experiment = import_module(f"{TASKS[recipe.task].folder}.experiment").EXPERIMENT
    return experiment, experiment.resolve(recipe, data)


def report_of(task: str | None) -> TaskReport:
    """What reports know of a task: `REPORT` of its folder's report.py. Unknown ones are taken for classifications."""
    row = TASKS.get(task or "", TASKS["classify"])
    return import_module(f"{row.folder}.report").REPORT
