"""The effective receptive field: which pixels the feature in the middle of the last map depends on, and how much."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.interpret.layers import Target, final_of, map_of
from ssmlab.profiling.flops import evaluation


class ReceptiveField(NamedTuple):
    """What the feature in the middle depends on.

    energy: squared gradients, summed over channels and averaged over images, with the sum 1, (h, w).
    centre: of the field, (row, column) in pixels.
    """

    energy: Tensor
    centre: tuple[float, float]

    def radius(self, share: float) -> float:
        """Of the smallest disc around the centre that holds a share (0..1) of the energy, in pixels."""
        h, w = self.energy.shape
        rows = torch.arange(h, device=self.energy.device)[:, None] - self.centre[0]
        columns = torch.arange(w, device=self.energy.device) - self.centre[1]
        distance, order = (rows**2 + columns**2).sqrt().flatten().sort()
        held = self.energy.flatten()[order].cumsum(0)
        return float(distance[min(int((held < share).sum()), len(held) - 1)])


def receptive_field(
    model: nn.Module, images: Tensor, *, target: Target | None = None, batch_size: int = 16
) -> ReceptiveField:
    """The gradient of the feature in the middle, summed over its channels, with respect to the pixels.

    Source: Luo et al. 2016 (arXiv:1701.04128), section 2. Of a map with an even side the feature right of and below
    the middle is taken, and its centre is reported.

    Args:
        images: prepared as the model reads them, (b, c, h, w); more of them make a smoother field.
        target: the layer; None takes the last map before the last norm (after one, the sum over channels is constant).
        batch_size: images at a time.
    """
    target = final_of(model) if target is None else target
    energy = torch.zeros(images.shape[-2:], dtype=torch.float64, device=images.device)
    with evaluation(model), torch.enable_grad():
        for batch in images.split(batch_size):
            pixels = batch.detach().clone().requires_grad_()
            found = map_of(model, pixels, target)
            h, w = found.shape[-2:]
            (gradient,) = torch.autograd.grad(found[..., h // 2, w // 2].sum(), pixels)
            energy += gradient.double().square().sum((0, 1))
    sides = ((images.shape[-2], h), (images.shape[-1], w))
    centre = tuple((count // 2 + 0.5) * side / count - 0.5 for side, count in sides)
    return ReceptiveField((energy / energy.sum().clamp(min=1e-300)).float(), (centre[0], centre[1]))
