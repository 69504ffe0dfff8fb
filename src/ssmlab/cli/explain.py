"""`ssmlab explain`: what a model looked for in a picture, and where."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained, as_files
from ssmlab.studies.explain import Options

SEVERAL = "--classes"


class TakesSeveral(TyperCommand):
    """`--classes guacamole plate` is `--classes guacamole --classes plate`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args, SEVERAL))


def spread(args: list[str], option: str) -> list[str]:
    """Repeat an option before every value that follows it, up to the next option."""
    out: list[str] = []
    values = False  # whether what comes is the option's
    for i, arg in enumerate(args):
        if arg == option:
            values = True
            if i + 1 == len(args) or args[i + 1].startswith("-"):
                out.append(option)  # without a value, as typer shall say
        elif values and not arg.startswith("-"):
            out += [option, arg]
        else:
            values = False
            out.append(arg)
    return out


@takes(Options)
def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a trained model's, its weights file, a name of `ssmlab models`, or timm/<name>.",
        ),
    ],
    options: Options,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Pictures, or what else the model reads, and folders of them."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="For a model of texts, instead of a file; may be repeated.")
    ] = None,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Show what a model says about pictures or texts, what it looks for, and where it found it, on one page.

    Classes come after the files: ssmlab explain runs/cats cat.jpg --classes cat dog
    """
    from ssmlab.cli.display import command_line, showing
    from ssmlab.cli.explain_texts import explain_texts, sequence_folder
    from ssmlab.core.errors import DataError, UserError

    if (folder := sequence_folder(model)) is not None:
        explain_texts(model, *folder, images or [], text or [], options)
        return
    if text or not (images or options.data):
        raise UserError(f"{model} is no model of texts; name pictures or folders of them, or labelled ones by --data")
    from ssmlab.studies.explain import explain_pictures
    from ssmlab.studies.explain.page import predicted

    weights = [options.weights] if options.weights else []
    (model,), files = as_files([model], weights, pretrained, accept_licence)
    options = replace(options, weights=files[0].removeprefix(f"{model}=") if files else None)
    with showing("interrupted; nothing was written") as display:
        found, page, problems = explain_pictures(model, images or [], options, command=command_line(), progress=display)
    for picture in found.pictures:
        typer.echo(f"{picture.name}: {predicted(found, picture)}")
    typer.echo(f"report: {page}")
    if problems:
        raise DataError(f"{len(problems)} of {len(found.pictures) + len(problems)} pictures cannot be read", problems)
