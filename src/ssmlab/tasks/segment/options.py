"""Options of segmenting new images, and of the sizes that are proposed for a network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmlab.core.errors import ModelError
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


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """What a plan is proposed for, and where it is written."""

    out: Annotated[Path | None, Option(short="-o")] = None
    """Write the plan to this .toml or .json file."""
    memory: Annotated[float, Option(least=0.1)] = 8.0
    """GiB that training may take."""
    dims: Annotated[int | None, Option(least=2, most=3)] = None
    """2 plans for the slices of volumes; else as the data."""
    batch_size: Annotated[int | None, Option(least=1)] = None
    """Patches a step; found where not given."""
    features: Positive = 32
    """Channels of the first stage."""
    classes: Annotated[int | None, Option(least=2)] = None
    """With the background; as dataset.json or the masks say where not given."""
    images: str = ""
    """Folder of the images below DATA, where its name does not say so."""
    masks: str = ""
    """Likewise of the masks."""
    overwrite: bool = False
    """Replace the file of --out, if there is one."""
    configuration: str | None = None
    """Which one of nnU-Net's plans.json: 2d, 3d_fullres ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        out = self.out
        if out and out.suffix not in (".toml", ".json"):
            raise ModelError(f"a plan is written as .toml or .json, got {out.name}")
        if out and not out.parent.is_dir():
            raise ModelError(f"there is no folder {out.parent} for {out.name}")
        if out and out.exists() and not self.overwrite:
            raise ModelError(f"{out} is there, perhaps edited; add --overwrite to replace it, or give another name")
