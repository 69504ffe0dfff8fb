"""Every Triton kernel compiles for a GPU, down to its machine code, on a machine without one.

The interpreter takes what a compiler refuses: types that change in a loop, tiles that do not fit, wrong layouts.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ops.test_causal_conv1d import make as make_conv
from ops.test_directional_scan import make as make_directional
from ops.test_selective_scan import make as make_scan
from ops.test_ssd import make as make_ssd
from ssmlab.ops import _triton, _triton_steps, causal_conv1d, directional_scan, selective_scan, ssd

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(_triton.INTERPRETED, reason="the kernels are interpreted"),
]
HOPPER = ("cuda", 90, 32)
SHARED = 227 * 1024  # bytes that a program may have there
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Bytes of a thread's registers that lie in memory, of the kernels that have any: a limit is set to have more warps at
# work, or layouts meet, or (half precisions in `ssd`) a program holds six tiles.
SPILLED = {"scan_forward": 320, "scan_backward": 1024, "chunk_backward": 1408}
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Kernels are compiled instead of launched; what they would have written stays as it is. Their metadata by name."""
    found: dict[str, object] = {}

    def compile_kernel(kernel, grid, *arguments, **options):
        settings = {k: options.pop(k) for k in ("num_warps", "num_stages", "maxnreg") if k in options}
        given = dict(zip(kernel.arg_names, arguments, strict=False)) | options
        values = {name: given.pop(name) for name in kernel.arg_names}
        assert not given
        signature, constants, hints = {}, {}, {}
        for i, (name, value) in enumerate(values.items()):
            if kernel.params[i].is_constexpr or (isinstance(value, int) and value == 1):
                signature[name], constants[(i,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[name], hints[(i,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
            else:
                signature[name] = "i32" if abs(value) < 2**31 else "i64"
                hints |= {(i,): [["tt.divisibility", 16]]} if value % 16 == 0 else {}
        source = triton.compiler.ASTSource(kernel, signature, constants, hints)
        target = triton.backends.compiler.GPUTarget(*HOPPER)
        begin = time.perf_counter()
        result = triton.compile(source, target=target, options=settings | {"enable_fp_fusion": True})
        used = resources(result, tmp_path)
        assert result.metadata.shared <= SHARED
        assert used["STACK"] <= SPILLED.get(kernel.__name__, 0), f"{kernel.__name__}: {used}"
        print(f"{kernel.__name__}: {used}, {result.metadata.shared} shared, {time.perf_counter() - begin:.1f} s")  # noqa: T201
        found[kernel.__name__] = result.metadata

    monkeypatch.setattr(_triton, "unusable", lambda tensors: None)
    for name, module in list(sys.modules.items()):
        if name.startswith("ssmlab.ops") and hasattr(module, "launch"):
            monkeypatch.setattr(module, "launch", compile_kernel)
    return found


def resources(result, folder):
    """Registers of a thread and its bytes in memory, from the machine code."""
    file = folder / "kernel.cubin"
    file.write_bytes(result.asm["cubin"])
    command = [TOOLS / "cuobjdump", "--dump-resource-usage", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", done.stdout)}


def differentiate(op, arguments, dtype, **options):
    parameters = ("A", "D", "dt_bias", "weight", "bias", "initial_state")
    leaves = {k: t.to(torch.float32 if k in parameters else dtype).requires_grad_() for k, t in arguments.items()}
    outputs = op(**leaves, backend="triton", **options)
    sum(t.float().sum() for t in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_causal_conv1d(compiled, dtype):
    seq_idx = torch.arange(96)[None] // 40
    differentiate(causal_conv1d, make_conv(1, 32, 96, 4), dtype, activation="silu", seq_idx=seq_idx)
    assert set(compiled) == {"conv_forward", "conv_backward"}


@pytest.mark.parametrize("layout", ["time", "channels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_selective_scan(compiled, dtype, layout):
    arguments = make_scan(1, 128, 1024, 16)
    if layout == "channels":
        arguments |= {name: arguments[name].mT.contiguous().mT for name in ("x", "dt", "z")}
    differentiate(selective_scan, arguments, dtype, dt_softplus=True)
    assert set(compiled) == {"scan_forward", "scan_backward", "carry"}


def test_selective_scan_with_everything_else(compiled):
    restarts = torch.arange(200)[None] // 50
    differentiate(selective_scan, make_scan(1, 16, 200, 4, constant="BC"), torch.bfloat16, seq_idx=restarts)
    differentiate(selective_scan, make_scan(1, 16, 200, 20), torch.bfloat16)  # more states than registers
    assert set(compiled) == {"scan_forward", "scan_backward", "carry"}


def test_many_rows_need_no_cut(compiled):
    """One lane for a channel."""
    differentiate(selective_scan, make_scan(512, 128, 16, 16), torch.bfloat16, dt_softplus=True)
    assert set(compiled) == {"scan_forward", "scan_backward"}


def test_directional_scan(compiled):
    differentiate(directional_scan, make_directional(1, 16, 20, 20, 4, 4), torch.float32, dt_softplus=True)
    assert set(compiled) == {"scan_forward", "scan_backward", "carry"}


@pytest.mark.parametrize("absent", [(), ("z",)], ids=["gate", "no gate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ssd(compiled, dtype, absent):
    arguments = make_ssd(1, 192, 4, 64, 1, 128, absent=absent)
    differentiate(ssd, {k: t for k, t in arguments.items() if t is not None}, dtype, dt_softplus=True)
    assert set(compiled) == {"chunk_states", "carry", "chunk_output", "chunk_backward"}


def test_steps(compiled):
    def half(*shape):
        return torch.randn(*shape, dtype=torch.bfloat16)

    state, maps = torch.zeros(2, 64, 16), half(2, 16)
    _triton_steps.conv_step(half(2, 64), half(2, 64, 4), half(64, 4), half(64), True)
    _triton_steps.scan_step(
        state, half(2, 64), half(2, 64), state[0], maps, maps, state[0, :, 0], half(2, 64), half(64), True
    )
    heads, maps = torch.zeros(2, 4, 64, 128), half(2, 1, 128)
    _triton_steps.head_step(
        heads, half(2, 4, 64), half(2, 4), torch.zeros(4), maps, maps, torch.zeros(4), half(2, 4, 64), half(4), True
    )
    assert set(compiled) == {"conv_step", "scan_step", "head_step"}
