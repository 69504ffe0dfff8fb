"""Views of an image: what they are, and that a network of views is the mean of probabilities."""

import pytest
import torch
from torch import nn

from ssmlab.tasks.shared.views import VIEWS, Views


@pytest.mark.parametrize(("name", "count"), [("none", 1), ("horizontal", 2), ("flips", 4), ("dihedral", 8)])
@pytest.mark.parametrize("several", [False, True])
def test_the_mean_of_probabilities(name, count, several):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 25, 4)).eval()
    images = torch.randn(2, 3, 5, 5)
    views = [view(images) for view in VIEWS[name]]
    assert len(views) == count and len({each.numpy().tobytes() for each in views}) == count
    assert torch.equal(views[0], images)
    function = torch.sigmoid if several else (lambda x: x.softmax(1))
    wanted = torch.stack([function(network(each)) for each in views]).mean(0)
    found = function(Views(network, name, several)(images))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_flips_are_the_mirror_images_along_both_axes():
    images = torch.arange(12.0).reshape(1, 1, 3, 4)
    found = [view(images) for view in VIEWS["flips"]]
    assert torch.equal(found[1], images.flip(-1)) and torch.equal(found[2], images.flip(-2))
    assert torch.equal(found[3], images.flip((-1, -2)))
