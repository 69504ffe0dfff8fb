"""`ssmlab compress`: a model with factorised layers, at several ranks."""

from pathlib import Path
from typing import Annotated

import typer

NAMES, NUMBERS = 28, 18  # columns of the terminal for the measures, and for a model


def compress(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A trained model's folder, a run with one, a name of `ssmlab models`."),
    ],
    rank: Annotated[str, typer.Option(help="Ranks, such as 4,8,16.")] = "",
    energy: Annotated[str, typer.Option(help="Shares of the energy; 0.5,0.8,0.9,0.95,0.99 if nothing is given.")] = "",
    flops: Annotated[
        str, typer.Option(help="Shares of the layers' operations, spread over them, such as 0.25,0.5.")
    ] = "",
    targets: Annotated[str, typer.Option(help="Linear layers, by name or pattern, with commas.")] = "in_proj",
    residual_rank: Annotated[int, typer.Option(min=0, help="Rank of a side path of its own beside P Q.")] = 0,
    data: Annotated[str | None, typer.Option(help="As data.path of a recipe: accuracy before and after.")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Of fine-tuning, with --data; 0: none.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of fine-tuning.")] = 3e-4,
    weights: Annotated[str | None, typer.Option(help="Weights of a network by name.")] = None,
    image_size: Annotated[int | None, typer.Option(min=8, help="For a network by name.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, in each of which every model has its turn.")] = 10,
    threads: Annotated[int, typer.Option(min=0, help="On the CPU; 0: as many as torch takes.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    train: Annotated[bool, typer.Option("--train/--no-train", help="Time training steps too.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="At most so many images of each part; 0: all.")] = 0,
    group: Annotated[str | None, typer.Option(help="The data's column whose images stay on one side.")] = None,
    labels: Annotated[str, typer.Option(help="Of CIFAR-100: fine or coarse.")] = "fine",
    output: Annotated[Path | None, typer.Option(help="The folder; runs/compress-<model> if not given.")] = None,
) -> None:
    """Replace linear layers by products of a lower rank: spectrum, parameters, operations, speed, and what is lost.

    Each value of --rank, --energy or --flops makes a model. With --data it is tested, fine-tuned and tested again, and
    saved under models/, from where every command opens it.
    """
    import shlex
    import sys

    from ssmlab.cli.display import Display
    from ssmlab.errors import UserError
    from ssmlab.training.compress import ENERGIES, Options
    from ssmlab.training.compress import compress as measure

    if device not in ("auto", "cuda", "mps", "cpu"):
        raise UserError(f"--device must be auto, cuda, mps or cpu, got {device!r}")
    given = {name: text for name, text in (("rank", rank), ("energy", energy), ("flops", flops)) if text}
    if len(given) > 1:
        raise UserError(f"give one of --rank, --energy and --flops, got {' and '.join(f'--{name}' for name in given)}")
    rule, values = next(((name, _numbers(name, text)) for name, text in given.items()), ("energy", ENERGIES))
    options = Options(
        rule=rule,
        values=values,
        targets=tuple(part.strip() for part in targets.split(",") if part.strip()),
        residual_rank=residual_rank,
        data=data,
        group=group,
        labels=labels,
        limit=limit,
        epochs=epochs,
        learning_rate=learning_rate,
        image_size=image_size,
        batch=batch,
        repeats=repeats,
        threads=threads,
        device=device,
        train=train,
        weights=(weights,) if weights else (),
    )
    display = Display()
    try:
        result = measure(model, options, output=output, command=shlex.join(["ssmlab", *sys.argv[1:]]), progress=display)
    except KeyboardInterrupt:
        display.stop()
        display.say("interrupted; nothing was finished")
        raise typer.Exit(130) from None
    finally:
        display.stop()
    _show(display.console, result)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """The values of an option; ranks are whole."""
    from ssmlab.errors import UserError

    try:
        values = [int(part) if name == "rank" else float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{name} takes numbers with commas between them, got {text!r}") from None
    return tuple(dict.fromkeys(values))


def _show(console, result) -> None:
    from ssmlab.training.compare.table import to_rich

    room = max(1, (console.width - NAMES) // NUMBERS)
    for first in range(0, len(result.labels), room):
        console.print(to_rich(result.table, slice(first, first + room)))
    console.print(result.answer, markup=False, style="bold")
    console.print(f"report: {result.folder / 'report.html'}", markup=False, soft_wrap=True)
