"""State tracking: answers against a count made token by token, and what is asked when."""

import numpy as np
import pytest

from ssmlab.data.synthetic.state_tracking import modular_arithmetic, modular_sum, parity


@pytest.mark.parametrize("length", [1, 2, 33])
def test_parity_is_whether_the_ones_are_odd_in_number(length):
    tokens, labels = parity(50, length, 0, every=True)
    assert tokens.shape == labels.shape == (50, length + 1) and tokens.dtype == np.uint8
    assert (tokens[:, 0] == 2).all() and (labels[:, 0] == -100).all()
    for row, asked in zip(tokens.tolist(), labels.tolist(), strict=True):
        assert asked[1:] == [sum(row[1 : i + 1]) % 2 for i in range(1, length + 1)]
    assert set(tokens[:, 1:].ravel().tolist()) == {0, 1}


def test_a_modular_sum_is_parity_for_any_modulus():
    tokens, labels = modular_sum(50, 20, 5, 0, every=True)
    assert (tokens[:, 0] == 5).all() and set(tokens[:, 1:].ravel().tolist()) == set(range(5))
    assert np.array_equal(labels[:, 1:], np.cumsum(tokens[:, 1:].astype(int), axis=1) % 5)


@pytest.mark.parametrize(("length", "modulus"), [(1, 5), (8, 5), (33, 3)])
def test_modular_arithmetic_is_read_from_left_to_right(length, modulus):
    tokens, labels = modular_arithmetic(50, length, modulus, 0, every=True)
    assert tokens.shape == labels.shape == (50, length + 1) and (tokens[:, 0] == modulus + 2).all()
    for row, asked in zip(tokens.tolist(), labels.tolist(), strict=True):
        value, sign = 0, 1
        for token, answer in zip(row[1:], asked[1:], strict=True):
            if token >= modulus:
                sign = 1 if token == modulus else -1
                assert answer == -100
            else:
                value = (value + sign * token) % modulus
                assert answer == value
    assert set(tokens[:, 1::2].ravel().tolist()) == set(range(modulus))
    assert set(tokens[:, 2::2].ravel().tolist()) == ({modulus, modulus + 1} if length > 1 else set())


@pytest.mark.parametrize("length", [1, 2, 8, 9])
def test_the_test_asks_once_at_the_last_place_that_training_asks_at(length):
    for task in (lambda **k: parity(9, length, 3, **k), lambda **k: modular_arithmetic(9, length, 5, 3, **k)):
        tokens, labels = task()
        again, every = task(every=True)
        last = np.flatnonzero(every[0] >= 0)[-1]
        assert np.array_equal(tokens, again) and ((labels >= 0).sum(1) == 1).all()
        assert np.array_equal(labels[:, last], every[:, last])


def test_seeds_decide():
    first, again, other = (parity(5, 32, seed)[0] for seed in (1, 1, [1, 2]))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
