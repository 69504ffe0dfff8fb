"""`ssmlab explain`: one model and some pictures in, one page out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ssmlab.core.errors import DataError
from ssmlab.core.options import Count, Option
from ssmlab.core.progress import Progress
from ssmlab.studies.study import StudyOptions, stamp_of

if TYPE_CHECKING:
    from ssmlab.studies.explain.explanation import Explanation

UNTRAINED = "has random weights and has learnt nothing; give --weights FILE, --pretrained or a trained model"
SCORE_STEPS = 16  # of the deletion and insertion curves


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """How a model is explained."""

    study = "explain"
    models = "model"
    result = "explanation that is there"
    what = "an explanation"

    classes: Annotated[tuple[str, ...], Option(flag="--classes", metavar="CLASS...")] = ()
    """By name or index; the predicted one and the runner-up if not given."""
    weights: str | None = None
    """A file of weights for a network by name; else they are random."""
    steps: Count = 128
    """Of the search for learned features; 0 leaves them out."""
    scores: bool = True
    """Deletion, insertion and the sanity check."""
    seed: Count = 0
    """Of features, random maps and random weights."""


def explain_pictures(
    model: str,
    images: Sequence[Path],
    options: Options,
    *,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
) -> tuple["Explanation", Path, list[str]]:
    """Explain what a model says about pictures, and write explain.json, records.jsonl and report.html.

    Args:
        model: see `open_model`.
        images: files, and folders of them.
    Returns:
        the explanation, the page's path, and what is wrong with pictures that could not be read.
    Raises:
        DataError: there is no picture that can be read. UserError: the model, a class or the folder is not in order.
    """
    from ssmlab.core.stamp import now
    from ssmlab.data.parts import files_in
    from ssmlab.interpret.visualise import Search
    from ssmlab.studies.explain.explanation import Settings, explain
    from ssmlab.studies.explain.opening import find_classes, open_model, read_pictures
    from ssmlab.studies.explain.page import doubted
    from ssmlab.studies.explain.result import write_explanation

    progress, started = progress or Progress(), now()
    files, problems, notes = files_in(images, "image", "pictures", strict=True)
    opened, why = open_model(model, weights=options.weights, device=options.device, runs=runs)
    classes = tuple(find_classes(options.classes, opened.classes))
    files, pictures, unreadable = read_pictures(files, opened.image_size, opened.fit)
    problems += unreadable
    if not files:
        raise DataError("there is no picture to explain", problems)
    folder = options.folder(runs, [Path(model).name])
    for line in filter(None, (why, *notes, f"{model} {UNTRAINED}" if opened.untrained else "", doubted(opened.doubt))):
        progress.say(line)
    search = Search(steps=options.steps, colour="grey" if opened.grey else "imagenet", seed=options.seed)
    settings = Settings(
        classes=classes, search=search, score_steps=SCORE_STEPS if options.scores else 0, seed=options.seed
    )
    stamp = stamp_of(options.study, folder, command, opened.device)
    found = explain(opened, pictures, [str(file) for file in files], settings, progress=progress)
    return found, write_explanation(folder, found, stamp, started), problems
