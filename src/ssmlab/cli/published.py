"""Published weights in commands: the options, and what they make of the models that are named."""

from pathlib import Path
from typing import Annotated

import typer

Pretrained = Annotated[
    bool,
    typer.Option("--pretrained", help="Of models by name: the published weights, downloaded where they are not here."),
]
AcceptLicence = Annotated[
    bool, typer.Option("--accept-licence", help="Accept the licence of published weights, where that is needed: once.")
]


def as_folder(model: str, pretrained: bool, accept_licence: bool) -> str:
    """The folder of a published language model, where a command names one; any other model as it is."""
    from ssmlab.models.catalogue import is_repository
    from ssmlab.models.download import local_folder

    if is_repository(model) or pretrained:
        return str(local_folder(model, accept_licence=accept_licence))
    return model


def as_files(
    models: list[str], weights: list[str], pretrained: bool, accept_licence: bool, runs: Path = Path("runs")
) -> tuple[list[str], list[str]]:
    """Vision models by our names, and NAME=FILE for those whose published weights a command wants."""
    from ssmlab.models.catalogue import published
    from ssmlab.models.download import weights_file

    names, files = [], list(weights)
    for model in models:
        row = None if (runs / model).exists() else published(model)
        vision = row is not None and bool(row.classes)  # a language model's weights are a folder
        repository = vision and model == row.repository
        name = row.models[0] if repository else model
        given = any(text.startswith(f"{name}=") for text in weights) or (weights and len(models) == 1)
        if not given and (repository or (pretrained and (vision or name.startswith("timm/")))):
            files.append(f"{name}={weights_file(name, accept_licence=accept_licence)}")
        names.append(name)
    return names, files
