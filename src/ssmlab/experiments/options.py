"""Options of runs and sweeps: what of a recipe is trained where, and what becomes of an earlier run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmlab.core.errors import UserError
from ssmlab.core.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class FolderOptions(Options):
    """Where a run is, and whether one that is there goes on or is replaced."""

    resume: bool = False
    """Continue an interrupted run, as the same command does by itself."""
    overwrite: bool = False
    """Replace a run of this name; it is kept until the new one has a trained model."""
    output: Annotated[Path | str, Option(kind=Path)] = Path("runs")
    """Where run folders are made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise UserError("--resume continues what is there and --overwrite deletes it; give one of them")


@dataclass(frozen=True, kw_only=True)
class SweepOptions(FolderOptions):
    """Where a sweep is, and how its recipe is read."""

    smoke: bool = False
    """The recipe's tiny form: seconds instead of minutes."""
    device: str | None = None
    """auto, cuda, mps or cpu."""

    def changes(self) -> list[str]:
        """The overrides of the recipe that these options are."""
        return [f"device={self.device}"] if self.device else []


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SweepOptions):
    """Where a sweep is, and how many of its trials are trained."""

    budget: Annotated[int, Option(least=0)] = 0
    """Trials that Optuna proposes, instead of the whole grid; a value may then be a range, low..high."""
    minutes: Annotated[float, Option(least=0)] = 0.0
    """With --budget: after so many no further trial begins; 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes and not self.budget:
            raise UserError("--minutes is for --budget, which says how many trials there are at most")


@dataclass(frozen=True, kw_only=True)
class RunOptions(SweepOptions):
    """Where a run is, and how its recipe is read."""

    data: str | None = None
    """The same as data.path=PATH: a folder, an archive or a file."""
    check: bool = False
    """Train nothing: read every file of the run in the folder RECIPE."""

    def changes(self) -> list[str]:
        """The overrides of the recipe that these options are."""
        return super().changes() + ([f"data.path={self.data}"] if self.data else [])


@dataclass(frozen=True, kw_only=True)
class DemoOptions(SweepOptions):
    """Those of the demo, which knows itself whether it goes on."""

    resume: Annotated[bool, Option(command=False)] = False
    overwrite: bool = False
    """Start again, even if one was interrupted."""
