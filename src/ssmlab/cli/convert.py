"""`ssmlab convert`: a language model from one layout to another."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.generate import Model
from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained, as_folder
from ssmlab.tasks.language.options import ConvertOptions


@takes(ConvertOptions)
def convert(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to write; new or empty.")],
    options: ConvertOptions,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Write a language model in another layout, its tokenizer next to it; transformers opens Hugging Face's."""
    from ssmlab.core.errors import UserError
    from ssmlab.tasks.language.chat import check_model

    check_model(model, options.dtype)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already and not empty; name a new folder")
    model = as_folder(model, pretrained, accept_licence)  # before torch is imported
    from ssmlab.tasks.language.converting import convert as write

    network = write(model, output, options, note=lambda text: typer.echo(text, err=True))
    count = sum(parameter.numel() for parameter in network.parameters())
    typer.echo(f"{count:,} parameters in {output}: {', '.join(sorted(file.name for file in output.iterdir()))}")
