"""What training and validation read: whole batches of pairs, or of several neighbouring pairs as one example."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ssmlab.data.pairs.batches import NO_LABEL, TokenBatches, evaluation_batches
from ssmlab.data.pairs.subwords import EOS, SEP

Tokens = Sequence[np.ndarray]


class Marks(NamedTuple):
    """The tokens that begin and end a target, of our own vocabularies by default."""

    separator: int = SEP
    eos: int = EOS


OURS = Marks()


def joined(
    sources: Tokens, targets: Tokens, documents: int, carry: bool, seed: int, marks: Marks = OURS
) -> tuple[Tokens, Tokens, Tokens]:
    """Neighbouring pairs as examples of 1 to `documents` pairs; each pair is in one example.

    Together: source s1 SEP s2, target t1 SEP t2. One after the other, where the state is carried: source s1, target
    t1 EOS s2 SEP t2, of which s2 and the SEP after it are read and not learned.

    Returns:
        sources, targets, and which labels of every target, its EOS included, are learned, bool.
    """
    if documents == 1:
        return sources, targets, [np.ones(len(target) + 1, bool) for target in targets]
    sizes = np.random.default_rng([seed, documents]).integers(1, documents + 1, len(sources))
    ends: list[int] = [*filter(lambda end: end < len(sources), np.cumsum(sizes).tolist()), len(sources)]
    separator, end = np.array([marks.separator]), np.array([marks.eos])
    found: tuple[list, list, list] = ([], [], [])
    for begin, stop in zip([0, *ends[:-1]], ends, strict=True):
        some, others = sources[begin:stop], targets[begin:stop]
        learned = [np.ones(len(others[0]) + 1, bool)]
        if carry:
            source, target = some[0], [others[0]]
            for read, written in zip(some[1:], others[1:], strict=True):
                target += [end, read, separator, written]
                learned += [np.zeros(len(read) + 1, bool), np.ones(len(written) + 1, bool)]
        else:
            source = np.concatenate([part for text in some for part in (separator, text)][1:])
            target = [part for text in others for part in (separator, text)][1:]
            learned += [np.ones(len(text) + 1, bool) for text in others[1:]]
        for place, value in zip(found, (source, np.concatenate(target), np.concatenate(learned)), strict=True):
            place.append(value)
    return found


def marked(batch: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """A batch as `pad_pairs` makes it, with other marks, in place."""
    if marks != OURS:
        last = (batch["labels"] != NO_LABEL).sum(1) - 1
        batch["tokens"][:, 0] = marks.separator
        batch["labels"][np.arange(len(last)), last] = marks.eos
    return batch


class TrainingBatches:
    """A dataset whose item is a whole batch; see `TokenBatches`.

    Args:
        sources, targets: tokens of every example.
        learned: which labels of every target, its end included, count in the loss.
        tokens_per_batch: most tokens of either side of a batch.
        updates: batches of an epoch.
        marks: of the vocabulary.
    """

    streams, unit, counts = 1, "batches", "iterations"

    def __init__(
        self,
        sources: Tokens,
        targets: Tokens,
        learned: Tokens,
        tokens_per_batch: int,
        updates: int,
        marks: Marks = OURS,
    ):
        self._all, self.marks = (sources, targets, tokens_per_batch, updates), marks
        self._unlearned = {i: np.flatnonzero(~which) for i, which in enumerate(learned) if not which.all()}
        self.begin_training(0)

    def begin_training(self, seed: int) -> None:
        """The order of the pairs is that of this seed from now on."""
        self.batches = TokenBatches(*self._all, seed=seed)

    def begin_epoch(self, number: int) -> None:
        """The items are the batches of this epoch from now on."""
        self.batches.begin_epoch(number)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = marked(self.batches[index], self.marks)
        for row, pair in enumerate(self.batches.pairs(index)):
            if int(pair) in self._unlearned:
                batch["labels"][row, self._unlearned[int(pair)]] = NO_LABEL
        return batch

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        (index,) = indices
        return self[index]


class EvaluationBatches:
    """Every pair once, a whole batch an item, the shortest first."""

    streams, unit = 1, "batches"

    def __init__(self, sources: Tokens, targets: Tokens, tokens_per_batch: int, marks: Marks = OURS):
        found = evaluation_batches(sources, targets, tokens_per_batch)
        self._batches = [marked(batch, marks) for _, batch in found]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(values) for name, values in self._batches[index].items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        (index,) = indices
        return self[index]
