"""The classification task: what the model sees, and what the loss is."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.tasks.classify.task import Classify, balanced_weights
from ssmlab.tasks.shared.augment import Augment

PLAIN = {"classes": ("a", "b", "c"), "mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)}


class Fixed(nn.Module):
    """Returns given logits and remembers its input."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        self.x = x
        return self.logits


def batch(b=4, size=8):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (b, size, size, 3), dtype=torch.uint8, generator=random)
    return {"images": images.permute(0, 3, 1, 2), "labels": torch.tensor([0, 1, 2, 1])[:b]}


def test_images_are_normalised_and_contiguous():
    x = Classify(**PLAIN).prepare(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8).permute(0, 3, 1, 2))
    assert x.is_contiguous() and x.dtype == torch.float32
    assert x[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 1.0])


def test_smoothing_and_weights_are_for_training_only():
    torch.manual_seed(0)
    model = Fixed(torch.randn(4, 3))
    task = Classify(**PLAIN, label_smoothing=0.2, class_weights=(1.0, 2.0, 0.5))
    data = batch()
    loss, logits = task.loss(model.train(), data)
    weight = torch.tensor([1.0, 2.0, 0.5])
    assert loss == F.cross_entropy(logits, data["labels"], weight=weight, label_smoothing=0.2)
    plain, _ = task.loss(model.eval(), data)
    assert plain == F.cross_entropy(logits, data["labels"]) and plain != loss


def test_augmentation_is_for_training_only_and_follows_the_global_generator():
    task = Classify(**PLAIN, augment=Augment(flip="both", shift=0.2, scale=0.2, rotate=20))
    model, data = Fixed(torch.zeros(4, 3)), batch()
    task.loss(model.eval(), data)
    assert torch.equal(model.x, Classify(**PLAIN).prepare(data["images"]))
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        task.loss(model.train(), data)
        seen.append(model.x)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_flips_change_some_images_and_only_by_flipping():
    torch.manual_seed(0)
    images = torch.rand(64, 3, 5, 5)
    changed = Augment(flip="horizontal")(images)
    flipped = [not torch.equal(a, b) for a, b in zip(images, changed, strict=True)]
    assert 16 < sum(flipped) < 48
    for before, after, turned in zip(images, changed, flipped, strict=True):
        assert torch.equal(after, before.flip(-1) if turned else before)
    assert torch.equal(Augment()(images), images)


def test_every_image_moves_by_its_own_amount_within_the_limit():
    torch.manual_seed(0)
    images = torch.zeros(32, 1, 41, 41)
    images[:, :, 20, 20] = 1.0
    moved = Augment(shift=0.2)(images)[:, 0]
    grid = torch.arange(41.0)
    weight = moved.sum((1, 2))
    x = (moved.sum(1) * grid).sum(1) / weight - 20
    y = (moved.sum(2) * grid).sum(1) / weight - 20
    assert x.abs().max() <= 0.2 * 41 + 1e-3 and y.abs().max() <= 0.2 * 41 + 1e-3
    assert x.std() > 2 and y.std() > 2 and not torch.allclose(x, y)


def test_rotation_keeps_the_distance_from_the_centre():
    torch.manual_seed(0)
    images = torch.zeros(16, 1, 65, 65)
    images[:, :, 31:34, 51:54] = 1.0  # 20 pixels to the right of the centre
    turned = Augment(rotate=30)(images)[:, 0]
    grid = torch.arange(65.0) - 32
    weight = turned.sum((1, 2))
    x, y = (turned.sum(1) * grid).sum(1) / weight, (turned.sum(2) * grid).sum(1) / weight
    assert torch.allclose((x**2 + y**2).sqrt(), torch.tensor(20.0), atol=0.2)
    angle = torch.atan2(y, x).abs().max() * 180 / math.pi
    assert 10 < angle <= 30.5


def test_balanced_weights():
    assert balanced_weights([3, 1, 0]) == pytest.approx((4 / 9, 4 / 3, 0.0))
