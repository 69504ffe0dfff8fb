"""Options of using a vision-language model. Nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ssmlab.core.options import DEVICES, Option, Options, Positive
from ssmlab.generation.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class OpenOptions(Options):
    """How a model is opened."""

    known = ", ".join(DEVICES)

    template: str | None = None
    """Another form of conversations than the model's, such as vicuna_v1."""
    tokenizer: str | None = None
    """Another tokenizer than the folder's: a tokenizer.json, a sentencepiece model, or bytes."""
    device: str = "auto"
    """{known}."""


@dataclass(frozen=True, kw_only=True)
class SpeakOptions(OpenOptions, Sampling):
    """How a model answers."""

    max_tokens: Positive = 256
    """Of an answer."""
    seed: int = 0
    """Of the random numbers, with a temperature."""

    @property
    def generation(self) -> dict[str, Any]:
        """As `reading.answered` takes them."""
        names = ("max_tokens", "seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ChatOptions(SpeakOptions):
    """A conversation about images."""

    image: Annotated[tuple[Path, ...], Option(short="-i")] = ()
    """An image; several where it is given several times."""
    question: Annotated[tuple[str, ...], Option(short="-q")] = ()
    """Ask this and end; else questions are read, one a line."""
    save_state: Path | None = None
    """Write the state after the images to a file."""
    load_state: Path | None = None
    """A file of --save-state, in place of reading the images."""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(SpeakOptions):
    """Answers to a file of questions."""

    images: Path | None = None
    """The folder of the images; next to the file if not given."""
    out: Annotated[Path | None, Option(short="-o")] = None
    """A file for the answers; standard output if not given."""
    batch_size: Positive = 8
    """Questions that are answered at once."""


@dataclass(frozen=True, kw_only=True)
class PruneOptions(OpenOptions):
    """Fewer image tokens, and what they lose."""

    images: Path | None = None
    """The folder of the images; next to the file if not given."""
    methods: Annotated[tuple[str, ...], Option(flag="--method")] = ("random", "pool", "tome", "visionzip")
    """random, pool, tome or visionzip, several where it is given several times; all if not given."""
    keep: tuple[float, ...] = (0.5, 0.25)
    """Shares of the tokens; 0.5 and 0.25 if not given."""
    records: Positive = 32
    """Records of the file that are used, at most, evenly from all."""
    max_tokens: Positive = 16
    """Of an answer."""
    out: Annotated[Path | None, Option(short="-o")] = None
    """A .json file for the table."""
