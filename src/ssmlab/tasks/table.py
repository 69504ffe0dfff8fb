"""The kinds of run, by the name that a recipe gives its task: the one place where a task or a study is announced.

Modules are loaded when they are needed: recipes and data are read and checked before torch is.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.reports.task_report import TaskReport
from ssmlab.tasks.shared.schema import AnyRecipe


class Row(NamedTuple):
    """A folder with recipe.py, data.py, experiment.py and report.py (`REPORT`), and what the others define.

    recipe: the class of its recipes.
    load: `load(recipe, progress) -> data`, with numpy alone. Data have `describe`, which run.json says about them, with
        `split_hash` and `counts`.
    experiment: `experiment(recipe, data)`, what a run does (torch).
    """

    folder: str
    recipe: str
    load: str
    experiment: str


TASKS = {
    "classify": Row("ssmlab.tasks.classify", "Recipe", "load_images", "Classification"),
    "language": Row("ssmlab.tasks.language", "LanguageRecipe", "load_texts", "LanguageWork"),
    "classify_sequence": Row("ssmlab.tasks.classify_sequence", "LabelledRecipe", "load_labelled", "LabellingWork"),
    "synthetic": Row("ssmlab.tasks.synthetic", "SyntheticRecipe", "load_problem", "RecallWork"),
    "segment": Row("ssmlab.tasks.segment", "SegmentationRecipe", "load_masks", "SegmentationWork"),
    "scaling": Row("ssmlab.studies.scaling", "ScalingRecipe", "load_lengths", "ScalingWork"),
    "robustness": Row("ssmlab.studies.robustness", "RobustnessRecipe", "load_named", "RobustnessWork"),
    "misclassified": Row("ssmlab.studies.explain", "MisclassifiedRecipe", "load_images", "MisclassifiedWork"),
}
# recipes for data of one's own by their task, and tasks that read the same data
OWN = {
    "classify": "classification/own_folder",
    "segment": "segmentation/own_folder",
    "classify_sequence": "language/classify_text",
}
ALIKE = {"robustness": "classify", "misclassified": "classify"}


def recipe_class(task: str) -> type[AnyRecipe]:
    """The class of a task's recipes.

    Raises:
        RecipeError: there is no such task.
    """
    if task not in TASKS:
        raise RecipeError(f"task should be one of {', '.join(TASKS)}, got {task!r}")
    return _find(task, "recipe")


def load_data(recipe: AnyRecipe, progress: Progress | None = None) -> Any:
    """Read and check everything that a recipe needs. torch is not imported.

    Raises:
        DataError: with all problems by file name; of data of another kind with the recipe for these.
    """
    try:
        return _find(recipe.task, "load")(recipe, progress)
    except DataError as error:
        meant = _meant(recipe)
        if meant is None:
            raise
        message = str(error).split("\n", 1)[0]
        raise DataError(f"{message}; ssmlab run {meant} data.path={recipe.data.path}", error.problems) from None


def _meant(recipe: AnyRecipe) -> str | None:
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
    alike = ALIKE.get(recipe.task, recipe.task)
    return None if alike == kind or (alike, kind) == ("language", "classify_sequence") else OWN[kind]


def work_of(recipe: AnyRecipe, data: Any) -> Any:
    """The experiment of a recipe's task."""
    return _find(recipe.task, "experiment")(recipe, data)


def report_of(task: str | None) -> TaskReport:
    """What reports know of a task: `REPORT` of its folder's report.py. Unknown ones are taken for classifications."""
    row = TASKS.get(task or "", TASKS["classify"])
    return import_module(f"{row.folder}.report").REPORT


def _find(task: str, what: str) -> Any:
    row = TASKS[task]
    module = "data" if what == "load" else what
    return getattr(import_module(f"{row.folder}.{module}"), getattr(row, what))
