"""A model under a condition: what it says about every image, kept in a file so that a killed run goes on."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.core.files import write_atomically
from ssmlab.core.progress import Progress
from ssmlab.robustness.attacks import NUMBER, Attack
from ssmlab.robustness.conditions import Condition
from ssmlab.robustness.philox import Draws
from ssmlab.robustness.scores import Outcome
from ssmlab.tasks.classify.several import ClassifySeveral
from ssmlab.tasks.classify.task import Classify

FORMAT = 1  # of the files and of the transformations; another one, and all is measured again


def measure(
    network: nn.Module,
    task: Classify | ClassifySeveral,
    condition: Condition | Attack,
    images: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray,
    classes: tuple[str, ...],
    *,
    seed: int,
    batch: int,
    device: str,
    title: str,
    progress: Progress,
) -> Outcome:
    """A model's answers to images (n, h, w, 3) uint8 under a condition.

    Args:
        labels: positions in `classes`, which hold what the model knows, in any order; or 0 and 1 for each of them.
        index: of the generator.
    """
    columns = torch.tensor([task.classes.index(name) for name in classes], device=device)
    truth, keys = torch.from_numpy(labels), torch.from_numpy(index)
    found = []
    progress.start(title, len(labels))
    try:
        with torch.no_grad():
            for start in range(0, len(labels), batch):
                few = slice(start, start + batch)
                x = torch.from_numpy(images[few]).permute(0, 3, 1, 2).to(device)
                if isinstance(condition, Attack):
                    known = columns[truth[few].to(device)]
                    one = task.images if isinstance(task, ClassifySeveral) else task
                    x = condition.change(network, one, x, known, Draws(seed, keys[few], NUMBER))
                else:
                    x = condition.change(x, seed, keys[few])
                logits = network(task.prepare(x)).float()[:, columns].cpu()
                if labels.ndim == 2:
                    likely = logits.sigmoid()
                    nothing = torch.zeros(len(logits))
                    right = ((likely >= 0.5) == (truth[few] > 0)).float().mean(1)
                    found.append([part.numpy() for part in (nothing.int(), right, nothing.bool(), nothing, likely)])
                    progress.update(min(start + batch, len(labels)))
                    continue
                confidence, predicted = logits.softmax(1).max(1)
                in_five = (~(logits <= logits.gather(1, truth[few, None]))).sum(1) < 5  # a NaN is never right
                answer = (predicted.to(torch.int32), predicted == truth[few], in_five, confidence)
                found.append([part.numpy() for part in answer])
                progress.update(min(start + batch, len(labels)))
    finally:
        progress.stop()
    return Outcome(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def fingerprint(**circumstances: Any) -> str:
    """A hash of everything that an outcome depends on."""
    lines = [f"{key}={value!r}" for key, value in sorted((circumstances | {"format": FORMAT}).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_outcome(path: Path, outcome: Outcome, mark: str) -> None:
    """Write an outcome as .npz, with the mark of the circumstances that it was measured in."""
    content = io.BytesIO()
    arrays = {name: values for name, values in vars(outcome).items() if values is not None}
    np.savez_compressed(content, mark=np.array(mark), **arrays)
    write_atomically(path, content.getvalue())


def read_outcome(path: Path, mark: str) -> Outcome | None:
    """The outcome of a file, or None where there is none or it belongs to other circumstances."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["mark"]) != mark:
                return None
            names = ("predicted", "correct", "in_five", "confidence", *(["likely"] if "likely" in file else []))
            return Outcome(*(file[name] for name in names))
    except (OSError, ValueError, KeyError):
        return None
