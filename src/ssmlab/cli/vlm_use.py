"""`ssmlab vlm chat`, `answer` and `prune`: what a vision-language model does once it is trained."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.options import takes
from ssmlab.tasks.vision_language.options import AnswerOptions, ChatOptions, PruneOptions, SpeakOptions

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The folder of a vision-language model: ours, llava-hf's, LLaVA-1.5's or Cobra's, or that of a run.",
    ),
]


@takes(ChatOptions)
def chat(model: Model, options: ChatOptions) -> None:
    """Talk about images. The answers go to stdout as they are written; what was read, and how fast, to stderr.

    Images are read once. Each question goes on from the answer before; an empty line begins anew after the images.
    """
    from ssmlab.core.errors import UserError
    from ssmlab.tasks.vision_language.use import load_read, open_model, save_read

    load, save = options.load_state, options.save_state
    if load is not None and save is not None:
        raise UserError("--load-state and --save-state exclude each other; copy the file")
    if save is not None and not options.image:
        raise UserError("--save-state writes what was read of images; give --image FILE")
    for file in [*options.image, *([load] if load else [])]:
        if not file.is_file():
            raise UserError(f"there is no file {file}; check the name")
    network = open_model(model, options, note=_note)
    begin = time.perf_counter()
    if load is not None:
        read = load_read(load, network, list(options.image) or None)
    else:
        read = network.read_image(list(options.image))
    if read.images:
        how = "from the file" if load else f"{network.counts.prefix_tokens} tokens"
        word = "image" if len(read.images) == 1 else "images"
        _note(f"{len(read.images)} {word} read ({how}, {time.perf_counter() - begin:.2f} s)")
    if save is not None:
        save_read(read, save)
        _note(f"{save} holds their state, {read.bytes:,} bytes")
    talk(read, options.question or _questions(), options)


def talk(read: Any, questions: Iterable[str], options: SpeakOptions) -> None:
    """Ask one question after the other and print the answers as they are written."""
    dialog = read.dialog()
    for text in questions:
        if not text:
            dialog = read.dialog()
            continue
        begin, first = time.perf_counter(), list[float]()

        def show(piece: str, first: list[float] = first) -> None:
            first.append(time.perf_counter())
            typer.echo(piece, nl=False)

        answer = dialog.ask(text, on_text=show, **options.generation)
        typer.echo("")
        seconds = time.perf_counter() - begin
        to_first = f"first word after {first[0] - begin:.2f} s, " if first else ""
        _note(f"{to_first}{len(answer.tokens) / max(seconds, 1e-9):.1f} tokens/s")


@takes(AnswerOptions)
def answer(
    model: Model,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.jsonl",
            help='Questions: {"question_id", "image", "text"} a line as LLaVA has them, or records of a training set, '
            "whose last answer is left out.",
        ),
    ],
    options: AnswerOptions,
) -> None:
    """Answer a file of questions, a line of JSON each, in their order, as LLaVA's scores read them.

    In a batch every answer is as if it were alone. Questions that cannot be asked are listed before anything is read.
    """
    from ssmlab.core.display import Display
    from ssmlab.core.files import write_atomically
    from ssmlab.data.conversations import read_questions
    from ssmlab.tasks.vision_language.answering import answer_all
    from ssmlab.tasks.vision_language.use import open_model

    records = read_questions(file, options.images)
    network = open_model(model, options, note=_note)
    display = Display(stderr=True)
    found = answer_all(network, records, batch_size=options.batch_size, progress=display, **options.generation)
    lines = []
    for record, one in zip(records, found, strict=True):
        line = {"question_id": record.source.get("question_id", record.id), "prompt": record.turns[-1].text}
        line |= {"text": one.text, "model_id": Path(model).name, "metadata": {"reason": one.reason}}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    if options.out is None:
        typer.echo("".join(lines), nl=False)
    else:
        write_atomically(options.out, "".join(lines))


@takes(PruneOptions)
def prune(
    model: Model,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Records with answers, such as a test part in LLaVA's form.")
    ],
    options: PruneOptions,
) -> None:
    """Where time and operations go, and what fewer image tokens lose: merged, pooled, chosen, and drawn by lot.

    Nothing depends on the question, since one state of an image serves all of them.
    """
    from ssmlab.core.files import write_json
    from ssmlab.data.conversations import read_conversations
    from ssmlab.models.vision_language.reduce import reducer
    from ssmlab.tasks.vision_language.prune import measure, table
    from ssmlab.tasks.vision_language.use import open_model

    methods, shares = options.methods, options.keep
    for method in methods:
        for share in shares:
            reducer(method, share)  # a mistake is reported before anything is read
    found = read_conversations(file, options.images)
    network = open_model(model, options, note=_note)
    rows = measure(network, found, methods, shares, count=options.records, max_tokens=options.max_tokens)
    typer.echo(table(rows))
    if options.out is not None:
        write_json(options.out, [row.content() for row in rows])


def _questions() -> Iterator[str]:
    """Lines of standard input, with a prompt where somebody types them."""
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()


def _note(text: str) -> None:
    typer.echo(text, err=True)
