"""Which token comes next: the choices of Hugging Face's generation, and a random number of its own for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated

from ssmlab.core.errors import ModelError
from ssmlab.core.options import Count, Option, Options, Positive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 1024  # tokens read at once; more are not faster, and activations are the memory of a long prompt


@dataclass(frozen=True, kw_only=True)
class Sampling(Options):
    """Options of sampling; applied as Hugging Face's logits processors are, in the same order."""

    temperature: Annotated[float, Option(least=0)] = 0.0
    """0 takes the likeliest token every time."""
    top_k: Count = 0
    """Draw among the k likeliest; 0: among all."""
    top_p: float = 1.0
    """Draw among the likeliest that have this probability together."""
    min_p: float = 0.0
    """Draw among those with this share of the best's probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that were there become less likely."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in fields(Sampling):
            value = getattr(self, option.name)
            if isinstance(value, bool) or not isinstance(value, Integral if option.name == "top_k" else Real):
                kind = "a whole number" if option.name == "top_k" else "a number"
                raise ModelError(f"{option.name} must be {kind}, got {value!r}")
        for name, good, range_ in (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ):
            if not good:
                raise ModelError(f"{name} must be {range_}, got {getattr(self, name)}")
        given = [name for name, off in (("top_k", 0), ("top_p", 1), ("min_p", 0)) if getattr(self, name) != off]
        if self.temperature == 0 and given:
            raise ModelError(f"{', '.join(given)} chooses between tokens at random, so temperature must be above 0")

    def processor(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """(tokens so far (b, s), scores (b, vocabulary)) -> scores; None where they stay as they are."""
        if all(getattr(self, option.name) == option.default for option in fields(Sampling)):
            return None  # and Hugging Face's package, which takes seconds, is not loaded
        from transformers import (
            LogitsProcessorList,
            MinPLogitsWarper,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        chosen = LogitsProcessorList()
        if self.repetition_penalty != 1:
            chosen.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.temperature not in (0, 1):
            chosen.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.top_p != 1:
            chosen.append(TopPLogitsWarper(float(self.top_p)))
        if self.min_p:
            chosen.append(MinPLogitsWarper(float(self.min_p)))
        return chosen


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(Sampling):
    """How texts are continued."""

    max_tokens: Count = 100
    """New tokens at most; 0 only reads the prompt."""
    stop: Sequence[str] = ()
    """End before this text; may be given several times."""
    seed: Annotated[int | Sequence[int], Option(kind=int)] = 0
    """Of the random numbers. Further samples, and prompts that come again, get the seeds after it."""
    beams: Positive = 1
    """Texts kept while searching for the likeliest; 1: no search."""
    length_penalty: float = 1.0
    """Of beam search: scores are sums of log p / length^this; 1 compares means, 0 sums."""
    logprobs: Annotated[int | None, Option(least=0)] = None
    """Print a line of JSON with the logarithm of every token's probability, and those of the likeliest this many."""
    chunk: Positive = CHUNK
    """Tokens of the prompt that are read at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("max_tokens", self.max_tokens), ("beams", self.beams), ("logprobs", self.logprobs or 0)):
            if type(value) is not int:
                raise ModelError(f"{name} must be a whole number, got {value!r}")
        if self.max_tokens < 0:
            raise ModelError(f"max_tokens must be at least 0, got {self.max_tokens}")
        if self.beams > 1 and self.temperature:
            raise ModelError(f"beam search draws nothing at random; beams={self.beams} needs temperature 0")
        if self.beams > 1 and self.logprobs:
            raise ModelError(
                f"beam search keeps the chosen tokens' logarithms only; logprobs={self.logprobs} needs beams=1"
            )
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ModelError(f"stop must be a list of texts that are not empty, got {self.stop!r}")


def draw(scores: Tensor, generators: list[torch.Generator] | None) -> Tensor:
    """A token for every row of scores (b, vocabulary): the likeliest, or one drawn by the row's own generator."""
    if generators is None:
        return scores.argmax(1)
    import torch  # not above: the command's help reads this file

    rows = zip(scores.softmax(1), generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])
