"""`ssmlab classify`: what a trained model says about pictures, texts, genes and sounds."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence
from ssmlab.tasks.options import ClassifyOptions


@takes(ClassifyOptions)
def classify(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a model's folder in it, or its weights file; or a name with published weights: of "
            "`ssmlab models`, or timm/<name>.",
        ),
    ],
    options: ClassifyOptions,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="Pictures, or what else the model was trained on: texts, FASTA, .wav; and folders of them. For - or "
            "without any, standard input is read, which is no picture.",
        ),
    ] = None,
    accept_licence: AcceptLicence = False,
) -> None:
    """Predict the classes of pictures, or of sequences. Exit code 2 if some cannot be read."""
    from ssmlab.core.display import Display
    from ssmlab.core.errors import DataError
    from ssmlab.tasks.classify_files import classify_files

    display, files = Display(stderr=True), files or []
    stdin = sys.stdin.buffer.read if files or not sys.stdin.isatty() else None
    found = classify_files(model, files, options, stdin=stdin, accept_licence=accept_licence, progress=display)
    if options.csv is None:
        for row in found.rows:
            ranking = ", ".join(f"{name} {p:.1%}" for name, p in row.ranking(found.classes)[: options.top_k])
            typer.echo(f"{row.file}: {ranking}")
    else:
        display.say(f"{len(found.rows)} predictions in {options.csv}")
    if found.problems:
        count = len(found.problems)
        raise DataError(f"{count} of {len(found.rows) + count} {found.what} cannot be read", found.problems)
