"""Sliding windows: the whole image where the receptive field allows, no seams, mirroring, any size, bounded memory."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.core.errors import ShapeError
from ssmlab.tasks.shared.sliding import predict_windows, starts


def local_network(dims: int, radius: int = 2, classes: int = 3) -> nn.Module:
    """Convolutions that look `radius` positions around, without any norm."""
    torch.manual_seed(0)
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    layers = [conv(2 if i == 0 else 4, 4, 3, padding=1) for i in range(radius)]
    return nn.Sequential(*layers, conv(4, classes, 1)).eval()


@pytest.mark.parametrize("size", [(40, 52), (16, 16), (17, 61), (20, 24, 18)])
@pytest.mark.parametrize("gaussian", [True, False])
@torch.no_grad()
def test_it_is_the_whole_image_where_the_receptive_field_allows(size, gaussian):
    network = local_network(len(size))
    image = torch.randn(2, *size)
    whole = network(image[None])[0].softmax(0)
    found = predict_windows(network, image, (16,) * len(size), gaussian=gaussian, margin=2, batch=3)
    assert found.shape == whole.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, whole, atol=2e-6, rtol=0)


@torch.no_grad()
def test_one_window_is_the_whole_image():
    network, image = local_network(2), torch.randn(2, 24, 24)
    torch.testing.assert_close(predict_windows(network, image, (24, 24)), network(image[None])[0].softmax(0))


class Quarrel(nn.Module):
    """Every window gets another constant: the worst that windows can disagree."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        logit = torch.full_like(x[:, :1], 0.5 * (-1) ** self.calls)
        return torch.cat((logit, -logit), 1)


def test_borders_of_windows_do_not_show():
    """The largest step of a probability from one pixel to the next: a ramp of the Gaussian's, no step at a border."""
    found = predict_windows(Quarrel(), torch.zeros(1, 64, 256), (64, 64))[0]
    steps = found.diff(dim=1).abs()
    corners = starts(256, 64, 0.5)
    borders = sorted({c - 1 for c in corners if c} | {c + 63 for c in corners if c < 192})
    assert steps[:, borders].max() < 5e-4 < steps.max()
    flat = predict_windows(Quarrel(), torch.zeros(1, 64, 256), (64, 64), gaussian=False)[0]
    assert flat.diff(dim=1).abs()[:, borders].max() > 0.2  # what the weights are for


@pytest.mark.parametrize("mirror", [(0,), (1,), (0, 1)])
@torch.no_grad()
def test_mirrored_logits_are_averaged(mirror):
    network, image = local_network(2), torch.randn(2, 16, 16)
    axes = [(), *((a,) for a in mirror)] + ([(0, 1)] if len(mirror) == 2 else [])
    turned = [
        network(image[None].flip([a + 2 for a in some]))[0].flip([a + 1 for a in some])
        if some
        else network(image[None])[0]
        for some in axes
    ]
    expected = torch.stack(turned).mean(0).softmax(0)
    torch.testing.assert_close(predict_windows(network, image, (16, 16), mirror=mirror), expected)


@torch.no_grad()
def test_images_smaller_than_a_window():
    network, image = local_network(2), torch.randn(2, 9, 30)
    expected = network(F.pad(image[None], (0, 0, 0, 7), mode="replicate"))[0, :, :9].softmax(0)
    torch.testing.assert_close(predict_windows(network, image, (16, 30)), expected)


def test_windows_stand_at_equal_distances_and_cover_everything():
    assert starts(64, 64, 0.5) == [0]
    assert starts(110, 64, 0.5) == [0, 23, 46]
    for size, patch, overlap, margin in [(200, 32, 0.5, 0), (33, 32, 0.0, 0), (101, 16, 0.25, 6), (90, 9, 0.3, 4)]:
        corners = starts(size, patch, overlap, margin)
        assert corners[0] == 0 and corners[-1] == size - patch
        assert max(b - a for a, b in pairwise(corners)) <= patch - 2 * margin


@torch.no_grad()
def test_the_batch_changes_nothing():
    network, image = local_network(2), torch.randn(2, 50, 40)
    one = predict_windows(network, image, (16, 16))
    torch.testing.assert_close(predict_windows(network, image, (16, 16), batch=5), one)
    torch.testing.assert_close(one.sum(0), torch.ones(50, 40))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": (8,)}, "a patch of as many sizes"),
        ({"overlap": 1.0}, "0 <= overlap < 1"),
        ({"margin": 4}, "margin < half a patch"),
        ({"batch": 0}, "batch >= 1"),
        ({"mirror": (2,)}, "axes below 2"),
        ({"mirror": (0, 0)}, "each once"),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(ShapeError, match=words):
        predict_windows(local_network(2), torch.zeros(2, 16, 16), **({"patch": (8, 8)} | options))


def test_a_network_that_changes_the_size_is_refused():
    with pytest.raises(ShapeError, match=r"made \(4, 4\) of a window of \(8, 8\)"):
        predict_windows(nn.Conv2d(2, 2, 2, 2), torch.zeros(2, 16, 16), (8, 8))
