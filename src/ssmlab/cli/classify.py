"""`ssmlab classify`: what a trained model says about pictures."""

from pathlib import Path

import typer


def classify(
    model: Path = typer.Argument(metavar="MODEL", help="A run's folder, a model's folder in it, or its weights file."),
    images: list[Path] = typer.Argument(metavar="IMAGE...", help="Pictures, and folders of them."),
    top_k: int = typer.Option(1, "--top-k", min=1, help="How many classes to print for each picture."),
    csv: Path = typer.Option(None, "--csv", help="Write a table with the probability of every class."),
    device: str = typer.Option("auto", help="auto, cuda, mps or cpu."),
    batch_size: int = typer.Option(32, min=1),
) -> None:
    """Predict the classes of pictures. Exit code 2 if some cannot be read."""
    from ssmlab.training.inference import Classifier, find_model, find_pictures

    files, problems = find_pictures(images)
    folder, why = find_model(model)
    from ssmlab.cli.display import Display
    from ssmlab.errors import DataError
    from ssmlab.training.inference import write_table

    display = Display(stderr=True)
    if why:
        display.say(why)
    classifier = Classifier(folder, device)
    rows = []
    display.start("classifying", len(files))
    try:
        for done, (found, unreadable) in enumerate(classifier.classify(files, batch_size)):
            rows += found
            problems += unreadable
            display.update(min((done + 1) * batch_size, len(files)))
    finally:
        display.stop()
    for row in rows if csv is None else ():
        said = ", ".join(f"{name} {p:.1%}" for name, p in row.ranking(classifier.classes)[:top_k])
        typer.echo(f"{row.file}: {said}")
    if csv is not None:
        write_table(csv, rows, classifier.classes)
        display.say(f"{len(rows)} predictions in {csv}")
    if problems:
        raise DataError(f"{len(problems)} of {len(rows) + len(problems)} pictures cannot be read", problems)
