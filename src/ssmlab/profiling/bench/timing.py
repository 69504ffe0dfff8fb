"""Calls timed in turns, so that a change of the machine's speed meets all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

FEWEST, MOST = 3, 100  # timings of a call, unless one takes more than its share


@dataclass(frozen=True)
class Timing:
    """Seconds of the repeats of one call; none where it was skipped.

    Args:
        seconds: every repeat.
        estimate: seconds that a skipped call would take at the least.
        reason: why it was skipped.
    """

    seconds: tuple[float, ...] = ()
    estimate: float | None = None
    reason: str = ""

    @property
    def median(self) -> float | None:
        """Of the repeats, else the estimate."""
        return statistics.median(self.seconds) if self.seconds else self.estimate


def interleaved(
    calls: Mapping[str, Callable[[], object]], budget: float, wait: Callable[[], None]
) -> dict[str, Timing]:
    """Time every call in turns after one of each to warm up.

    Each has the same share of the budget: as many repeats as fit, 3 to 100. A call that takes more than its share is
    repeated once, but the first of `calls`, with which the others are compared, three times.

    Args:
        calls: by name; a call returns when its work is queued.
        budget: seconds for all of them, which the fewest repeats may exceed.
        wait: returns when the device has done the work.
    """

    def seconds(call) -> float:
        wait()
        begin = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - begin

    was_enabled = gc.isenabled()
    gc.collect(1)  # what the shape before left; of everything it would take longer than most shapes
    gc.disable()  # a collection would meet one of them
    try:
        for call in calls.values():
            call()
        share, ours = budget / max(len(calls), 1), next(iter(calls), None)
        found: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(MOST):
            due = [name for name in calls if _goes_on(found[name], turn, share, FEWEST if name == ours else 1)]
            if not due:
                break
            for name in due:
                found[name].append(seconds(calls[name]))
    finally:
        if was_enabled:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in found.items()}


def _goes_on(values: list[float], turn: int, share: float, fewest: int) -> bool:
    if turn < fewest:
        return True
    if len(values) < turn:
        return False
    # One that was interrupted in its first repeat is not a slow one.
    return min(values) <= share if turn < FEWEST else sum(values) * (turn + 1) / turn <= share
