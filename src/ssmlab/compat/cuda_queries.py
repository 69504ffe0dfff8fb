"""`torch.cuda` of a machine whose only device is the CPU: one device, nothing to wait for, no memory of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from ssmlab.core.errors import UserError

NAME = "CPU (no GPU, ssmlab exec)"
CAPABILITY = (8, 0)  # the first with bfloat16, which the CPU computes too
_OWN = ("torch", "ssmlab")


class Stream:
    """A stand-in for a stream: a CPU has one order of work."""

    device, device_index, cuda_stream, priority = torch.device("cpu"), 0, 0, 0

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def query(self) -> bool:
        """Everything before is done."""
        return True

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait_stream(self, stream) -> None:
        """Nothing to wait for."""

    def wait_event(self, event) -> None:
        """Nothing to wait for."""

    def record_event(self, event=None) -> Event:
        """Mark this moment."""
        event = Event() if event is None else event
        event.record()
        return event


class Event:
    """A stand-in for an event: the time when it was recorded."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self.moment: float | None = None

    def record(self, stream=None) -> None:
        """Keep the time."""
        self.moment = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds until `end`."""
        if self.moment is None or end.moment is None:
            raise RuntimeError("both events must be recorded before calculating the elapsed time")
        return 1e3 * (end.moment - self.moment)

    def query(self) -> bool:
        """Everything before is done."""
        return True

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait(self, stream=None) -> None:
        """Nothing to wait for."""


class Nothing(contextlib.ContextDecorator):
    """A context, of a device or a stream, that changes nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


class Graph:
    """A stand-in for a CUDA graph, which has no counterpart: making one is an error."""

    def __init__(self, *args, **kwargs):
        raise UserError(
            "torch.cuda.CUDAGraph records a GPU's work and this program runs on the CPU; switch its graphs off "
            "(mamba_ssm's generate: cg=False)"
        )


def _memory(device=None) -> tuple[int, int]:
    """(free, all) bytes of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(int(seed))


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def _table() -> dict[str, Any]:
    def answer(value: Any, names: str) -> dict[str, Any]:
        return {name: _constant(value) for name in names.split()}

    def get_device_properties(device=None) -> SimpleNamespace:
        return SimpleNamespace(
            name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1], total_memory=_memory()[1], warp_size=32,
            multi_processor_count=os.cpu_count() or 1, is_integrated=True, is_multi_gpu_board=False,
            max_threads_per_multi_processor=1, gcnArchName="",
        )  # fmt: skip

    return {
        **answer(None, "init _lazy_init set_device synchronize empty_cache ipc_collect set_stream _sleep "
                 "reset_peak_memory_stats reset_max_memory_allocated reset_max_memory_cached "
                 "reset_accumulated_memory_stats set_per_process_memory_fraction set_sync_debug_mode"),
        **answer(0, "current_device memory_allocated max_memory_allocated memory_reserved max_memory_reserved "
                 "memory_cached max_memory_cached utilization memory_usage get_sync_debug_mode"),
        **answer(1, "device_count"),
        **answer(False, "is_initialized is_current_stream_capturing can_device_access_peer is_tf32_supported"),
        **answer(True, "is_bf16_supported"),
        **answer("", "memory_summary get_gencode_flags list_gpu_processes"),
        **answer(NAME, "get_device_name"), **answer(CAPABILITY, "get_device_capability"),
        **answer((0, 0), "graph_pool_handle"),
        "get_arch_list": lambda: [], "memory_stats": lambda device=None: {}, "memory_snapshot": lambda *a, **k: [],
        "get_device_properties": get_device_properties, "mem_get_info": _memory,
        "manual_seed": _seed, "manual_seed_all": _seed, "seed": torch.default_generator.seed,
        "seed_all": torch.default_generator.seed, "initial_seed": torch.default_generator.initial_seed,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "set_rng_state_all": lambda states: torch.set_rng_state(states[0]),
        "Stream": Stream, "ExternalStream": Stream, "Event": Event, "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(), "stream": Nothing, "StreamContext": Nothing, "device": Nothing,
        "device_of": Nothing, "CUDAGraph": Graph, "graph": Graph,
        "make_graphed_callables": lambda callables, *args, **kwargs: callables,
    }  # fmt: skip


def patch(put: Callable[[Any, str, Any], None]) -> None:
    """Let `put(owner, name, value)` set every answer; it remembers what was there."""
    original = torch.cuda.is_available

    def is_available() -> bool:
        """True, except for those that choose kernels by it: torch and ssmlab."""
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return original() if asking.partition(".")[0] in _OWN else True

    put(torch.cuda, "is_available", is_available)
    for name, value in _table().items():
        if hasattr(torch.cuda, name):  # those of later or earlier torch versions
            put(torch.cuda, name, value)
    nvtx = torch.cuda.nvtx
    for name in ("range_push", "range_pop", "mark", "range_start", "range_end"):
        put(nvtx, name, _constant(0))
    put(nvtx, "range", Nothing)
