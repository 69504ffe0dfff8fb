"""What translation models read: examples of one and of several pairs, whole batches, the same for every model."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ssmlab.data.pairs.subwords import EOS, SEP
from ssmlab.tasks.translate.batches import EvaluationBatches, TrainingBatches, joined

SOURCES = [np.array([10 + i] * (1 + i % 3)) for i in range(40)]
TARGETS = [np.array([50 + i] * (1 + i % 4)) for i in range(40)]


def split(values, at):
    """Tokens between separators."""
    ends = [-1, *np.flatnonzero(values == at).tolist(), len(values)]
    return [values[a + 1 : b].tolist() for a, b in pairwise(ends)]


def test_one_pair_is_an_example():
    sources, targets, learned = joined(SOURCES, TARGETS, 1, False, 0)
    assert sources is SOURCES and targets is TARGETS
    assert all(which.all() and len(which) == len(t) + 1 for which, t in zip(learned, TARGETS, strict=True))


def test_neighbours_together_are_every_pair_once_in_order():
    sources, targets, learned = joined(SOURCES, TARGETS, 5, False, 0)
    parts = [split(source, SEP) for source in sources]
    assert {len(part) for part in parts} == {1, 2, 3, 4, 5}
    assert [text for part in parts for text in part] == [source.tolist() for source in SOURCES]
    assert [text for t in targets for text in split(t, SEP)] == [target.tolist() for target in TARGETS]
    assert [len(part) for part in parts] == [len(split(target, SEP)) for target in targets]
    assert all(which.all() and len(which) == len(t) + 1 for which, t in zip(learned, targets, strict=True))


def test_the_seed_decides_which_neighbours_are_an_example():
    one, same, other = (joined(SOURCES, TARGETS, 5, True, seed)[1] for seed in (0, 0, 1))
    assert [len(target) for target in one] == [len(target) for target in same] != [len(target) for target in other]


def test_one_after_the_other_only_targets_are_learned():
    """Labels are the target and EOS; what is read of the following sources, and the marks before targets, is not."""
    sources, targets, learned = joined(SOURCES, TARGETS, 4, True, 3)
    number = 0
    for source, target, which in zip(sources, targets, learned, strict=True):
        assert source.tolist() == SOURCES[number].tolist()
        labels = np.append(target, EOS)
        assert len(which) == len(labels)
        written = split(labels[which], EOS)[:-1]
        assert written == [t.tolist() for t in TARGETS[number : number + len(written)]]
        read = split(labels[~which], SEP)[:-1]
        assert read == [s.tolist() for s in SOURCES[number + 1 : number + len(written)]]
        number += len(written)
    assert number == len(SOURCES)


def batches(seed, documents=1, carry=False, updates=6):
    made = TrainingBatches(*joined(SOURCES, TARGETS, documents, carry, 0), 24, updates)
    made.begin_training(seed)
    return made


def contents(made, number):
    made.begin_epoch(number)
    return [{name: values.tolist() for name, values in made.__getitems__([i]).items()} for i in range(len(made))]


def test_an_epoch_follows_from_the_seed_and_its_number():
    first, second = batches(0), batches(0)
    zero, one = contents(first, 0), contents(first, 1)
    assert contents(second, 1) == one and contents(second, 0) == zero and zero != one
    assert contents(batches(1), 0) != zero
    assert len(zero) == 6 and first.streams == 1


def test_what_is_only_read_has_no_labels():
    made = batches(0, documents=4, carry=True)
    learned = 0
    for number in range(4):
        made.begin_epoch(number)
        for index in range(len(made)):
            batch = made[index]
            tokens, labels = batch["tokens"], batch["labels"]
            assert (tokens[:, 0] == SEP).all() and ((labels >= 50) | (labels == EOS) | (labels == -100)).all()
            follows = (tokens[:, 1:] == labels[:, :-1]) | (labels[:, :-1] == -100) | (labels[:, :-1] == EOS)
            assert follows.all()
            learned += int((labels == -100).any(1).sum())
    assert learned


@pytest.mark.parametrize("tokens", [8, 1000])
def test_an_evaluation_reads_every_pair_once(tokens):
    found = EvaluationBatches(SOURCES, TARGETS, tokens)
    rows = [row[row >= 50].tolist() for i in range(len(found)) for row in found[i]["labels"]]
    assert sorted(rows) == sorted(target.tolist() for target in TARGETS)
    assert isinstance(found[0]["source_mask"], torch.Tensor) and found[0]["source_mask"].dtype is torch.bool
