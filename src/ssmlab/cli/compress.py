"""`ssmlab compress`: a model with factorised layers, at several ranks."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.published import AcceptLicence, Pretrained, as_files, as_folder

NAMES, NUMBERS = 28, 18  # columns of the terminal for the measures, and for a model
DEVICES = ("auto", "cuda", "mps", "cpu")


def _option(kind: type, text: str, **limits):
    return Annotated[kind, typer.Option(help=text, **limits)]


MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="A trained model's folder, a run with one, a name of `ssmlab models`.")
]
RANK = _option(str, "Ranks, such as 4,8,16.")
ENERGY = _option(str, "Shares of the energy; 0.5,0.8,0.9,0.95,0.99 if nothing is given.")
FLOPS = _option(str, "Shares of the layers' operations, spread over them, such as 0.25,0.5.")
TARGETS = _option(str, "Linear layers, by name or pattern, with commas.")
SIDE = _option(int, "Rank of a side path of its own beside P Q.", min=0)
DATA = _option(str | None, "As data.path of a recipe: accuracy, or bits and perplexity, before and after.")
EPOCHS = _option(int, "Of fine-tuning, with --data; 0: none.", min=0)
RATE = _option(float, "Of fine-tuning.")
WEIGHTS = _option(str | None, "Weights of a vision model by name.")
SIZE = _option(int | None, "For a vision model by name.", min=8)
LENGTH = _option(int, "Tokens of a row; 0: as the model was trained, or 256.", min=0)
TOKENIZER = _option(str, "Of --data, if not the model's own.")
BATCH = _option(int, "Images or rows of a batch.", min=1)
REPEATS = _option(int, "Rounds, in each of which every model has its turn.", min=1)
THREADS = _option(int, "On the CPU; 0: as many as torch takes.", min=0)
DEVICE = _option(str, ", ".join(DEVICES))
TRAIN = Annotated[bool, typer.Option("--train/--no-train", help="Time training steps too.")]
LIMIT = _option(int, "At most so many images or rows of each part; 0: all.", min=0)
GROUP = _option(str | None, "The images' column whose members stay on one side.")
LABELS = _option(str, "Column of the classes in a table; of CIFAR-100 fine or coarse.")
OUTPUT = _option(Path | None, "The folder; runs/compress-<model> if not given.")
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace the results that are there.")]


def compress(
    model: MODEL,
    rank: RANK = "",
    energy: ENERGY = "",
    flops: FLOPS = "",
    targets: TARGETS = "in_proj",
    residual_rank: SIDE = 0,
    data: DATA = None,
    epochs: EPOCHS = 3,
    learning_rate: RATE = 3e-4,
    weights: WEIGHTS = None,
    image_size: SIZE = None,
    length: LENGTH = 0,
    tokenizer: TOKENIZER = "",
    batch: BATCH = 32,
    repeats: REPEATS = 10,
    threads: THREADS = 0,
    device: DEVICE = "auto",
    train: TRAIN = True,
    limit: LIMIT = 0,
    group: GROUP = None,
    labels: LABELS = "fine",
    output: OUTPUT = None,
    overwrite: OVERWRITE = False,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Replace linear layers by products of a lower rank: spectrum, parameters, operations, speed, and what is lost.

    MODEL reads images or texts. Each value of --rank, --energy or --flops makes a model. With --data it is tested,
    fine-tuned and tested again, and saved under models/, from where every command opens it.
    """
    from ssmlab.core.errors import UserError
    from ssmlab.studies.compress.compression import Options

    if device not in DEVICES:
        raise UserError(f"--device must be one of {', '.join(DEVICES)}, got {device!r}")
    rule, values = _rule(rank=rank, energy=energy, flops=flops)
    title = model.replace("/", "-")
    (model,), files = as_files([model], [weights] if weights else [], pretrained, accept_licence)
    if not files and (folder := as_folder(model, _of_text(model) and pretrained, accept_licence)) != model:
        model, output = folder, output or Path("runs") / f"compress-{title}"
    options = Options(
        rule=rule, values=values, targets=tuple(part.strip() for part in targets.split(",") if part.strip()),
        residual_rank=residual_rank, data=data, group=group, labels=labels, limit=limit, epochs=epochs,
        learning_rate=learning_rate, image_size=image_size, length=length, tokenizer=tokenizer, batch=batch,
        repeats=repeats, threads=threads, device=device, train=train, weights=tuple(files),
    )  # fmt: skip
    _run(model, options, output, overwrite)


def _of_text(model: str) -> bool:
    from ssmlab.models.language.names import LANGUAGE_MODELS

    return model in LANGUAGE_MODELS


def _run(model: str, options, output: Path | None, overwrite: bool) -> None:
    import shlex
    import sys

    from ssmlab.cli.display import showing
    from ssmlab.studies.compress.compression import compress as measure

    with showing("interrupted; nothing was finished") as display:
        command = shlex.join(["ssmlab", *sys.argv[1:]])
        result = measure(model, options, output=output, overwrite=overwrite, command=command, progress=display)
    _show(display.console, result)


def _rule(**texts: str) -> tuple[str, tuple[float, ...]]:
    """The one of the rules that is given, and its values."""
    from ssmlab.core.errors import UserError
    from ssmlab.studies.compress.compression import ENERGIES

    given = {name: text for name, text in texts.items() if text}
    if len(given) > 1:
        raise UserError(f"give one of --rank, --energy and --flops, got {' and '.join(f'--{name}' for name in given)}")
    return next(((name, _numbers(name, text)) for name, text in given.items()), ("energy", ENERGIES))


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """The values of an option; ranks are whole."""
    from ssmlab.core.errors import UserError

    try:
        values = [int(part) if name == "rank" else float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{name} takes numbers with commas between them, got {text!r}") from None
    return tuple(dict.fromkeys(values))


def _show(console, result) -> None:
    from ssmlab.studies.compare.table import to_rich

    room = max(1, (console.width - NAMES) // NUMBERS)
    for first in range(0, len(result.labels), room):
        console.print(to_rich(result.table, slice(first, first + room)))
    console.print(result.answer, markup=False, style="bold")
    console.print(f"report: {result.folder / 'report.html'}", markup=False, soft_wrap=True)
