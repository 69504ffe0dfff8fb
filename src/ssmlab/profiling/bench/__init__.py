"""Operators against their references, other people's code and the machine's own speed; `ssmlab bench ops` runs it.

Nothing heavy is imported before one of the names below is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssmlab.profiling.bench.options import BUDGET, LIMIT, OPS, SUITES, BenchOptions

if TYPE_CHECKING:
    from ssmlab.profiling.bench.gate import Disagreement, disagreements
    from ssmlab.profiling.bench.machine import Measured, measure_machine
    from ssmlab.profiling.bench.measure import Row, bench_ops, records
    from ssmlab.profiling.bench.plot import plots
    from ssmlab.profiling.bench.results import Result
    from ssmlab.profiling.bench.shapes import Shape, grid
    from ssmlab.profiling.bench.suites import suite
    from ssmlab.profiling.bench.table import LEGEND, to_csv, to_markdown
    from ssmlab.profiling.bench.timing import Timing
    from ssmlab.profiling.bench.verdict import Verdict, verdicts

__all__ = [
    "BUDGET",
    "LEGEND",
    "LIMIT",
    "OPS",
    "SUITES",
    "BenchOptions",
    "Disagreement",
    "Measured",
    "Result",
    "Row",
    "Shape",
    "Timing",
    "Verdict",
    "bench_ops",
    "disagreements",
    "grid",
    "measure_machine",
    "plots",
    "records",
    "suite",
    "to_csv",
    "to_markdown",
    "verdicts",
]
_FROM = {
    "Disagreement": "gate", "disagreements": "gate", "Measured": "machine", "measure_machine": "machine",
    "Row": "measure", "bench_ops": "measure", "records": "measure",
    "plots": "plot", "Result": "results", "Shape": "shapes", "grid": "shapes", "suite": "suites",
    "LEGEND": "table", "to_csv": "table", "to_markdown": "table", "Timing": "timing",
    "Verdict": "verdict", "verdicts": "verdict",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
