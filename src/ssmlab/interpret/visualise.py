"""What a model looks for: images that make a class's logit or a channel as large as possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.progress import Progress
from ssmlab.interpret.layers import Target, map_of
from ssmlab.profiling.flops import evaluation

# Square root of the covariance of ImageNet's colours, by Olah et al.'s code for "Feature Visualization"; its rows are
# red, green and blue, its columns brightness, blue against red, green against the two.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
GREYS = ((0.26, 0.0, 0.0),) * 3

Objective = Callable[[nn.Module, Tensor], Tensor]
"""(model, prepared images (b, c, h, w)) -> what each image should make large, (b,)."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Options of the search for an image.

    steps: of Adam.
    learning_rate: of Adam, for the spectrum.
    jitter: largest shift, as a fraction of the side. rotate: largest angle, in degrees. scale: sizes are between
        1 - scale and 1 + scale. Each image and step has its own: what survives all of them is no accident of pixels.
    total_variation: weight of the mean absolute difference of neighbouring pixels.
    l2: weight of the mean squared distance from grey.
    decay: power of the frequency by which the spectrum falls; 1 is that of photographs, 0 has none.
    colour: "imagenet", "grey", or "none" for channels that start independent of each other.
    seed: of the first image and of the shifts.
    """

    steps: int = 128
    learning_rate: float = 0.05
    jitter: float = 0.05
    rotate: float = 8.0
    scale: float = 0.1
    total_variation: float = 0.5
    l2: float = 0.5
    decay: float = 1.0
    colour: str = "imagenet"
    seed: int = 0


def class_objective(classes: Sequence[int]) -> Objective:
    """The logit of one class for each image."""
    return lambda model, images: model(images)[range(len(classes)), list(classes)]


def channel_objective(target: Target, channels: Sequence[int]) -> Objective:
    """The mean of one channel of a layer for each image, over its positions."""
    return lambda model, images: map_of(model, images, target).mean((2, 3))[range(len(channels)), list(channels)]


def visualise(
    model: nn.Module,
    objective: Objective,
    count: int,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    search: Search | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Activation maximisation by gradient ascent on the spectrum of an image.

    Source: Olah, Mordvintsev & Schubert 2017, "Feature Visualization" (Distill), for the spectrum, the decorrelated
    colours and the transformations; Simonyan et al. 2014 (arXiv:1312.6034), section 2, for the idea.

    Args:
        count: images, all sought at once.
        size: their side.
        mean, std: how the model's images are normalised, per channel.
    Returns:
        (count, 3, size, size), values from 0 to 1.
    """
    progress, search = progress or Progress(), search or Search()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(search.seed)
    spectrum = 0.01 * torch.randn(count, 3, size, size // 2 + 1, 2, generator=generator)
    spectrum = spectrum.to(device).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], search.learning_rate)
    shift, spread = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    progress.start("seeking features", search.steps, unit="steps")
    try:
        with evaluation(model), torch.enable_grad():
            for step in range(search.steps):
                images = decode(spectrum, size, search)
                seen = (moved(images, search, generator) - shift) / spread
                found = objective(model, seen)
                loss = penalty(images, search) - found.sum()
                (spectrum.grad,) = torch.autograd.grad(loss, spectrum)
                optimizer.step()
                progress.update(step + 1, f"objective {found.mean().item():.2f}")
    finally:
        progress.stop()
    return decode(spectrum.detach(), size, search)


def decode(spectrum: Tensor, size: int, search: Search) -> Tensor:
    """A spectrum (b, 3, size, size // 2 + 1, 2) as images (b, 3, size, size) with values from 0 to 1."""
    rows = torch.fft.fftfreq(size, device=spectrum.device)[:, None]
    columns = torch.fft.rfftfreq(size, device=spectrum.device)
    frequency = (rows**2 + columns**2).sqrt().clamp(min=1 / size)
    weights = frequency**-search.decay
    weights = 2 * weights / weights.square().mean().sqrt()  # the pixels' spread does not depend on the size
    planes = torch.fft.irfft2(torch.view_as_complex(spectrum) * weights, s=(size, size), norm="ortho")
    return (decorrelated(planes, search.colour)).sigmoid()


def decorrelated(planes: Tensor, colour: str) -> Tensor:
    """Independent planes (b, 3, h, w) as colours that vary together as those of photographs do."""
    if colour == "none":
        return planes
    matrix = torch.tensor(COLOURS if colour == "imagenet" else GREYS, device=planes.device)
    matrix = matrix / matrix.norm(dim=0).max()
    return torch.einsum("ij,bjhw->bihw", matrix, planes)


def moved(images: Tensor, search: Search, generator: torch.Generator) -> Tensor:
    """Every image shifted, turned and scaled by amounts of its own; what is outside is a reflection."""
    b = len(images)
    draws = (2 * torch.rand(4, b, generator=generator) - 1).to(images.device)
    angle = draws[0] * math.radians(search.rotate)
    size = 1 + draws[1] * search.scale
    cosine, sine = angle.cos() / size, angle.sin() / size
    shift = 2 * search.jitter * draws[2:]
    matrix = torch.stack([cosine, -sine, shift[0], sine, cosine, shift[1]], 1).view(b, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def penalty(images: Tensor, search: Search) -> Tensor:
    """Penalty of images: differences of neighbours and distance from grey, summed over the images."""
    variation = images.diff(dim=-1).abs().mean((1, 2, 3)) + images.diff(dim=-2).abs().mean((1, 2, 3))
    contrast = (images - 0.5).square().mean((1, 2, 3))
    return (search.total_variation * variation + search.l2 * contrast).sum()
