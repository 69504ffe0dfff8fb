"""Images with masks read as a run reads them: parts, classes and their shares, sizes, problems."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.data.masks.reader import MaskData, open_masks


@dataclass(frozen=True)
class MaskReport:
    """What `check_masks` found."""

    data: MaskData

    @property
    def ok(self) -> bool:
        return not self.data.problems

    @property
    def counts(self) -> dict[str, int]:
        """Images by part."""
        return {part: len(getattr(self.data, part)) for part in ("train", "val", "test")}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data = self.data
        return {
            "ok": self.ok,
            "task": "segment",
            "path": data.path,
            "format": data.format,
            "classes": list(data.classes),
            "counts": self.counts,
            "shares": list(data.shares),
            "channels": data.channels,
            "sizes": data.sizes,
            "spacing": list(data.spacing),
            "split_hash": data.split_hash,
            "copies": data.copies,
            "notes": data.notes,
            "problems": data.problems,
        }


def check_masks(path: str | Path, *, val_fraction: float = 0.1, seed: int = 0) -> MaskReport:
    """Look at every image and mask once; what is wrong is in the report.

    Raises:
        DataError: there are no images with masks at all.
    """
    return MaskReport(open_masks(path, val_fraction=val_fraction, seed=seed, strict=False))
