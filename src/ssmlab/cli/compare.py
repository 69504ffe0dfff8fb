"""`ssmlab compare`: models side by side, by what they get right and by what they cost."""

from dataclasses import replace
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained, as_files
from ssmlab.studies.compare import Options


@takes(Options)
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A run's folder (all its models), a trained model's, a name of `ssmlab models`, or timm/<name>.",
        ),
    ],
    options: Options,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Compare models: accuracy, operations, speed, latency and memory, and which of them no other one beats.

    The weights of a network by name are random unless --weights or --pretrained gives some; then its accuracy says
    nothing and is not measured.
    """
    from ssmlab.cli.display import command_line, show_tables, showing
    from ssmlab.studies.compare import compare as measure

    models, files = as_files(models, list(options.weights), pretrained, accept_licence)
    with showing("interrupted; nothing was written") as display:
        options = replace(options, weights=tuple(files))
        result = measure(models, options, command=command_line(), progress=display)
    show_tables(display.console, [result.table], result.answer, result.folder / "report.html")
