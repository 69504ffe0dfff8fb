"""Whether an explained model learned anything: by its run, or, outside of one, by labelled data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.progress import Progress
from ssmlab.reports.caveats import doubt, doubt_in, run_of
from ssmlab.reports.run_folder import Run
from ssmlab.tasks.table import report_of


def judge(
    network: Any, folder: Path | None, title: str, task: str, data: str | None, device: str, progress: Progress
) -> str:
    """Why pictures or colours of a model say little, or what is needed to know that; empty where it beats chance.

    Args:
        network: with its `preprocess_config`. folder: that it came from, None for a network by name.
        data: labelled data, whose test part is measured.
    Raises:
        DataError: they cannot be read, or have other classes than the model.
    """
    if folder is not None and data is None and run_of(folder, report_of) is not None:
        return doubt(folder, title, report_of)
    if data is None:
        return f"nothing says whether {title} is better than chance, as it is not in its run's folder; --data DATA does"
    from ssmlab.tasks.api import evaluate

    records = evaluate(network, data, task, device=device, progress=progress)
    about: dict[str, Any] = {}
    if task == "language" and getattr(network, "preprocess_config", {}).get("kind", "text") == "text":
        about["chance"] = _frequencies(data)
    run = Run(
        folder=folder or Path(title), task=report_of(task), info={"data": about, "models": []},
        records=[replace(record, model=title, task=task, split="test") for record in records], labels=[title],
        titles={title: title}, predictions={}, samples=[], recipe=None,
    )  # fmt: skip
    value, metric = run.final(title, run.primary_metric.metric), run.primary_metric
    progress.say(f"{title} has {metric.text(value)} on the test part of {data}" if value is not None else "")
    return doubt_in(run, title, title)


def _frequencies(data: str) -> dict[str, Any]:
    """Bits per byte of a model that knows nothing but how frequent the bytes of these texts are."""
    from ssmlab.data.text.documents import read_texts

    seen = np.bincount(np.frombuffer("".join(text for _, text in read_texts(data)).encode(), np.uint8), minlength=256)
    shares = seen[seen > 0] / seen.sum()
    bits = float(-(shares * np.log2(shares)).sum())
    return {"metric": "bits_per_byte", "value": bits, "of": "the frequencies of bytes alone"}
