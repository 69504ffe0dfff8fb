"""The files that a run leaves next to its weights. Each is written under another name and renamed."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssmlab.core.files import write_atomically, write_json
from ssmlab.core.text import csv_text
from ssmlab.data.contents import JOINT
from ssmlab.tasks.shared.calibration import probabilities_of


def write_predictions(
    path: Path,
    ids: list[str],
    labels,
    logits: np.ndarray,
    classes: tuple[str, ...],
    more: Mapping[str, Sequence] | None = None,
) -> None:
    """CSV with the columns id, label, predicted, correct, those of `more`, and `p:<class>`; labels are names.

    Of items with several labels (n, classes) label and predicted are names joined by "|" (probability at least 1/2),
    correct is 1 where all of them are, and the probabilities are each label's own.

    Args:
        more: further columns by name, such as group and fold; empty ones are left out.
    """
    columns = {name: values for name, values in (more or {}).items() if len(values)}
    several = np.ndim(labels) == 2
    probabilities = probabilities_of(logits, several=several)
    rows: list[list] = [["id", "label", "predicted", "correct", *columns, *(f"p:{name}" for name in classes)]]
    for i, (id_, label, row) in enumerate(zip(ids, labels, probabilities, strict=True)):
        best = row >= 0.5 if several else int(row.argmax())
        names = [
            JOINT.join(np.array(classes)[np.asarray(one, bool)]) if several else classes[one] for one in (label, best)
        ]
        own = [values[i] for values in columns.values()]
        rows.append([id_, *names, int(np.array_equal(best, label)), *own, *(f"{p:.6g}" for p in row)])
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

    several = labels.ndim == 2
    wrong = np.zeros(len(labels), np.int64)
    for values in probabilities.values():
        wrong += ((values >= 0.5) != labels).any(1) if several else values.argmax(1) != labels
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
        label = JOINT.join(np.array(classes)[labels[i] > 0]) or "none" if several else classes[labels[i]]
        listed.append({"file": f"{number}.png", "id": ids[i], "label": label, "predictions": predicted})
    write_json(partial / "samples.json", listed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
