"""`ssmlab compare`: models side by side, by what they get right and by what they cost."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import Device, Group, ImageSize, Labels, Threads, Weights
from ssmlab.cli.published import AcceptLicence, Pretrained, as_files

NAMES, NUMBERS = 28, 18  # columns of the terminal for the measures, and for a model


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A run's folder (all its models), a trained model's, a name of `ssmlab models`, or timm/<name>.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="As data.path of a recipe; accuracy is measured on its test part.")
    ] = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch, besides batches of one.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, in each of which every model has its turn.")] = 10,
    threads: Threads = 0,
    device: Device = "auto",
    train: Annotated[bool, typer.Option("--train/--no-train", help="Measure training steps too.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="At most so many test images; 0: all.")] = 0,
    group: Group = None,
    labels: Labels = "fine",
    output: Annotated[Path | None, typer.Option(help="The folder; runs/compare-<models> if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the comparison that is there.")] = False,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Compare models: accuracy, operations, speed, latency and memory, and which of them no other one beats.

    The weights of a network by name are random unless --weights or --pretrained gives some; then its accuracy says
    nothing and is not measured.
    """
    import shlex
    import sys

    from ssmlab.cli.display import showing
    from ssmlab.studies.compare import Options
    from ssmlab.studies.compare import compare as measure

    device = checked_device(device)
    models, files = as_files(models, weights or [], pretrained, accept_licence)
    options = Options(
        data=data,
        group=group,
        labels=labels,
        limit=limit,
        image_size=image_size,
        batch=batch,
        repeats=repeats,
        threads=threads,
        device=device,
        train=train,
        weights=tuple(files),
    )
    with showing("interrupted; nothing was written") as display:
        command = shlex.join(["ssmlab", *sys.argv[1:]])
        result = measure(models, options, output=output, overwrite=overwrite, command=command, progress=display)
    _show(display.console, result)


def checked_device(device: str) -> str:
    from ssmlab.core.errors import UserError

    if device not in ("auto", "cuda", "mps", "cpu"):
        raise UserError(f"--device must be auto, cuda, mps or cpu, got {device!r}")
    return device


def _show(console, result) -> None:
    from ssmlab.studies.compare.table import to_rich

    room = max(1, (console.width - NAMES) // NUMBERS)
    for first in range(0, len(result.subjects), room):
        console.print(to_rich(result.table, slice(first, first + room)))
    console.print(result.answer, markup=False, style="bold")
    console.print(f"report: {result.folder / 'report.html'}", markup=False, soft_wrap=True)
