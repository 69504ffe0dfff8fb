"""Peak memory of a block of code, on the CPU and on a GPU."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PROC = Path("/proc/self")
SAMPLE_SECONDS = 0.005


@dataclass
class PeakMemory:
    """Filled when the block ends.

    bytes: most memory in use during the block, on the CPU by the whole process; None where it cannot be measured.
    extra: by how much that exceeds what was in use when the block began; None where it cannot be measured.
    method: how it was found: "cuda", "high-water mark", "sampled", "lifetime" (the peak since the process began, where
        the system reports no other) or "none".
    """

    bytes: int | None = None
    extra: int | None = None
    method: str = "none"


class _Meter(Protocol):
    method: str

    def start(self) -> int | None: ...

    def stop(self) -> int | None: ...


@contextmanager
def peak_memory(device: str | object = "cpu") -> Iterator[PeakMemory]:
    """Measure the memory that a block of code needs at most.

        with peak_memory(device) as peak:
            train()
        print(peak.bytes)

    Args:
        device: "cpu", or a CUDA device whose allocations are measured instead.
    """
    meter = _Cuda(device) if str(device).startswith("cuda") else _cpu_meter()
    peak = PeakMemory(method=meter.method)
    before = meter.start()
    try:
        yield peak
    finally:
        peak.bytes = meter.stop()
        if peak.bytes is not None and before is not None:
            peak.extra = max(0, peak.bytes - before)


def _cpu_meter() -> _Meter:
    if _reset_high_water():
        return _HighWater()
    if _resident() is not None:
        return _Sampled()
    return _Lifetime()


class _Cuda:
    method = "cuda"

    def __init__(self, device):
        self.device = device

    def start(self) -> int:
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def stop(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated(self.device)


class _HighWater:
    """Linux keeps the mark itself, exactly; writing 5 to clear_refs sets it back to the present use."""

    method = "high-water mark"

    def start(self) -> int | None:
        _give_back()
        _reset_high_water()
        return _status("VmRSS")

    def stop(self) -> int | None:
        return _status("VmHWM")


class _Sampled:
    """Where the mark cannot be set back (some containers): a thread looks every few milliseconds."""

    method = "sampled"

    def start(self) -> int | None:
        _give_back()
        before = _resident()
        self._most, self._end = before or 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return before

    def _watch(self):
        while not self._end.wait(SAMPLE_SECONDS):
            self._most = max(self._most, _resident() or 0)

    def stop(self) -> int | None:
        self._end.set()
        self._thread.join()
        return max(self._most, _resident() or 0)


class _Lifetime:
    """macOS reports only the peak since the process began, Windows nothing without further packages."""

    method = "lifetime"

    def __init__(self):
        try:
            import resource

            self._usage: Callable[[], int] | None = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        except ImportError:
            self._usage, self.method = None, "none"

    def start(self) -> int | None:
        return None

    def stop(self) -> int | None:
        if self._usage is None:
            return None
        return self._usage() * (1 if sys.platform == "darwin" else 1024)


def _give_back() -> None:
    """Freed memory that glibc has kept goes back, or a block that is served from it would seem to need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _reset_high_water() -> bool:
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return _status("VmHWM") is not None


def _status(key: str) -> int | None:
    """Bytes of a line of /proc/self/status, which counts in KiB."""
    try:
        for line in (PROC / "status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _resident() -> int | None:
    try:
        return int((PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
