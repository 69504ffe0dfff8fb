"""Scores of maps on networks that were trained for seconds on scikit-learn's digits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.interpret.attributions import grad_cam, integrated_gradients
from ssmlab.interpret.scores import averaged, blurred, deletion, insertion, random_maps, randomised_weights
from ssmlab.interpret.scores import rank_correlation as correlation
from ssmlab.models import create_model


@pytest.fixture(scope="module", params=["vim_test", pytest.param("medmamba_test", marks=pytest.mark.slow)])
def trained(request):
    """A network, and images that it did not learn from with their classes."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 16).float().view(-1, 1, 8, 8).expand(-1, 3, -1, -1)
    images = (F.interpolate(images, size=32) - 0.305) / 0.376
    labels = torch.from_numpy(labels)
    torch.manual_seed(0)
    model = create_model(request.param, num_classes=10, image_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(160):
        own = torch.randint(0, 1500, (48,))
        F.cross_entropy(model(images[own]), labels[own]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    images, labels = images[1500:1596], labels[1500:1596]
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.7
    return model, images, labels


def gain(model, images, labels, maps, grid):
    """How much earlier the probability falls, and how much higher it rises, than by the mean of random maps."""
    found = []
    for curve, sign in ((deletion, -1), (insertion, 1)):
        random = [random_maps(len(images), (32, 32), grid=grid, seed=seed) for seed in range(3)]
        chance = averaged([curve(model, images, map_, labels, steps=8) for map_ in random])
        own = curve(model, images, maps, labels, steps=8)
        assert own.probability.shape == (96, 9) and own.shares[[0, -1]].tolist() == [0, 1]
        found.append(sign * float((own.auc - chance.auc).mean()))
    return found


def test_maps_of_a_trained_model_beat_random_maps(trained):
    model, images, labels = trained
    fine = integrated_gradients(model, images, labels, steps=12, batch_size=96).maps
    assert min(gain(model, images, labels, fine, None)) > 0.1
    coarse = grad_cam(model, images, labels, relu=False)
    assert min(gain(model, images, labels, coarse, (4, 4))) > 0.005


def test_maps_change_when_weights_are_randomised(trained):
    model, images, labels = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = images[:16], labels[:16]

    def explain(network, images):
        return grad_cam(network, images, labels, relu=False)

    sanity = randomised_weights(model, images, explain, stages=4)
    assert sanity.correlation.shape == (4, 16) and len(set(sanity.stages)) == 4
    assert sanity.correlation.mean(1).max() < 0.7
    again = randomised_weights(model, images, explain, stages=4)
    assert torch.equal(again.correlation, sanity.correlation)
    other = randomised_weights(model, images, explain, stages=4, seed=1)
    assert not torch.equal(other.correlation, sanity.correlation)
    still = randomised_weights(model, images, lambda network, images: images.mean(1), stages=4)
    torch.testing.assert_close(still.correlation, torch.ones(4, 16))  # edges pass for a map until weights are taken
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Brightness(nn.Module):
    """The logit of class 1 is the sum of the left half."""

    def forward(self, images):
        total = images[..., : images.shape[-1] // 2].sum((1, 2, 3))
        return torch.stack([torch.zeros_like(total), total], 1)


def test_curves_are_what_the_model_says():
    images = torch.ones(2, 1, 4, 4)
    left = torch.zeros(2, 4, 4)
    left[..., :2] = 1
    curve = deletion(Brightness(), images, left, 1, steps=4, batch_size=3)
    torch.testing.assert_close(curve.probability[0], torch.tensor([8.0, 4, 0, 0, 0]).sigmoid())
    torch.testing.assert_close(curve.probability[0], curve.probability[1])
    expected = torch.trapezoid(curve.probability[0], dx=0.25)
    torch.testing.assert_close(curve.auc, expected.expand(2))
    back = insertion(Brightness(), images, left, [1, 0], steps=4, fill=torch.zeros(1))
    torch.testing.assert_close(back.probability[0], torch.tensor([0.0, 4, 8, 8, 8]).sigmoid())
    torch.testing.assert_close(back.probability.sum(0), torch.ones(5))  # class 0 is the other one
    same = deletion(Brightness(), images, left, 1, steps=4, batch_size=64)
    assert torch.equal(same.probability, curve.probability)
    flat = [deletion(Brightness(), images, torch.zeros(2, 4, 4), 1, steps=16, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(flat[0].probability, flat[1].probability)  # equal values go in a drawn order
    assert not torch.equal(flat[0].probability, flat[2].probability)


def test_helpers():
    a = torch.tensor([[[1.0, 2.0], [3.0, 3.0]]])
    torch.testing.assert_close(correlation(a, a.exp()), torch.ones(1))
    torch.testing.assert_close(correlation(a, -a), -torch.ones(1))
    assert correlation(a, torch.zeros(1, 2, 2)) == 0
    from scipy.stats import spearmanr

    b = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)).round(decimals=0)
    c = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert float(correlation(b, c)) == pytest.approx(spearmanr(b.flatten(), c.flatten()).statistic, abs=1e-6)
    smooth, pixels = (random_maps(3, (16, 16), grid=grid, seed=2) for grid in ((4, 4), None))
    assert torch.equal(smooth, random_maps(3, (16, 16), grid=(4, 4), seed=2)) and smooth.shape == pixels.shape
    assert (smooth.diff() ** 2).mean() < 0.2 * (pixels.diff() ** 2).mean()
    image = torch.zeros(1, 3, 20, 20)
    image[..., 10, 10] = 1
    assert blurred(image).max() < 0.1 and float(blurred(image).sum()) == pytest.approx(3, rel=0.05)
