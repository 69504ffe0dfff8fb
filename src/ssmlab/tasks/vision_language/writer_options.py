"""Options of language models that write and judge; nothing heavy is imported."""

from dataclasses import dataclass
from typing import Annotated

from ssmlab.core.options import Option, Options, Positive

KINDS = ("conversation", "detail", "reasoning")
KEY = "OPENAI_API_KEY"
NotNegative = Annotated[float, Option(least=0)]


@dataclass(frozen=True, kw_only=True)
class WriterOptions(Options):
    """How a language model is asked."""

    model: str = ""
    """Its name on a server; the only one that the server has if not given."""
    workers: Positive = 4
    """Requests under way at once."""
    temperature: NotNegative = 0.0
    """Of a server's model; 0 is greedy. Models of folders always are."""
    max_tokens: Positive = 1024
    """Of one reply."""
    seed: int = 0
    """Sent to a server along with every request."""
    key: str = KEY
    """The environment variable that holds a server's key."""
    device: str = "auto"
    """auto, cuda, mps or cpu, of a model of a folder."""


@dataclass(frozen=True, kw_only=True)
class InstructionOptions(WriterOptions):
    """Which records are written, and how the writer is asked."""

    kinds: Annotated[tuple[str, ...], Option(flag="--kind")] = KINDS
    """conversation, detail or reasoning, several times for several; all if not given."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(WriterOptions):
    """How a judge is asked for marks."""

    temperature: NotNegative = 0.2
    """Of a server's model; 0.2 as in LLaVA's evaluation."""
    swap: bool = False
    """Ask twice, the answers exchanged, and take the mean: judges favour a place."""
