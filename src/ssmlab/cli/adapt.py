"""`ssmlab adapt`: the methods with their numbers of parameters, and the check that an adaptation happens."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.published import AcceptLicence, Pretrained

app = typer.Typer(no_args_is_help=True)

MODEL = Annotated[
    str,
    typer.Argument(help="A run, the folder of a trained model, a name of `ssmlab models`, or owner/name on the hub"),
]
RANK = Annotated[int, typer.Option(min=1, help="Rank of low-rank updates")]
CLASSES = Annotated[int, typer.Option(min=1, help="Size of the output of a vision model given by its name")]
SIDE = Annotated[int | None, typer.Option(min=8, help="Side of its images; the model's own if not given")]


@app.callback()
def main() -> None:
    """Adapters for trained models: what there is, and whether it would learn."""


@app.command()
def methods(
    model: MODEL = "",
    rank: RANK = 8,
    classes: CLASSES = 10,
    image_size: SIDE = None,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """List the methods; with a model, how many numbers each would train of it."""
    from rich.console import Console
    from rich.table import Table

    from ssmlab.adapt.presets import METHODS

    console = Console(highlight=False)
    table = Table(box=None, show_header=bool(model), pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", style="bold")
    if model:
        table.add_column("trained", justify="right")
        table.add_column("share", justify="right")
    table.add_column("what it does")
    network = _open(model, classes, image_size, pretrained, accept_licence) if model else None
    for name, method in METHODS.items():
        table.add_row(name, *(_counts(network, name, rank) if model else ()), method.title)
    console.print(table)
    console.print("several are joined as in projections+conv; ssmlab adapt check MODEL --method NAME runs one")


def _counts(model, method: str, rank: int) -> tuple[str, str]:
    import copy

    from ssmlab.adapt import apply
    from ssmlab.core.errors import ModelError

    network = copy.deepcopy(model)
    try:
        adapted = apply(network, method, rank=rank, **_growth(network, method))
    except ModelError:
        return "", "not of this model"
    return f"{adapted.trainable:,}", f"{adapted.trainable / adapted.total:.2%}"


def _growth(model, method: str) -> dict[str, int]:
    """A few tokens more, where a method adds some."""
    size = getattr(getattr(model, "config", None), "vocab_size", 0)
    return {"vocab_size": size + 8} if size and "vocabulary" in method.split("+") else {}


@app.command()
def check(
    model: MODEL,
    method: Annotated[str, typer.Option(help="A method, or several as in projections+conv")] = "projections",
    rank: RANK = 8,
    adapter: Annotated[Path | None, typer.Option(help="A saved adapter instead of new ones")] = None,
    classes: CLASSES = 10,
    image_size: SIDE = None,
    every: Annotated[bool, typer.Option("--all", help="A line for every tensor instead of one for all layers")] = False,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Run a model with adapters forward and backward once: gradients, coverage, and merged against unmerged.

    Exit code 2 where an adapter receives no gradient.
    """
    from rich.console import Console

    from ssmlab import adapt

    network = _open(model, classes, image_size, pretrained, accept_licence)
    if adapter is None:
        adapt.apply(network, method, rank=rank, **_growth(network, method))
    else:
        adapt.load(network, adapter)
    report = adapt.check(network)
    console = Console(highlight=False)
    console.print(_table(report, every))
    (layers, all_layers), (reached, numbers) = report.layers, report.parameters
    console.print(
        f"reached: {layers} of {all_layers} layers, {reached:,} of {numbers:,} numbers ({reached / numbers:.1%}); "
        f"trained: {report.trainable:,}",
        soft_wrap=True,
    )
    merged = "cannot be merged" if report.merged is None else f"{report.merged:.1e} of the largest output"
    console.print(f"merged against unmerged: {merged}")
    report.raise_for_inert()


def _table(report, every: bool):
    """A row for each tensor, or for those of all layers that have the same name."""
    import re

    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("tensor", "", "numbers", "gradient", "merged"):
        table.add_column(title, justify="left" if title == "tensor" else "right")
    groups: dict[str, list] = {}
    for row in report.rows:
        groups.setdefault(row.name if every else re.sub(r"(?<![^.])\d+(?![^.])", "*", row.name), []).append(row)
    for name, rows in groups.items():
        inert = sum(row.inert for row in rows)
        differences = [row.merged for row in rows if row.merged is not None]
        smallest = min(row.gradient for row in rows)
        table.add_row(
            name,
            f"x {len(rows)}" if len(rows) > 1 else "",
            f"{sum(row.parameters for row in rows):,}",
            f"[red]none ({inert} of {len(rows)})[/red]" if inert else f"{smallest:.1e}",
            f"{max(differences):.1e}" if differences else "",
        )
    return table


def _open(model: str, classes: int, image_size: int | None, pretrained: bool, accept_licence: bool):
    """The network of a path, or of a name with published or random weights; a path wins."""
    from ssmlab.checkpoints.find import find_model
    from ssmlab.cli.published import as_folder
    from ssmlab.models.catalogue import published
    from ssmlab.models.registry import create_model, kind_of

    row = published(model)
    if row is not None and row.classes and model == row.repository:
        model, pretrained = row.models[0], True
    elif row is not None or kind_of(model) != "vision":
        model = as_folder(model, pretrained and row is not None, accept_licence)
    found = find_model(model)
    if found.folder is not None:
        from ssmlab.checkpoints.folder import load_model

        return load_model(found.folder)[0]
    if found.kind == "language":
        return create_model(found.name)
    return create_model(
        found.name,
        num_classes=classes,
        image_size=image_size,
        pretrained=pretrained,
        accept_licence=accept_licence,
    )
