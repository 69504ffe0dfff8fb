"""How good a map is: what happens to a class's probability when its best pixels go or come, and when weights go."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.profiling.flops import evaluation


class Curve(NamedTuple):
    """A class's probability against the share of pixels that were changed.

    shares: from 0 to 1, (steps + 1,). probability: (b, steps + 1).
    """

    shares: Tensor
    probability: Tensor

    @property
    def auc(self) -> Tensor:
        """The area under the curve of every image, by trapezoids, (b,); in [0, 1]."""
        return torch.trapezoid(self.probability, self.shares, dim=-1)


def deletion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    classes: int | Sequence[int] | Tensor,
    *,
    steps: int = 32,
    fill: Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Curve:
    """Take pixels away, those with the largest values first: a good map makes the probability fall early.

    Source: Petsiuk et al. 2018 (arXiv:1806.07421), section 4.2.

    Args:
        images: prepared as the model reads them, (b, c, h, w).
        maps: (b, h, w).
        classes: one for all images, or one for each.
        steps: how many times the model is called, besides once with the whole image.
        fill: what stands for a pixel that is gone, broadcast to the images; None is 0, of normalised images the mean
            colour.
        batch_size: of images that go through the model at once.
        seed: pixels of equal values go in an order drawn from it.
    """
    fill = torch.zeros_like(images) if fill is None else fill.expand_as(images)
    return _curve(model, images, fill, maps, classes, steps, batch_size, seed)


def insertion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    classes: int | Sequence[int] | Tensor,
    *,
    steps: int = 32,
    fill: Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Curve:
    """Bring pixels back, those with the largest values first: a good map makes the probability rise early.

    Source and arguments as for `deletion`, but `fill` is None for the blurred image.
    """
    fill = blurred(images) if fill is None else fill.expand_as(images)
    return _curve(model, fill, images, maps, classes, steps, batch_size, seed)


def blurred(images: Tensor) -> Tensor:
    """Images in which little can be recognised: a Gaussian with a standard deviation of a tenth of the shorter side."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = min(images.shape[-2:]) / 10
    reach = min(2 * round(2 * sigma) + 1, 2 * (min(images.shape[-2:]) // 2) - 1)
    return gaussian_blur(images, [reach, reach], [sigma, sigma])


def random_maps(count: int, size: tuple[int, int], *, grid: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
    """Random maps as a baseline, (count, h, w): uniform noise on a grid, enlarged as `grad_cam` enlarges its map.

    Compare a map with random ones of its own grid: single pixels that go at random disturb more than patches do.

    Args:
        grid: rows and columns; None takes every pixel.
    """
    noise = torch.rand(count, 1, *(grid or size), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=size, mode="bilinear", align_corners=False).squeeze(1)


class Sanity(NamedTuple):
    """Rank correlations with the map of the trained model.

    stages: the first layer of every group, from the output to the input; all groups up to it have lost their weights.
    correlation: Spearman's, (stages, b); near 1 where a map does not depend on what the model has learnt.
    """

    stages: list[str]
    correlation: Tensor


def randomised_weights(
    model: nn.Module,
    images: Tensor,
    explain: Callable[[nn.Module, Tensor], Tensor],
    *,
    stages: int = 6,
    seed: int = 0,
) -> Sanity:
    """Take the learnt weights away, from the output to the input, and see whether the maps change.

    Source: Adebayo et al. 2018 (arXiv:1810.03292), section 4.1, cascading randomisation. A weight becomes a normal
    number with the mean and standard deviation of its parameter. The model itself is not changed.

    Args:
        explain: (model, images) -> maps (b, h, w), signed where the method has signs.
        stages: groups of layers.
        seed: of the new weights.
    """
    trained = explain(model, images)
    ruined, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    owners = [(name, module) for name, module in ruined.named_modules() if module._parameters]
    owners = [(name, module) for name, module in owners if any(p is not None for p in module._parameters.values())]
    count = min(stages, len(owners))
    cuts = [round(i * len(owners) / count) for i in range(count + 1)]
    names, found = [], []
    for start, stop in reversed(list(itertools.pairwise(cuts))):
        for _, module in owners[start:stop]:
            for parameter in module.parameters(recurse=False):
                if parameter.numel() > 1:
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    with torch.no_grad():
                        parameter.copy_(parameter.mean() + parameter.std() * noise)
        names.append(owners[start][0] or type(model).__name__)
        found.append(rank_correlation(trained, explain(ruined, images)))
    return Sanity(names, torch.stack(found))


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of maps (b, h, w), (b,); 0 where a map is constant."""
    ranks = []
    for maps in (a, b):
        of_maps = []
        for map_ in maps:  # from 1; equal values share the mean of theirs
            _, place, counts = torch.unique(map_.flatten(), return_inverse=True, return_counts=True)
            of_maps.append((counts.cumsum(0) - (counts - 1) / 2).double()[place])
        ranks.append(torch.stack(of_maps))
    first, second = (r - r.mean(1, keepdim=True) for r in ranks)
    product = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1)).clamp(min=1e-30)
    return product.float()


def _curve(model, before, after, maps, classes, steps: int, batch_size: int, seed: int) -> Curve:
    """Probabilities on the way from one image to another, the pixels changed in the order of the maps."""
    b, _, h, w = before.shape
    classes = torch.as_tensor(classes, device=before.device).expand(b)
    # The place of every pixel in the order of the map, the largest value first and equal ones at random
    values = maps.to(before.device).flatten(1)
    shuffled = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = shuffled[values[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(values.shape[1]).to(order).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places).view(b, 1, h, w)
    counts = torch.linspace(0, h * w, steps + 1).round().long()
    found = torch.empty(b * (steps + 1))
    with evaluation(model), torch.inference_mode():
        for own in torch.arange(b * (steps + 1)).split(batch_size):
            image, step = own // (steps + 1), own % (steps + 1)
            changed = rank[image] < counts[step].to(before.device)[:, None, None, None]
            logits = model(torch.where(changed, after[image], before[image]))
            found[own] = logits.float().softmax(-1).gather(1, classes[image][:, None]).squeeze(1).cpu()
    return Curve(counts / (h * w), found.view(b, steps + 1))


def averaged(curves: Sequence[Curve]) -> Curve:
    """The mean of several curves over the same steps."""
    return Curve(curves[0].shares, torch.stack([curve.probability for curve in curves]).mean(0))
