"""The files that a run leaves next to its weights. Each is written under another name and renamed."""

import shutil
from pathlib import Path

import numpy as np

from ssmlab.core.files import write_atomically, write_json
from ssmlab.core.text import csv_text
from ssmlab.tasks.shared.calibration import probabilities_of


def write_predictions(
    path: Path, ids: list[str], labels, logits: np.ndarray, classes: tuple[str, ...], groups: list[str] | None = None
) -> None:
    """CSV with the columns id, label, predicted, correct, `p:<class>`, and group where there are some.

    Labels are names of classes.
    """
    probabilities = probabilities_of(logits)
    head = ["id", "label", "predicted", "correct", *(f"p:{name}" for name in classes)]
    rows: list[list] = [head if groups is None else [*head, "group"]]
    for i, (id_, label, row) in enumerate(zip(ids, labels, probabilities, strict=True)):
        best = int(row.argmax())
        cells = [id_, classes[label], classes[best], int(best == label), *(f"{p:.6g}" for p in row)]
        rows.append(cells if groups is None else [*cells, groups[i]])
    write_atomically(path, csv_text(rows))


def write_samples(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    ids: list[str],
    classes: tuple[str, ...],
    probabilities: dict[str, np.ndarray],
    count: int,
) -> None:
    """At most `count` test images for the report, those that a model gets wrong first, with what every model predicted.

    Args:
        images: (n, h, w, 3) uint8.
        probabilities: by model, (n, classes).
    """
    from PIL import Image

    wrong = np.zeros(len(labels), np.int64)
    for values in probabilities.values():
        wrong += values.argmax(1) != labels
    # Among equals at random, or the first class would fill the rest.
    chosen = np.lexsort((np.random.default_rng(0).random(len(labels)), -wrong))[:count]
    partial = folder.with_name(".samples.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    listed = []
    for number, i in enumerate(chosen):
        Image.fromarray(images[i]).save(partial / f"{number}.png")
        predicted = {
            model: [classes[int(p[i].argmax())], round(float(p[i].max()), 4)] for model, p in probabilities.items()
        }
        listed.append({"file": f"{number}.png", "id": ids[i], "label": classes[labels[i]], "predictions": predicted})
    write_json(partial / "samples.json", listed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
