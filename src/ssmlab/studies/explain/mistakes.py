"""The pictures that a model gets wrong, as they are or after a transformation, and what it looked for in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssmlab.core import formats
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp, now
from ssmlab.profiling.flops import evaluation
from ssmlab.studies.explain.explanation import Settings, explain
from ssmlab.studies.explain.opening import Opened, short
from ssmlab.studies.explain.result import write_explanation

Change = Callable[[Tensor, Tensor], Tensor]
"""(images (b, 3, h, w) uint8, their numbers (b,)) -> changed images."""


@dataclass(frozen=True)
class Mistake:
    """One picture: its number, how it was changed (None: not), the wrong class and its probability."""

    index: int
    change: str | None
    predicted: int
    probability: float


def explain_mistakes(
    model: Opened,
    images: Tensor,
    labels: np.ndarray,
    ids: Sequence[str],
    *,
    changes: Mapping[str, Change],
    count: int,
    settings: Settings,
    folder: Path,
    stamp: Stamp,
    progress: Progress | None = None,
) -> tuple[Path | None, list[Record]]:
    """Find the mistakes, explain the most confident ones on one page.

    Args:
        images: of the test part, (n, 3, h, w) uint8. labels: their classes. ids: their names.
        changes: by name; what was right and is wrong after one of them is a mistake. Without any, what is wrong as it
            is.
        count: pictures on the page.
    Returns:
        the page, None without mistakes, and a record for every change: the fraction of images that it turned wrong.
    """
    progress, started = progress or Progress(), now()
    mistakes, records, before = find_mistakes(model, images, labels, changes, settings.batch_size, progress)
    chosen = choose(mistakes, count)
    if not chosen:
        return None, records
    pictures, originals, notes = [], [], []
    for m in chosen:
        index, label = torch.tensor([m.index]), int(labels[m.index])
        true = short(model.classes[label])
        wrong = f"{short(model.classes[m.predicted])} ({formats.percent(m.probability)})"
        if m.change is None:
            changed, original, note = images[index], None, f"True class {true}, taken for {wrong}."
        else:
            change, original = changes[m.change], images[m.index].permute(1, 2, 0).numpy()
            changed, sure = change(images[index], index), formats.percent(float(before[m.index][label]))
            note = f"True class {true}: right as it was, {true} ({sure}); {change.__name__} made it {wrong}."
        pictures.append(changed[0].permute(1, 2, 0).numpy())
        originals.append(original)
        notes.append(note)
    found = explain(
        model, np.stack(pictures), [ids[m.index] for m in chosen], settings, notes=notes, before=originals,
        classes=[[m.predicted, int(labels[m.index])] for m in chosen], progress=progress,
    )  # fmt: skip
    shares = [f"{changes[r.class_].__name__}: {formats.percent(r.value)}" if r.class_ is not None else
             f"as they are: {formats.percent(r.value)}" for r in records]  # fmt: skip
    answer = f"Of {len(images):,} test images wrong {'; '.join(shares)}"
    if changes:
        answer = f"Of {len(images):,} test images right before and wrong after {'; '.join(shares)}"
    heading = f"{model.title}: {formats.plural(len(chosen), 'mistake')} explained"
    return write_explanation(folder, found, stamp, started, heading=heading, answer=answer + "."), records


def find_mistakes(
    model: Opened,
    images: Tensor,
    labels: np.ndarray,
    changes: Mapping[str, Change],
    batch_size: int,
    progress: Progress | None = None,
) -> tuple[dict[str | None, list[Mistake]], list[Record], np.ndarray]:
    """Mistakes by change (None: none), the most confident first; records; probabilities before, (n, classes)."""
    progress = progress or Progress()
    before = _probabilities(model, images, None, batch_size, "testing", progress)
    right = before.argmax(1) == labels
    found, records = {}, []
    for name, change in changes.items() or [(None, None)]:
        after = before if change is None else _probabilities(model, images, change, batch_size, name, progress)
        predicted, sure = after.argmax(1), after.max(1)
        wrong = (predicted != labels) if change is None else (predicted != labels) & right
        order = [int(i) for i in np.argsort(-sure, kind="stable") if wrong[i]]
        found[name] = [Mistake(i, name, int(predicted[i]), float(sure[i])) for i in order]
        metric = "wrong" if change is None else "turned_wrong"
        records.append(Record(metric=metric, value=float(wrong.mean()), unit="fraction", class_=name, n=len(labels)))
    return found, records, before


def choose(mistakes: Mapping[str | None, list[Mistake]], count: int) -> list[Mistake]:
    """The most confident of every change, then the second of each, and so on; a picture once."""
    chosen: dict[int, Mistake] = {}
    for row in zip_longest(*mistakes.values()):
        for mistake in row:
            if mistake is not None and len(chosen) < count:
                chosen.setdefault(mistake.index, mistake)
    return list(chosen.values())


def _probabilities(
    model: Opened, images: Tensor, change: Change | None, batch_size: int, title: str | None, progress: Progress
) -> np.ndarray:
    found = []
    progress.start(title or "testing", len(images))
    try:
        with evaluation(model.network), torch.inference_mode():
            for index in torch.arange(len(images)).split(batch_size):
                own = images[index]
                own = (own if change is None else change(own, index)).to(model.device)
                found.append(model.network(model.task.prepare(own)).float().softmax(-1).cpu())
                progress.update(int(index[-1]) + 1)
    finally:
        progress.stop()
    return torch.cat(found).numpy()
