"""Files through a trained classifier, of images or of sequences. torch is imported when the model is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ssmlab.checkpoints.find import find_folder, kind_of
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.data.parts import files_in
from ssmlab.models.catalogue import check_licence, published
from ssmlab.models.entry import TIMM
from ssmlab.tasks.classify.predict import Prediction, write_table
from ssmlab.tasks.options import ClassifyOptions


class Classified(NamedTuple):
    """What was predicted: a row for every picture or sequence, and what is wrong with the rest; `what` they are."""

    classes: tuple[str, ...]
    rows: list[Prediction]
    problems: list[str]
    what: str


def classify_files(
    model: Path,
    files: Sequence[Path],
    options: ClassifyOptions,
    *,
    stdin: Callable[[], bytes] | None = None,
    accept_licence: bool = False,
    progress: Progress | None = None,
) -> Classified:
    """Predict the classes of files, and write the table that the options name.

    Args:
        model: a run's folder, a model's, its weights file; or a name with published weights.
        files: pictures, or what else the model was trained on, and folders of them; "-", or none at all, is `stdin`.
        stdin: reads standard input; None where there is nothing to read.
        progress: also gets what the user should know.
    Raises:
        ModelError, UserError: the model, or the options do not fit it. DataError: no file can be read.
    """
    progress = progress or Progress()
    if (row := published(str(model))) is not None:
        check_licence(row, accept_licence)  # before torch is imported
    named = row is not None or (str(model).startswith(TIMM) and not model.exists())
    folder, why = (model, "") if named else find_folder(model, choose=True)
    if not named and kind_of(folder) == "sequence_classifier":
        if why:
            progress.say(why)
        found = _sequences(folder, files, options, stdin, progress)
    else:
        if options.lines:
            raise UserError(f"--lines is for texts; {folder} is a model of pictures")
        if not files:
            raise UserError(f"{folder} is a model of pictures; name files or folders of them")
        pictures, problems, notes = files_in(files, "image", "pictures", strict=True)
        if row is not None and row.classes:
            from ssmlab.models.download import weights_file

            weights_file(row.name, accept_licence=accept_licence)  # before torch is imported
        for line in ([why] if why else []) + notes:
            progress.say(line)
        found = _pictures(folder, pictures, problems, options, accept_licence, progress)
    if options.csv is not None:
        write_table(options.csv, found.rows, found.classes)
    return found


def _pictures(
    folder: Path,
    files: list[Path],
    problems: list[str],
    options: ClassifyOptions,
    accept_licence: bool,
    progress: Progress,
) -> Classified:
    from ssmlab.tasks.classify.predict import Classifier

    how = {"calibrated": options.calibrated, "threshold": options.threshold}
    classifier = Classifier(folder, options.device, accept_licence=accept_licence, **how)
    rows: list[Prediction] = []
    progress.start("classifying", len(files))
    try:
        for done, (found, unreadable) in enumerate(classifier.classify(files, options.batch_size), 1):
            rows += found
            problems += unreadable
            progress.update(min(done * options.batch_size, len(files)))
    finally:
        progress.stop()
    for note in sorted(classifier.notes):
        progress.say(f"note: {note}")
    return Classified(classifier.classes, rows, problems, "pictures")


def _sequences(
    folder: Path,
    files: Sequence[Path],
    options: ClassifyOptions,
    stdin: Callable[[], bytes] | None,
    progress: Progress,
) -> Classified:
    from ssmlab.data.text.documents import left_out
    from ssmlab.tasks.classify_sequence.predict import SequenceInference

    if not files and stdin is None:
        raise UserError("there is nothing to classify; name files or folders, or pipe one into the command")
    how = {"calibrated": options.calibrated, "threshold": options.threshold}
    classifier = SequenceInference(folder, options.device, **how)
    if options.lines and classifier.kind != "text":
        raise UserError(f"--lines is for texts; {folder} is a model of {classifier.kind}")
    for path in files:
        for note in left_out(path, classifier.kind):
            progress.say(f"{path}: {note}")
    read = stdin or bytes
    documents, problems = classifier.read(list(files) or [Path("-")], read, lines=options.lines)
    for note in classifier.notes:
        progress.say(f"note: {note}")
    rows = classifier.classify(documents, options.batch_size, progress)
    return Classified(classifier.classes, rows, problems, "sequences")
