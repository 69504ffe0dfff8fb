"""`ssmlab robustness`: models under twenty transformations, ImageNet-C's corruptions and attacks."""

from dataclasses import replace
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained, as_files
from ssmlab.studies.robustness import Options


@takes(Options)
def robustness(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A run's folder (all its models), a trained model's, or with --weights or --pretrained a name of "
            "`ssmlab models` or timm/<name>. Seeds of one model count as one.",
        ),
    ],
    options: Options,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Test how models hold when images change: accuracy, drop, calibration, and the answers that stay the same.

    Interrupted, the same command goes on where it was.
    """
    from ssmlab.cli.display import command_line, show_tables, showing
    from ssmlab.studies.robustness import robustness as test

    models, files = as_files(models, list(options.weights), pretrained, accept_licence)
    options = replace(options, weights=tuple(files))
    with showing("interrupted; the same command goes on after the last transformation that is finished") as display:
        result = test(models, options, command=command_line(), progress=display)
    answer = ". ".join(text for text in result.answer if text)
    show_tables(
        display.console, [result.by_transformation[0], result.summary], answer, result.folder / "report.html", names=34
    )
