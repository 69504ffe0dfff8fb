"""Pairs as batches of about equally many tokens, alike in length: the same pairs in the same order for every model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.pairs.subwords import EOS, PAD, SEP

NO_LABEL = -100
POOL = 100  # so many batches' pairs are drawn, sorted by length and cut


def pad_pairs(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """A batch of b pairs, filled up on the right.

    Returns:
        source (b, s) int64 and source_mask (b, s) bool, True = token; tokens (b, t) int64, SEP and the target, and
        labels (b, t) int64, the target and EOS, -100 where there is nothing to learn.
    """
    widths = np.array([len(one) for one in sources]), np.array([len(one) + 1 for one in targets])
    mask, learned = (np.arange(width.max(initial=1)) < width[:, None] for width in widths)
    source = np.full(mask.shape, PAD, np.int64)
    tokens = np.full(learned.shape, PAD, np.int64)
    labels = np.full(learned.shape, NO_LABEL, np.int64)
    source[mask] = np.concatenate([*sources, []])
    tokens[:, 0] = SEP
    tokens[:, 1:][learned[:, 1:]] = np.concatenate([*targets, []])
    labels[learned] = np.concatenate([part for one in targets for part in (one, [EOS])] or [[]])
    return {"source": source, "source_mask": mask, "tokens": tokens, "labels": labels}


def cut_batches(source: np.ndarray, target: np.ndarray, order: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Pairs in this order as batches whose two sides have at most so many tokens each, filling included.

    A pair that is longer is a batch by itself.

    Args:
        source, target: (n,) lengths. order: (m,) numbers of pairs.
    """
    batches, begin, widest = [], 0, 0
    for i, width in enumerate(np.maximum(source, target)[order].tolist()):
        wider = width if width > widest else widest
        if (i - begin + 1) * wider > tokens_per_batch and i > begin:
            batches.append(order[begin:i])
            begin, wider = i, width
        widest = wider
    return [*batches, order[begin:]] if len(order) else batches


def by_length(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The order in which neighbours are alike in both lengths, equal ones as they are.

    By target; by source within, up and down in turns, so that one length of the target ends where the next begins.
    """
    return np.lexsort((np.where(target % 2, -source, source), target))


class TokenBatches:
    """A dataset whose item is a whole batch, for a training whose epochs have a fixed number of updates.

    The pairs are read pass by pass: each pass is a new order of all, cut into batches of pairs of about equal length,
    which are shuffled. Every pair is seen once before any is seen again. An epoch is the next `updates_per_epoch`
    batches of this endless series, so its content follows from the seed and its number alone.

    Args:
        sources, targets: tokens of every pair without marks, (n,) each.
        tokens_per_batch: most tokens of either side, SEP or EOS and filling included.
        updates_per_epoch: batches of an epoch; 0: as many as the first pass has.
    Attributes:
        too_long: pairs that are left out because one of them would be more than a batch.
    Raises:
        DataError: no pair is short enough.
    """

    def __init__(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        tokens_per_batch: int,
        updates_per_epoch: int = 0,
        seed: int = 0,
    ):
        if len(sources) != len(targets):
            raise DataError(f"{len(sources):,} sources and {len(targets):,} targets; every pair needs both")
        self._sources, self._targets = sources, targets
        self._widths = _lengths(sources), _lengths(targets) + 1
        self._short = np.flatnonzero(np.maximum(*self._widths) <= tokens_per_batch)
        self.too_long = len(sources) - len(self._short)
        if not len(self._short):
            shortest = f", the shortest has {np.maximum(*self._widths).min():,}" if len(sources) else ""
            raise DataError(f"no pair has at most {tokens_per_batch:,} tokens a side{shortest}; raise tokens_per_batch")
        self.tokens_per_batch, self.seed = tokens_per_batch, seed
        self._counts: list[int] = []  # batches of every pass
        self._held: tuple[int, list[np.ndarray]] = (-1, [])  # the pass that was made last
        self.updates_per_epoch = updates_per_epoch or len(self._pass(0))
        self.begin_epoch(0)

    def __len__(self) -> int:
        return self.updates_per_epoch

    def begin_epoch(self, number: int) -> None:
        """From now on the items are the batches of this epoch."""
        first, which = number * self.updates_per_epoch, 0
        while first >= (count := self._counts[which] if which < len(self._counts) else len(self._pass(which))):
            first, which = first - count, which + 1
        found: list[np.ndarray] = []
        while len(found) < self.updates_per_epoch:
            found += self._pass(which)[first : first + self.updates_per_epoch - len(found)]
            first, which = 0, which + 1
        self.batches = found

    def _pass(self, number: int) -> list[np.ndarray]:
        """All pairs once, as batches of their numbers."""
        if self._held[0] != number:
            random = np.random.default_rng((self.seed, number))
            drawn = random.permutation(self._short)
            source, target = self._widths
            rows = max(1, self.tokens_per_batch // max(1, int(np.maximum(source, target)[self._short].mean())))
            batches = []
            for begin in range(0, len(drawn), POOL * rows):
                pool = drawn[begin : begin + POOL * rows]
                pool = pool[by_length(source[pool], target[pool])]
                batches += cut_batches(source, target, pool, self.tokens_per_batch)
            self._held = number, [batches[i] for i in random.permutation(len(batches))]
            if number == len(self._counts):
                self._counts.append(len(batches))
        return self._held[1]

    def pairs(self, index: int) -> np.ndarray:
        """The numbers of the pairs in a batch of this epoch."""
        return self.batches[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A batch as `pad_pairs` makes it, as tensors of torch."""
        import torch

        rows = self.batches[index].tolist()
        batch = pad_pairs([self._sources[i] for i in rows], [self._targets[i] for i in rows])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """The one batch that is asked for; `batch_size` of the training is 1."""
        if len(indices) != 1:
            raise DataError(f"a batch of these pairs is one item, got {len(indices)}; train with batch_size=1")
        return self[indices[0]]


def evaluation_batches(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], tokens_per_batch: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Every pair once: (numbers of the pairs, the batch as `pad_pairs` makes it), the shortest first."""
    widths = _lengths(sources), _lengths(targets) + 1
    for rows in cut_batches(*widths, by_length(*widths), tokens_per_batch):
        yield rows, pad_pairs([sources[i] for i in rows], [targets[i] for i in rows])


def _lengths(texts: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(tokens) for tokens in texts], np.int64)
