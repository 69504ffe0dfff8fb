"""What the suites of whole models and of first calls find: rates and times with their spread, as lines of a table."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ssmlab.core.record import Record
from ssmlab.profiling.bench.table import aligned
from ssmlab.profiling.bench.timing import interleaved


@dataclass(frozen=True)
class Result:
    """A line: how fast one of several did one thing, or why it was not measured.

    Args:
        suite, what: what was done; lines of the same are compared with their first that was measured.
        name: who did it.
        unit: of the values; seconds, or something a second.
        values: one a repeat.
        reason: why there are none.
    """

    suite: str
    what: str
    name: str
    unit: str
    values: tuple[float, ...] = ()
    reason: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values) if self.values else math.nan


def rates(
    suite: str, what: str, unit: str, calls: Mapping[str, Callable[[], object]], amount: float, budget: float,
    wait: Callable[[], None], skipped: dict[str, str],
) -> list[Result]:  # fmt: skip
    """Time calls in turns, each of which does `amount` units; those that were skipped have their line too."""
    timings = interleaved(calls, budget, wait) if calls else {}
    found = [
        Result(suite, what, name, f"{unit}/s", tuple(amount / seconds for seconds in timing.seconds))
        for name, timing in timings.items()
    ]
    return found + [Result(suite, what, name, f"{unit}/s", reason=why) for name, why in skipped.items()]


def room(device: str) -> int:
    """Bytes that can still be had."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return 4 * 2**30


def attempt(make: Callable[[], object], needed: float, device: str) -> str:
    """Run `make`; why it was not done, where memory does not suffice."""
    there = room(device)
    if needed > there:
        return f"needs about {needed / 2**30:.1f} GiB, {there / 2**30:.1f} are free"
    try:
        make()
    except torch.OutOfMemoryError as error:
        return f"out of memory: {str(error).split('. ')[0]}"
    return ""


def to_markdown(results: list[Result]) -> str:
    """One table for every suite, one line a result; the last column is the ratio to the first of the same."""
    return "\n\n".join(
        _table(suite, [r for r in results if r.suite == suite]) for suite in dict.fromkeys(r.suite for r in results)
    )


def _table(suite: str, results: list[Result]) -> str:
    first: dict[tuple[str, str], Result] = {}
    lines = []
    for result in results:
        if not result.values:
            lines.append([result.what, result.name, "-", "-", "0", result.unit, result.reason])
            continue
        other = first.setdefault((result.what, result.unit), result)
        ratio = "1" if other is result else f"{result.value / other.value:.3g} of {other.name}"
        spread = f"{min(result.values):.4g}..{max(result.values):.4g}"
        lines.append(
            [result.what, result.name, f"{result.value:.4g}", spread, str(len(result.values)), result.unit, ratio]
        )
    header = ["what", "who", "median", "least..most", "n", "unit", "ratio, or why not"]
    return "\n".join([f"### {suite}", "", *aligned(header, lines)])


def records(results: list[Result]) -> list[Record]:
    """Those that were measured; the spread is the least and the most."""
    return [
        Record(
            metric=result.suite, model=result.name, class_=result.what, unit=result.unit, value=result.value,
            n=len(result.values), spread=(min(result.values), max(result.values)),
        )
        for result in results
        if result.values
    ]  # fmt: skip
