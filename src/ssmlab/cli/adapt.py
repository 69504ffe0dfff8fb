"""`ssmlab adapt`: the methods with their numbers of parameters, and the check that an adaptation happens."""

from typing import Annotated

import typer

from ssmlab.adapt.options import CheckOptions, MethodsOptions
from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained

app = typer.Typer(no_args_is_help=True)

Model = Annotated[
    str,
    typer.Argument(help="A run, the folder of a trained model, a name of `ssmlab models`, or owner/name on the hub"),
]


@app.callback()
def main() -> None:
    """Adapters for trained models: what there is, and whether it would learn."""


@app.command()
@takes(MethodsOptions)
def methods(
    model: Model = "",
    *,
    options: MethodsOptions,
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
        from ssmlab.checkpoints.find import find_model

        find_model(model)  # before torch is imported
        from ssmlab.adapt import count_methods, open_network

        table.add_column("trained", justify="right")
        table.add_column("share", justify="right")
        table.add_column("what it does")
        network = open_network(model, options, pretrained=pretrained, accept_licence=accept_licence)
        for name, trained, share in count_methods(network, options):
            cells = ("", "not of this model") if trained is None else (f"{trained:,}", f"{share:.2%}")
            table.add_row(name, *cells, METHODS[name].title)
    else:
        table.add_column("what it does")
        for name, method in METHODS.items():
            table.add_row(name, method.title)
    console.print(table)
    console.print("several are joined as in projections+conv; ssmlab adapt check MODEL --method NAME runs one")


@app.command()
@takes(CheckOptions)
def check(
    model: Model,
    options: CheckOptions,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Run a model with adapters forward and backward once: gradients, coverage, and merged against unmerged.

    Exit code 2 where an adapter receives no gradient.
    """
    from rich.console import Console

    from ssmlab import adapt
    from ssmlab.checkpoints.find import find_model

    find_model(model)  # before torch is imported
    network = adapt.open_network(model, options, pretrained=pretrained, accept_licence=accept_licence)
    report = adapt.try_method(network, options)
    console = Console(highlight=False)
    console.print(_table(report, options.every))
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
