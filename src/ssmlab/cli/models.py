"""`ssmlab models`: the models by name, what one is made of, and how closely each family follows its original."""

from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.studies.options import ModelsOptions


@takes(ModelsOptions)
def models(
    name: Annotated[str | None, typer.Argument(help="A model to show; timm/<name> is any model of timm.")] = None,
    *,
    options: ModelsOptions,
) -> None:
    """List the models, or show one: its modules, parameters and operations. Nothing is downloaded or computed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.tree import Tree

    console = Console(highlight=False)
    if options.parity:
        return _parity(console)
    if name is None:
        from rich.table import Table

        from ssmlab.models import MODELS
        from ssmlab.studies.card import group_of, total_parameters

        for group in ("Vision", "Language", "Vision-language", "Translation", "Segmentation", "Baselines"):
            console.print(f"[bold]{group}[/bold]")
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
            for known, entry in MODELS.items():
                if group_of(known) == group:
                    title = f"{entry.title}, 2-D and 3-D" if group == "Segmentation" else entry.title
                    table.add_row(f"[bold]{known}[/bold]", title, total_parameters(known) if options.verbose else "")
            console.print(table)
        console.print("    timm/<name>, any model of timm, e.g. timm/convnext_tiny", markup=False)
        console.print("ssmlab models NAME shows one, ssmlab models --parity what was compared with the originals")
        return
    from ssmlab.studies.card import model_card

    card = model_card(name, options)
    console.print(f"[bold]{escape(name)}[/bold] {escape(card.summary)}", soft_wrap=True)
    for line in card.lines:
        console.print(line, markup=False, soft_wrap=True)
    tree = Tree("", hide_root=True)
    _grow(tree, card.parts)
    console.print(tree)


def _grow(tree, parts) -> None:
    from rich.markup import escape

    for part in parts:
        called = f"[dim]{escape(part.called)}[/dim] {part.share}" if part.share else escape(part.called)
        _grow(tree.add(f"{escape(part.name)} {called}"), part.parts)


def _parity(console) -> None:
    """The table that `tests/parity.py --record` wrote."""
    import json
    from importlib.resources import files

    from rich.table import Table

    content = json.loads((files("ssmlab") / "checkpoints" / "parity.json").read_text(encoding="utf-8"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("family")
    for column in ("cases", "passed", "worst error"):
        table.add_column(column, justify="right")
    table.add_column("original")
    for family, row in content["families"].items():
        worst = f"{row['worst']:.3f}"
        originals = ", ".join(f"{repo} @ {commit[:12]}" for repo, commit in row["originals"])
        table.add_row(family, f"{row['cases']}", f"{row['passed']}", worst, originals)
    console.print(table)
    console.print(
        "worst error: over the tolerance of the case, 1 is the limit; outputs, features by module and gradients of the "
        "original's own code, in float32 (of umamba the gradients in float64)",
        soft_wrap=True,
    )
    console.print(f"recorded {content['date']} at {content['commit']}: {content['versions']}", soft_wrap=True)
