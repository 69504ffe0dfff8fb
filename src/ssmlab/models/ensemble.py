"""Several trained networks of one task as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Normalised(NamedTuple):
    """The mean and standard deviation that normalised a member's images, of every channel; empty: their own."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Ensemble(nn.Module):
    """Networks that were trained on folds or with seeds, as a network.

    It reads what its first member reads: members that were normalised by other numbers, as those of folds are, get the
    images normalised by theirs. Its logits are such that softmax (sigmoid, of images with several labels) gives the
    mean of the members' probabilities.

    Source: Lakshminarayanan et al. 2017 (arXiv:1612.01474), section 2.4: a uniformly weighted mixture.

    Args:
        members: in evaluation mode, of one number of classes.
        normalised: how images of every member are normalised; all of them by numbers, or none.
        several: an image may have several labels, each with a probability of its own.
    """

    def __init__(self, members: Sequence[nn.Module], normalised: Sequence[Normalised], several: bool = False):
        super().__init__()
        self.members, self.several = nn.ModuleList(members), several
        first, own = normalised[0], [each for each in normalised if each.mean]
        scales = [[a / b for a, b in zip(first.std, each.std, strict=True)] for each in own]
        shifts = [[(a - b) / s for a, b, s in zip(first.mean, each.mean, each.std, strict=True)] for each in own]
        self.scales: Tensor
        self.shifts: Tensor
        self.register_buffer("scales", torch.tensor(scales), persistent=False)
        self.register_buffer("shifts", torch.tensor(shifts), persistent=False)
        model: Any = members[0]
        self.registry_name, self.config = getattr(model, "registry_name", None), getattr(model, "config", None)

    def seen_by(self, index: int, images: Tensor, axis: int = 1) -> Tensor:
        """Images, normalised as the first member reads them, as member `index` does.

        Args:
            axis: that of the channels.
        """
        if not len(self.scales):
            return images
        shape = [-1 if i == axis else 1 for i in range(images.ndim)]
        return images * self.scales[index].view(shape) + self.shifts[index].view(shape)

    def forward(self, images: Tensor) -> Tensor:
        """Images as the first member reads them -> logits, classes in axis 1: (b, k) or (b, k, *spatial)."""
        return mean_logits([member(self.seen_by(i, images)) for i, member in enumerate(self.members)], self.several)


def mean_logits(found: Sequence[Tensor], several: bool = False) -> Tensor:
    """Logits (classes in axis 1) whose probabilities are the mean of the probabilities of several logits.

    Args:
        several: each class has a probability of its own.
    """
    stacked, count = torch.stack([logits.float() for logits in found]), torch.tensor(float(len(found))).log()
    if several:
        yes, no = (F.logsigmoid(sign * stacked).logsumexp(0) for sign in (1, -1))
        return yes - no
    return stacked.log_softmax(2).logsumexp(0) - count
