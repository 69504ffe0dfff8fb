"""Instructions of the Triton kernels in their machine code for Hopper (sm_90). No GPU is needed, nothing is run.

The kernels that a call would launch are compiled instead, for tensors without memory. Of each: programs, registers of a
thread, its bytes in memory because registers did not suffice, shared memory, seconds of compiling; of the scans also
the instructions of an update (of one state by one token), and how long an H200 would issue them if all its 528
schedulers did so in every clock: the least time that the kernel can take. `make bench-kernels`, a minute on one core.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
import triton

from ssmlab.ops import _triton

HOPPER = ("cuda", 90, 32)
ISSUES = 528 * 1.98e9  # a second, of all schedulers of an H200 at its highest clock; each is of 32 lanes
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}
SIZES = ((8, 5120, 2048, 16), (8, 5120, 2050, 16), (1, 5120, 65536, 16))  # b, d, l, n of the selective scan


class Kernel(NamedTuple):
    """A compiled kernel: `used` has REG and STACK of a thread, `code` the instructions with their labels."""

    name: str
    grid: tuple[int, ...]
    options: dict
    shared: int
    used: dict[str, int]
    code: list[str]
    seconds: float


class Launch(NamedTuple):
    """What Triton makes of a launch: the types and constants by which it compiles, which of the others are multiples of
    16, its options, and the arguments that the code gets."""

    signature: dict
    constants: dict
    multiples: list[tuple[int]]
    settings: dict
    arguments: list


@contextmanager
def launching(launch, unusable):
    """Within, the operators' Triton kernels are given to `launch`, for tensors that `unusable` has nothing against."""
    modules = [m for name, m in sys.modules.items() if name.startswith("ssmlab.ops") and hasattr(m, "launch")]
    with ExitStack() as changes:
        changes.enter_context(patch.object(_triton, "unusable", unusable))
        for module in modules:
            changes.enter_context(patch.object(module, "launch", launch))
        yield


@contextmanager
def compiling():
    """Within, the operators' Triton kernels are compiled, also for tensors of other devices, and put into the list that
    this gives; what they would have written stays as it is."""
    found: list[Kernel] = []

    def launch(kernel, grid, *arguments, **options):
        found.append(compiled(kernel, grid, *arguments, **options))

    with launching(launch, lambda tensors: None):
        yield found


def described(kernel, arguments: tuple, options: dict, aligned=lambda tensor: True) -> Launch:
    """As Triton would derive it; `aligned` says whether a tensor begins at a multiple of 16 bytes."""
    settings = {k: options[k] for k in ("num_warps", "num_stages", "maxnreg") if k in options}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | {k: options[k] for k in options.keys() - settings}
    assert given.keys() == set(kernel.arg_names), f"{kernel.__name__} does not take {sorted(given)}"
    found = Launch({}, {}, [], settings, [])
    for i, name in enumerate(kernel.arg_names):
        value, is_tensor = given[name], isinstance(given[name], torch.Tensor)
        if kernel.params[i].is_constexpr or (not is_tensor and value == 1):
            found.signature[name], found.constants[(i,)] = "constexpr", value
            continue
        found.arguments.append(value)
        found.signature[name] = TYPES[value.dtype] if is_tensor else "i32" if abs(value) < 2**31 else "i64"
        if aligned(value) if is_tensor else value % 16 == 0:
            found.multiples.append((i,))
    return found


def build(kernel, signature: dict, constants: dict, multiples, settings: dict):
    """Triton's result for Hopper."""
    hints = {place: [["tt.divisibility", 16]] for place in multiples}
    source = triton.compiler.ASTSource(kernel, signature, constants, hints)
    target = triton.backends.compiler.GPUTarget(*HOPPER)
    return triton.compile(source, target=target, options=settings | {"enable_fp_fusion": True})


def compiled(kernel, grid, *arguments, **options) -> Kernel:
    """A kernel's machine code, and what it needs."""
    begin = time.perf_counter()
    result = build(kernel, *described(kernel, arguments, options)[:4])
    seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(result.asm["cubin"])
        used = re.findall(r"(REG|STACK):(\d+)", _printed("cuobjdump", "--dump-resource-usage", file))
        code = re.findall(r"^(\.L\w+):|/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", _printed("nvdisasm", "-c", file), re.MULTILINE)
    lines = [f"{label}:" if label else line for label, line in code]
    numbers = {name: int(number) for name, number in used}
    return Kernel(kernel.__name__, grid, options, result.metadata.shared, numbers, lines, seconds)


def loops(code: list[str]) -> list[range]:
    """The loops that compute exponentials, by lines of code, the longest first."""
    labels = {line[:-1]: i for i, line in enumerate(code) if line.endswith(":")}
    branches = [(i, re.search(r"BRA.*`\((\.L\w+)\)", line)) for i, line in enumerate(code)]
    found = [range(labels[to[1]], i + 1) for i, to in branches if to and labels.get(to[1], i) < i]
    return sorted((r for r in found if sum("MUFU.EX2" in code[i] for i in r) >= 4), key=len, reverse=True)


def scan_instructions(kernel: Kernel, n: int) -> float:
    """Of an update by a selective scan: of the loop over states, with a tile's other instructions shared out."""
    o, (tile, *inner) = kernel.options, loops(kernel.code)
    updates = o["CHANNELS"] * o["LANES"] * o["EACH"] / (32 * o["num_warps"])  # of a state, in a tile, by a lane
    size = _instructions(kernel.code, tile)
    if kernel.name == "scan_forward":  # its states are written out
        return size / (updates * n)
    states = min((r for r in inner if r.start > tile.start and r.stop < tile.stop), key=len)
    each = _instructions(kernel.code, states)
    return (size - each + n * each) / (updates * n)


def _instructions(code: list[str], lines: range) -> int:
    return sum(not code[i].endswith(":") for i in lines)


def selective_scan(
    b: int, d: int, l: int, n: int, dtype: torch.dtype, gate: bool, layout: str = "tokens"
) -> list[Kernel]:
    """The kernels of both passes; `layout` says what lies side by side in memory, "tokens" or "channels"."""
    from ssmlab.ops.selective_scan.triton import outputs, scan_backward, scan_forward

    def new(*shape, kind=dtype):
        return torch.empty(shape, dtype=kind, device="meta")

    x, maps, D = new(b, d, l), new(b, n, l), new(d, kind=torch.float32)
    x = x if layout == "tokens" else x.mT.contiguous().mT
    arguments = (x, x, new(d, n, kind=torch.float32), maps, maps, D, x if gate else None, D, None, None, True)
    with compiling() as found:
        scan_forward(*arguments, save=True)
        scan_backward(x, None, outputs(x, arguments[2], True)[2], *arguments)
    return found


def ssd(b: int, l: int, h: int, p: int, n: int, dtype: torch.dtype, gate: bool) -> list[Kernel]:
    """The kernels of both passes."""
    from ssmlab.ops.ssd.triton import scan_backward, scan_forward

    def new(*shape, kind=dtype):
        return torch.empty(shape, dtype=kind, device="meta")

    x, maps, A, z = new(b, l, h, p), new(b, l, 1, n), new(h, kind=torch.float32), new(b, l, h, p) if gate else None
    with compiling() as found:
        scan_forward(x, new(b, l, h), A, maps, maps, A, z, A, True, None, None, 64, True)
        delta = new(b, l, h, kind=torch.float32)
        scan_backward(x, None, new(0), x, delta, A, maps, maps, A, None, 64, z)
    return found


def _printed(program: str, *arguments) -> str:
    return subprocess.run([TOOLS / program, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--gate", action="store_true", help="with the gate z inside the kernels")
    parser.add_argument("--layout", choices=["tokens", "channels"], default="tokens", help="side by side in memory")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # everything is compiled now
        _report(dtype, args.gate, args.layout)


def _report(dtype: torch.dtype, gate: bool, layout: str) -> None:
    print(f"Triton {triton.__version__}, {dtype}, {'with' if gate else 'without'} a gate, {layout} side by side")
    print("kernel         | programs         | registers | spilled | shared | compiled | an update | issuing")
    for sizes in SIZES:
        print(f"selective scan {sizes}")
        for kernel in selective_scan(*sizes, dtype, gate, layout):
            each = scan_instructions(kernel, sizes[3]) if kernel.name.startswith("scan") else 0.0
            b, d, l, n = sizes
            took = f"{each:9.1f} | {b * d * l * n / 32 * each / ISSUES * 1e3:.2f} ms" if each else ""
            first = " (ends of segments)" if kernel.options.get("ENDS") else ""
            print(_row(kernel), took + first, sep=" | ")
    print("ssd (8, 2048, 80, 64), n = 128")
    for kernel in ssd(8, 2048, 80, 64, 128, dtype, gate):
        print(_row(kernel))


def _row(kernel: Kernel) -> str:
    return " | ".join((
        kernel.name.ljust(14), str(kernel.grid).ljust(16), f"{kernel.used['REG']:9}", f"{kernel.used['STACK']:7}",
        f"{kernel.shared:6}", f"{kernel.seconds:6.1f} s",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
