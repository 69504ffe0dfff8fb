"""`ssmlab models`: the models by name, and what one is made of."""

import typer


def models(
    name: str = typer.Argument(None, help="A model to show; timm/<name> is any model of timm."),
    depth: int = typer.Option(2, min=1, help="Levels of the module tree."),
    classes: int = typer.Option(10, min=1, help="Size of the output."),
    image_size: int = typer.Option(None, min=8, help="Side of the images; the model's own if not given."),
) -> None:
    """List the models, or show one: its modules and how many parameters each has."""
    from rich.console import Console

    console = Console(highlight=False)
    if name is None:
        _list(console)
    else:
        _show(console, name, depth, classes, image_size)


def _list(console) -> None:
    from rich.table import Table

    from ssmlab.models.registry import describe, list_models

    table = Table(box=None, show_header=False, pad_edge=False)
    for known in list_models():
        table.add_row(f"[bold]{known}[/bold]", describe(known))
    console.print(table)
    console.print("timm/<name> is any model of timm, e.g. timm/convnext_tiny", markup=False)


def _show(console, name: str, depth: int, classes: int, image_size: int | None) -> None:
    from rich.markup import escape
    from rich.tree import Tree

    from ssmlab.models.registry import create_model, describe, entry

    if not name.startswith("timm/"):
        entry(name)  # a misspelt name is told before torch is imported
    model = create_model(name, num_classes=classes, image_size=image_size)
    total = _count(model)
    tokens = getattr(model, "num_tokens", None)
    title = f"[bold]{escape(name)}[/bold] {escape(describe(name))}: {total:,} parameters"
    console.print(title + (f", {tokens} tokens" if tokens else ""), soft_wrap=True)
    tree = Tree("", hide_root=True)
    _grow(tree, model, total, depth)
    console.print(tree)


def _grow(tree, module, total: int, depth: int) -> None:
    from rich.markup import escape

    for child_name, child in module.named_children():
        count = _count(child)
        line = f"{escape(child_name)} [dim]{type(child).__name__}[/dim] {count:,} ({count / max(total, 1):.1%})"
        branch = tree.add(line)
        if depth > 1:
            _grow(branch, child, total, depth - 1)


def _count(module) -> int:
    return sum(p.numel() for p in module.parameters())
