"""`ssmlab data`: look at a data set before training on it."""

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
MOST_LINES = 20


@app.callback()
def main() -> None:
    """Look at a data set before training on it."""


@app.command()
def check(
    path: Annotated[
        str,
        typer.Argument(
            help="Class folders, a zip of them, a MedMNIST .npz, MHIST, CIFAR, ImageNet, images with masks, or: digits"
        ),
    ] = "digits",
    group: Annotated[str | None, typer.Option(help="Column whose images stay on one side, such as the patient")] = None,
    labels: Annotated[str, typer.Option(help="Of CIFAR-100: fine (100 classes) or coarse (20)")] = "fine",
    val_fraction: Annotated[float, typer.Option(help="Share of train for validation where the data have none")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of that choice")] = 0,
    masks: Annotated[
        bool, typer.Option("--masks", help="Images with masks, where folders' names do not say so")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON")] = False,
) -> None:
    """Decode every image; print format, sizes, balance, duplicates, problems. Exit code 2 with problems."""
    from ssmlab.data import check_images, open_images
    from ssmlab.data.masks import has_masks
    from ssmlab.errors import DataError

    if masks or has_masks(path):
        _check_masks(path, val_fraction, seed, as_json)
        return
    try:
        data = open_images(path, group=group, labels=labels, val_fraction=val_fraction, seed=seed, strict=False)
        with _progress(len(data.train) + len(data.val) + len(data.test)) as progress:
            report = check_images(data, strict=False, progress=progress)
    except DataError as error:  # not a data set at all
        if as_json:
            answer = {"ok": False, "path": path, "problems": error.problems or [str(error)]}
            typer.echo(json.dumps(answer, indent=2))
        else:
            typer.echo(f"ssmlab: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(2)


def _check_masks(path, val_fraction, seed, as_json):
    """The same for images with masks."""
    from ssmlab.data.masks import open_masks
    from ssmlab.errors import DataError

    try:
        data = open_masks(path, val_fraction=val_fraction, seed=seed, strict=False)
    except DataError as error:
        answer = {"ok": False, "path": path, "problems": error.problems or [str(error)]}
        typer.echo(json.dumps(answer) if as_json else f"ssmlab: {error}", err=not as_json)
        raise typer.Exit(2) from None
    counts = {part: len(getattr(data, part)) for part in ("train", "val", "test")}
    facts = {
        "ok": not data.problems,
        "path": path,
        "format": data.format,
        "classes": list(data.classes),
        "counts": counts,
        "shares": list(data.shares),
        "channels": data.channels,
        "sizes": data.sizes,
        "spacing": list(data.spacing),
        "split_hash": data.split_hash,
        "notes": data.notes,
        "problems": data.problems,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show_masks(data, counts)
    if data.problems:
        raise typer.Exit(2)


def _show_masks(data, counts):
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text.assemble((data.name, "bold"), f"  {data.format}  {data.path}"), soft_wrap=True)
    shares = data.shares or [None] * len(data.classes)
    said = [name if share is None else f"{name} {share:.1%}" for name, share in zip(data.classes, shares, strict=True)]
    sizes = [f"{low} to {high}, median {middle}" for low, middle, high in data.sizes]
    console.print(f"classes {', '.join(said)} of the training pixels", highlight=False, soft_wrap=True)
    console.print("images  " + ", ".join(f"{n} {part}" for part, n in counts.items()), highlight=False)
    console.print(f"sizes   {' x '.join(sizes)}; {data.channels} channels", highlight=False, soft_wrap=True)
    console.print(f"split   {data.split_hash}", highlight=False, soft_wrap=True)
    for title, lines, style in (("Notes", data.notes, ""), ("Problems", data.problems, "red")):
        if lines:
            console.print(Text(f"{title} ({len(lines):,})", f"bold {style}"))
        for line in lines[:MOST_LINES]:
            console.print(Text("  " + line, style), soft_wrap=True)
        if len(lines) > MOST_LINES:
            console.print(f"  and {len(lines) - MOST_LINES:,} more (all with --json)", highlight=False)
    if not data.problems:
        console.print(Text("All images and masks can be read.", "green"))


def _progress(total):
    """A bar on stderr while images are decoded (nothing where stderr is no terminal)."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def bar():
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("decoding", total=total)
            yield lambda done, _: progress.update(task, completed=done)

    return bar()


def _show(report):
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text.assemble((report.name, "bold"), f"  {report.format}  {report.path}"), soft_wrap=True)
    console.print(_balance(report))
    for axis, (low, middle, high) in report.sizes.items():
        console.print(f"{axis:6}  {low} to {high} pixels, median {middle:g}", highlight=False)
    if report.shapes:
        console.print(f"square  {report.shapes}", highlight=False, soft_wrap=True)
    console.print(f"split   {report.split_hash}", highlight=False, soft_wrap=True)
    for title, lines, style in (
        ("Notes", report.notes, ""),
        ("Warnings", report.warnings, "yellow"),
        (
            "Equal images in different parts",
            [" = ".join(f"{p}: {i}" for p, i in g) for g in report.duplicates],
            "yellow",
        ),
        (
            "Equal images with different labels",
            [" = ".join(f"{c}: {i}" for c, _, i in g) for g in report.label_conflicts],
            "yellow",
        ),
        ("Problems", report.problems, "red"),
    ):
        if lines:
            console.print(Text(f"{title} ({len(lines):,})", f"bold {style}"))
        for line in lines[:MOST_LINES]:
            console.print(Text("  " + line, style), soft_wrap=True)
        if len(lines) > MOST_LINES:
            console.print(f"  and {len(lines) - MOST_LINES:,} more (all with --json)", highlight=False)
    if report.ok:
        console.print(Text("All images can be read.", "green"))


def _balance(report):
    from rich.table import Table
    from rich.text import Text

    table = Table("class")
    for part in report.counts:
        table.add_column(part, justify="right")
    for name in report.classes:
        counts = [report.balance[part][name] for part in report.counts]
        shares = [f"{n:,} {n / max(total, 1):7.1%}" for n, total in zip(counts, report.counts.values(), strict=True)]
        table.add_row(Text(name), *shares)
    table.add_section()
    table.add_row("all", *(f"{n:,} {'':7}" for n in report.counts.values()))
    return table
