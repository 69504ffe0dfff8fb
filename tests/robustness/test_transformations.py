"""Every transformation against its formula in numpy; identity; independence of the batch; distributions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from robustness import reference
from ssmlab.core.errors import ShapeError, UserError
from ssmlab.robustness.transformations import TRANSFORMATIONS, draw_parameters, find, transform

NAMES = list(TRANSFORMATIONS)
INDEX = torch.tensor([0, 3, 2**40 + 1])


@pytest.fixture(scope="module")
def images():
    """Smooth and noisy ones, some grey, 3 x 3 x 13 x 17."""
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (3, 3, 13, 17))
    values[1, :] = values[1, :1]  # grey
    values[2, 0] = np.arange(17) * 15
    values[2, 1] = 0
    return torch.from_numpy(values.astype(np.uint8))


def expected(name, image, index, severity, seed):
    row = find(name)
    drawn = draw_parameters(name, severity=severity, index=torch.tensor([index]), seed=seed)
    parameters = {key: value[0].double().numpy() for key, value in drawn.items()} | row.fixed(severity / 3)
    return getattr(reference, name)(reference.Image(image, seed, index, row.number), **parameters)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_formula(name, severity, images):
    floating = images.double() / 255
    found = transform(floating, name, severity=severity, seed=7, index=INDEX) * 255
    whole = transform(images, name, severity=severity, seed=7, index=INDEX)
    for i, index in enumerate(INDEX.tolist()):
        wanted = np.clip(expected(name, images[i].numpy(), index, severity, 7), 0, 255)
        np.testing.assert_allclose(found[i].numpy(), wanted, atol=2e-3)
        away = np.abs(whole[i].numpy() - wanted)
        assert away.max() <= 0.5 + 2e-3
    assert not torch.equal(whole, images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", [*NAMES, "original"])
def test_severity_0_is_the_identity(name, dtype):
    images = torch.randint(0, 256, (2, 3, 9, 8)).to(torch.uint8)
    images = images if dtype == torch.uint8 else (images / 255 * 1.001).to(dtype)
    found = transform(images, name, severity=0)
    assert found.dtype == dtype and torch.equal(found, images) and found.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_batches_of_1_and_64_in_any_order(name, dtype):
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (64, 3, 19, 23), generator=random).to(torch.uint8)
    images = images if dtype == torch.uint8 else images / 255
    index = torch.randperm(10_000, generator=random)[:64]
    together = transform(images, name, severity=4, seed=5, index=index)
    order = torch.randperm(64, generator=random)
    assert torch.equal(together[order], transform(images[order], name, severity=4, seed=5, index=index[order]))
    for i in (0, 7, 8, 63):
        alone = transform(images[i : i + 1], name, severity=4, seed=5, index=index[i : i + 1])
        assert torch.equal(alone[0], together[i])
    channels_last = transform(
        images.contiguous(memory_format=torch.channels_last), name, severity=4, seed=5, index=index
    )
    assert torch.equal(channels_last, together)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_gpu(name):
    images = torch.randint(0, 256, (4, 3, 33, 31), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    cpu, gpu = transform(images, name), transform(images.cuda(), name).cpu()
    assert (cpu.int() - gpu.int()).abs().max() <= 1


UNIFORM = [
    (name, key, low, high) for name in NAMES for key, (low, high, _) in find(name).ranges(1.0, 3).items() if low < high
]


@pytest.mark.parametrize(("name", "key", "low", "high"), UNIFORM)
def test_parameters_are_uniform(name, key, low, high):
    drawn = draw_parameters(name, severity=3, index=torch.arange(4000), seed=11)[key].double().numpy()
    for values in drawn.reshape(4000, -1).T:
        assert values.min() >= low - 1e-5 and values.max() <= high + 1e-5
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-3


DEFAULTS = {  # imgaug's, by name and parameter
    ("additive_gaussian_noise", "sigma"): (0, 15),
    ("affine", "scale"): (0.9, 1.1),
    ("affine", "shift"): (-0.1, 0.1),
    ("affine", "rotate"): (-15, 15),
    ("affine", "shear"): (-10, 10),
    ("crop", "sides"): (0, 0.1),
    ("hue_and_saturation", "hue"): (-40, 40),
    ("hue_and_saturation", "saturation"): (-40, 40),
    ("crop_and_pad", "sides"): (-0.1, 0.1),
    ("cutout", "size"): (0.2, 0.2),
    ("dropout", "p"): (0, 0.05),
    ("edge_detect", "alpha"): (0, 0.75),
    ("emboss", "alpha"): (0, 1),
    ("emboss", "strength"): (0.25, 1),
    ("piecewise_affine", "scale"): (0, 0.04),
    ("salt", "p"): (0, 0.03),
    ("fast_snowy_landscape", "threshold"): (100, 255),
    ("fast_snowy_landscape", "factor"): (1, 4),
    ("fliplr", "p"): (1, 1),
    ("gaussian_blur", "sigma"): (0, 3),
    ("grayscale", "alpha"): (1, 1),
    ("invert", "p"): (1, 1),
    ("linear_contrast", "alpha"): (0.6, 1.4),
    ("multiply", "factor"): (0.8, 1.2),
    ("multiply_per_channel", "factor"): (0.8, 1.2),
    ("perspective", "scale"): (0, 0.06),
}


def test_severity_3_has_the_defaults():
    for (name, key), (low, high) in DEFAULTS.items():
        assert find(name).ranges(1.0, 3)[key][:2] == pytest.approx((low, high)), name


@pytest.mark.parametrize("name", NAMES)
def test_severities_grow(name):
    """The mean change of photographs' values, which are smooth, grows with the severity or stays at its end."""
    rows = torch.linspace(0, 6, 40)
    wave = torch.stack([(rows + i)[:, None].sin() * (rows * (i + 1) / 2).cos() for i in range(3)]) * 0.4 + 0.5
    images = wave.expand(200, -1, -1, -1)
    changes = [(transform(images, name, severity=s) - images).abs().mean().item() for s in range(6)]
    assert changes[0] == 0 and changes[1] > 0
    assert all(b >= a * 0.98 for a, b in pairwise(changes)), changes
    assert changes[5] > 1.2 * changes[1]


def test_numbers_differ_and_rows_count_from_1():
    assert [row.number for row in TRANSFORMATIONS.values()] == list(range(1, 21))
    assert len(NAMES) == 20


def test_one_channel_and_one_pixel():
    grey = torch.full((2, 1, 1, 1), 100, dtype=torch.uint8)
    for name in NAMES:
        if find(name).colours:
            with pytest.raises(ShapeError, match="needs 3 channels, got 1"):
                transform(grey, name)
        else:
            assert transform(grey, name, severity=5).shape == grey.shape
    assert transform(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "affine").shape == (0, 3, 4, 4)


def test_mistakes():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(UserError, match="severity must be 0 to 5, got 6"):
        transform(images, "crop", severity=6)
    with pytest.raises(UserError, match="no transformation 'rain'"):
        transform(images, "rain")
    with pytest.raises(ShapeError, match="uint8 or floating"):
        transform(images.long(), "crop")
    with pytest.raises(ShapeError, match="one number an image"):
        transform(images, "crop", index=torch.arange(3))
