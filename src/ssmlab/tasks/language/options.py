"""Options of writing with a language model, and of storing it in another layout."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.options import DEVICES, Option, Options, Positive
from ssmlab.generation.sampling import GenerateOptions

DTYPES = ("float32", "bfloat16", "float16")
INT8 = "int8"  # weights of linear layers alone; no layout stores them
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # what recipes call them
LAYOUTS = ("huggingface", "state-spaces", "ssmlab")

Dtype = Annotated[str | None, Option(read=lambda text: SHORT.get(text, text))]


@dataclass(frozen=True, kw_only=True)
class DtypeOptions(Options):
    """The precision of a model's weights."""

    writing = ", ".join((*DTYPES, INT8))

    dtype: Dtype = None
    """{writing}; that of the file if not given."""


@dataclass(frozen=True, kw_only=True)
class WritingOptions(GenerateOptions, DtypeOptions):
    """What a language model writes after prompts."""

    known = ", ".join(DEVICES)

    prompt: Annotated[str | None, Option(short="-p")] = None
    """The text to continue."""
    prompt_file: Path | None = None
    """A file that holds it, whole."""
    batch: Path | None = None
    """A file of prompts, one a line, or JSON lines with "prompt", "text" or "messages"; blank lines are left out. A
    line of JSON is printed for each, with the line's own keys."""
    tokenizer: str | None = None
    """A tokenizer.json, a sentencepiece model, or bytes. If not given: the one next to the weights, else bytes if the
    vocabulary is that small."""
    adapter: Path | None = None
    """A folder of adapters for the model: one that a run here wrote, or that PEFT wrote."""
    samples: Positive = 1
    """Texts for every prompt; above 1 each is a line of JSON."""
    chat: bool = False
    """The prompt is a message. It is written by the template that language/finetune trained the model on, else by the
    tokenizer's own."""
    load_state: Path | None = None
    """A file of --save-state to continue from."""
    save_state: Path | None = None
    """Write the model's state after the prompt to a file."""
    save_answer: Path | None = None
    """The same after the text that it wrote."""
    stream: bool = True
    """Print text as soon as it is certain."""
    device: str = "auto"
    """{known}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [source for source in (self.prompt, self.prompt_file, self.batch) if source is not None]
        if len(given) > 1 or (not given and self.load_state is None):
            raise UserError("give one of --prompt, --prompt-file and --batch; --load-state goes without too")
        if self.samples > 1 and not self.temperature:
            raise ModelError(
                f"at temperature 0 all {self.samples} samples are the same text; give a temperature above 0"
            )
        for option, path in (("--save-state", self.save_state), ("--save-answer", self.save_answer)):
            folder = path.parent if path else Path()
            if path and (path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
                state = "read-only" if folder.is_dir() else "no folder"
                why = "is a folder" if path.is_dir() else f"{folder} is {state}"
                raise UserError(f"{option} {path}: {why}; name a file in a folder that is there")

    @property
    def as_lines(self) -> bool:
        """Whether every text is a line of JSON."""
        return self.batch is not None or self.samples > 1 or self.logprobs is not None


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(DtypeOptions):
    """How a language model is stored."""

    layouts = ", ".join(LAYOUTS)

    to: str = "huggingface"
    """{layouts}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in LAYOUTS:
            raise UserError(f"--to must be one of {self.layouts}, got {self.to!r}")
