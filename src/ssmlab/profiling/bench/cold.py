"""The first call of an operator: in a new process with an empty cache, in another with what the first has compiled, and
the calls after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from ssmlab.ops._dispatch import example
from ssmlab.profiling.bench.results import Result
from ssmlab.profiling.bench.shapes import Shape

REPEATS = 10
# The inputs are there before the clock starts: what it takes to import torch and to wake the device is not counted.
_PROGRAM = """
import json, sys, time
from ssmlab.profiling.bench import candidates
from ssmlab.profiling.bench.shapes import Shape
import torch
shape, device = Shape(**json.loads(sys.argv[1])), sys.argv[2]
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
inputs = candidates.make_inputs(shape, device)
grad = candidates.gradient(inputs)
field = candidates.field(shape, inputs)
call = next(c.call for c in field.candidates if c.name == field.ours)
run = candidates.runner(call, inputs, grad)
(torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
seconds = []
for _ in range(int(sys.argv[3]) + 1):
    wait(); begin = time.perf_counter(); run(); wait(); seconds.append(time.perf_counter() - begin)
print(json.dumps(seconds))
"""


def shapes(ops: list[str], device: str, *, quick: bool = False) -> list[Shape]:
    """Forward and backward of every operator that has a kernel there."""
    dtype, d, l = ("float32", 64, 64) if quick or device == "cpu" else ("bfloat16", 1024, 1024)
    found = []
    for op in ops:
        grid = example(op).gpu
        if grid is not None:
            n, layout = grid.sizes[0][3], grid.layouts[0]
            found.append(Shape(op=op, backward=True, d=d, l=l, n=n, dtype=dtype, layout=layout))
    return found


def cold(found: list[Shape], device: str) -> Iterator[list[Result]]:
    """Seconds of the first call, of the first call with compiled kernels at hand, and of later calls."""
    for shape in found:
        with tempfile.TemporaryDirectory() as folder:
            first = _seconds(shape, device, folder)
            again = _seconds(shape, device, folder)
        what = f"{shape.op}, {shape.passes}, {shape.dtype}"
        parts = {"first call": first[:1], "first call, kernels in the cache": again[:1], "later calls": again[1:]}
        yield [Result("first calls", what, name, "s", tuple(values)) for name, values in parts.items()]


def _seconds(shape: Shape, device: str, folder: str) -> list[float]:
    sizes = json.dumps({name: getattr(shape, name) for name in ("op", "backward", "d", "l", "n", "dtype", "layout")})
    command = [sys.executable, "-c", _PROGRAM, sizes, device, str(REPEATS)]
    environment = os.environ | {"TRITON_CACHE_DIR": folder}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{shape.text}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
