"""Batches by tokens: what is in them, how full they are, and that their order follows from the seed alone."""

import numpy as np
import pytest
import torch

from ssmlab.core.errors import DataError
from ssmlab.data.pairs.batches import NO_LABEL, TokenBatches, by_length, cut_batches, evaluation_batches, pad_pairs
from ssmlab.data.pairs.subwords import EOS, PAD, SEP
from ssmlab.training.dataset import as_dataset, batch_of


def token_pairs(n=500, seed=0):
    random = np.random.default_rng(seed)
    sources = [random.integers(3, 99, random.integers(1, 40)).astype(np.int32) for _ in range(n)]
    targets = [random.integers(3, 99, max(1, len(one) + random.integers(-5, 6))).astype(np.int32) for one in sources]
    return sources, targets


def numbers(batches: TokenBatches) -> list[list[int]]:
    return [rows.tolist() for rows in batches.batches]


def test_a_batch_is_padded_on_the_right():
    batch = pad_pairs([np.array([5, 6, 7]), np.array([8])], [np.array([9]), np.array([10, 11, 12])])
    assert {name: values.dtype.name for name, values in batch.items()} == {
        "source": "int64", "source_mask": "bool", "tokens": "int64", "labels": "int64",
    }  # fmt: skip
    assert batch["source"].tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert batch["source_mask"].tolist() == [[True] * 3, [True, False, False]]
    assert batch["tokens"].tolist() == [[SEP, 9, PAD, PAD], [SEP, 10, 11, 12]]
    assert batch["labels"].tolist() == [[9, EOS, NO_LABEL, NO_LABEL], [10, 11, 12, EOS]]


def test_empty_sides_and_batches_have_a_shape():
    batch = pad_pairs([np.array([], np.int32)], [np.array([], np.int32)])
    assert batch["source"].shape == (1, 1) and not batch["source_mask"].any()
    assert batch["tokens"].tolist() == [[SEP]] and batch["labels"].tolist() == [[EOS]]
    assert pad_pairs([], [])["labels"].shape == (0, 1)


def test_no_side_of_a_batch_has_more_tokens_than_said_and_hardly_any_are_filling():
    sources, targets = token_pairs(3000)
    data = TokenBatches(sources, targets, 512)
    real = filled = 0
    for i in range(len(data)):
        batch = data[i]
        assert batch["source"].numel() <= 512 and batch["tokens"].numel() <= 512
        assert all(isinstance(values, torch.Tensor) for values in batch.values())
        real += int(batch["source_mask"].sum()) + int((batch["labels"] != NO_LABEL).sum())
        filled += batch["source"].numel() + batch["tokens"].numel()
    assert real / filled > 0.85
    assert real >= 0.6 * 2 * 512 * len(data)  # and the batches are not small


def test_a_pass_has_every_pair_once():
    sources, targets = token_pairs()
    data = TokenBatches(sources, targets, 256)
    assert sorted(i for rows in numbers(data) for i in rows) == list(range(500))


def test_epochs_of_any_length_continue_each_other_and_passes_end_before_others_begin():
    sources, targets = token_pairs()
    whole = TokenBatches(sources, targets, 256, 200, seed=3)
    pieces = TokenBatches(sources, targets, 256, 40, seed=3)
    found = []
    for epoch in range(5):
        pieces.begin_epoch(epoch)
        assert len(pieces) == 40
        found += numbers(pieces)
    assert found == numbers(whole)
    order = [i for rows in found for i in rows]
    for begin in range(0, len(order) - 500, 500):
        assert sorted(order[begin : begin + 500]) == list(range(500))
    assert order[:500] != order[500:1000]


def test_an_epoch_follows_from_the_seed_and_its_number_alone():
    sources, targets = token_pairs()
    data = TokenBatches(sources, targets, 256, 30, seed=1)
    data.begin_epoch(7)
    wanted = numbers(data)
    for before in ([], [0, 9, 2], [7, 7]):
        other = TokenBatches(sources, targets, 256, 30, seed=1)
        for epoch in [*before, 7]:
            other.begin_epoch(epoch)
        assert numbers(other) == wanted
    other = TokenBatches(sources, targets, 256, 30, seed=2)
    other.begin_epoch(7)
    assert numbers(other) != wanted


def test_training_reads_a_whole_batch_as_an_item():
    sources, targets = token_pairs()
    data = TokenBatches(sources, targets, 256, 10)
    dataset = as_dataset(data, 1)
    dataset.begin_epoch(3)
    batch = batch_of(dataset, [4], None)
    assert all(torch.equal(batch[name], values) for name, values in data[4].items())
    rows = data.pairs(4)
    assert batch["source"][0, : len(sources[rows[0]])].tolist() == sources[rows[0]].tolist()
    with pytest.raises(DataError, match="batch_size=1"):
        data.__getitems__([0, 1])


def test_pairs_that_are_longer_than_a_batch_are_left_out_of_training_and_counted():
    sources, targets = token_pairs(50)
    sources[7], targets[9] = np.full(300, 5), np.full(256, 5)  # the target has SEP, too
    data = TokenBatches(sources, targets, 256)
    assert data.too_long == 2 and not {7, 9} & {i for rows in numbers(data) for i in rows}
    with pytest.raises(DataError, match="no pair has at most 1 tokens a side, the shortest has 2; raise"):
        TokenBatches([np.array([5])], [np.array([5])], 1)
    with pytest.raises(DataError, match="2 sources and 1 targets"):
        TokenBatches(sources[:2], targets[:1], 256)
    with pytest.raises(DataError, match="no pair has at most 256 tokens a side; raise"):
        TokenBatches([], [], 256)


def test_evaluation_reads_every_pair_once_however_long():
    sources, targets = token_pairs(200)
    sources[3] = np.full(900, 5)
    seen = []
    for rows, batch in evaluation_batches(sources, targets, 256):
        assert batch["source"].size <= 256 or len(rows) == 1
        for row, i in enumerate(rows):
            assert batch["source"][row][batch["source_mask"][row]].tolist() == sources[i].tolist()
            assert batch["labels"][row][batch["labels"][row] >= 0].tolist() == [*targets[i].tolist(), EOS]
        seen += rows.tolist()
    assert sorted(seen) == list(range(200))
    assert list(evaluation_batches([], [], 256)) == []


def test_batches_are_cut_where_the_next_pair_would_be_too_much():
    order = np.arange(5)
    source, target = np.array([2, 2, 2, 5, 9]), np.array([2, 3, 2, 1, 1])
    assert [rows.tolist() for rows in cut_batches(source, target, order, 6)] == [[0, 1], [2], [3], [4]]
    assert by_length(np.array([3, 1, 2, 5]), np.array([2, 2, 1, 1])).tolist() == [3, 2, 1, 0]
