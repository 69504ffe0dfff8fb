"""`ssmlab generate`: text from a language model."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.cli.published import AcceptLicence, Pretrained, as_folder
from ssmlab.tasks.language.options import DTYPES, INT8, WritingOptions

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The folder of a language model in any layout (ours, state-spaces', Hugging Face's), of a run with one, "
        "owner/name on the Hugging Face Hub, or a name such as mamba_lm_130m, which gets random weights without "
        "--pretrained.",
    ),
]


@takes(WritingOptions)
def generate(
    model: Model,
    options: WritingOptions,
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Continue a prompt. The text goes to stdout; tokens a second, for reading and writing, to stderr."""
    from ssmlab.checkpoints.find import HYBRIDS, is_hybrid
    from ssmlab.core.errors import UserError
    from ssmlab.tasks.language.chat import check_model, open_chat
    from ssmlab.tasks.language.prompts import prompts_of

    prompts = prompts_of(options)
    check_model(model, options.dtype, (*DTYPES, INT8))
    model = as_folder(model, pretrained, accept_licence)
    options.processor()  # what this imports is not timed
    if is_hybrid(Path(model)):  # runs in transformers' classes, which get our kernels
        from ssmlab.compat import install

        for name in ("save_state", "save_answer", "load_state"):
            if getattr(options, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option}: states of {', '.join(HYBRIDS.values())} are not stored; leave it out")
        install(quiet=True)
    chat = open_chat(model, tokenizer=options.tokenizer, dtype=options.dtype, device=options.device,
                     adapter=options.adapter, note=_note)  # fmt: skip
    _write(chat, prompts, options)


def _write(chat, prompts: list, options: WritingOptions) -> None:
    """Write, and print texts or lines of JSON; speeds go to stderr."""
    from ssmlab.checkpoints.prompts import load_prompt_state, save_prompt_state
    from ssmlab.tasks.language.prompts import result_of, write

    before = None if options.load_state is None else load_prompt_state(options.load_state, chat.network)
    times = [time.perf_counter()]

    def on_read(state, tokens: int) -> None:
        _speed("prompt", tokens, 0, time.perf_counter() - times[0])
        if options.save_state is not None:
            save_prompt_state(state, options.save_state, chat.network)
        times.append(time.perf_counter())

    def on_text(row: int, text: str) -> None:
        typer.echo(text, nl=False)

    streams = options.stream and options.beams == 1 and not options.as_lines
    written = write(chat, prompts, options, before, on_read=on_read, on_text=on_text if streams else None)
    seconds = time.perf_counter() - times[1]
    names = None if options.logprobs is None else chat.tokenizer
    for i, row in enumerate(written.rows):
        if options.as_lines:
            sample = i % options.samples if options.samples > 1 else None
            line = result_of(written.prompts[i], row, sample=sample, tokenizer=names)
            typer.echo(json.dumps(line, ensure_ascii=False))
        else:
            typer.echo("" if streams else row.text)
    if options.max_tokens:
        _speed("text", sum(len(row.tokens) for row in written.rows), len(written.rows), seconds)
    if options.save_answer is not None:
        after = chat.network.read([row.tokens for row in written.rows], written.state)
        save_prompt_state(after, options.save_answer, chat.network)


def _speed(what: str, tokens: int, free: int, seconds: float) -> None:
    """Tokens and their speed; the first new token of a row comes with the prompt's logits and is free."""
    speed = f", {(tokens - free) / seconds:.1f} tokens/s" if tokens > free else ""
    _note(f"{what}: {tokens} tokens{speed}")


def _note(text: str) -> None:
    typer.echo(text, err=True)
