"""`ssmlab generate`: text from a language model."""

import json
import time
from pathlib import Path

import typer

from ssmlab.cli.published import AcceptLicence, Pretrained, as_folder
from ssmlab.tasks.language.chat import DEVICES, DTYPES, INT8

MODEL = typer.Argument(
    metavar="MODEL",
    help="The folder of a language model in any layout (ours, state-spaces', Hugging Face's), of a run with one, "
    "owner/name on the Hugging Face Hub, or a name such as mamba_lm_130m, which gets random weights without "
    "--pretrained.",
)
WRITING = (*DTYPES, INT8)
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # what recipes call them


def long_name(dtype: str | None) -> str | None:
    """A precision's name as torch has it."""
    return SHORT.get(dtype, dtype) if dtype else dtype


BATCH = typer.Option(
    None,
    "--batch",
    help='A file of prompts, one a line, or JSON lines with "prompt", "text" or "messages"; blank lines are left out. '
    "A line of JSON is printed for each, with the line's own keys.",
)
TOKENIZER = typer.Option(
    None,
    "--tokenizer",
    help="A tokenizer.json, a sentencepiece model, or bytes. If not given: the one next to the weights, else bytes if "
    "the vocabulary is that small.",
)
CHAT = typer.Option(
    False,
    "--chat",
    help="The prompt is a message. It is written by the template that language/finetune trained the model on, else by "
    "the tokenizer's own.",
)
DTYPE = typer.Option(None, "--dtype", help=f"{', '.join(WRITING)}; that of the file if not given.", callback=long_name)
ADAPTER = typer.Option(
    None, "--adapter", help="A folder of adapters for the model: one that a run here wrote, or that PEFT wrote."
)
LOGPROBS = typer.Option(
    None,
    "--logprobs",
    min=0,
    help="Print a line of JSON with the logarithm of every token's probability, and those of the likeliest this many.",
)


def generate(
    model: str = MODEL,
    prompt: str = typer.Option(None, "--prompt", "-p", help="The text to continue."),
    prompt_file: Path = typer.Option(None, "--prompt-file", help="A file that holds it, whole."),
    batch: Path = BATCH,
    tokenizer: str = TOKENIZER,
    adapter: Path = ADAPTER,
    max_tokens: int = typer.Option(100, "--max-tokens", min=0, help="New tokens at most; 0 only reads the prompt."),
    samples: int = typer.Option(1, "--samples", min=1, help="Texts for every prompt; above 1 each is a line of JSON."),
    temperature: float = typer.Option(0.0, "--temperature", min=0, help="0 takes the likeliest token every time."),
    top_k: int = typer.Option(0, "--top-k", min=0, help="Draw among the k likeliest; 0: among all."),
    top_p: float = typer.Option(1.0, "--top-p", help="Draw among the likeliest that have this probability together."),
    min_p: float = typer.Option(0.0, "--min-p", help="Draw among those with this share of the best's probability."),
    repetition_penalty: float = typer.Option(
        1.0, "--repetition-penalty", help="Above 1, tokens that were there become less likely."
    ),
    stop: list[str] = typer.Option([], "--stop", help="End before this text; may be given several times."),
    seed: int = typer.Option(
        0, "--seed", help="Of the random numbers. Further samples, and prompts that come again, get the seeds after it."
    ),
    beams: int = typer.Option(1, "--beams", min=1, help="Texts kept while searching for the likeliest; 1: no search."),
    chat: bool = CHAT,
    logprobs: int = LOGPROBS,
    load_state: Path = typer.Option(None, "--load-state", help="A file of --save-state to continue from."),
    save_state: Path = typer.Option(None, "--save-state", help="Write the model's state after the prompt to a file."),
    save_answer: Path = typer.Option(None, "--save-answer", help="The same after the text that it wrote."),
    chunk: int = typer.Option(1024, "--chunk", min=1, help="Tokens of the prompt that are read at once."),
    stream: bool = typer.Option(True, "--stream/--no-stream", help="Print text as soon as it is certain."),
    dtype: str = DTYPE,
    device: str = typer.Option("auto", "--device", help=f"{', '.join(DEVICES)}."),
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Continue a prompt. The text goes to stdout; tokens a second, for reading and writing, to stderr."""
    prompts = _prompts(prompt, prompt_file, batch, chat, load_state)
    files = {"--save-state": save_state, "--save-answer": save_answer}
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                "repetition_penalty": repetition_penalty}  # fmt: skip
    options = sampling | {"beams": beams, "stop": stop, "logprobs": logprobs or 0}
    as_lines = batch is not None or samples > 1 or logprobs is not None
    if stream and beams == 1 and not as_lines:
        options["on_text"] = lambda row, text: typer.echo(text, nl=False)
    voice = _open(model, tokenizer, dtype, device, adapter, files, options | {"samples": samples},
                  lambda: as_folder(model, pretrained, accept_licence))  # fmt: skip
    options |= {"samples": samples, "seed": seed, "max_tokens": max_tokens, "chunk": chunk}
    names = None if logprobs is None else voice.tokenizer
    states: dict[str, Path | None] = {"load": load_state, "save": save_state, "answer": save_answer}
    _write(voice, prompts, options, states, as_lines=as_lines, names=names)


def _write(voice, prompts: list, options: dict, states: dict[str, Path | None], *, as_lines: bool, names) -> None:
    """Write, and print texts or lines of JSON; speeds go to stderr."""
    from ssmlab.checkpoints.prompts import load_prompt_state, save_prompt_state
    from ssmlab.tasks.language.prompts import result_of, write

    before = None if states["load"] is None else load_prompt_state(states["load"], voice.network)
    times = [time.perf_counter()]

    def on_read(state, tokens: int) -> None:
        _speed("prompt", tokens, 0, time.perf_counter() - times[0])
        if states["save"] is not None:
            save_prompt_state(state, states["save"], voice.network)
        times.append(time.perf_counter())

    written = write(voice, prompts, before, on_read=on_read, **options)
    seconds = time.perf_counter() - times[1]
    for i, row in enumerate(written.rows):
        if as_lines:
            sample = i % options["samples"] if options["samples"] > 1 else None
            typer.echo(
                json.dumps(result_of(written.prompts[i], row, sample=sample, tokenizer=names), ensure_ascii=False)
            )
        else:
            typer.echo("" if "on_text" in options else row.text)
    if options["max_tokens"]:
        _speed("text", sum(len(row.tokens) for row in written.rows), len(written.rows), seconds)
    if states["answer"] is not None:
        after = voice.network.read([row.tokens for row in written.rows], written.state)
        save_prompt_state(after, states["answer"], voice.network)


def _open(model, tokenizer, dtype, device, adapter, files, options, fetched):
    """The model, after all mistakes that can be seen without it were reported."""
    import os

    from ssmlab.core.errors import UserError
    from ssmlab.tasks.language.chat import check_model, open_chat

    check_model(model, dtype, device, WRITING)
    model = fetched()
    from ssmlab.generation.sampling import Sampling, check_choice

    choice = {name: value for name, value in options.items() if name in Sampling.__dataclass_fields__}
    sampling = Sampling(**choice)
    check_choice(sampling, *(options[name] for name in ("beams", "stop", "logprobs", "samples")))
    for option, path in files.items():  # a file that cannot be written is reported before a long prompt is read
        folder = path.parent if path else Path()
        if path and (path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
            state = "read-only" if folder.is_dir() else "no folder"
            why = "is a folder" if path.is_dir() else f"{folder} is {state}"
            raise UserError(f"{option} {path}: {why}; name a file in a folder that is there")
    sampling.processor()  # what this imports is not timed
    return open_chat(model, tokenizer=tokenizer, dtype=dtype, device=device, adapter=adapter, note=_note)


def _prompts(prompt: str | None, file: Path | None, batch: Path | None, chat: bool, load_state: Path | None):
    """The prompts that the options name; with --chat every text is a user's message."""
    from dataclasses import replace

    from ssmlab.core.errors import UserError
    from ssmlab.tasks.language.prompts import Prompt, read_prompts, read_text

    given = [source for source in (prompt, file, batch) if source is not None]
    if len(given) > 1 or (not given and load_state is None):
        raise UserError("give one of --prompt, --prompt-file and --batch; --load-state goes without too")
    if batch is not None:
        prompts = read_prompts(batch)
    else:
        text = read_text(file) if file is not None else prompt or ""
        prompts = [Prompt(text=text, own={"prompt": text})]
    if not chat:
        return prompts
    return [p if p.messages else replace(p, messages=(("user", p.text),)) for p in prompts]


def _speed(what: str, tokens: int, free: int, seconds: float) -> None:
    """Tokens and their speed; the first new token of a row comes with the prompt's logits and is free."""
    speed = f", {(tokens - free) / seconds:.1f} tokens/s" if tokens > free else ""
    _note(f"{what}: {tokens} tokens{speed}")


def _note(text: str) -> None:
    typer.echo(text, err=True)
