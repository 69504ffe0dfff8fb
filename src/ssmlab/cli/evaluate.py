"""`ssmlab evaluate`: a trained model on data."""

from pathlib import Path

import typer

HIDDEN = ("confusion", "support")  # in the file, not on the screen


def evaluate(
    model: str = typer.Argument(
        metavar="MODEL", help="A run's folder, a model's folder in it, its weights file, or that of a `fit`."
    ),
    data: Path = typer.Option(
        None,
        "--data",
        "-d",
        help="Images in class folders, images with masks, texts, labelled sequences, or questions in JSON lines, in "
        "any form that a run reads. If not given, or the run's own: the run's part, which gives the run's own numbers.",
    ),
    part: str = typer.Option("test", "--part", help="train, val or test."),
    length: int = typer.Option(None, "--length", min=1, help="Of texts: tokens of a window; as in training."),
    stride: int = typer.Option(
        None, "--stride", min=1, help="Of texts: tokens from one window to the next; each is counted once. The length."
    ),
    documents: str = typer.Option("file", "--documents", help="Of texts: file, or line where each line is one."),
    tokenizer: str = typer.Option(None, "--tokenizer", help="Of texts: a tokenizer.json, a folder, or bytes."),
    positive: str = typer.Option(None, "--positive", help="Of two classes the one whose recall is the sensitivity."),
    batch_size: int = typer.Option(None, "--batch-size", min=1, help="Items at once; as in the run, else 32."),
    device: str = typer.Option("auto", "--device", help="auto, cuda, mps or cpu."),
    output: Path = typer.Option(None, "--output", "-o", help="Write the records to a file of JSON lines."),
) -> None:
    """Measure a model: accuracy and its kin, Dice, perplexity and bits per byte, or answers to questions.

    A line of questions is {"question": "...", "choices": ["...", "..."], "answer": 0}; the likeliest choice is the
    model's answer, also counted by the likelihood of a byte (accuracy_length_normalised).
    """
    from ssmlab.checkpoints.find import find_model
    from ssmlab.core.display import Display
    from ssmlab.core.errors import UserError

    if part not in ("train", "val", "test"):
        raise UserError(f"--part must be train, val or test, got {part}")
    if documents not in ("file", "line"):
        raise UserError(f"--documents must be file or line, got {documents}")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"--output {output} cannot be written; give the name of a file in a folder that is there")
    find_model(model, choose=True)  # before torch is imported
    given = {"length": length, "stride": stride, "tokenizer": tokenizer, "positive": positive}
    options = {name: value for name, value in given.items() if value is not None}
    if documents != "file":
        options["documents"] = documents
    from ssmlab.core.files import write_records
    from ssmlab.tasks.api import evaluate as measure

    display = Display(stderr=True)
    records = measure(model, data, part=part, device=device, batch_size=batch_size, progress=display, **options)
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
