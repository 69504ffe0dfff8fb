"""ImageNet-C's corruptions against loops, scipy, Pillow and colorsys on small images."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from robustness import reference
from ssmlab.core.errors import ShapeError, UserError
from ssmlab.robustness import digital, weather
from ssmlab.robustness.corruptions import CORRUPTIONS, corrupt
from ssmlab.robustness.philox import Draws

ROUNDED = ("pixelate", "glass_blur")  # whole numbers in between, whose halves may fall either way
H, W, SEED, INDEX = 36, 40, 5, 77


@pytest.fixture(scope="module")
def picture():
    """(3, h, w) uint8: waves and some noise."""
    y, x = np.mgrid[:H, :W]
    waves = np.stack([np.sin(x / 5 + i) + np.cos(y / (3 + i)) for i in range(3)]) * 50 + 120
    return np.clip(waves + np.random.default_rng(0).normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def ours(picture, name, severity):
    images = torch.from_numpy(picture / 255)[None]
    return corrupt(images, name, severity=severity, seed=SEED, index=torch.tensor([INDEX]))[0].numpy() * 255


def constants(name, severity):
    return CORRUPTIONS[name].constants[severity - 1]


def uniform(name, part, *shape):
    return reference.uniform(SEED, INDEX, CORRUPTIONS[name].number, part, *shape)


def normal(name, part, *shape):
    return reference.normal(SEED, INDEX, CORRUPTIONS[name].number, part, *shape)


def gaussian_noise(v, name, sigma):
    return v + sigma * normal(name, 1, *v.shape)


def shot_noise(v, name, photons):
    u = uniform(name, 1, *v.shape)
    return stats.poisson.ppf(np.maximum(u, 1e-12), photons * v + 1e-15) / photons


def impulse_noise(v, name, amount):
    u = uniform(name, 1, *v.shape)
    return np.select([u < amount / 2, u < amount], [1.0, 0.0], v)


def defocus_blur(v, name, radius, soften):
    reach, truncate = (8, 1) if radius <= 8 else (radius, 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x * x + y * y <= radius * radius).astype(float)
    kernel = ndimage.gaussian_filter(disk, soften, mode="mirror", radius=truncate)
    return np.stack([ndimage.correlate(channel, kernel / kernel.sum(), mode="mirror") for channel in v])


def glass_blur(v, name, sigma, reach, rounds):
    def smooth(image):
        radius = int(4 * sigma + 0.5)
        return np.stack([ndimage.gaussian_filter(c, sigma, mode="mirror", radius=radius) for c in image])

    x = np.round(smooth(v * 255))
    for number in range(rounds):
        offset = np.floor(uniform(name, number + 1, 2, H, W) * 2 * reach).astype(int) - reach
        for row in range(H - reach, reach, -1):
            for column in range(W - reach, reach, -1):
                down, right = offset[:, row, column]
                x[:, row, column] = x[:, row + down, column + right]
    return smooth(x) / 255


def streaked(v, radius, sigma, degrees):
    g = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    total, angle = np.zeros_like(v), math.radians(degrees)
    for i, weight in enumerate(g / g.sum()):
        right, down = (math.ceil(i * part - 0.5) for part in (math.cos(angle), math.sin(angle)))
        rows, columns = np.clip(np.arange(H) + down, 0, H - 1), np.clip(np.arange(W) + right, 0, W - 1)
        total += weight * v[:, rows][:, :, columns]
    return total


def motion_blur(v, name, radius, sigma):
    return streaked(v, radius, sigma, 90 * uniform(name, 0, 1)[0] - 45)


def zoomed(v, factor):
    rows, columns = math.ceil(H / factor), math.ceil(W / factor)
    top, left = (H - rows) // 2, (W - columns) // 2
    large = ndimage.zoom(v[:, top : top + rows, left : left + columns], (1, factor, factor), order=1, mode="nearest")
    top, left = (large.shape[1] - H) // 2, (large.shape[2] - W) // 2
    return large[:, top : top + H, left : left + W]


def zoom_blur(v, name, end, step):
    factors = np.arange(1, end, step)
    return (v + sum(zoomed(v, factor) for factor in factors)) / (len(factors) + 1)


def snow(v, name, mean, spread, zoom, least, radius, sigma, keep):
    flakes = zoomed(mean + spread * normal(name, 1, 1, H, W), zoom)
    flakes = np.floor(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
    flakes = streaked(flakes, radius, sigma, 90 * uniform(name, 0, 1)[0] - 135)
    grey = np.tensordot([0.299, 0.587, 0.114], v, 1)
    return keep * v + (1 - keep) * np.maximum(v, 1.5 * grey + 0.5) + flakes + flakes[:, ::-1, ::-1]


def plasma(name, decay):
    """Diamond-square in place on the final grid, as it is usually written, side 256."""
    side, part, a = 256, 1, 100.0
    heights, step = np.zeros((side, side)), side
    while step > 1:
        n, half = side // step, step // 2
        noise = (2 * uniform(name, part, 3, n, n) - 1) * a * a
        for i in range(n):
            for j in range(n):
                y, x, y2, x2 = i * step, j * step, (i + 1) * step % side, (j + 1) * step % side
                around = heights[y, x] + heights[y2, x] + heights[y, x2] + heights[y2, x2]
                heights[y + half, x + half] = around / 4 + noise[0, i, j]
        for i in range(n):
            for j in range(n):
                y, x, y2, x2 = i * step, j * step, (i + 1) * step % side, (j + 1) * step % side
                middle = heights[y + half, x + half]
                left, above = heights[y + half, x - half], heights[y - half, x + half]
                heights[y + half, x] = (heights[y, x] + heights[y2, x] + middle + left) / 4 + noise[1, i, j]
                heights[y, x + half] = (heights[y, x] + heights[y, x2] + middle + above) / 4 + noise[2, i, j]
        step, part, a = half, part + 1, a / decay
    heights -= heights.min()
    return (heights / heights.max())[:H, :W]


def frost(v, name, keep, amount):
    return keep * v + amount * plasma(name, 1.6) ** 1.5 * np.array([0.75, 0.88, 1])[:, None, None]


def fog(v, name, amount, decay):
    return (v + amount * plasma(name, decay)) * v.max() / (v.max() + amount)


def brightness(v, name, amount):
    out = np.empty_like(v)
    for i, j in np.ndindex(H, W):
        h, s, value = colorsys.rgb_to_hsv(*v[:, i, j])
        out[:, i, j] = colorsys.hsv_to_rgb(h, s, min(value + amount, 1))
    return out


def contrast(v, name, factor):
    mean = v.mean((1, 2), keepdims=True)
    return (v - mean) * factor + mean


def elastic_transform(v, name, amount, sigma, jitter):
    unit = 244 / 224 * H
    middle, s = np.array([W // 2, H // 2]), min(H, W) // 3
    start = middle + np.array([[s, s], [s, -s], [-s, -s]])
    end = start + (2 * uniform(name, 0, 3, 2) - 1) * jitter * unit
    back = np.linalg.solve(np.c_[end, np.ones(3)], start)
    y, x = np.mgrid[:H, :W]
    places = np.stack([x, y, np.ones_like(x)], -1) @ back
    turned = [ndimage.map_coordinates(c, [places[..., 1], places[..., 0]], order=1, mode="reflect") for c in v]
    field = 2 * uniform(name, 1, 2, H, W) - 1
    radius = int(3 * sigma * unit + 0.5)
    right, down = (ndimage.gaussian_filter(f, sigma * unit, mode="reflect", radius=radius) for f in field)
    right, down = right * amount * unit, down * amount * unit
    return np.stack([ndimage.map_coordinates(c, [y + down, x + right], order=1, mode="reflect") for c in turned])


def pixelate(v, name, factor):
    image = Image.fromarray(np.round(v * 255).astype(np.uint8).transpose(1, 2, 0))
    small = image.resize((int(W * factor), int(H * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((W, H), Image.Resampling.BOX)).transpose(2, 0, 1) / 255


def jpeg_compression(v, name, quality):
    content = io.BytesIO()
    Image.fromarray(np.round(v * 255).astype(np.uint8).transpose(1, 2, 0)).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)).transpose(2, 0, 1) / 255


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_formula(name, severity, picture):
    wanted = globals()[name](picture / 255, name, *constants(name, severity))
    away = np.abs(ours(picture, name, severity) - np.clip(wanted, 0, 1) * 255)
    assert away.max() < (1.01 if name in ROUNDED else 0.05), away.max()
    assert away.mean() < 0.02


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_batches_and_identity(name, picture):
    images = torch.from_numpy(np.stack([np.roll(picture, i, 2) for i in range(11)]))
    index = torch.arange(100, 111)
    together = corrupt(images, name, severity=4, index=index)
    alone = [corrupt(images[i : i + 1], name, severity=4, index=index[i : i + 1])[0] for i in (0, 8, 10)]
    assert torch.equal(together[[0, 8, 10]], torch.stack(alone)) and not torch.equal(together, images)
    assert torch.equal(corrupt(images, name, severity=0), images)


def test_severities_and_normalisers():
    assert [row.number for row in CORRUPTIONS.values()] == list(range(101, 116))
    assert all(len(row.constants) == 5 for row in CORRUPTIONS.values())
    mean = np.mean([row.alexnet for row in CORRUPTIONS.values()])
    assert mean == pytest.approx(0.788, abs=0.001)  # the paper's mean of AlexNet's errors


def test_small_images_and_mistakes():
    tiny = torch.randint(0, 256, (2, 3, 8, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for name in CORRUPTIONS:
        assert corrupt(tiny, name, severity=5).shape == tiny.shape
    with pytest.raises(UserError, match="no corruption 'rain'"):
        corrupt(tiny, "rain")
    with pytest.raises(UserError, match="severity must be 0 to 5"):
        corrupt(tiny, "fog", severity=9)
    with pytest.raises(ShapeError, match=r"\(b, 3, h, w\)"):
        corrupt(tiny[:, :1], "fog")


def test_plasma_and_smoothing_have_their_ranges():
    heights = weather.plasma(Draws(0, torch.arange(3), 1), (20, 30), 2.0, "cpu")
    assert heights.shape == (3, 20, 30) and heights.min() >= 0 and heights.max() <= 1
    assert torch.allclose(digital._smoothing(12, 30.0).sum(1), torch.ones(12))
