"""Retrieval and comparison of images and texts by likelihood: from numbers that any model gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.statistics import Interval, wilson

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """What a search finds. recall: of `RANKS`, the share of queries whose match is that far up, with Wilson's interval.
    chance: what drawing by lot reaches. ranks: of every query, from 1; equal scores count as better than the match."""

    recall: dict[int, Interval]
    chance: dict[int, float]
    ranks: np.ndarray

    @property
    def found(self) -> dict[int, int]:
        """How many queries have their match so far up."""
        return {k: int((self.ranks <= k).sum()) for k in self.recall}


def retrieve(
    nll: np.ndarray, alone: np.ndarray | None = None, owner: Sequence[int] | None = None
) -> tuple[Retrieval, Retrieval]:
    """Retrieval among images and texts by likelihood.

    A text's own likelihood is taken away, so that common texts do not win everywhere: its score on an image is
    log p(text | image) - log p(text).

    Args:
        nll: negative log-likelihood of every text on every image, (images, texts), in nats.
        alone: of every text without an image (or with a grey one), (texts,); None takes the mean over images.
        owner: of every text the number of its image; None: text i belongs to image i.
    Returns:
        texts found by an image (of several own texts the best counts), images found by a text.
    Raises:
        DataError: shapes do not fit, a number is not finite, or an image has no text.
    """
    nll = np.asarray(nll, np.float64)
    if nll.ndim != 2 or not nll.size or not np.isfinite(nll).all():
        raise DataError(f"retrieve: needs finite numbers (images, texts), got shape {nll.shape}")
    images, texts = nll.shape
    own = np.arange(texts) if owner is None else np.asarray(owner)
    prior = nll.mean(0) if alone is None else np.asarray(alone, np.float64)
    if own.shape != (texts,) or set(own.tolist()) != set(range(images)) or prior.shape != (texts,):
        raise DataError(
            f"retrieve: {images} images and {texts} texts need an owner and a likelihood alone of every text"
        )
    score = prior - nll
    by_image = []
    for i in range(images):
        best = score[i, own == i].max()
        by_image.append(1 + int((score[i, own != i] >= best).sum()))
    mine = score[own, np.arange(texts)]
    by_text = (score >= mine).sum(0)  # the match itself is one of them
    counts = np.bincount(own, minlength=images)
    # that of k texts drawn by lot not all are another image's
    chance_texts = {
        k: float(np.mean([1 - comb(texts - n, k) / comb(texts, k) for n in counts.tolist()])) if k <= texts else 1.0
        for k in RANKS
    }
    return _result(np.array(by_image), chance_texts), _result(by_text, {k: min(1.0, k / images) for k in RANKS})


@dataclass(frozen=True)
class Sign:
    """A sign test. lower: pairs of n in which the first is lower; p: the chance of so many or more by lot."""

    lower: int
    n: int
    p: float
    share: Interval


def own_is_lower(own: Sequence[float], other: Sequence[float]) -> Sign:
    """How often a text's negative log-likelihood is lower with its own image than with another; ties are not lower.

    Raises:
        DataError: the numbers differ, or there are none.
    """
    a, b = np.asarray(own, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise DataError(f"own_is_lower: needs as many numbers of both, got {a.shape} and {b.shape}")
    n, lower = len(a), int((a < b).sum())
    p = sum(comb(n, k) for k in range(lower, n + 1)) / 2**n
    return Sign(lower, n, p, Interval(lower / n, *wilson(lower, n)))


def _result(ranks: np.ndarray, chance: dict[int, float]) -> Retrieval:
    recall = {}
    for k in RANKS:
        found = int((ranks <= k).sum())
        recall[k] = Interval(found / len(ranks), *wilson(found, len(ranks)))
    return Retrieval(recall, chance, np.asarray(ranks))
