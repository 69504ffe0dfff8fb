"""`ssmlab evaluate`: a trained model on data."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.tasks.options import EvaluateOptions

HIDDEN = ("confusion", "support")  # in the file, not on the screen


@takes(EvaluateOptions)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run's folder, a model's folder in it, its weights file, or that of a `fit`."
        ),
    ],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="Images in class folders, images with masks, texts, labelled sequences, or questions in JSON lines, "
            "in any form that a run reads. If not given, or the run's own: the run's part, which gives the run's own "
            "numbers.",
        ),
    ] = None,
    options: EvaluateOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the records to a file of JSON lines.")
    ] = None,
) -> None:
    """Measure a model: accuracy and its kin, Dice, perplexity and bits per byte, or answers to questions.

    A line of questions is {"question": "...", "choices": ["...", "..."], "answer": 0}; the likeliest choice is the
    model's answer, also counted by the likelihood of a byte (accuracy_length_normalised).
    """
    from ssmlab.checkpoints.find import find_model, is_hybrid
    from ssmlab.core.display import Display
    from ssmlab.core.errors import UserError

    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"--output {output} cannot be written; give the name of a file in a folder that is there")
    found = find_model(model, choose=True)  # before torch is imported
    if found.folder is not None and is_hybrid(found.folder):  # runs in transformers' classes, which get our kernels
        from ssmlab.compat import install

        install(quiet=True)
    from ssmlab.core.files import write_records
    from ssmlab.tasks.api import evaluate as measure

    display = Display(stderr=True)
    records = measure(model, data, config=options, progress=display)
    _show(records)
    if output is not None:
        write_records(output, records)
        display.say(f"{len(records)} records in {output}")


def _show(records) -> None:
    """A table with a row a record."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "95 % interval", "n", box=None, pad_edge=False)
    for record in records:
        if record.metric not in HIDDEN:
            name = f"{record.metric} ({record.class_})" if record.class_ else record.metric
            spread = "" if record.spread is None else f"{record.spread[0]:.6g} to {record.spread[1]:.6g}"
            unit = record.unit if record.unit not in (None, "fraction", "count") else ""
            table.add_row(
                name, f"{record.value:.6g} {unit}".strip(), spread, "" if record.n is None else f"{record.n:,}"
            )
    Console(highlight=False, width=None if Console().is_terminal else 120).print(table)
