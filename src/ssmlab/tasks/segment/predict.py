"""Whole images of a part through a network: overlaps, outlines, and what is shown in the report."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.progress import Progress
from ssmlab.data.masks.reader import MaskSplit
from ssmlab.tasks.segment.metrics import ImageTable
from ssmlab.tasks.segment.overlays import plane_of
from ssmlab.tasks.segment.task import Segment, image_sums
from ssmlab.tasks.shared.dice import IGNORE
from ssmlab.tasks.shared.surface import surface_distances
from ssmlab.training.distributed import gather, shared_world
from ssmlab.training.predict import autocast


@dataclass(frozen=True)
class Predicted:
    """What a network predicted of a part.

    table: numbers of every image. numbers: loss and Dice. marked: labels (h, w) of the images that `slices` names.
    seconds: of the prediction alone.
    """

    table: ImageTable
    numbers: dict[str, float]
    marked: list[np.ndarray]
    seconds: float


def slices(split: MaskSplit, count: int) -> list[int]:
    """`count` images of a part at equal distances."""
    return sorted({int(i) for i in np.linspace(0, len(split) - 1, min(count, len(split)))}) if count else []


def predict_part(
    network: nn.Module,
    task: Segment,
    split: MaskSplit,
    compute: ComputeConfig,
    *,
    tolerance: float = 0.0,
    kept: int = 0,
    title: str = "",
    progress: Progress | None = None,
) -> Predicted:
    """Predict every image of a part; within `distributed.sharing` every process its share of them.

    Args:
        tolerance: of the surface distance, in the unit of the images' spacing; 0 leaves out everything about outlines.
        kept: of so many images the labels are returned.
    """
    progress = progress or Progress()
    chosen = slices(split, kept)
    network.eval()
    sums, marked, seconds = [], [], 0.0
    k = len(task.classes)
    surface = {name: np.full((len(split), k), np.nan) for name in ("surface_dice", "hausdorff95")} if tolerance else {}
    progress.start(title, len(split))
    world = shared_world()
    try:
        for i in range(len(split))[own := world.share(len(split))]:
            sample = split.sample(i)
            begin = time.perf_counter()
            with torch.inference_mode(), autocast(compute):
                probabilities = task.predict(network, torch.from_numpy(sample.image), sample.spacing)
                predicted = probabilities.argmax(0).cpu().numpy().astype(np.uint8)
            seconds += time.perf_counter() - begin
            sums.append(image_sums(probabilities.cpu(), torch.from_numpy(sample.labels)).double().numpy())
            for label in range(1, k) if tolerance else ():
                truth, counted = sample.labels == label, sample.labels != IGNORE
                found = surface_distances(predicted == label, truth, sample.spacing, tolerance, counted)
                surface["surface_dice"][i, label], surface["hausdorff95"][i, label] = found
            if i in chosen:
                marked.append(predicted[plane_of(sample.labels)])
            progress.update(i + 1)
    finally:
        progress.stop()
    parts = gather(world, (sums, marked, {name: values[own] for name, values in surface.items()}))
    rows, marked = np.stack([row for own, _, _ in parts for row in own]), [one for _, own, _ in parts for one in own]
    surface = {name: np.concatenate([values[name] for _, _, values in parts]) for name in surface}
    counts = rows[:, :-2].reshape(len(rows), k, 3).astype(np.int64)
    table = ImageTable(split.ids, task.classes, counts, surface, split.groups)
    return Predicted(table, task.validation(rows), marked, seconds)
