"""One model of a run. torch is not imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SNAPSHOTS = "snapshots"  # weights of a model between stretches of its training, until the run ends


@dataclass(frozen=True)
class Job:
    """One model with one seed, and the folder of its results.

    Args:
        fold: which one of a cross-validation it is trained on; None: on all of the training part, or it stands for the
            models of all folds.
        root: the folder of the run, where that is not two above.
    """

    model: Any
    seed: int
    folder: Path
    fold: int | None = None
    root: Path | None = None

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.root or self.folder.parent.parent

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.folder.name if self.fold is None else f"{self.folder.parent.name} {self.folder.name}"

    @property
    def finished(self) -> bool:
        return (self.folder / "records.jsonl").is_file()  # the last file that is written

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def passing(self) -> tuple[Path, ...]:
        """Folders that are there only while the run lasts."""
        return self.checkpoints, self.folder / SNAPSHOTS
