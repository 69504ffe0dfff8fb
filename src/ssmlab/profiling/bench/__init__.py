"""Operators against their references, other people's code and the machine's own speed; `ssmlab bench ops` runs it."""

from ssmlab.profiling.bench import gpu, results
from ssmlab.profiling.bench.gate import Disagreement, disagreements
from ssmlab.profiling.bench.measure import BUDGET, LIMIT, Row, bench_ops, records
from ssmlab.profiling.bench.plot import plots
from ssmlab.profiling.bench.results import Result
from ssmlab.profiling.bench.shapes import OPS, Shape, grid
from ssmlab.profiling.bench.suites import SUITES, suite
from ssmlab.profiling.bench.table import LEGEND, to_csv, to_markdown
from ssmlab.profiling.bench.timing import Timing
from ssmlab.profiling.bench.verdict import Verdict, verdicts

__all__ = [
    "BUDGET",
    "LEGEND",
    "LIMIT",
    "OPS",
    "SUITES",
    "Disagreement",
    "Result",
    "Row",
    "Shape",
    "Timing",
    "Verdict",
    "bench_ops",
    "disagreements",
    "gpu",
    "grid",
    "plots",
    "records",
    "results",
    "suite",
    "to_csv",
    "to_markdown",
    "verdicts",
]
