"""Where a model found a class in an image: Grad-CAM and integrated gradients, by captum, for every vision model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.interpret.layers import Tapped, Target, target_of
from ssmlab.models.ensemble import Ensemble
from ssmlab.profiling.flops import evaluation


class Integrated(NamedTuple):
    """Integrated gradients.

    values: of every input, in the shape of the images.
    error: what their sum lacks of the difference between the image's and the baseline's logit, (b,).
    """

    values: Tensor
    error: Tensor

    @property
    def maps(self) -> Tensor:
        """Sums over the channels, (b, h, w)."""
        return self.values.sum(1)


def grad_cam(
    model: nn.Module,
    images: Tensor,
    classes: int | Sequence[int] | Tensor,
    *,
    target: Target | None = None,
    elementwise: bool | None = None,
    relu: bool = True,
    resize: bool = True,
) -> Tensor:
    """The map of a late layer, weighted by the mean gradient of a class's logit.

    Source: Selvaraju et al. 2017 (arXiv:1610.02391), equations 1 and 2; computed by captum's LayerGradCam.
    With `elementwise` every position is weighted by its own gradient: HiResCAM, Draelos & Carin 2020
    (arXiv:2011.08891), by captum's LayerGradientXActivation. The two agree where a mean and a linear layer follow;
    they do not where a class token reads every position differently.

    Args:
        images: prepared as the model reads them, (b, c, h, w).
        classes: one for all images, or one for each.
        target: the layer; None takes `target_of(model)`.
        elementwise: HiResCAM instead of Grad-CAM; None takes it where a class token reads the map. (The Grad-CAM of a
            small trained Vim is no better than a random map, its HiResCAM is.)
        relu: keep what speaks for the class alone.
        resize: bilinearly to the size of the images; else the layer's own grid.
    Returns:
        (b, h, w), in logits where nothing is clipped; of an ensemble the mean of its members' maps.
    Raises:
        ModelError: no layer of this network is known.
    """
    from captum.attr import LayerGradCam, LayerGradientXActivation

    if isinstance(model, Ensemble) and target is None:
        how: dict[str, Any] = {"elementwise": elementwise, "relu": relu, "resize": resize}
        every = [grad_cam(one, model.seen_by(i, images), classes, **how) for i, one in enumerate(model.members)]
        return torch.stack(every).mean(0)
    target = target_of(model) if target is None else target
    elementwise = not target.alike if elementwise is None else elementwise
    tapped = Tapped(model, target)
    images = images.detach().clone().requires_grad_()
    with evaluation(model), torch.enable_grad():
        if elementwise:
            method = LayerGradientXActivation(tapped, tapped.tap)
            maps = method.attribute(images, _classes(classes, images)).sum(1, keepdim=True).detach()
        else:
            maps = LayerGradCam(tapped, tapped.tap).attribute(images, _classes(classes, images)).detach()
    maps = maps.clamp(min=0) if relu else maps
    if resize:
        maps = F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return maps.squeeze(1)


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    classes: int | Sequence[int] | Tensor,
    *,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    batch_size: int = 32,
) -> Integrated:
    """The gradient of a class's logit, averaged on the way from a baseline to the image, times the difference.

    Source: Sundararajan et al. 2017 (arXiv:1703.01365), equation 1; computed by captum, Gauss-Legendre quadrature.

    Args:
        images: prepared as the model reads them, (b, c, h, w).
        classes: one for all images, or one for each.
        baseline: an image without content; 0, of normalised images, is the mean colour.
        steps: points of the quadrature.
        batch_size: images that go through the model at once, at least one of each given.
    """
    from captum.attr import IntegratedGradients

    images = images.detach().clone().requires_grad_()
    with evaluation(model), torch.enable_grad():
        values, error = IntegratedGradients(model).attribute(
            images,
            torch.as_tensor(baseline).to(images).expand_as(images),
            _classes(classes, images),
            n_steps=steps,
            internal_batch_size=max(batch_size, len(images)),
            return_convergence_delta=True,
        )
    return Integrated(values.detach(), error.detach())


def _classes(classes: int | Sequence[int] | Tensor, images: Tensor) -> int | Tensor:
    return classes if isinstance(classes, int) else torch.as_tensor(classes, device=images.device)
