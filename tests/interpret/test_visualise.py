"""Activation maximisation: objectives grow, seeds repeat, and every option does what it says."""

from dataclasses import replace

import pytest
import torch

from ssmlab.core.progress import Progress
from ssmlab.interpret.layers import target_of
from ssmlab.interpret.visualise import (
    Search,
    channel_objective,
    class_objective,
    decode,
    moved,
    penalty,
    visualise,
)
from ssmlab.models import create_model

STILL = Search(steps=12, jitter=0, rotate=0, scale=0, seed=3)


def seek(model, objective, search=STILL, progress=None):
    how = {"size": 32, "mean": [0.4] * 3, "std": [0.3] * 3}
    return visualise(model, objective, 2, search=search, progress=progress, **how)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("vim_test", num_classes=5, image_size=32).eval()


class Log(Progress):
    def __init__(self):
        self.seen = []

    def start(self, title, total, done=0, unit="images", per_step=1):
        self.seen.append((title, total))

    def update(self, done, note=""):
        self.seen.append((done, note))

    def stop(self):
        self.seen.append("stop")


@pytest.mark.parametrize("kind", ["class", "channel"])
def test_the_objective_grows(model, kind):
    objective = class_objective([1, 3]) if kind == "class" else channel_objective(target_of(model), [0, 5])
    first = seek(model, objective, replace(STILL, steps=0))
    log = Log()
    last = seek(model, objective, progress=log)
    assert last.shape == (2, 3, 32, 32) and last.min() >= 0 and last.max() <= 1 and not last.requires_grad
    with torch.no_grad():
        before, after = (objective(model, (images - 0.4) / 0.3) for images in (first, last))
    assert (after > before + 0.01).all()
    assert log.seen[0] == ("seeking features", 12) and log.seen[-1] == "stop" and log.seen[-2][0] == 12
    assert log.seen[-2][1].startswith("objective ")
    assert torch.equal(last, seek(model, objective)) and all(p.grad is None for p in model.parameters())
    assert not torch.equal(last, seek(model, objective, replace(STILL, seed=4)))


def test_regularisers_smooth_and_grey(model):
    objective = class_objective([1, 3])
    plain = seek(model, objective, replace(STILL, total_variation=0, l2=0, decay=0))
    smooth = seek(model, objective, replace(STILL, total_variation=100, l2=0, decay=0))
    grey = seek(model, objective, replace(STILL, total_variation=0, l2=100, decay=0))
    rough, even = (float(images.diff(dim=-1).abs().mean()) for images in (plain, smooth))
    assert even < rough and (grey - 0.5).abs().mean() < (plain - 0.5).abs().mean()
    images = torch.rand(2, 3, 4, 4)
    variation = (images[..., 1:] - images[..., :-1]).abs().mean() + (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    expected = 2 * (0.5 * variation + 0.25 * ((images - 0.5) ** 2).mean())
    torch.testing.assert_close(penalty(images, Search(l2=0.25)), expected)


def test_the_spectrum_and_the_colours():
    spectrum = 0.2 * torch.randn(4, 3, 32, 17, 2, generator=torch.Generator().manual_seed(0))
    photo, white = (decode(spectrum, 32, Search(decay=decay, colour="none")) for decay in (1, 0))
    assert photo.diff(dim=-1).abs().mean() < 0.6 * white.diff(dim=-1).abs().mean()
    grey = decode(spectrum, 32, Search(colour="grey"))
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    together = decode(spectrum, 32, Search()).flatten(2)
    assert torch.corrcoef(together.movedim(1, 0).flatten(1))[0, 1] > 0.5
    assert torch.corrcoef(photo.movedim(1, 0).flatten(1))[0, 1].abs() < 0.4
    large = 0.2 * torch.randn(4, 3, 64, 33, 2, generator=torch.Generator().manual_seed(0))
    large = decode(large, 64, Search(colour="none"))
    assert float(large.std() / photo.std()) == pytest.approx(1, abs=0.2)  # contrast does not depend on the size
    assert decode(torch.zeros(1, 3, 9, 5, 2), 9, Search()).shape == (1, 3, 9, 9)


def test_images_are_moved_each_by_itself():
    images = torch.rand(3, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    still = moved(images, STILL, generator)
    torch.testing.assert_close(still, images)
    for change in ({"jitter": 0.2}, {"rotate": 20}, {"scale": 0.3}):
        other = moved(images[:1].expand(3, -1, -1, -1), replace(STILL, **change), generator)
        assert not torch.allclose(other[0], images[0], atol=0.01) and not torch.allclose(other[0], other[1], atol=0.01)
        assert other.shape == images.shape and other.min() >= 0 and other.max() <= 1
    bar = torch.zeros(1, 1, 16, 16)
    bar[..., 8] = 1
    shifted = moved(bar, replace(STILL, jitter=0.25), torch.Generator().manual_seed(1))
    assert abs(int(shifted[0, 0, 8].argmax()) - 8) <= 4
