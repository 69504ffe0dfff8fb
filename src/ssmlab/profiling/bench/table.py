"""The rows of a measurement as a table to read and as one to compute with."""

import csv
import io
from statistics import median

from ssmlab.profiling.bench.measure import COPY, EXP, Row
from ssmlab.profiling.bench.timing import Timing

LEGEND = (
    "ms: median of ours, what a plain call takes, with the least and the most of r repeats. ns: per element of "
    "b d l n. x exp, x copy: ours in times of torch.exp on b d l n float32 numbers, and of a copy of as many bytes as "
    "all inputs and outputs have (with their gradients in a backward pass), into memory at hand, in the same turns; "
    "beyond 2^27 numbers in passes over as many. "
    "The columns after these say how many times as long as ours the others take; what "
    "was skipped is estimated from the nearest shape that was timed."
)
_COLUMNS = (
    "op", "pass", "b", "d", "l", "n", "dtype", "layout", "candidate", "ours", "median", "least", "most", "repeats",
    "ns_per_element", "estimate", "skipped",
)  # fmt: skip


def to_markdown(rows: list[Row]) -> str:
    """One table for every operator and pass, one line a shape."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.shape.op, row.shape.passes, row.ours), []).append(row)
    tables = []
    for (op, passes, ours), group in groups.items():
        others = list(dict.fromkeys(name for row in group for name in row.timings if name not in (ours, EXP, COPY)))
        header = ["b", "d", "l", "n", "dtype", "layout", "ms", "least..most", "r", "ns", "x exp", "x copy", *others]
        lines = aligned(header, [_line(row, others) for row in group])
        missing = {name: why for row in group for name, why in row.missing.items()}
        reasons = [f"\n{name}: {why}" for name, why in missing.items()]
        tables.append("\n".join([f"### {op}, {passes}: {ours}", "", *lines, *reasons]))
    return "\n\n".join(tables)


def to_csv(rows: list[Row]) -> str:
    """One line for every shape and candidate; times in seconds, of a skipped candidate the estimate and the reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        shape = row.shape
        for name, timing in row.timings.items():
            sizes = [shape.op, shape.passes, shape.b, shape.d, shape.l, shape.n, shape.dtype, shape.layout]
            times: list = [
                "",
                "",
                "",
                0,
                "",
                "" if timing.estimate is None else f"{timing.estimate:.6g}",
                timing.reason,
            ]
            if timing.seconds:
                values = (median(timing.seconds), min(timing.seconds), max(timing.seconds))
                share = f"{1e9 * values[0] / shape.elements:.6g}"
                times = [*(f"{v:.6g}" for v in values), len(timing.seconds), share, "", ""]
            writer.writerow([*sizes, name, int(name == row.ours), *times])
    return text.getvalue()


def _line(row: Row, others: list[str]) -> list[str]:
    shape, timing = row.shape, row.timings[row.ours]
    sizes = [str(size) for size in (shape.b, shape.d, shape.l, shape.n)]
    least, most = (f"{1e3 * pick(timing.seconds):.3g}" for pick in (min, max))
    yardsticks = ("-" if times is None else _number(times) for times in (row.times(EXP), row.times(COPY)))
    return [
        *sizes, shape.dtype, shape.layout.removesuffix("-contiguous"), f"{1e3 * median(timing.seconds):.3g}",
        f"{least}..{most}", str(len(timing.seconds)), _number(row.per_element), *yardsticks,
        *(_compared(row, row.timings.get(name)) for name in others),
    ]  # fmt: skip


def _compared(row: Row, timing: Timing | None) -> str:
    if timing is None:
        return "-"
    if not timing.seconds:
        return f"skipped: {timing.reason}"
    return _number(median(timing.seconds) / median(row.timings[row.ours].seconds))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def aligned(header: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a table of text, its columns as wide as their widest cell."""
    widths = [max(2, *(len(line[i]) for line in [header, *lines])) for i in range(len(header))]
    texts = [
        " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]
    ]
    rule = " | ".join("-" * (width - 1) + ":" for width in widths)
    return [f"| {text} |" for text in [texts[0], rule, *texts[1:]]]
