"""Several processes on this machine as a launcher starts them, for tests of what they compute together (gloo, CPU)."""

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ssmlab.core.record import read_records

ROOT = Path(__file__).parent
SECONDS = 400  # on a machine that others use too


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher sets for one of several processes; a single one gets nothing."""
    found = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    found |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    if size == 1:
        return found
    numbers = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    return found | {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(size: int, module: str, function: str, *arguments) -> list[subprocess.Popen]:
    """So many processes that call a function of a module below tests, each with the same arguments."""
    port = free_port()
    code = f"import processes; from {module} import {function} as call; processes.run(call)"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=environment(rank, size, port), **pipe) for rank in range(size)]


def run(call: Callable) -> None:
    """Within such a process: the function, after which no thread of gloo may be left when Python ends."""
    atexit.register(_threads_left)  # before the group's own, so it is called after that
    call(*json.loads(sys.argv[1]))


def _threads_left() -> None:
    """One that waits for the interpreter while that ends brings the process down, but seldom; here it does always.

    Those of a run in shards are left: DTensor's caches keep their mesh, and that the group.
    """
    if any(type(one).__name__ == "DeviceMesh" for one in gc.get_objects()):
        return
    tasks = Path("/proc/self/task")  # Linux only
    names = sorted(path.read_text().strip() for path in tasks.glob("*/comm"))
    if left := [name for name in names if "gloo" in name]:
        sys.stderr.write(f"threads are left: {left}\n")
        sys.stderr.flush()
        os._exit(3)


def ended(processes: list[subprocess.Popen], seconds: float = SECONDS) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes]
        return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]
    finally:
        for process in processes:
            process.kill()


def together(size: int, module: str, function: str, *arguments) -> None:
    """Let so many processes call a function, and see that all of them end well."""
    for code, error in ended(start(size, module, function, *arguments)):
        assert code == 0, error[-4000:]


def curve(folder: Path) -> dict:
    """Losses and metrics of training and validation by step; Dice counts pixels, one of which rounding may turn."""
    left_out, records = ("seconds", "learning_rate", "epoch", "dice"), read_records(folder / "records.jsonl")
    return {
        (r.split, r.metric, r.step): r.value
        for r in records
        if r.step is not None and r.split in ("train", "val") and r.metric not in left_out
    }


def assert_same(a: Path, b: Path, tolerance: float = 1e-6) -> None:
    """The curves of two runs are equal."""
    first, second = curve(a), curve(b)
    assert first.keys() == second.keys() and len([1 for key in first if key[1] == "loss"]) >= 2
    far = {key: (value, second[key]) for key, value in first.items() if abs(value - second[key]) > tolerance}
    assert not far, f"far apart, one and the other: {far}"
