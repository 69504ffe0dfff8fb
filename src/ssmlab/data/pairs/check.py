"""Sentence pairs read as a run reads them: parts, lengths, what is left out and why, what was in two parts."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.pairs.reader import PairData, read_pairs
from ssmlab.data.pairs.subwords import vocabulary_size


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """What `check_pairs` found. Problems are raised: what cannot be read has no parts.

    Attributes:
        words: side -> (fewest, median, most) words of a line, of all parts; by blanks.
        vocabulary: subwords that a run would learn where the recipe does not say it.
    """

    data: PairData
    words: dict[str, tuple[int, float, int]]
    vocabulary: int

    ok = True

    @property
    def counts(self) -> dict[str, int]:
        """Pairs by part."""
        return self.data.counts

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        words = {side: list(found) for side, found in self.words.items()}
        more = {"words": words, "vocabulary": self.vocabulary, "problems": []}
        return {"ok": self.ok, "task": "translate", **self.data.describe(), **more}


def check_pairs(config: PairConfig) -> PairReport:
    """Read the pairs of a path and measure them.

    Raises:
        DataError: with every problem, by file name.
    """
    data = read_pairs(config)
    words = {}
    for i, side in enumerate(("source", "target")):
        counts = [len(line.split()) for pairs in data.parts.values() for line in pairs.sides[i]]
        words[side] = (min(counts), float(median(counts)), max(counts))
    return PairReport(data=data, words=words, vocabulary=vocabulary_size(data.counts["train"]))
