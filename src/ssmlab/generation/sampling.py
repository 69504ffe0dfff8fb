"""Which token comes next: the choices of Hugging Face's generation, and a random number of its own for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real

import torch
from torch import Tensor

from ssmlab.core.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of sampling; applied as Hugging Face's logits processors are, in the same order.

    temperature: logits are divided by it; 0 takes the likeliest token.
    top_k: only the k likeliest tokens; 0 leaves it out.
    top_p: only the likeliest tokens that together have this probability; 1 leaves it out.
    min_p: only tokens with at least this share of the likeliest one's probability; 0 leaves it out.
    repetition_penalty: above 1, tokens that are in the text already become less likely; 1 leaves it out.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        for option in fields(self):
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
        if self == Sampling():
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


def check_choice(sampling: Sampling, beams: int, stop: Sequence[str], logprobs: int = 0, samples: int = 1) -> None:
    """Refuse options that contradict each other.

    Raises:
        ModelError: they do.
    """
    if beams < 1:
        raise ModelError(f"beams must be at least 1, got {beams}")
    if beams > 1 and sampling.temperature:
        raise ModelError(f"beam search draws nothing at random; beams={beams} needs temperature 0")
    if beams > 1 and logprobs:
        raise ModelError(f"beam search keeps the chosen tokens' logarithms only; logprobs={logprobs} needs beams=1")
    if samples > 1 and not sampling.temperature:
        raise ModelError(f"at temperature 0 all {samples} samples are the same text; give a temperature above 0")
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
        raise ModelError(f"stop must be a list of texts that are not empty, got {stop!r}")


def draw(scores: Tensor, generators: list[torch.Generator] | None) -> Tensor:
    """A token for every row of scores (b, vocabulary): the likeliest, or one drawn by the row's own generator."""
    if generators is None:
        return scores.argmax(1)
    rows = zip(scores.softmax(1), generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])
