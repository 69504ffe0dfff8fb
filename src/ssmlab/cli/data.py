"""`ssmlab data`: look at a data set before training on it."""

import codecs
import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
MOST_LINES = 20
OTHERS = (
    "or files or class folders of texts (.txt, .md), sounds (.wav) or genes (.fa), chats (.jsonl), or images with "
    "masks (images/ and masks/, nnU-Net's imagesTr and labelsTr), or sentence pairs (train.en and train.fr, or with a "
    "tab between), or conversations about images (LLaVA's JSON) or their captions"
)


@app.callback()
def main() -> None:
    """Look at a data set before training on it."""


@app.command()
def check(
    path: Annotated[
        str,
        typer.Argument(
            help="Class folders of images, texts, genes or sounds, a zip of images, MedMNIST, MHIST, CIFAR, ImageNet, "
            "images with masks, a .txt, .fa or .jsonl, sentence pairs in two files or columns, conversations about "
            "images or captions, or: digits"
        ),
    ] = "digits",
    group: Annotated[str | None, typer.Option(help="Column whose images stay on one side, such as the patient")] = None,
    labels: Annotated[str, typer.Option(help="Column of the classes in a table; of CIFAR-100 fine or coarse")] = "fine",
    val_fraction: Annotated[float, typer.Option(help="Share of train for validation where the data have none")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of that choice")] = 0,
    task: Annotated[
        str | None,
        typer.Option(
            help="classify, segment, classify_sequence, language, translate or vision_language; found from the files "
            "if not given"
        ),
    ] = None,
    source: Annotated[str, typer.Option(help="Of sentence pairs the source language, such as en")] = "",
    target: Annotated[str, typer.Option(help="Of sentence pairs the target language, such as fr")] = "",
    target_path: Annotated[
        str, typer.Option(help="Of sentence pairs the target file, where PATH is the source's")
    ] = "",
    images: Annotated[str | None, typer.Option(help="Of conversations about images the images' folder")] = None,
    encoding: Annotated[str, typer.Option(help="Of texts that are not UTF-8, such as latin-1")] = "utf-8",
    masks: Annotated[bool, typer.Option("--masks", help="The same as --task segment")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON")] = False,
) -> None:
    """Read everything as a run does; print parts, classes, sizes, copies, what is left out. Exit code 2: problems."""
    from ssmlab.core.errors import DataError, UserError
    from ssmlab.data.kind_of_data import TASKS, kind_of_data

    task = "segment" if masks else task or ("translate" if source or target or target_path else "")
    task = task or ("vision_language" if images else "")
    if task and task not in TASKS:
        raise UserError(f"--task {task}: no such task; there are {', '.join(TASKS)}")
    try:
        found, kind = kind_of_data(path, task)
        if found == "segment":
            ok = _check_masks(path, val_fraction, seed, as_json)
        elif found == "classify":
            ok = _check_images(path, group, labels, val_fraction, seed, as_json, hint=not task)
        elif found == "vision_language":
            ok = _check_conversations(path, images, as_json)
        elif found == "translate":
            keys = {"path": path, "source": source, "target": target, "target_path": target_path, "encoding": encoding}
            ok = _check_pairs(keys | {"split_seed": seed}, as_json)
        else:
            more = {"encoding": encoding, "labels": labels.removeprefix("fine"), "group": group or ""}
            ok = _check_sequences(path, kind, found, val_fraction, seed, more, as_json)
    except DataError as error:  # no data set at all
        answer = {"ok": False, "path": path, "problems": error.problems or [str(error)]}
        typer.echo(json.dumps(answer, indent=2) if as_json else f"ssmlab: {error}", err=not as_json)
        raise typer.Exit(2) from None
    if not ok:
        raise typer.Exit(2)


def _check_images(path, group, labels, val_fraction, seed, as_json, hint):
    from ssmlab.core.errors import DataError
    from ssmlab.data import check_images, open_images
    from ssmlab.data.images.formats import ACCEPTED

    try:
        data = open_images(path, group=group, labels=labels, val_fraction=val_fraction, seed=seed, strict=False)
    except DataError as error:
        if hint and str(error).endswith(ACCEPTED):
            raise DataError(f"{error}; {OTHERS}") from None
        raise
    with _progress(len(data.train) + len(data.val) + len(data.test)) as progress:
        report = check_images(data, strict=False, progress=progress)
    if hint and any("of the images next to them" in note for note in report.notes):
        report.notes.append("for segmentation, images and masks are checked with --task segment")
    if as_json:
        typer.echo(json.dumps({"task": "classify", **report.to_dict()}, indent=2))
    else:
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
    return report.ok


def _check_sequences(path, kind, task, val_fraction, seed, more, as_json):
    """The same for texts, genes, sounds and chats."""
    from ssmlab.core.errors import UserError
    from ssmlab.data.sequences.check import check_sequences

    try:
        more["encoding"] = codecs.lookup(more["encoding"]).name
    except LookupError:
        raise UserError(
            f"--encoding {more['encoding']}: Python knows no such encoding; such as utf-8, latin-1, cp1252"
        ) from None
    report = check_sequences(path, kind, task, val_fraction=val_fraction, seed=seed, **more)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console()
        console.print(Text.assemble((report.name, "bold"), f"  {report.format}  {report.path}"), soft_wrap=True)
        if report.classes:
            console.print(_balance(report))
        else:
            what = "chats" if report.format == "chat" else "documents"
            parts = ", ".join(
                f"{n:,} {part} ({report.units[part]:,} {report.unit})" for part, n in report.counts.items()
            )
            console.print(f"{what}  {parts}", highlight=False, soft_wrap=True)
        low, middle, high = report.lengths
        console.print(f"length  {low:,} to {high:,} {report.unit}, median {middle:,g}", highlight=False)
        console.print(f"split   {report.split_hash}", highlight=False, soft_wrap=True)
        _show_lines(
            console,
            ("Notes", report.notes, ""),
            ("Warnings", report.warnings, "yellow"),
        )
        console.print(_all_read("files", [*report.warnings, *report.notes]))
    return True


def _check_pairs(keys, as_json):
    """The same for sentence pairs."""
    from pydantic import ValidationError

    from ssmlab.core.errors import UserError
    from ssmlab.data.pairs.check import check_pairs
    from ssmlab.data.pairs.config import PairConfig

    try:
        config = PairConfig(**keys)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    report = check_pairs(config)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return True
    from rich.console import Console
    from rich.text import Text

    console, data = Console(), report.data
    console.print(Text.assemble((data.name, "bold"), f"  {data.format}  {data.path}"), soft_wrap=True)
    counts = ", ".join(f"{n:,} {part}" for part, n in data.counts.items())
    console.print(f"pairs   {data.source} to {data.target}: {counts}", highlight=False, soft_wrap=True)
    sizes = [f"{low:,} to {high:,}, median {middle:,g} ({side})" for side, (low, middle, high) in report.words.items()]
    console.print(f"words   {'; '.join(sizes)}", highlight=False, soft_wrap=True)
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in data.removed.items() if n) or "none"
    console.print(f"left    of train {left_out}", highlight=False, soft_wrap=True)
    console.print(f"subword {report.vocabulary:,} where the recipe leaves it to us", highlight=False)
    console.print(f"split   {data.split_hash}", highlight=False, soft_wrap=True)
    _show_lines(console, ("Notes", data.notes, ""), ("Warnings", data.warnings, "yellow"))
    console.print(_all_read("files", [*data.warnings, *data.notes]))
    return True


def _check_conversations(path, images, as_json):
    """The same for conversations about images."""
    from ssmlab.data.conversations.check import check_conversations

    with _progress(None) as progress:
        report = check_conversations(path, images, progress=progress)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return report.ok
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text.assemble((report.kind, "bold"), f"  {report.path}"), soft_wrap=True)
    console.print(f"images   {report.images:,} in {report.folder}", highlight=False, soft_wrap=True)
    turns = ", ".join(f"{n:,} with {k} {'question' if k == 1 else 'questions'}" for k, n in report.turns.items())
    console.print(f"records  {report.records:,}{': ' + turns if turns else ''}", highlight=False, soft_wrap=True)
    for side, (low, middle, high) in report.words.items():
        console.print(f"{side:9}{low:,} to {high:,} words, median {middle:,g}", highlight=False)
    for axis, (low, middle, high) in report.sizes.items():
        console.print(f"{axis:9}{low} to {high} pixels, median {middle:g}", highlight=False)
    _show_lines(console, ("Notes", report.notes, ""))
    if report.problems:  # all of them: each is a record that a run would refuse
        console.print(Text(f"Problems ({len(report.problems):,})", "bold red"))
        for line in report.problems:
            console.print(Text("  " + line, "red"), soft_wrap=True)
    else:
        console.print(Text("All records and images can be used.", "green"))
    return report.ok


def _check_masks(path, val_fraction, seed, as_json):
    """The same for images with masks."""
    from ssmlab.data.masks.reader import open_masks

    data = open_masks(path, val_fraction=val_fraction, seed=seed, strict=False)
    counts = {part: len(getattr(data, part)) for part in ("train", "val", "test")}
    facts = {
        "ok": not data.problems,
        "task": "segment",
        "path": path,
        "format": data.format,
        "classes": list(data.classes),
        "counts": counts,
        "shares": list(data.shares),
        "channels": data.channels,
        "sizes": data.sizes,
        "spacing": list(data.spacing),
        "split_hash": data.split_hash,
        "copies": data.copies,
        "notes": data.notes,
        "problems": data.problems,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console()
        console.print(Text.assemble((data.name, "bold"), f"  {data.format}  {data.path}"), soft_wrap=True)
        shares = data.shares or [None] * len(data.classes)
        said = [
            name if share is None else f"{name} {share:.1%}" for name, share in zip(data.classes, shares, strict=True)
        ]
        sizes = [f"{low} to {high}, median {middle}" for low, middle, high in data.sizes]
        console.print(f"classes {', '.join(said)} of the training pixels", highlight=False, soft_wrap=True)
        console.print("images  " + ", ".join(f"{n} {part}" for part, n in counts.items()), highlight=False)
        console.print(f"sizes   {' x '.join(sizes)}; {data.channels} channels", highlight=False, soft_wrap=True)
        console.print(f"split   {data.split_hash}", highlight=False, soft_wrap=True)
        _show_lines(console, ("Notes", data.notes, ""), ("Problems", data.problems, "red"))
        if not data.problems:
            console.print(_all_read("images and masks", data.notes))
    return not data.problems


def _show_lines(console, *sections):
    from rich.text import Text

    for title, lines, style in sections:
        if lines:
            console.print(Text(f"{title} ({len(lines):,})", f"bold {style}"))
        for line in lines[:MOST_LINES]:
            console.print(Text("  " + line, style), soft_wrap=True)
        if len(lines) > MOST_LINES:
            console.print(f"  and {len(lines) - MOST_LINES:,} more (all with --json)", highlight=False)


def _all_read(what, lines):
    """The last line: what was left out for its format must not sound as if it had been read."""
    from rich.text import Text

    if any("formats that are not read" in line for line in lines):
        return Text(f"Files of other formats are not read; the other {what} can be read.", "yellow")
    return Text(f"All {what} can be read.", "green")


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
            yield lambda done, every: progress.update(task, completed=done, total=every)

    return bar()


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
