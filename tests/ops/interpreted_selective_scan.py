"""The selective scan's Triton kernels against the definition, with the native kernels' tolerances."""

import sys

import pytest
import torch

from ops.test_selective_scan import make, packed, positional
from ops.triton_common import compared, on_device
from ssmlab.core.errors import BackendError
from ssmlab.ops import selective_scan

# Small, because the interpreter takes about a millisecond for an element of a scan.
CASES = {
    "plain": ((2, 3, 21, 2), {}, {}),
    "several programs": ((1, 5, 18, 1), {}, {}),
    "one token, one state": ((2, 3, 1, 1), {}, {}),
    "groups smaller than a tile": ((1, 6, 18, 1), {"groups": 2}, {}),
    "constant B": ((1, 3, 18, 2), {"constant": "B"}, {}),
    "constant C": ((1, 3, 18, 2), {"constant": "C"}, {}),
    "packed": ((2, 3, 40, 1), {}, {"seq_idx": 20}),
    "short sequences": ((1, 3, 18, 1), {}, {"seq_idx": 1}),
    "nothing optional": ((1, 3, 40, 1), {"absent": ("D", "z", "dt_bias", "initial_state")}, {"dt_softplus": False}),
    "no gate": ((1, 3, 18, 1), {"absent": ("z",)}, {}),
    "no bias, no skip": ((1, 3, 18, 1), {"absent": ("D", "dt_bias")}, {}),
}
BACKEND = "ssmlab.ops.selective_scan.triton"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(sys.modules[BACKEND], "TILES", {2: (16, 4, 4), 4: (16, 4, 4)})


def want(warps, monkeypatch):
    """With one warp wanted a lane has a channel's tile and time is not cut; with many all lanes that there are share
    the tile, and every chunk is a segment of its own."""
    monkeypatch.setattr(sys.modules[BACKEND], "WARPS", warps)
    monkeypatch.setattr(sys.modules[BACKEND], "FEW", warps)


@pytest.mark.parametrize("warps", [1, 10**6])
@pytest.mark.parametrize("case", CASES)
def test_equals_definition(case, warps, monkeypatch):
    want(warps, monkeypatch)
    sizes, form, options = CASES[case]
    options = {"dt_softplus": True} | options
    if "seq_idx" in options:
        options["seq_idx"] = packed(sizes[0], sizes[2], options["seq_idx"])
    compared(selective_scan, make(*sizes, **form), torch.float32, options)


@pytest.mark.parametrize("warps", [1, 10**6])
@pytest.mark.parametrize("states", [1, 2])  # of three, in turns
def test_more_states_than_registers(states, warps, monkeypatch):
    want(warps, monkeypatch)
    monkeypatch.setattr(sys.modules[BACKEND], "STATES", states)
    compared(selective_scan, make(1, 3, 40, 3), torch.float32, {"dt_softplus": True})


def test_more_states_of_constant_maps(monkeypatch):
    monkeypatch.setattr(sys.modules[BACKEND], "STATES", 2)
    compared(selective_scan, make(1, 3, 18, 3, constant="BC"), torch.float32, {"dt_softplus": True})


def test_a_tile_of_few_tokens_within_a_chunk(monkeypatch):
    want(1, monkeypatch)
    monkeypatch.setattr(sys.modules[BACKEND].Form, "forward_tile", lambda form, x: (4, 2, 1))
    compared(selective_scan, make(1, 4, 48, 2), torch.float32, {"dt_softplus": True})


@pytest.mark.parametrize("d", [16, 29])  # four turns of four channels, and eight, the last of which has one
def test_several_turns_of_a_program(d, monkeypatch):
    want(1, monkeypatch)
    compared(selective_scan, make(1, d, 32, 2), torch.float32, {"dt_softplus": True})


def test_turns(monkeypatch):
    """The backward pass has at least half of `WARPS`, or `WARPS` where time is cut anyway."""
    monkeypatch.setattr(sys.modules[BACKEND], "TILES", {2: (64, 8, 1)})
    form = sys.modules[BACKEND].Form
    assert form(8, 5120, 2048, 16).turns(torch.bfloat16) == 2
    assert form(1, 5120, 65536, 16).turns(torch.bfloat16) == 8
    assert form(2, 768, 128, 16).turns(torch.bfloat16) == 1
    assert form(8, 5120, 2048, 16, constant=(True, True)).turns(torch.bfloat16) == 1


@pytest.mark.parametrize("layout", ["channels", "gaps"])
def test_strides(layout):
    compared(selective_scan, make(1, 3, 18, 2), torch.float32, {"dt_softplus": True}, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_keep_a_float32_state(dtype):
    compared(selective_scan, make(1, 4, 32, 2), dtype, {"dt_softplus": True})


@pytest.mark.parametrize("warps", [1, 10**6])
def test_without_gradients_the_same(warps, monkeypatch):
    want(warps, monkeypatch)
    arguments = {k: t.float() for k, t in make(1, 3, 40, 1).items()}
    leaves = {k: t.clone().requires_grad_() for k, t in arguments.items()}
    op = on_device(selective_scan)
    for found, wanted in zip(op(**arguments, backend="triton"), op(**leaves, backend="triton"), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_stays_in_its_row(poison):
    arguments = {k: t.float() for k, t in make(2, 4, 18, 1).items()}
    clean, _ = on_device(selective_scan)(**arguments, dt_softplus=True, backend="triton")
    arguments["x"][1, 3, 13] = poison
    y, _ = on_device(selective_scan)(**arguments, dt_softplus=True, backend="triton")
    assert torch.equal(y[0], clean[0]) and torch.equal(y[1, :3], clean[1, :3])
    assert torch.equal(y[1, :, :13], clean[1, :, :13])
    assert not y[1, 3, 13:].isfinite().any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradients_behind_a_nan_step_are_those_without_it():
    """They come from later tokens alone, also through the lane that has the step."""
    op, gradients, given = on_device(selective_scan), [], make(1, 4, 40, 2)
    for poison in (0.0, float("nan")):
        arguments = {k: t.float() for k, t in given.items()}
        arguments["dt"][0, 1, 5] += poison
        x = arguments["x"].requires_grad_()
        y, _ = op(**arguments, dt_softplus=True, backend="triton")
        gradients.append(torch.autograd.grad(y[..., 6:].sum(), x)[0].cpu())
    clean, poisoned = gradients
    assert torch.equal(clean[0, 1, 6:], poisoned[0, 1, 6:]) and poisoned[0, 1, :5].isnan().any()


@pytest.mark.parametrize("sizes", [(2, 5, 0, 3), (0, 5, 7, 3)])
def test_empty(sizes):
    arguments = {k: t.float().requires_grad_() for k, t in make(*sizes).items()}
    y, state = on_device(selective_scan)(**arguments, backend="triton")
    assert y.shape == sizes[:3]
    torch.testing.assert_close(state, arguments["initial_state"])
    (y.sum() + state.sum()).backward()
    assert torch.equal(arguments["initial_state"].grad, torch.ones_like(arguments["initial_state"]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_extreme_step_sizes():
    arguments = make(1, 4, 5, 2)
    arguments["dt"] = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0]).expand(1, 4, 5)
    compared(selective_scan, arguments, torch.float32, {"dt_softplus": True})


def test_what_it_refuses():
    arguments = {k: t.float() for k, t in make(1, 8, 4, 2, groups=4).items()}
    with pytest.raises(BackendError, match="B and C have different numbers of groups"):
        selective_scan(**arguments | {"C": arguments["C"][:, :2]}, backend="triton")
    with pytest.raises(BackendError, match="float64"):
        selective_scan(**make(1, 4, 8, 3), backend="triton")


def test_the_operators_fake_kernels_tell_the_truth():
    for form in ({}, {"groups": 2}, {"constant": "BC"}):
        arguments = positional({k: t.float() for k, t in make(1, 4, 18, 1, **form).items()})
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(torch.ops.ssmlab.selective_scan, (*arguments, True, "triton"), test_utils=checks)
        y, state, saved = torch.ops.ssmlab.selective_scan(*arguments, True, "triton")
        backward = torch.ops.ssmlab.selective_scan_backward
        torch.library.opcheck(backward, (y, state, saved, *arguments, "triton"), test_utils=checks)
