"""timm's policies, erasing, mixup and CutMix on the batches of a run."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.tasks.classify.recipe import AugmentConfig
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.shared.augment import Augment, Mix

PLAIN = {"classes": ("a", "b", "c"), "mean": (0.5, 0.25, 0.1), "std": (0.5, 0.25, 1.0)}
POLICIES = (
    *("original", "originalr", "v0", "v0r-mstd0.5", "3a", "rand", "rand-m9-mstd0.5-inc1", "rand-n3-p0.7-mmax12"),
    *("rand-mstd1-tweights", "rand-m5-t3aw", "rand-t3a-inc0", "augmix", "augmix-m5-w4-d2", "augmix-b1-mstd1"),
)


def photographs(b=6, size=16):
    """Smooth pictures, uint8 (b, 3, size, size)."""
    torch.manual_seed(0)
    return (F.interpolate(torch.rand(b, 3, 4, 4), size, mode="bilinear") * 255).to(torch.uint8)


def states():
    return random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_change_pictures_and_leave_the_other_generators_alone(policy):
    assert AugmentConfig(auto_augment=policy).auto_augment == policy
    images, before = photographs(16), states()
    augment = Augment(auto_augment=policy, fill=PLAIN["mean"])
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augment.policy(images))
    assert drawn[0].dtype == torch.uint8 and drawn[0].shape == images.shape
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    changed = [not torch.equal(a, b) for a, b in zip(images, drawn[0])]
    assert sum(changed) > 2
    assert states() == before


@pytest.mark.parametrize(
    "text", ["rnd-m9", "rand-m9.5", "rand-q3", "rand-m9-", "original-m9", "v1", "augmix-n2", "3a-inc1"]
)
def test_unknown_policies_are_refused(text):
    with pytest.raises(ValueError, match=f"'{text}' is no policy of timm; expected original"):
        AugmentConfig(auto_augment=text)


def test_no_bits_are_black():
    images = photographs(8)
    torch.manual_seed(0)
    darkest = [int(Augment(auto_augment="v0").policy(images).flatten(1).max(1).values.min()) for _ in range(60)]
    assert min(darkest) == 0, "Posterize with a magnitude of 2 is among v0's operations"


def test_no_policy_and_no_erasing_change_nothing():
    images, state = photographs(), torch.get_rng_state()
    assert Augment().policy(images) is images and Augment().erase(images) is images
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("erasing", ["const", "rand", "pixel"])
def test_random_erasing(erasing):
    torch.manual_seed(0)
    before = states()
    images = torch.full((64, 3, 24, 24), 7.0)
    erased = Augment(random_erasing=0.5, erasing=erasing).erase(images.clone())
    share = (erased != images).any(1).float().mean((1, 2))
    assert 16 < (share > 0).sum() < 48
    assert share.max() <= 1 / 3 + 0.05 and share[share > 0].min() >= 0.01
    filled = erased[erased != 7.0]
    assert filled.std() > 0.5 if erasing != "const" else torch.equal(filled, torch.zeros_like(filled))
    assert states() == before


def test_mixup_blends_images_and_labels_alike():
    torch.manual_seed(3)
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 2, 0, 1])
    mixed, targets = Mix(mixup=1.0)(images.clone(), labels, 3, 0.0)
    hard = F.one_hot(labels, 3).float()
    share = ((mixed - images.flip(0)).flatten(1).norm(dim=1) / (images - images.flip(0)).flatten(1).norm(dim=1))[0]
    assert 0.01 < share < 0.99
    assert torch.allclose(mixed, share * images + (1 - share) * images.flip(0), atol=1e-5)
    assert torch.allclose(targets, share * hard + (1 - share) * hard.flip(0), atol=1e-5)


def test_cutmix_takes_a_rectangle_and_its_share_of_the_label():
    torch.manual_seed(1)
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    mixed, targets = Mix(cutmix=1.0)(images.clone(), labels, 3, 0.0)
    own = (mixed == images).all(1).float().mean((1, 2))
    assert 0 < own[0] < 1 and torch.equal(own, own[0].expand(4))
    inside = (mixed != images).all(1)[0]
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert inside.sum() == rows * columns
    assert torch.allclose(targets[1], torch.tensor([0.0, own[0], 1 - own[0]]), atol=1e-5)


def test_of_an_odd_batch_the_last_image_stays():
    torch.manual_seed(0)
    images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    mixed, targets = Mix(mixup=1.0, cutmix=1.0)(images.clone(), labels, 3, 0.3)
    assert torch.equal(mixed[4], images[4]) and not torch.equal(mixed[0], images[0])
    assert torch.allclose(targets.sum(1), torch.ones(5)) and torch.allclose(targets[4], torch.tensor([0.1, 0.8, 0.1]))
    alone, target = Mix(mixup=1.0)(images[:1].clone(), labels[:1], 3, 0.0)
    assert torch.equal(alone, images[:1]) and target.tolist() == [[1, 0, 0]]


def test_mixing_some_batches_only_and_both_ways():
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(0)
    kinds = []
    for _ in range(60):
        mixed, _ = Mix(mixup=1.0, cutmix=1.0, probability=0.5)(images.clone(), labels, 3, 0.0)
        kinds.append("none" if torch.equal(mixed, images) else "cut" if (mixed == images).any() else "mix")
    assert 18 <= kinds.count("none") <= 42 and kinds.count("cut") >= 6 and kinds.count("mix") >= 6


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 0.0]]))

    def forward(self, x):
        self.x = x
        return self.logits


def test_the_loss_of_mixed_labels():
    """Without any mixing it is the loss of hard labels, smoothed in the same way; weighted per class."""
    model, batch = Fixed().train(), {"images": photographs(4), "labels": torch.tensor([0, 1, 2, 1])}
    hard = Classify(**PLAIN, label_smoothing=0.2)
    never = Classify(**PLAIN, label_smoothing=0.2, mix=Mix(mixup=1.0, probability=0.0))
    assert torch.allclose(hard.loss(model, batch)[0], never.loss(model, batch)[0])
    mixed = Classify(**PLAIN, class_weights=(1.0, 2.0, 0.5), mix=Mix(mixup=1.0))
    torch.manual_seed(0)
    loss, logits = mixed.loss(model, batch)
    torch.manual_seed(0)
    _, targets = mixed.mix(hard.prepare(batch["images"]), batch["labels"], 3, 0.0)
    expected = -(targets * torch.tensor([1.0, 2.0, 0.5]) * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(loss, expected)
    plain, _ = mixed.loss(model.eval(), batch)
    assert plain == F.cross_entropy(logits, batch["labels"])
    assert torch.equal(model.x, hard.prepare(batch["images"])), "evaluation sees the images as they are"


def test_everything_together_in_its_order():
    augment = Augment(flip="horizontal", shift=0.1, auto_augment="rand-m5", random_erasing=1.0, erasing="const")
    task = Classify(**PLAIN, augment=augment, mix=Mix(cutmix=1.0))
    model, batch = Fixed().train(), {"images": photographs(4), "labels": torch.tensor([0, 1, 2, 1])}
    torch.manual_seed(5)
    loss, _ = task.loss(model, batch)
    seen = model.x
    torch.manual_seed(5)
    assert torch.equal(loss, task.loss(model, batch)[0]) and torch.equal(seen, model.x)
    alone = Classify(**PLAIN, augment=augment).prepare(batch["images"], training=True)
    assert (alone == 0).all(1).any((1, 2)).all(), "erased after the normalisation: zero is the mean"
