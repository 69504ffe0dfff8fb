"""Images at another spacing, and predictions brought back to their own grid."""

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import nn

from ssmlab.tasks.shared.regrid import predict_at, regrid, regrid_labels, regridded_size


def test_sizes_keep_what_an_image_covers():
    assert regridded_size((20, 50, 44), (3.0, 0.8, 0.9), (3.0, 0.4, 0.9)) == (20, 100, 44)
    assert regridded_size((3, 10), (1.0, 1.0), (8.0, 4.0)) == (1, 2)


@pytest.mark.parametrize("size", [(7, 12), (20, 5), (6, 4, 9), (3, 9, 9)])
def test_values_are_linear_and_labels_the_nearest(size):
    """scipy's interpolation with the outer edges of the first and last pixel kept in place."""
    rng = np.random.default_rng(0)
    shape = (5, 8, 6)[: len(size)]
    values, labels = rng.normal(size=shape).astype(np.float32), rng.integers(0, 4, shape).astype(np.uint8)
    labels[0, 0] = 255
    factors, how = [m / n for n, m in zip(shape, size, strict=True)], {"mode": "nearest", "grid_mode": True}
    found = regrid(torch.from_numpy(values)[None], size)
    np.testing.assert_allclose(found[0].numpy(), zoom(values, factors, order=1, **how), atol=2e-6)
    nearest = regrid_labels(torch.from_numpy(labels), size)
    np.testing.assert_array_equal(nearest.numpy(), zoom(labels, factors, order=0, **how))
    assert nearest.dtype == torch.uint8


def test_the_same_grid_is_left_alone():
    image, labels = torch.randn(2, 4, 5), torch.zeros(4, 5, dtype=torch.uint8)
    assert regrid(image, (4, 5)) is image and regrid_labels(labels, (4, 5)) is labels


class Two(nn.Module):
    """Foreground where the image is above zero."""

    def forward(self, x):
        return torch.stack([-x[:, 0], x[:, 0]], 1)


def test_predictions_come_back_to_the_images_own_grid():
    seen = []

    def windows(network, image):
        seen.append(tuple(image.shape))
        return network(image[None])[0].softmax(0)

    image = -torch.ones(1, 6, 10, 10)
    image[:, :, 2:6, 4:8] = 1
    found = predict_at(Two(), image, windows, (3.0, 1.0, 1.0), (3.0, 0.5, 2.0))
    assert seen == [(1, 6, 20, 5)] and found.shape == (2, 6, 10, 10)
    torch.testing.assert_close(found.sum(0), torch.ones(6, 10, 10))
    assert torch.equal(found.argmax(0), (image[0] > 0).long()), "edges on both grids' borders stay where they are"
    as_it_is = predict_at(Two(), image, windows, (3.0, 1.0, 1.0))
    assert seen[1] == (1, 6, 10, 10)
    torch.testing.assert_close(as_it_is, windows(Two(), image))
