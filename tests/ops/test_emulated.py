"""The Triton kernels' machine code for Hopper, carried out on this machine, against the definition in float64.

What the interpreter cannot show: whether the compiler's layouts, vectors and barriers do what the kernels say.
"""

import sys

import pytest
import torch

from ops import interpreted_steps
from ops.common import TOLERANCE, relative_error
from ops.ptx import Fault, emulating
from ops.test_causal_conv1d import make as make_conv
from ops.test_directional_scan import make as make_directional
from ops.test_directional_scan import op as directional
from ops.test_selective_scan import make as make_scan
from ops.test_selective_scan import packed
from ops.test_ssd import make as make_ssd
from ops.triton_common import compared
from ssmlab.ops import _triton, _triton_steps, causal_conv1d, selective_scan, ssd

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(_triton.INTERPRETED, reason="the kernels are interpreted"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU"),
]
ORDERS = pytest.mark.parametrize("order", [1, -1], ids=["first to last", "last to first"])
HALF, FLOAT = torch.bfloat16, torch.float32
SCAN, SSD = "ssmlab.ops.selective_scan.triton", "ssmlab.ops.ssd.triton"
# Sizes (b, d, l, n), form, options, dtype, layout, whether one segment is wanted. More lanes than a channel's tile has
# tokens share it where channels are few.
CASES = {
    "lanes and channels of a tile differ": ((1, 8, 16, 4), {}, {}, HALF, "tokens", False),
    "constant B and C": ((1, 8, 16, 4), {"constant": "BC"}, {}, HALF, "tokens", False),
    "constant B": ((1, 8, 16, 4), {"constant": "B"}, {}, FLOAT, "tokens", False),
    "constant C, ragged": ((1, 20, 70, 2), {"constant": "C"}, {}, HALF, "tokens", True),
    "one token": ((2, 3, 1, 1), {}, {}, HALF, "tokens", False),
    "a few tokens": ((1, 5, 20, 3), {}, {}, FLOAT, "tokens", False),
    "a tile": ((2, 16, 64, 2), {}, {}, HALF, "tokens", True),
    "segments, ragged": ((1, 20, 99, 3), {}, {}, HALF, "tokens", False),
    "more states than registers": ((1, 12, 40, 18), {}, {}, FLOAT, "tokens", True),
    "several turns, ragged": ((1, 61, 40, 2), {}, {}, FLOAT, "tokens", True),
    "groups": ((1, 24, 70, 2), {"groups": 2}, {}, HALF, "tokens", False),
    "packed": ((2, 18, 75, 2), {}, {"seq_idx": 20}, FLOAT, "tokens", False),
    "packed, one segment": ((1, 18, 64, 2), {}, {"seq_idx": 9}, HALF, "tokens", True),
    "nothing optional": (
        (1, 13, 33, 2), {"absent": ("D", "z", "dt_bias", "initial_state")}, {"dt_softplus": False}, HALF, "tokens", True
    ),
    "channels side by side": ((1, 16, 70, 2), {}, {}, HALF, "channels", False),
    "channels side by side, float32": ((1, 61, 33, 2), {}, {}, FLOAT, "channels", True),
    "gaps": ((1, 16, 70, 2), {}, {}, FLOAT, "gaps", True),
}  # fmt: skip


def one_segment(monkeypatch):
    """A program's lanes have a channel each, time is not cut, and programs take several tiles in turns."""
    monkeypatch.setattr(sys.modules[SCAN], "WARPS", 1)
    monkeypatch.setattr(sys.modules[SCAN], "FEW", 1)


def same(op, arguments, dtype, options, order, layout="tokens") -> list[str]:
    """Outputs and all gradients are those of the definition; the kernels that ran."""
    with emulating(order) as launched:
        compared(op, {k: t for k, t in arguments.items() if t is not None}, dtype, options, layout)
    return launched


@ORDERS
@pytest.mark.parametrize("case", CASES)
def test_selective_scan(case, order, monkeypatch):
    sizes, form, options, dtype, layout, whole = CASES[case]
    if whole:
        one_segment(monkeypatch)
    options = {"dt_softplus": True} | options
    if "seq_idx" in options:
        options["seq_idx"] = packed(sizes[0], sizes[2], options["seq_idx"])
    launched = same(selective_scan, make_scan(*sizes, **form), dtype, options, order, layout)
    assert {"scan_forward", "scan_backward"} <= set(launched)
    assert ("carry" in launched) == (not whole and sizes[2] > 64)


@ORDERS
def test_several_turns_in_several_segments(order, monkeypatch):
    monkeypatch.setattr(sys.modules[SCAN], "WARPS", 20)
    launched = same(selective_scan, make_scan(1, 61, 310, 1), FLOAT, {"dt_softplus": True}, order)
    assert "carry" in launched


@ORDERS
def test_directional_scan(order):
    options = {"dt_softplus": True, "directions": 4}
    same(directional, make_directional(1, 6, 5, 7, 2, 4), FLOAT, options, order)


@ORDERS
@pytest.mark.parametrize(("layout", "dtype"), [("tokens", FLOAT), ("channels", HALF)])
def test_causal_convolution(layout, dtype, order):
    options = {"activation": "silu", "seq_idx": packed(2, 70, 20)}
    same(causal_conv1d, make_conv(2, 12, 70, 4), dtype, options, order, layout)


@ORDERS
@pytest.mark.parametrize("programs", [1, 512])
def test_ssd(programs, order, monkeypatch):
    """With one program wanted each takes all chunks and all heads of a group; else a chunk of a head is one."""
    monkeypatch.setattr(sys.modules[SSD], "PROGRAMS", programs)
    same(ssd, make_ssd(1, 40, 4, 5, 2, 20), FLOAT, {"dt_softplus": True, "seq_idx": packed(1, 40, 15)}, order)


@ORDERS
@pytest.mark.parametrize(("b", "d", "length"), [(1, 4, 3), (2, 40, 4)])
def test_a_convolutions_step(b, d, length, order):
    x, state, weight, bias = (torch.randn(size) for size in ((b, d), (b, d, length), (d, 4), (d,)))
    inputs = torch.cat([state, x[..., None]], -1)
    with emulating(order) as launched:
        y = _triton_steps.conv_step(x, state, weight, bias, False)
    assert launched == ["conv_step"]
    assert relative_error(y, (inputs[..., -4:].double() * weight.double()).sum(-1) + bias) < TOLERANCE[FLOAT][0]
    assert torch.equal(state, inputs[..., 1:])


@ORDERS
@pytest.mark.parametrize(("b", "d", "n"), [(2, 4, 16), (2, 40, 16), (1, 33, 5)])
def test_a_scans_step(b, d, n, order):
    """Where states are fewer than threads, several warps have the same ones."""
    with emulating(order) as launched:
        interpreted_steps.test_selective_scan(b, d, n, (), FLOAT)
    assert set(launched) == {"scan_step"}


@ORDERS
@pytest.mark.parametrize(("b", "h", "p", "g", "n"), [(1, 2, 4, 1, 16), (2, 6, 5, 3, 7), (1, 2, 64, 1, 32)])
def test_a_heads_step(b, h, p, g, n, order):
    with emulating(order) as launched:
        interpreted_steps.test_heads(b, h, p, g, n, (), FLOAT)
    assert launched == ["head_step"]


@triton.jit
def turned(x, shift, SIZE: tl.constexpr, BARRIER: tl.constexpr):
    """x moves on by `shift`; without a barrier a warp may read what another one has written."""
    i = tl.arange(0, SIZE)
    value = tl.load(x + i)
    if BARRIER:
        tl.debug_barrier()
    tl.store(x + (i + shift) % SIZE, value)


def run_turned(x, barrier, order):
    with emulating(order):
        _triton.launch(turned, (1,), x, 32, SIZE=128, BARRIER=barrier)
    return x


def test_a_missing_barrier_is_seen():
    x = torch.arange(128.0)
    wanted = x.roll(32)
    assert all(torch.equal(run_turned(x.clone(), True, order), wanted) for order in (1, -1))
    first, second = (run_turned(x.clone(), False, order) for order in (1, -1))
    assert not torch.equal(first, wanted) and not torch.equal(first, second)


@ORDERS
def test_a_store_out_of_bounds_is_seen(order):
    with pytest.raises(Fault, match=r"ld\.global.* are in no tensor"):
        run_turned(torch.zeros(100), True, order)


@triton.jit
def doubled(x, offset, SIZE: tl.constexpr):
    """What is promised about `offset` lets the compiler load 16 bytes at once."""
    at = tl.multiple_of(offset + tl.arange(0, SIZE), 4)
    tl.store(x + at, 2 * tl.load(x + at))


def test_a_vector_at_an_odd_address_is_seen():
    x = torch.ones(600)
    with emulating(1):
        _triton.launch(doubled, (1,), x, 8, SIZE=512)
        assert x.sum() == 600 + 512
        with pytest.raises(Fault, match="not a multiple of 16"):
            _triton.launch(doubled, (1,), x, 2, SIZE=512)


def test_what_is_unknown_is_told():
    with emulating(1), pytest.raises(NotImplementedError, match="atom"):
        _triton.launch(counted, (1,), torch.zeros(1), SIZE=128)


@triton.jit
def counted(x, SIZE: tl.constexpr):
    tl.atomic_add(x + tl.arange(0, SIZE) * 0, 1.0)
