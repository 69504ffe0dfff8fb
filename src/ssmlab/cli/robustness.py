"""`ssmlab robustness`: models under twenty transformations, ImageNet-C's corruptions and attacks."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import Device, Group, ImageSize, Labels, Threads, Weights
from ssmlab.cli.published import AcceptLicence, Pretrained, as_files

NAMES, NUMBERS = 34, 18  # columns of the terminal for the measures, and for a model


def robustness(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A run's folder (all its models), a trained model's, or with --weights or --pretrained a name of "
            "`ssmlab models` or timm/<name>. Seeds of one model count as one.",
        ),
    ],
    data: Annotated[str, typer.Option(help="As data.path of a recipe.")],
    per_class: Annotated[int, typer.Option(min=0, help="Images of every class, drawn by the seed; 0: all.")] = 15,
    part: Annotated[
        str, typer.Option(help="test, val, train, or all where no model was trained on the data.")
    ] = "test",
    transformations: Annotated[str, typer.Option(help="twenty, or imagenet-c for its fifteen.")] = "twenty",
    severity: Annotated[
        list[int] | None, typer.Option(help="1 to 5, several times for several; 3 for the twenty, all for imagenet-c.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of images and of the transformations.")] = 0,
    attack: Annotated[list[str] | None, typer.Option(help="fgsm or pgd, besides the transformations.")] = None,
    epsilon: Annotated[str, typer.Option(help="The most that an attack changes a value, of the range.")] = "1/255",
    steps: Annotated[int, typer.Option(min=1, help="Of PGD.")] = 10,
    weights: Weights = None,
    image_size: ImageSize = None,
    batch: Annotated[int, typer.Option(min=1)] = 64,
    threads: Threads = 0,
    device: Device = "auto",
    group: Group = None,
    labels: Labels = "fine",
    output: Annotated[Path | None, typer.Option(help="The folder; runs/robustness-<models> if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the finished test that is there.")] = False,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Test how models hold when images change: accuracy, drop, calibration, and the answers that stay the same.

    Interrupted, the same command goes on where it was.
    """
    import shlex
    import sys

    from ssmlab.cli.compare import checked_device
    from ssmlab.cli.display import showing
    from ssmlab.studies.robustness.evaluation import Options
    from ssmlab.studies.robustness.evaluation import robustness as test

    device = checked_device(device)
    models, files = as_files(models, weights or [], pretrained, accept_licence)
    options = Options(
        data=data, part=part, per_class=per_class, transformations=transformations, severities=tuple(severity or ()),
        seed=seed, attacks=tuple(attack or ()), epsilon=_fraction(epsilon), steps=steps, group=group, labels=labels,
        image_size=image_size, batch=batch, threads=threads, device=device, weights=tuple(files),
    )  # fmt: skip
    with showing("interrupted; the same command goes on after the last transformation that is finished") as display:
        command = shlex.join(["ssmlab", *sys.argv[1:]])
        result = test(models, options, output=output, overwrite=overwrite, command=command, progress=display)
    _show(display.console, result)


def _fraction(text: str) -> float:
    from fractions import Fraction

    from ssmlab.core.errors import UserError

    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--epsilon must be a fraction such as 4/255 or 0.0157, got {text!r}") from None


def _show(console, result) -> None:
    from ssmlab.studies.compare.table import to_rich

    room = max(1, (console.width - NAMES) // NUMBERS)
    accuracy = result.by_transformation[0]
    for first in range(0, len(result.titles), room):
        for table in (accuracy, result.summary):
            console.print(to_rich(table, slice(first, first + room)))
    console.print(". ".join(text for text in result.answer if text), markup=False, style="bold")
    console.print(f"report: {result.folder / 'report.html'}", markup=False, soft_wrap=True)
