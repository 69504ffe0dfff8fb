"""Options of segmenting new images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmlab.core.options import Option, Options, Positive


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Options):
    """How images are segmented, and what is written of it."""

    out: Annotated[Path, Option(short="-o")] = Path("masks")
    """Folder for masks and overlays; made where it is missing."""
    probabilities: bool = False
    """Write every class's probabilities too (.npz)."""
    mirror: bool = False
    """Average over mirrored images: 4 or 8 times the time."""
    overlap: Annotated[float, Option(least=0, most=0.95)] = 0.5
    """Share of a window that the next one covers again."""
    batch_size: Positive = 1
    """Windows at once."""
    device: str = "auto"
    """auto, cuda, mps or cpu."""
