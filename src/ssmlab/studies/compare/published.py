"""What authors print about their models, from `ssmlab/models/published.toml`."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import ssmlab.models


@dataclass(frozen=True, kw_only=True)
class Published:
    """Printed numbers of one model; None where the source gives none.

    Args:
        top1: fraction of ImageNet-1K's validation images at `image_size`, one crop.
        parameters: a number, not millions. macs: multiply-accumulates of an image, which authors call FLOPs.
        images_per_second, train_images_per_second: on `hardware`.
    """

    source: str
    image_size: int
    top1: float | None = None
    parameters: float | None = None
    macs: float | None = None
    images_per_second: float | None = None
    train_images_per_second: float | None = None
    hardware: str | None = None


def published(name: str) -> Published | None:
    """The printed numbers of a model of the table or of `timm/<name>`, or None."""
    return _table().get(name)


@cache
def _table() -> dict[str, Published]:
    rows = tomllib.loads((files(ssmlab.models) / "published.toml").read_text(encoding="utf-8"))["model"]
    found: dict[str, Published] = {}
    for row in rows:
        names, scaled = row.pop("models"), {}
        for key, name, scale in (("top1", "top1", 0.01), ("parameters", "parameters", 1e6), ("gmacs", "macs", 1e9)):
            if key in row:
                scaled[name] = row.pop(key) * scale
        found |= dict.fromkeys(names, Published(**row, **scaled))
    return found
