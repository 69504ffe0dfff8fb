"""Dice and cross-entropy of logits, over several resolutions, and what masks have in common, by class and image.

Label 255 is counted nowhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
SMOOTH = 1e-5


def dice_cross_entropy(logits: Tensor, labels: Tensor, totals: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats, plus 1 - Dice of the softmax, the mean over images and all classes but the first.

        Dice = (2 sum p t + s) / (sum p + sum t + s),   s = 1e-5

    Source: Isensee et al. 2021 (nnU-Net, doi:10.1038/s41592-020-01008-z); Dice by Milletari et al. 2016
    (arXiv:1606.04797). nnU-Net subtracts the Dice, which is the same gradient; here the loss is never negative.

    Args:
        logits: (b, k, *spatial). labels: (b, *spatial) integers below k, or 255.
        totals: (2,), images and counted pixels, by which the sums are divided instead of by those of the labels.
    """
    k, counted = logits.shape[1], labels != IGNORE
    logits, target = logits.float(), torch.where(counted, labels, 0).long()
    nll = F.cross_entropy(logits, target, reduction="none") * counted
    truth = F.one_hot(target, k).movedim(-1, 1)[:, 1:] * counted[:, None]
    guess = logits.softmax(1)[:, 1:] * counted[:, None]
    both, either = (guess * truth).flatten(2).sum(-1), (guess + truth).flatten(2).sum(-1)
    dice = (2 * both + SMOOTH) / (either + SMOOTH)
    if totals is not None:
        return nll.sum() / totals[1] + (1 - dice).mean(1).sum() / totals[0]
    return nll.sum() / counted.sum().clamp(min=1) + (1 - dice).mean()


def scale_weights(scales: int) -> list[float]:
    """Weights of the resolutions, the highest first: 1, 1/2, 1/4 ..., the lowest 0 where there are several; sum 1."""
    weights = [0.5**i for i in range(scales)]
    if scales > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def deep_counts(labels: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Images and counted pixels of every resolution, (2 scales,): what `deep_loss` is a mean over."""
    counts = [torch.stack([torch.tensor(len(labels)), (resized(labels, s) != IGNORE).sum().cpu()]) for s in sizes]
    return torch.cat(counts)


def deep_loss(outputs: Tensor | Sequence[Tensor], labels: Tensor, totals: Tensor | None = None) -> Tensor:
    """`dice_cross_entropy` of every resolution, weighted; labels become smaller by their nearest value.

    Args:
        outputs: logits (b, k, *spatial), or a list of them, the highest resolution first.
        labels: (b, *spatial) of the highest.
        totals: (2 scales,), what `deep_counts` gives of all pieces of a step.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for i, (weight, logits) in enumerate(zip(scale_weights(len(outputs)), outputs, strict=True)):
        if weight:
            of_scale = None if totals is None else totals[2 * i : 2 * i + 2]
            total = total + weight * dice_cross_entropy(logits, resized(labels, logits.shape[2:]), of_scale)
    return total


def resized(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (b, *spatial) at another size, by the nearest value."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    return F.interpolate(labels[:, None].float(), tuple(size), mode="nearest")[:, 0].to(labels.dtype)


def overlaps(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """True positives, false positives, false negatives of every class, (classes, 3) int64, of one image.

    Args:
        predicted, labels: integers of any equal shape; where labels are 255, nothing counts.
    """
    counted = labels != IGNORE
    pairs = labels[counted].long() * classes + predicted[counted].long()
    table = torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
    correct = table.diagonal()
    return torch.stack([correct, table.sum(0) - correct, table.sum(1) - correct], 1)
