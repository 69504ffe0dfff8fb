"""How far the outlines of two masks are apart: normalised surface distance and 95 % Hausdorff distance.

Source: Nikolov et al. 2018 (arXiv:1809.04430) for the normalised surface distance, with an outline element for each
pixel of the outline; Huttenlocher et al. 1993 for the Hausdorff distance, whose 95th percentile is common.
"""

from typing import NamedTuple

import numpy as np


class Surface(NamedTuple):
    """Share of both outlines that lies within the tolerance of the other; 95th percentile of their distances."""

    normalised: float
    hausdorff95: float


def surface_distances(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, ...],
    tolerance: float,
    counted: np.ndarray | None = None,
) -> Surface:
    """Compare two masks by their outlines: pixels of a mask with a neighbour, along an axis, outside of it or the
    image.

    Both masks empty: both numbers are nan, nothing is known. One of them: 0, and the image's diagonal.

    Args:
        predicted, truth: booleans of 2 or 3 axes.
        spacing: distance of neighbours along each axis, which is also the unit of `tolerance` and of the distance.
        counted: booleans; what lies outside belongs to neither mask.
    """
    from scipy.ndimage import distance_transform_edt

    if counted is not None:
        predicted, truth = predicted & counted, truth & counted
    if not predicted.any() and not truth.any():
        return Surface(float("nan"), float("nan"))
    if not predicted.any() or not truth.any():
        return Surface(0.0, float(np.linalg.norm(np.multiply(predicted.shape, spacing))))
    a, b = _outline(predicted), _outline(truth)
    there = distance_transform_edt(~b, sampling=spacing)[a]
    back = distance_transform_edt(~a, sampling=spacing)[b]
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    farthest = max(np.percentile(there, 95), np.percentile(back, 95))
    return Surface(float(near / (len(there) + len(back))), float(farthest))


def _outline(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)
