import subprocess
import sys

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data import open_images


@pytest.fixture(scope="module")
def digits():
    return open_images()


def test_parts(digits):
    assert (digits.name, digits.format, digits.path) == ("digits", "digits", "digits")
    assert digits.classes == tuple("0123456789")
    assert {part: len(split) for part, split in digits.splits.items()} == {
        "train": 1259,
        "val": 179,
        "test": 359,
    }
    assert len({name for split in digits.splits.values() for name in split.ids}) == 1797
    for split in digits.splits.values():
        shares = np.bincount(split.labels, minlength=10) / len(split)
        assert shares.min() > 0.09
        assert shares.max() < 0.11
    assert digits.notes == []
    assert digits.problems == []


def test_the_split_is_fixed(digits):
    """A golden: a change would make every published digits number incomparable."""
    assert digits.split_hash == "a9fbd7670dcbc23c9b9fbd9dfeaa805044c024477f4e0c2e4d5a092d5b4b81a5"
    assert open_images("digits", seed=5, val_fraction=0.5).split_hash == digits.split_hash


def test_pixels_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    i = int(digits.test.ids[7].removeprefix("digits/"))
    assert digits.test.labels[7] == source.target[i]
    assert np.array_equal(np.asarray(digits.test.image(7))[..., 0], np.round(source.images[i] * 255 / 16))


def test_enlarged(digits):
    array = digits.val.array(32)
    assert array.shape == (179, 32, 32, 3)
    assert array.min() == 0
    assert array.max() > 240
    small = np.asarray(digits.val.image(0), float)
    assert abs(array[0].astype(float).mean() - small.mean()) < 3


def test_no_groups():
    with pytest.raises(DataError, match="no such column"):
        open_images(group="writer")


def test_torch_is_never_imported():
    code = (
        "import sys; from ssmlab.data import open_images, check_images; import ssmlab.cli.data;"
        "assert 'sklearn' not in sys.modules;"
        "data = open_images(); data.val.array(32); check_images(data);"
        "assert 'sklearn' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
