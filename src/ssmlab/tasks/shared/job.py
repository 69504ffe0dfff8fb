"""One model of a run. torch is not imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One model with one seed, and the folder of its results."""

    model: Any
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "records.jsonl").is_file()  # the last file that is written

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"
