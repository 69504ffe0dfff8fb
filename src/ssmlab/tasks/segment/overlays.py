"""Pictures of test images with what every model marked in them, for the report."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.files import write_json
from ssmlab.data.masks.reader import MaskSplit
from ssmlab.tasks.shared.dice import IGNORE

RIGHT, WRONG, MISSED = (40, 160, 90), (214, 60, 60), (60, 110, 220)
LARGEST = 320  # pixels of a picture's longer side


def plane_of(labels: np.ndarray) -> np.ndarray | tuple[int, ...]:
    """Which slice of a volume a picture shows, the one with most foreground; () of an image."""
    if labels.ndim == 2:
        return ()
    foreground = ((labels > 0) & (labels != IGNORE)).sum((1, 2))
    return (int(foreground.argmax()),)


def write_overlays(folder: Path, test: MaskSplit, chosen: list[int], predicted: dict[str, list[np.ndarray]]) -> None:
    """Write a picture a model and one of the truth for every chosen image, and overlays.json that lists them.

    Args:
        chosen: numbers of test images.
        predicted: by model, what it marked in each of them: labels (h, w), of the slice that `plane_of` names.
    """
    from PIL import Image

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    listed: list[dict[str, Any]] = []
    for number, i in enumerate(chosen):
        sample = test.sample(i)
        plane = plane_of(sample.labels)
        grey, truth = picture(sample.image[(slice(None), *plane)]), sample.labels[plane]
        drawn = {"": grey} | {model: marked(grey, masks[number], truth) for model, masks in predicted.items()}
        drawn[""] = marked(grey, truth, truth)
        files = {}
        for column, (model, pixels) in enumerate(drawn.items()):
            image = Image.fromarray(pixels)
            image.thumbnail((LARGEST, LARGEST))
            files[model] = f"{number}_{column}.png"
            image.save(partial / files[model])
        listed.append({"id": test.ids[i], "truth": files.pop(""), "models": files})
    write_json(partial / "overlays.json", listed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def picture(image: np.ndarray) -> np.ndarray:
    """An image (c, h, w) as (h, w, 3) uint8: its first three channels, or the first one in grey."""
    shown = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, 0)
    if shown.dtype != np.uint8:
        low, high = np.percentile(shown, (1, 99))
        shown = np.clip((shown.astype(np.float32) - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def marked(grey: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Green where both say the same class, red where only the prediction says one, blue where only the truth does."""
    out = grey.astype(np.float32)
    counted = truth != IGNORE
    for where, colour in (
        (counted & (predicted == truth) & (truth > 0), RIGHT),
        (counted & (predicted != truth) & (predicted > 0), WRONG),
        (counted & (predicted == 0) & (truth > 0), MISSED),
    ):
        out[where] = 0.45 * out[where] + 0.55 * np.array(colour, np.float32)
    out[~counted] *= 0.35
    return out.astype(np.uint8)
