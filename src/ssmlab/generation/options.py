"""Options of beam search and of what translates by it, without torch: the command's help reads this file."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Annotated

from ssmlab.core.errors import ModelError
from ssmlab.core.options import Count, Option, Options, Positive

BATCH = 1024  # tokens of the sources of a batch that is translated at once, padding counted


@dataclass(frozen=True, kw_only=True)
class BeamOptions(Options):
    """Options of beam search."""

    beams: Positive = 5
    """Texts kept while searching; 1 is greedy search, which is done when its text ends."""
    nbest: Positive = 1
    """Texts that are returned of each, at most as many as beams; the command prints several as JSON with scores."""
    length_penalty: Annotated[float, Option(least=0)] = 1.0
    """Scores are sums of log p / n^this of n tokens, the end counted; 1 compares means, 0 sums."""
    no_repeat_ngram: Count = 0
    """No so many tokens in a row occur twice in a text; 0: they may."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("beams", 1), ("nbest", 1), ("no_repeat_ngram", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ModelError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.nbest > self.beams:
            raise ModelError(f"nbest={self.nbest} texts need as many beams, got beams={self.beams}")
        alpha = self.length_penalty
        if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= alpha < float("inf"):
            raise ModelError(f"length_penalty must be a number of at least 0, got {alpha!r}")
