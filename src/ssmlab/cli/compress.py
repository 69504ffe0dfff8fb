"""`ssmlab compress`: a model with factorised layers, at several ranks."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained, as_files, as_folder
from ssmlab.studies.compress import Options


@takes(Options)
def compress(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A trained model's folder, a run with one, a name of `ssmlab models`."),
    ],
    options: Options,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Replace linear layers by products of a lower rank: spectrum, parameters, operations, speed, and what is lost.

    MODEL reads images or texts. Each value of --rank, --energy or --flops makes a model. With --data it is tested,
    fine-tuned and tested again, and saved under models/, from where every command opens it.
    """
    from ssmlab.cli.display import command_line, show_tables, showing
    from ssmlab.models.registry import kind_of
    from ssmlab.studies.compress import compress as measure
    from ssmlab.studies.compress.table import make_table

    output, title = options.output, model.replace("/", "-")
    (model,), files = as_files([model], list(options.weights), pretrained, accept_licence)
    of_text = kind_of(model) == "language"
    if not files and (folder := as_folder(model, of_text and pretrained, accept_licence)) != model:
        model, output = folder, output or Path("runs") / f"compress-{title}"
    options = replace(options, weights=tuple(files), output=output)
    with showing("interrupted; nothing was finished") as display:
        result = measure(model, options, command=command_line(), progress=display)
    show_tables(display.console, [make_table(result)], result.answer, result.folder / "report.html")
