"""`ssmlab generate`: text from a language model."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from ssmlab.cli.published import AcceptLicence, Pretrained, as_folder

MODEL = typer.Argument(
    metavar="MODEL",
    help="The folder of a language model in any layout (ours, state-spaces', Hugging Face's), of a run with one, "
    "owner/name on the Hugging Face Hub, or a name such as mamba_lm_130m, which gets random weights without "
    "--pretrained.",
)
DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = ("float32", "bfloat16", "float16")
WRITING = (*DTYPES, "int8")  # weights of linear layers alone; nothing is stored so
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # what recipes call them


def long_name(dtype: str | None) -> str | None:
    """A precision's name as torch has it."""
    return SHORT.get(dtype, dtype) if dtype else dtype


BATCH = typer.Option(
    None, "--batch", help="A file of prompts, one a line, blank lines left out. A line of JSON is printed for each."
)
TOKENIZER = typer.Option(
    None,
    "--tokenizer",
    help="A tokenizer.json, a sentencepiece model, or bytes. If not given: the one beside the weights, else bytes if "
    "the vocabulary is that small.",
)
CHAT = typer.Option(
    False,
    "--chat",
    help="The prompt is a message. It is written by the template that language/finetune trained the model on, else by "
    "the tokenizer's own.",
)
DTYPE = typer.Option(None, "--dtype", help=f"{', '.join(WRITING)}; that of the file if not given.", callback=long_name)


def generate(
    model: str = MODEL,
    prompt: str = typer.Option(None, "--prompt", "-p", help="The text to write on behind."),
    prompt_file: Path = typer.Option(None, "--prompt-file", help="A file that holds it, whole."),
    batch: Path = BATCH,
    tokenizer: str = TOKENIZER,
    max_tokens: int = typer.Option(100, "--max-tokens", min=0, help="New tokens at most; 0 only reads the prompt."),
    temperature: float = typer.Option(0.0, "--temperature", min=0, help="0 takes the likeliest token every time."),
    top_k: int = typer.Option(0, "--top-k", min=0, help="Draw among the k likeliest; 0: among all."),
    top_p: float = typer.Option(1.0, "--top-p", help="Draw among the likeliest that have this probability together."),
    min_p: float = typer.Option(0.0, "--min-p", help="Draw among those with this share of the best's probability."),
    repetition_penalty: float = typer.Option(
        1.0, "--repetition-penalty", help="Above 1, tokens that were there become less likely."
    ),
    stop: list[str] = typer.Option([], "--stop", help="End before this text; may be given several times."),
    seed: int = typer.Option(
        0, "--seed", help="Of the random numbers. A prompt that a batch repeats gets the seeds after it, in turn."
    ),
    beams: int = typer.Option(1, "--beams", min=1, help="Texts kept while searching for the likeliest; 1: no search."),
    chat: bool = CHAT,
    load_state: Path = typer.Option(None, "--load-state", help="A file of --save-state to go on from."),
    save_state: Path = typer.Option(None, "--save-state", help="Write the model's state behind the prompt to a file."),
    chunk: int = typer.Option(1024, "--chunk", min=1, help="Tokens of the prompt that are read at once."),
    stream: bool = typer.Option(True, "--stream/--no-stream", help="Print text as soon as it is certain."),
    dtype: str = DTYPE,
    device: str = typer.Option("auto", "--device", help=f"{', '.join(DEVICES)}."),
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Write on behind a prompt. The text goes to stdout; tokens a second, for reading and writing, to stderr."""
    prompts = _prompts(prompt, prompt_file, batch, load_state)
    check_model(model, dtype, device, WRITING)
    model = as_folder(model, pretrained, accept_licence)
    from ssmlab.generation.sampling import Sampling, check_choice

    choice = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    sampling = Sampling(**choice)
    check_choice(sampling, beams, stop)  # mistakes are reported before anything is opened or read
    _check_writable(save_state)
    sampling.processor()  # what this imports is not timed below
    voice = _open(model, tokenizer, dtype, device)
    rows = [_encode(voice, text, chat, load_state) for text in prompts]
    reading = _read(voice.network, rows, load_state, save_state, chunk)
    seeds = [seed + prompts[:i].count(text) for i, text in enumerate(prompts)]
    choice |= {"max_tokens": max_tokens, "beams": beams, "stop": stop}
    choice["seed"] = seeds if len(seeds) == len(reading.tokens) else seed
    if batch is None:
        _write(voice, reading, choice, stream and beams == 1)
    else:
        _write_lines(voice, reading, choice, prompts)


class Voice(NamedTuple):
    """A language model and what its tokens are.

    network, words: the model and its tokenizer.
    ends: tokens that end a text.
    folder: where it came from; None where it has random weights.
    """

    network: Any
    words: Any
    ends: tuple[int, ...]
    folder: Path | None


def _write(voice: Voice, reading: Any, choice: dict[str, Any], streamed: bool) -> None:
    """The text of every row, as it comes or at the end."""
    for row in _timed(voice, reading, choice, (lambda row, text: typer.echo(text, nl=False)) if streamed else None):
        typer.echo("" if streamed else row.text)


def _write_lines(voice: Voice, reading: Any, choice: dict[str, Any], prompts: list[str]) -> None:
    """A line of JSON for every prompt."""
    for text, row in zip(prompts, _timed(voice, reading, choice, None), strict=True):
        values = {"prompt": text, "text": row.text, "reason": row.reason, "tokens": len(row.tokens)}
        typer.echo(json.dumps(values | {"score": row.score}, ensure_ascii=False))


def _timed(voice: Voice, reading: Any, choice: dict[str, Any], on_text: Any) -> Iterator[Any]:
    """What was written, and then its speed."""
    begin = time.perf_counter()
    written = voice.network.generate(reading, eos=voice.ends, decode=voice.words.decode, on_text=on_text, **choice)
    seconds = time.perf_counter() - begin
    yield from written
    if choice["max_tokens"]:
        _tell("text", sum(len(row.tokens) for row in written), len(written), seconds)


def check_model(model: str, dtype: str | None, device: str = "auto", dtypes: tuple[str, ...] = DTYPES) -> None:
    """Tell what is misspelt before torch is imported."""
    from ssmlab.core.errors import ModelError, UserError
    from ssmlab.core.text import did_you_mean
    from ssmlab.models.catalogue import is_repository
    from ssmlab.models.registry import kind_of, list_models

    if not Path(model).exists() and kind_of(model) != "language" and not is_repository(model):
        hint = did_you_mean(model, list_models("language"))
        hint = hint or "; give its folder, owner/name on the hub, or a name such as mamba_lm_130m"
        raise ModelError(f"there is no language model {model!r}{hint}")
    if dtype is not None and dtype not in dtypes:
        raise UserError(f"--dtype must be one of {', '.join(dtypes)}, got {dtype!r}")
    if device not in DEVICES:
        raise UserError(f"--device must be one of {', '.join(DEVICES)}, got {device!r}")


def open_model(model: str, dtype: str | None, vocab_size: int | None = None):
    """The network of a path, or of a name with random weights; a path wins."""
    import torch

    from ssmlab.checkpoints.files import load_language_model
    from ssmlab.models import create_model

    kind = None if dtype in (None, "int8") else getattr(torch, dtype)
    if Path(model).exists():
        return load_language_model(model, kind, int8=dtype == "int8")
    from ssmlab.nn import quantize_linear_

    typer.echo(f"{model} is a name: its weights are random, and so is what it writes", err=True)
    network = create_model(model, vocab_size=vocab_size).to(kind).eval()
    return quantize_linear_(network) if dtype == "int8" else network


def _prompts(prompt: str | None, file: Path | None, batch: Path | None, load_state: Path | None) -> list[str]:
    from ssmlab.core.errors import UserError

    given = [source for source in (prompt, file, batch) if source is not None]
    if len(given) > 1 or (not given and load_state is None):
        raise UserError("give one of --prompt, --prompt-file and --batch; --load-state goes without too")
    if prompt is not None or not given:
        return [prompt or ""]
    path = file or batch
    text = _text_of(path)
    if file is not None:
        return [text]
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path} has no prompts; put one on every line")
    return lines


def _text_of(path: Path) -> str:
    from ssmlab.core.errors import UserError
    from ssmlab.data.text.encoding import decode_text

    try:
        return decode_text(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a text file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a text file") from None
    except ValueError:
        raise UserError(f"{path} is no text in UTF-8; give one, or convert it, e.g. with iconv -t utf-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a text file") from error


def model_folder(model: str) -> Path:
    """The folder of the language model that a path means; of a run's models the best one on the validation part."""
    from ssmlab.checkpoints.find import find_folder, kind_of
    from ssmlab.core.errors import ModelError

    folder, why = find_folder(Path(model), choose=True)
    if why:
        typer.echo(why, err=True)
    if kind_of(folder) == "sequence_classifier":
        raise ModelError(f"{folder} is a classifier of sequences, which writes nothing; `ssmlab classify` asks it")
    return folder


def _open(model: str, tokenizer: str | None, dtype: str | None, device: str) -> Voice:
    from ssmlab.core.device import choose_compute
    from ssmlab.core.errors import DataError
    from ssmlab.data.text.tokenizers import find_ends, find_tokenizer, load_tokenizer

    place = choose_compute(device).device
    if not Path(model).exists():
        words = load_tokenizer(tokenizer or "bytes")
        ends = () if words.eos is None else (words.eos,)
        return Voice(open_model(model, dtype, words.size).to(place), words, ends, None)
    folder = model_folder(model)
    if tokenizer is not None:
        load_tokenizer(tokenizer)  # a mistake is told before the weights are read
    network = open_model(str(folder), dtype)
    words = find_tokenizer(folder, network.config.vocab_size, tokenizer)
    if words.size > network.config.padded_vocab:
        raise DataError(
            f"the tokenizer has {words.size} tokens, the model {network.config.vocab_size}; give the model's own"
        )
    return Voice(network.to(place), words, find_ends(folder, words), folder)


def _encode(voice: Voice, text: str, chat: bool, load_state: Path | None) -> list[int]:
    """Tokens; a text begins with what the tokenizer puts there, and an empty one with the end of another."""
    first = load_state is None
    mark = [] if voice.words.eos is None else [voice.words.eos]
    if chat:
        return _question(voice, text, mark, first)
    tokens = voice.words.encode(text, special=first)
    return tokens or (mark if first else [])


def _question(voice: Voice, text: str, mark: list[int], first: bool) -> list[int]:
    """A message in the form that the model knows, up to where its answer begins."""
    from ssmlab.core.errors import ModelError, UserError
    from ssmlab.data.text.chat_template import find_template
    from ssmlab.data.text.jsonl import question_tokens

    known = trained_template(voice.folder)
    if known is not None:  # every chat that the model was trained on begins after a mark
        return (mark if first else []) + question_tokens(text, known, voice.words.encode)
    path = getattr(voice.words, "path", None)
    own = find_template(folder for folder in (path and path.parent, voice.folder) if folder)
    if own is None:
        raise ModelError(
            "--chat: the model was not fine-tuned on chats here, and its tokenizer has no chat template; write the "
            "form of a message into the prompt yourself"
        )
    if not first:
        raise UserError("--chat: the tokenizer's template begins a chat anew; leave out --load-state, or --chat")
    return voice.words.encode(own.render([("user", text)], answer=True))


def trained_template(folder: Path | None) -> dict[str, str] | None:
    """How language/finetune wrote the messages that a model was trained on; None for other models."""
    try:
        template = json.loads((folder / "preprocess.json").read_text("utf-8"))["template"] if folder else None
        if template and all(template[role].count("{text}") == 1 for role in ("user", "assistant")):
            return template
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return None


def _check_writable(path: Path | None) -> None:
    """Report a file that cannot be written before a long prompt is read."""
    import os

    from ssmlab.core.errors import UserError

    if path is None:
        return
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if path.is_dir() else f"{folder} is " + ("read-only" if folder.is_dir() else "no folder")
        raise UserError(f"--save-state {path}: {why}; name a file in a folder that is there")


def _read(network, rows: list[list[int]], load_state: Path | None, save_state: Path | None, chunk: int):
    """The reading of the prompts, its speed told, and written to a file where that is asked for."""
    from ssmlab.checkpoints.prompts import load_prompt_state, save_prompt_state

    before = None if load_state is None else load_prompt_state(load_state, network)
    if before is not None and rows == [[]]:
        rows = [[]] * len(before.tokens)
    begin = time.perf_counter()
    reading = network.read(rows, before, chunk=chunk)
    _tell("prompt", sum(map(len, rows)), 0, time.perf_counter() - begin)
    if save_state is not None:
        save_prompt_state(reading, save_state, network)
    return reading


def _tell(what: str, tokens: int, free: int, seconds: float) -> None:
    """Tokens and their speed; the first new token of a row comes with the reading and is free."""
    speed = f", {(tokens - free) / seconds:.1f} tokens/s" if tokens > free else ""
    typer.echo(f"{what}: {tokens} tokens{speed}", err=True)
