"""An explanation's files: the page and every number of it as records."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ssmlab.core import formats
from ssmlab.core.files import write_atomically, write_json, write_records
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp
from ssmlab.studies.explain.explanation import Explanation, PictureFound
from ssmlab.studies.explain.page import methods, page, said

MARK = "explain.json"


def write_explanation(
    folder: Path, found: Explanation, stamp: Stamp, *, heading: str = "", answer: str = "", name: str = "report.html"
) -> Path:
    """Write explain.json, records.jsonl and last the page, each in one step.

    Args:
        heading, answer: the top of the page; what is said of the pictures if not given.
        name: of the page.
    Returns:
        the page's path.
    """
    model = found.model
    settings = asdict(found.options)
    circumstances = {key: getattr(stamp, key) for key in ("command", "commit", "machine", "versions")}
    pictures = [
        {
            "name": picture.name,
            "note": picture.note,
            "said": [[model.classes[c], p] for c, p in picture.ranking],
            "classes": [model.classes[each.index] for each in picture.classes],
        }
        for picture in found.pictures
    ]
    about = {
        "model": model.title,
        "weights": model.origin,
        "doubt": model.doubt,
        "layer": found.target,
        "pictures": pictures,
    }
    write_json(folder / MARK, about | {"settings": settings, **circumstances})
    write_records(folder / "records.jsonl", stamp.on(records_of(found), model=model.title, seed=found.options.seed))
    facts = [
        ("Model", f"{model.title}, {model.origin}"),
        (f"Layer of {found.camera}", found.target),
        ("Settings", json.dumps(settings)),
        ("Command", stamp.command or ""),
        ("Commit", stamp.commit or "not a checkout"),
        ("Machine", stamp.machine),
        ("Versions", stamp.versions),
    ]
    first = found.pictures[0]
    few = len(found.pictures) == 1
    text = page(
        found,
        heading=heading or (f"{model.title}: {first.name}" if few else _count(found, model.title)),
        answer=answer or "; ".join(_sentence(found, picture) for picture in found.pictures[:4]) + ".",
        eyebrow=f"ssmlab explain · {folder.name}",
        facts=facts,
    )
    path = folder / name
    write_atomically(path, text)
    return path


def records_of(found: Explanation) -> list[Record]:
    """Probabilities and scores by "picture / class" and method, the receptive field, the sanity check."""
    rows, names = [], methods(found)
    for picture in found.pictures:
        for each in picture.classes:
            place = f"{picture.name} / {found.model.classes[each.index]}"
            rows.append(Record(metric="probability", value=each.probability, unit="fraction", class_=place))
            for method, curves in each.curves.items():
                rows += [
                    Record(metric=f"{kind}_auc", value=float(curve.auc), unit="fraction",
                           class_=f"{place} / {names[method]}", n=len(curve.shares))
                    for kind, curve in curves.items()
                ]  # fmt: skip
    for share in (0.5, 0.95):
        metric = f"receptive_field_{100 * share:.0f}"
        rows.append(Record(metric=metric, value=found.field.radius(share), unit="pixels", n=len(found.pictures)))
    if found.sanity is not None:
        rows += [
            Record(metric="rank_correlation", value=float(value.mean()), class_=f"random down to {stage}", n=len(value))
            for stage, value in zip(found.sanity.stages, found.sanity.correlation, strict=True)
        ]
    return rows


def _sentence(found: Explanation, picture: PictureFound) -> str:
    return f"{picture.name}: {said(found, picture)}"


def _count(found: Explanation, title: str) -> str:
    return f"{title}: {formats.plural(len(found.pictures), 'picture')} explained"
