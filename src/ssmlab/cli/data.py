"""`ssmlab data`: look at a data set before training on it."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.options import takes
from ssmlab.data.options import DataOptions

app = typer.Typer(no_args_is_help=True)
MOST_LINES = 20


@app.callback()
def main() -> None:
    """Look at a data set before training on it."""


@app.command()
@takes(DataOptions)
def check(
    path: Annotated[
        str,
        typer.Argument(
            help="Class folders of images, texts, genes or sounds, a zip of images, MedMNIST, MHIST, CIFAR, ImageNet, "
            "images with masks, a .txt, .fa or .jsonl, sentence pairs in two files or columns, conversations about "
            "images or captions, or: digits"
        ),
    ] = "digits",
    *,
    options: DataOptions,
) -> None:
    """Read everything as a run does; print parts, classes, sizes, copies, what is left out. Exit code 2: problems."""
    from ssmlab.core.errors import DataError
    from ssmlab.data import check_data

    try:
        with _progress() as progress:
            report = check_data(path, options, progress=progress)
    except DataError as error:  # no data set at all
        answer = {"ok": False, "path": path, "problems": error.problems or [str(error)]}
        typer.echo(json.dumps(answer, indent=2) if options.as_json else f"ssmlab: {error}", err=not options.as_json)
        raise typer.Exit(2) from None
    if options.as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(2)


@app.command()
def series(
    folder: Annotated[Path, typer.Argument(help="A folder with DICOM files, at any depth.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the volumes; made where it is missing.")],
) -> None:
    """Write every DICOM series as a NIfTI volume, in Hounsfield units where it is a CT, and groups.csv with patients as
    digests: no name, date or number of a header is in any of them. Exit code 2 if a series cannot be used."""
    from ssmlab.core.errors import DataError
    from ssmlab.data.images.dicom import NEEDED, is_readable
    from ssmlab.data.masks.dicom_series import write_series
    from ssmlab.data.masks.volumes import require_nibabel

    if not is_readable():
        raise DataError(NEEDED)
    require_nibabel()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    written, problems = write_series(folder, out)
    typer.echo(f"{len(written)} volumes in {out}")
    if problems:
        raise DataError(f"{len(problems)} of {len(written) + len(problems)} series cannot be used", problems)


@app.command()
def tiles(
    slides: Annotated[list[Path], typer.Argument(help="Whole slides (.svs, .ndpi, .tif ...), and folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the tiles; made where it is missing.")],
    size: Annotated[int, typer.Option(min=16, help="Of a tile, in pixels.")] = 256,
    mpp: Annotated[float, typer.Option(min=0, help="Micrometres a pixel; 0: as scanned.")] = 0.5,
    tissue: Annotated[float, typer.Option(min=0, max=1, help="Least share of a tile that is tissue.")] = 0.5,
) -> None:
    """Cut whole slides into pictures. Folders stay classes; groups.csv says every tile's slide (data.group=slide)."""
    from ssmlab.core.display import Display
    from ssmlab.core.errors import DataError
    from ssmlab.data.images.slides import find_slides, write_tiles

    found = find_slides(slides)
    written, problems = write_tiles(found, out, size=size, mpp=mpp, tissue=tissue, progress=Display(stderr=True))
    typer.echo(f"{written:,} tiles of {len(found) - len(problems)} slides in {out}")
    if problems:
        raise DataError(f"{len(problems)} of {len(found)} slides cannot be used", problems)


def _show(report: Any) -> None:
    """What a report of any kind says, on the screen."""
    from rich.console import Console
    from rich.text import Text

    from ssmlab.data import CheckReport
    from ssmlab.data.conversations.check import ConversationReport
    from ssmlab.data.masks.check import MaskReport
    from ssmlab.data.sequences.check import SequenceReport
    from ssmlab.data.stream.labelled import ShardReport

    console = Console(highlight=False, markup=False)
    about = getattr(report, "data", report)
    console.print(Text.assemble((about.name, "bold"), f"  {about.format}  {about.path}"), soft_wrap=True)
    if isinstance(report, CheckReport):
        _show_images(console, report)
    elif isinstance(report, MaskReport):
        _show_masks(console, report)
    elif isinstance(report, SequenceReport):
        _show_sequences(console, report)
    elif isinstance(report, ConversationReport):
        _show_conversations(console, report)
    elif isinstance(report, ShardReport):
        console.print(", ".join(f"{n:,} shards of {part}" for part, n in report.shards.items()))
        console.print(_balance(report))
        _show_lines(console, ("Notes", report.notes, ""))
    else:
        _show_pairs(console, report)


def _show_images(console, report) -> None:
    console.print(_balance(report))
    for axis, (low, middle, high) in report.sizes.items():
        console.print(f"{axis:6}  {low} to {high} pixels, median {middle:g}")
    if report.shapes:
        console.print(f"square  {report.shapes}", soft_wrap=True)
    console.print(f"split   {report.split_hash}", soft_wrap=True)
    duplicates = [" = ".join(f"{part}: {id}" for part, id in group) for group in report.duplicates]
    conflicts = [" = ".join(f"{label}: {id}" for label, _, id in group) for group in report.label_conflicts]
    _show_lines(
        console,
        ("Notes", report.notes, ""),
        ("Warnings", report.warnings, "yellow"),
        ("Equal images in different parts", duplicates, "yellow"),
        ("Equal images with different labels", conflicts, "yellow"),
        ("Problems", report.problems, "red"),
    )
    if report.ok:
        console.print(_all_read("images", report.warnings))


def _show_sequences(console, report) -> None:
    """Of texts, genes, sounds and chats."""
    if report.classes:
        console.print(_balance(report))
    else:
        what = "chats" if report.format == "chat" else "documents"
        parts = ", ".join(f"{n:,} {part} ({report.units[part]:,} {report.unit})" for part, n in report.counts.items())
        console.print(f"{what}  {parts}", soft_wrap=True)
    low, middle, high = report.lengths
    console.print(f"length  {low:,} to {high:,} {report.unit}, median {middle:,g}")
    console.print(f"split   {report.split_hash}", soft_wrap=True)
    _show_lines(console, ("Notes", report.notes, ""), ("Warnings", report.warnings, "yellow"))
    console.print(_all_read("files", [*report.warnings, *report.notes]))


def _show_pairs(console, report) -> None:
    data = report.data
    counts = ", ".join(f"{n:,} {part}" for part, n in data.counts.items())
    console.print(f"pairs   {data.source} to {data.target}: {counts}", soft_wrap=True)
    sizes = [f"{low:,} to {high:,}, median {middle:,g} ({side})" for side, (low, middle, high) in report.words.items()]
    console.print(f"words   {'; '.join(sizes)}", soft_wrap=True)
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in data.removed.items() if n) or "none"
    console.print(f"left    of train {left_out}", soft_wrap=True)
    console.print(f"subword {report.vocabulary:,} where the recipe leaves it to us")
    console.print(f"split   {data.split_hash}", soft_wrap=True)
    _show_lines(console, ("Notes", data.notes, ""), ("Warnings", data.warnings, "yellow"))
    console.print(_all_read("files", [*data.warnings, *data.notes]))


def _show_masks(console, report) -> None:
    data = report.data
    shares = data.shares or [None] * len(data.classes)
    said = [name if share is None else f"{name} {share:.1%}" for name, share in zip(data.classes, shares, strict=True)]
    sizes = [f"{low} to {high}, median {middle}" for low, middle, high in data.sizes]
    console.print(f"classes {', '.join(said)} of the training pixels", soft_wrap=True)
    console.print("images  " + ", ".join(f"{n} {part}" for part, n in report.counts.items()))
    console.print(f"sizes   {' x '.join(sizes)}; {data.channels} channels", soft_wrap=True)
    console.print(f"split   {data.split_hash}", soft_wrap=True)
    _show_lines(console, ("Notes", data.notes, ""), ("Problems", data.problems, "red"))
    if report.ok:
        console.print(_all_read("images and masks", data.notes))


def _show_conversations(console, report) -> None:
    console.print(f"images   {report.images:,} in {report.folder}", soft_wrap=True)
    turns = ", ".join(f"{n:,} with {k} {'question' if k == 1 else 'questions'}" for k, n in report.turns.items())
    console.print(f"records  {report.records:,}{': ' + turns if turns else ''}", soft_wrap=True)
    for side, (low, middle, high) in report.words.items():
        console.print(f"{side:9}{low:,} to {high:,} words, median {middle:,g}")
    for axis, (low, middle, high) in report.sizes.items():
        console.print(f"{axis:9}{low} to {high} pixels, median {middle:g}")
    _show_lines(console, ("Notes", report.notes, ""))
    if report.problems:  # all of them: each is a record that a run would refuse
        console.print(f"Problems ({len(report.problems):,})", style="bold red")
        for line in report.problems:
            console.print("  " + line, style="red", soft_wrap=True)
    else:
        console.print("All records and images can be used.", style="green")


def _show_lines(console, *sections):
    from rich.text import Text

    for title, lines, style in sections:
        if lines:
            console.print(Text(f"{title} ({len(lines):,})", f"bold {style}"))
        for line in lines[:MOST_LINES]:
            console.print(Text("  " + line, style), soft_wrap=True)
        if len(lines) > MOST_LINES:
            console.print(f"  and {len(lines) - MOST_LINES:,} more (all with --json)")


def _all_read(what, lines):
    """The last line: what was left out for its format must not sound as if it had been read."""
    from rich.text import Text

    if any("formats that are not read" in line for line in lines):
        return Text(f"Files of other formats are not read; the other {what} can be read.", "yellow")
    return Text(f"All {what} can be read.", "green")


@contextmanager
def _progress():
    """A bar on stderr while images are decoded (nothing where stderr is no terminal)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:  # a switched-off bar ends with an empty line before rich 13.9
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("decoding", total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


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
