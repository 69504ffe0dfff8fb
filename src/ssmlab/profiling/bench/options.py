"""Options of measuring this machine, and the names of what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar

from ssmlab.core.errors import UserError
from ssmlab.core.options import Count, Option, Options

OPS = ("selective_scan", "causal_conv1d", "directional_scan", "ssd", "lti")
SUITES = ("ops", "first", "language", "vision")
BUDGET = 0.2  # seconds of repeats for all candidates of a shape together
LIMIT = 0.5  # seconds of a call beyond which a candidate is left out


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """What is measured, where, and for how long."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    ops: Annotated[Sequence[str], Option(flag="--op", metavar="|".join(OPS))] = OPS
    """An operator; give it again for another. All if not given."""
    quick: bool = False
    """A few small shapes: seconds instead of minutes."""
    device: str = "cpu"
    """cpu or cuda."""
    suites: Annotated[Sequence[str], Option(flag="--suite", metavar="|".join(SUITES))] = ()
    """What is measured; again for another. If not given: ops; on cuda all."""
    threads: Count = 0
    """Threads on the CPU; 0: as many as torch takes."""
    seconds: Annotated[float, Option(least=0)] = BUDGET
    """Time for the repeats of a shape, by all that compute it."""
    limit: Annotated[float, Option(least=0)] = LIMIT
    """Seconds; what would take longer for a call is skipped and estimated."""
    output: Path = Path("runs/bench-ops")
    """Folder of the tables, records and plots; those of an earlier time are replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, given, known in (("operator", self.ops, OPS), ("suite", self.suites, SUITES)):
            for name in given:
                if name not in known:
                    close = get_close_matches(name, known, 1)
                    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                    raise UserError(f"unknown {what} {name!r}; {hint}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The suites that are measured."""
        return tuple(self.suites) or (SUITES if self.device == "cuda" else SUITES[:1])
