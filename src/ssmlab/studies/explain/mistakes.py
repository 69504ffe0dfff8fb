"""The pictures that a model gets wrong, as they are or after a transformation, and what it looked for in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssmlab.core import formats
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp
from ssmlab.interpret.visualise import Search
from ssmlab.profiling.flops import evaluation
from ssmlab.studies.explain.explanation import Options, explain
from ssmlab.studies.explain.opening import Opened, short
from ssmlab.studies.explain.result import write_explanation
from ssmlab.tasks.classify.task import Classify

Change = Callable[[Tensor, Tensor], Tensor]
"""(images (b, 3, h, w) uint8, their numbers (b,)) -> changed images."""


@dataclass(frozen=True)
class Mistake:
    """One picture: its number, how it was changed (None: not), the wrong class and its probability."""

    index: int
    change: str | None
    said: int
    sure: float


def explain_mistakes(
    network: nn.Module,
    task: Classify,
    *,
    title: str,
    origin: str,
    device: str,
    images: Tensor,
    labels: np.ndarray,
    ids: Sequence[str],
    changes: Mapping[str, Change],
    count: int,
    batch_size: int,
    steps: int,
    score_steps: int,
    seed: int,
    folder: Path,
    stamp: Stamp,
    progress: Progress | None = None,
    doubt: str = "",
) -> tuple[Path | None, list[Record]]:
    """Find the mistakes, explain the most confident ones on one page.

    Args:
        images: of the test part, (n, 3, h, w) uint8. labels: their classes.
        changes: by name; what was right and is wrong after one of them is a mistake. Without any, what is wrong as it
            is.
        count: pictures on the page.
        steps, score_steps: as in `Search` and `Options`.
        doubt: as in `Opened`.
    Returns:
        the page, None without mistakes, and a record for every change: the fraction of images that it turned wrong.
    """
    progress = progress or Progress()
    model = Opened(
        title=title, origin=origin, network=network, task=task, image_size=images.shape[-1], device=device, doubt=doubt
    )
    mistakes, records, before = find_mistakes(model, images, labels, changes, batch_size, progress)
    chosen = choose(mistakes, count)
    if not chosen:
        return None, records
    pictures = [_changed(images, m, changes)[0].permute(1, 2, 0).numpy() for m in chosen]
    originals = [None if m.change is None else images[m.index].permute(1, 2, 0).numpy() for m in chosen]
    names = task.classes
    notes = [_note(m, names, int(labels[m.index]), before[m.index], changes) for m in chosen]
    options = Options(
        search=Search(steps=steps, colour="grey" if model.grey else "imagenet", seed=seed), score_steps=score_steps,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    found = explain(
        model, np.stack(pictures), [ids[m.index] for m in chosen], options, notes=notes, before=originals,
        asked=[[m.said, int(labels[m.index])] for m in chosen], progress=progress,
    )  # fmt: skip
    wrong = [f"{changes[r.class_].__name__}: {formats.percent(r.value)}" if r.class_ in changes else
             f"as they are: {formats.percent(r.value)}" for r in records]  # fmt: skip
    answer = f"Of {len(images):,} test images wrong {'; '.join(wrong)}"
    if changes:
        answer = f"Of {len(images):,} test images right before and wrong after {'; '.join(wrong)}"
    heading = f"{title}: {formats.plural(len(chosen), 'mistake')} explained"
    return write_explanation(folder, found, stamp, heading=heading, answer=answer + "."), records


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
        said, sure = after.argmax(1), after.max(1)
        wrong = (said != labels) if change is None else (said != labels) & right
        order = [int(i) for i in np.argsort(-sure, kind="stable") if wrong[i]]
        found[name] = [Mistake(i, name, int(said[i]), float(sure[i])) for i in order]
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


def _changed(images: Tensor, mistake: Mistake, changes: Mapping[str, Change]) -> Tensor:
    index = torch.tensor([mistake.index])
    return images[index] if mistake.change is None else changes[mistake.change](images[index], index)


def _note(mistake: Mistake, names: Sequence[str], label: int, before: np.ndarray, changes: Mapping[str, Change]) -> str:
    """What went wrong, in a sentence."""
    wrong = f"{short(names[mistake.said])} ({formats.percent(mistake.sure)})"
    if mistake.change is None:
        return f"True class {short(names[label])}, taken for {wrong}."
    how = changes[mistake.change].__name__
    first = f"{short(names[label])} ({formats.percent(float(before[label]))})"
    return f"True class {short(names[label])}: right as it was, {first}; {how} made it {wrong}."
