"""An explanation's files: the page and every number of it as records."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp, now
from ssmlab.interpret.pictures import over
from ssmlab.studies.explain.explanation import Explanation
from ssmlab.studies.explain.page import methods, page, predicted
from ssmlab.studies.study import Report


def write_explanation(
    folder: Path, found: Explanation, stamp: Stamp, started: str, *, heading: str = "", answer: str = ""
) -> Path:
    """Write explain.json, records.jsonl, the maps as maps.npz and maps/*.png, and the page.

    Args:
        heading, answer: the top of the page; the pictures' predictions if not given.
    Returns:
        the page's path.
    """
    model, first = found.model, found.pictures[0]
    report = Report(
        folder=folder, records=stamp.on(records_of(found), model=model.title, seed=found.settings.seed),
        settings=asdict(found.settings), stamp=stamp, started=started, finished=now(),
    )  # fmt: skip
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
    count = len(found.pictures)
    text = page(
        found,
        heading=heading or f"{model.title}: {first.name if count == 1 else f'{count} pictures explained'}",
        answer=answer or "; ".join(f"{each.name}: {predicted(found, each)}" for each in found.pictures[:4]) + ".",
        eyebrow=folder.name,
        facts=report.facts(
            ("Model", f"{model.title}, {model.origin}"),
            (f"Layer of {found.camera}", found.target),
            settings=json.dumps(report.settings),
        ),
    )
    return report.write("explain", about, text, files=map_files(found))


def map_files(found: Explanation) -> dict[str, bytes]:
    """Every map in the size of its picture: one maps.npz with the numbers, and PNG files laid over the picture.

    Names are <number of the picture>-<its name>-<class>-<camera or gradients>; what no file name may hold is "_".
    """
    maps, files = {}, {}
    for number, picture in enumerate(found.pictures):
        for each in picture.classes:
            for kind, map_ in (("camera", each.camera), ("gradients", each.gradients)):
                words = f"{number}-{Path(picture.name).stem}-{found.model.classes[each.index]}-{kind}"
                name = re.sub(r"[^\w.-]+", "_", words)[:150]
                maps[name] = np.asarray(map_, np.float32)
                out = io.BytesIO()
                Image.fromarray(over(picture.pixels, map_, signed=kind == "gradients")).save(out, "PNG")
                files[f"maps/{name}.png"] = out.getvalue()
        maps[f"{number}-pixels"] = picture.pixels
    numbers = io.BytesIO()
    np.savez_compressed(numbers, **maps)  # type: ignore[arg-type]
    return files | {"maps.npz": numbers.getvalue()}


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
