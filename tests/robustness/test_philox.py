"""The generator: published answers, and numbers that depend on nothing but their key."""

import numpy as np
import pytest
import torch
from scipy import stats

from robustness import reference
from ssmlab.robustness.philox import Draws, philox

# Random123's kat_vectors for philox4x32-10: counter, key, result
ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_published_answers(counter, key, answer):
    found = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in found) == answer


def test_numpy_finds_the_same_words():
    index = torch.tensor([0, 1, 2**32 - 1, 2**32, 2**62 + 12345])
    seed = 2**40 + 17
    found = Draws(seed, index, 11).uniform(3, 5, part=1).numpy()
    for row, image in zip(found, index.tolist()):
        np.testing.assert_array_equal(row, reference.uniform(seed, image, 11, 1, 3, 5).astype(np.float32))
    normal = Draws(seed, index, 11).normal(3, 5, part=1).numpy()
    for row, image in zip(normal, index.tolist()):
        np.testing.assert_allclose(row, reference.normal(seed, image, 11, 1, 3, 5), atol=1e-5)


def test_distributions():
    draws = Draws(3, torch.arange(50), 7)
    uniform, normal = draws.uniform(2000).numpy().ravel(), draws.normal(2000).numpy().ravel()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(normal, "norm").pvalue > 0.01
    assert np.isfinite(normal).all()


def test_seed_image_transformation_and_part_all_matter():
    base = Draws(0, torch.tensor([5]), 1)
    others = [Draws(1, torch.tensor([5]), 1), Draws(0, torch.tensor([6]), 1), Draws(0, torch.tensor([5]), 2)]
    found = [base.uniform(100), base.uniform(100, part=1), *(other.uniform(100) for other in others)]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            assert (first == second).float().mean() < 0.05


def test_more_numbers_begin_with_the_fewer():
    draws = Draws(0, torch.tensor([5, 6]), 1)
    assert torch.equal(draws.uniform(9)[:, :4], draws.uniform(4))
