"""Every Triton kernel compiles for a GPU, down to its machine code, on a machine without one.

The interpreter takes what a compiler refuses: types that change in a loop, tiles that do not fit, wrong layouts.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from ops.test_causal_conv1d import make as make_conv
from ops.test_directional_scan import make as make_directional
from ops.test_selective_scan import make as make_scan
from ops.test_ssd import make as make_ssd
from ssmlab.ops import _triton, _triton_steps, causal_conv1d, directional_scan, selective_scan, ssd

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(_triton.INTERPRETED, reason="the kernels are interpreted"),
]
SPEC = importlib.util.spec_from_file_location("kernels", Path(__file__).parents[2] / "benchmarks" / "kernels.py")
SHARED = 227 * 1024  # bytes that a program may have there
# Bytes of a thread's registers that lie in memory, of the kernels that have any: a limit is set to have more warps at
# work, or layouts meet, or (half precisions in `ssd`) a program holds six tiles.
SPILLED = {"scan_forward": 320, "scan_backward": 704, "chunk_states": 128, "chunk_output": 256, "chunk_backward": 1408,
           "conv_backward": 16}  # fmt: skip


@pytest.fixture(scope="module")
def kernels():
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    return module


@pytest.fixture
def compiled(kernels):
    """The kernels that a test would have launched. What they would have written stays as it is."""
    with kernels.compiling() as found:
        yield found
    for kernel in found:
        print(f"{kernel.name}: {kernel.used}, {kernel.shared} shared, {kernel.seconds:.1f} s")  # noqa: T201
        assert kernel.shared <= SHARED
        assert kernel.used["STACK"] <= SPILLED.get(kernel.name, 0), f"{kernel.name}: {kernel.used}"


def names(compiled) -> set[str]:
    return {kernel.name for kernel in compiled}


def differentiate(op, arguments, dtype, **options):
    parameters = ("A", "D", "dt_bias", "weight", "bias", "initial_state")
    leaves = {k: t.to(torch.float32 if k in parameters else dtype).requires_grad_() for k, t in arguments.items()}
    outputs = op(**leaves, backend="triton", **options)
    sum(t.float().sum() for t in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_causal_conv1d(compiled, dtype):
    seq_idx = torch.arange(96)[None] // 40
    differentiate(causal_conv1d, make_conv(1, 32, 96, 4), dtype, activation="silu", seq_idx=seq_idx)
    assert names(compiled) == {"conv_forward", "conv_backward"}


@pytest.mark.parametrize("layout", ["time", "channels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_selective_scan(compiled, dtype, layout):
    arguments = make_scan(1, 128, 1024, 16)
    if layout == "channels":
        arguments |= {name: arguments[name].mT.contiguous().mT for name in ("x", "dt", "z")}
    differentiate(selective_scan, arguments, dtype, dt_softplus=True)
    assert names(compiled) == {"scan_forward", "scan_backward", "carry"}


@pytest.mark.parametrize("gate", [False, True])
def test_updates_of_a_state_take_few_instructions(kernels, gate):
    """Where layouts met they took 52, with the rest of a tile 60; what docs/gpu.md predicts rests on these."""
    first, second = kernels.selective_scan(8, 5120, 2048, 16, torch.bfloat16, gate)
    assert kernels.scan_instructions(first, 16) < 14 and kernels.scan_instructions(second, 16) < 40
    assert second.shared == 0  # no layout is changed


def test_selective_scan_with_everything_else(compiled):
    restarts = torch.arange(200)[None] // 50
    differentiate(selective_scan, make_scan(1, 16, 200, 4, constant="BC"), torch.bfloat16, seq_idx=restarts)
    differentiate(selective_scan, make_scan(1, 16, 200, 20), torch.bfloat16)  # more states than registers
    assert names(compiled) == {"scan_forward", "scan_backward", "carry"}


@pytest.mark.parametrize("constant", ["B", "C", "BC"])
def test_constant_maps_where_a_tile_has_not_as_many_lanes_as_channels(compiled, constant):
    differentiate(selective_scan, make_scan(1, 8, 16, 4, constant=constant), torch.bfloat16)
    assert {kernel.options["LANES"] for kernel in compiled if kernel.name == "scan_backward"} == {2}


def test_any_length_is_compiled_in_time(compiled):
    """16 s where what a lane loads at once was not known to be whole."""
    differentiate(selective_scan, make_scan(1, 128, 1021, 16), torch.bfloat16, dt_softplus=True)
    assert all(kernel.seconds < 10 for kernel in compiled)


def test_many_rows_need_no_cut(compiled):
    """One lane for a channel."""
    differentiate(selective_scan, make_scan(512, 128, 16, 16), torch.bfloat16, dt_softplus=True)
    assert names(compiled) == {"scan_forward", "scan_backward"}


def test_directional_scan(compiled):
    differentiate(directional_scan, make_directional(1, 16, 20, 20, 4, 4), torch.float32, dt_softplus=True)
    assert names(compiled) == {"scan_forward", "scan_backward", "carry"}


@pytest.mark.parametrize("absent", [(), ("z",)], ids=["gate", "no gate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ssd(compiled, dtype, absent):
    arguments = make_ssd(1, 192, 4, 64, 1, 128, absent=absent)
    differentiate(ssd, {k: t for k, t in arguments.items() if t is not None}, dtype, dt_softplus=True)
    assert names(compiled) == {"chunk_states", "carry", "chunk_output", "chunk_backward"}


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
    assert names(compiled) == {"conv_step", "scan_step", "head_step"}


def test_steps_write_states_behind_a_barrier(compiled):
    """With fewer states than threads several warps read and write the same ones."""
    state, x, maps = torch.zeros(2, 4, 16), torch.zeros(2, 4), torch.zeros(2, 16)
    _triton_steps.scan_step(state, x, x, state[0], maps, maps, state[0, :, 0], x, x[0], True)
    heads = torch.zeros(2, 2, 4, 16)
    x, maps = heads[..., 0], heads[:, :1, 0]
    _triton_steps.head_step(heads, x, x[..., 0], x[0, :, 0], maps, maps, x[0, :, 0], x, x[0, :, 0], True)
    for kernel in compiled:
        written = next(i for i, line in enumerate(kernel.code) if "STG" in line)
        assert any("BAR.SYNC" in line for line in kernel.code[:written]), kernel.name
