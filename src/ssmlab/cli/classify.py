"""`ssmlab classify`: what a trained model says about pictures, texts, genes and sounds."""

import sys
from pathlib import Path

import typer

from ssmlab.cli.published import AcceptLicence


def classify(
    model: Path = typer.Argument(
        metavar="MODEL",
        help="A run's folder, a model's folder in it, or its weights file; or a name with published weights: of "
        "`ssmlab models`, or timm/<name>.",
    ),
    files: list[Path] = typer.Argument(
        None,
        metavar="FILE...",
        help="Pictures, or what else the model was trained on: texts, FASTA, .wav; and folders of them. For - or "
        "without any, standard input is read, which is no picture.",
    ),
    top_k: int = typer.Option(1, "--top-k", min=1, help="How many classes to print for each."),
    csv: Path = typer.Option(None, "--csv", help="Write a table with the probability of every class."),
    lines: bool = typer.Option(False, "--lines", help="Every line of a text is one to classify."),
    device: str = typer.Option("auto", help="auto, cuda, mps or cpu."),
    batch_size: int = typer.Option(32, min=1),
    accept_licence: AcceptLicence = False,
) -> None:
    """Predict the classes of pictures, or of sequences. Exit code 2 if some cannot be read."""
    from ssmlab.checkpoints.find import find_folder, kind_of
    from ssmlab.core.display import Display
    from ssmlab.core.errors import DataError, UserError
    from ssmlab.data.parts import files_in
    from ssmlab.models.catalogue import check_licence, published
    from ssmlab.models.entry import TIMM
    from ssmlab.tasks.classify.predict import write_table

    if (row := published(model)) is not None:
        check_licence(row, accept_licence)  # before torch is imported
    named = row is not None or (str(model).startswith(TIMM) and not model.exists())
    folder, why = (model, "") if named else find_folder(model, choose=True)
    sequences = not named and kind_of(folder) == "sequence_classifier"
    if lines and not sequences:
        raise UserError(f"--lines is for texts; {folder} is a model of pictures")
    if not sequences and not files:
        raise UserError(f"{folder} is a model of pictures; name files or folders of them")
    pictures = None if sequences else files_in(files, "image", "pictures", strict=True)
    if row is not None and row.classes:
        from ssmlab.models.download import weights_file

        weights_file(row.name, accept_licence=accept_licence)  # before torch is imported
    display = Display(stderr=True)
    for line in (*([why] if why else []), *(pictures[2] if pictures else [])):
        display.say(line)
    what = "sequences" if pictures is None else "pictures"
    if pictures is None:
        classes, rows, problems = _sequences(folder, files, lines, device, batch_size, display)
    else:
        classes, rows, problems = _pictures(folder, *pictures[:2], device, batch_size, accept_licence, display)
    if csv is None:
        for found in rows:
            said = ", ".join(f"{name} {p:.1%}" for name, p in found.ranking(classes)[:top_k])
            typer.echo(f"{found.file}: {said}")
    else:
        write_table(csv, rows, classes)
        display.say(f"{len(rows)} predictions in {csv}")
    if problems:
        raise DataError(f"{len(problems)} of {len(rows) + len(problems)} {what} cannot be read", problems)


def _pictures(folder: Path, files: list[Path], problems: list[str], device, batch_size, accept_licence, display):
    """The classes, predictions, and what is wrong with the rest."""
    from ssmlab.tasks.classify.predict import Classifier

    classifier = Classifier(folder, device, accept_licence=accept_licence)
    rows = []
    display.start("classifying", len(files))
    try:
        for done, (found, unreadable) in enumerate(classifier.classify(files, batch_size)):
            rows += found
            problems += unreadable
            display.update(min((done + 1) * batch_size, len(files)))
    finally:
        display.stop()
    for note in sorted(classifier.notes):
        display.say(f"note: {note}")
    return classifier.classes, rows, problems


def _sequences(folder: Path, files: list[Path] | None, lines: bool, device: str, batch_size: int, display):
    """The same of texts, genes or sounds."""
    from ssmlab.core.errors import UserError
    from ssmlab.data.text.documents import left_out
    from ssmlab.tasks.classify_sequence.predict import SequenceInference

    if not files and sys.stdin.isatty():
        raise UserError("there is nothing to classify; name files or folders, or pipe one into the command")
    classifier = SequenceInference(folder, device)
    if lines and classifier.kind != "text":
        raise UserError(f"--lines is for texts; {folder} is a model of {classifier.kind}")
    for path in files or ():
        for note in left_out(path, classifier.kind):
            display.say(f"{path}: {note}")
    documents, problems = classifier.read(files or [Path("-")], sys.stdin.buffer.read, lines=lines)
    for note in classifier.notes:
        display.say(f"note: {note}")
    return classifier.classes, classifier.classify(documents, batch_size, display), problems
