"""`ssmlab vlm chat`, `answer` and `prune`: what a vision-language model does once it is trained."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The folder of a vision-language model: ours, llava-hf's, LLaVA-1.5's or Cobra's, or that of a run.",
    ),
]
Template = Annotated[
    str | None, typer.Option("--template", help="Another form of conversations than the model's, such as vicuna_v1.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Of an answer.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest token every time.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random numbers, with a temperature.")]


def chat(
    model: Model,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="An image; several where it is given several times.")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="Ask this and end; else questions are read, one a line."),
    ] = None,
    save_state: Annotated[Path | None, typer.Option("--save-state", help="Write the state after the images.")] = None,
    load_state: Annotated[
        Path | None, typer.Option("--load-state", help="A file of --save-state, in place of reading the images.")
    ] = None,
    template: Template = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Talk about images. The answers go to stdout as they are written; what was read, and how fast, to stderr.

    Images are read once. Each question goes on from the answer before; an empty line begins anew after the images.
    """
    from ssmlab.core.errors import UserError
    from ssmlab.tasks.vision_language.use import load_read, open_model, save_read

    if load_state is not None and save_state is not None:
        raise UserError("--load-state and --save-state exclude each other; copy the file")
    if save_state is not None and not image:
        raise UserError("--save-state writes what was read of images; give --image FILE")
    for file in [*(image or []), *([load_state] if load_state else [])]:
        if not file.is_file():
            raise UserError(f"there is no file {file}; check the name")
    network = open_model(model, device=device, template=template, note=_note)
    begin = time.perf_counter()
    if load_state is not None:
        read = load_read(load_state, network, list(image) if image else None)
    else:
        read = network.read_image(list(image or []))
    if read.images:
        how = "from the file" if load_state else f"{network.counts.prefix_tokens} tokens"
        _note(
            f"{len(read.images)} image{'s'[: len(read.images) > 1]} read ({how}, {time.perf_counter() - begin:.2f} s)"
        )
    if save_state is not None:
        save_read(read, save_state)
        _note(f"{save_state} holds their state, {read.bytes:,} bytes")
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    talk(read, question or _questions(), options)


def talk(read: Any, questions: Iterable[str], options: dict[str, Any]) -> None:
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

        answer = dialog.ask(text, on_text=show, **options)
        typer.echo("")
        seconds = time.perf_counter() - begin
        to_first = f"first word after {first[0] - begin:.2f} s, " if first else ""
        _note(f"{to_first}{len(answer.tokens) / max(seconds, 1e-9):.1f} tokens/s")


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
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images; next to FILE.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file for the answers; stdout if not given.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions answered at once.")] = 8,
    template: Template = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Answer a file of questions, a line of JSON each, in their order, as LLaVA's scores read them.

    In a batch every answer is as if it were alone. Questions that cannot be asked are listed before anything is read.
    """
    from ssmlab.core.display import Display
    from ssmlab.core.files import write_atomically
    from ssmlab.data.conversations import read_questions
    from ssmlab.tasks.vision_language.answering import answer_all
    from ssmlab.tasks.vision_language.use import open_model

    records = read_questions(file, images)
    network = open_model(model, device=device, template=template, note=_note)
    found = answer_all(
        network, records, batch_size=batch_size, progress=Display(stderr=True), max_tokens=max_tokens,
        temperature=temperature, seed=seed,
    )  # fmt: skip
    lines = []
    for record, one in zip(records, found, strict=True):
        line = {"question_id": record.source.get("question_id", record.id), "prompt": record.turns[-1].text}
        line |= {"text": one.text, "model_id": Path(model).name, "metadata": {"reason": one.reason}}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    if out is None:
        typer.echo("".join(lines), nl=False)
    else:
        write_atomically(out, "".join(lines))


def prune(
    model: Model,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Records with answers, such as a test part in LLaVA's form.")
    ],
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images; next to FILE.")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="random, pool, tome, visionzip; all if not given.")
    ] = None,
    keep: Annotated[list[float] | None, typer.Option("--keep", help="Shares of the tokens; 0.5 and 0.25.")] = None,
    records: Annotated[int, typer.Option("--records", min=1, help="Of the file, at most, evenly from all.")] = 32,
    template: Template = None,
    max_tokens: MaxTokens = 16,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .json file for the table.")] = None,
    device: Device = "auto",
) -> None:
    """Where time and operations go, and what fewer image tokens lose: merged, pooled, chosen, and drawn by lot.

    Nothing depends on the question, since one state of an image serves all of them.
    """
    from ssmlab.core.files import write_json
    from ssmlab.data.conversations import read_conversations
    from ssmlab.models.vision_language.reduce import METHODS, reducer
    from ssmlab.tasks.vision_language.prune import KEEP, measure, table
    from ssmlab.tasks.vision_language.use import open_model

    methods, shares = method or list(METHODS), keep or list(KEEP)
    for name in methods:
        for share in shares:
            reducer(name, share)  # a mistake is reported before anything is read
    found = read_conversations(file, images)
    network = open_model(model, device=device, template=template, note=_note)
    rows = measure(network, found, methods, shares, count=records, max_tokens=max_tokens)
    typer.echo(table(rows))
    if out is not None:
        write_json(out, [row.content() for row in rows])


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
