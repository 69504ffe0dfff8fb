"""The convolution's Triton kernels against the definition, at the native kernels' cases and tolerances."""

import sys

import pytest
import torch

from ops.test_causal_conv1d import CASES, make
from ops.triton_common import compared, on_device
from ssmlab.ops import causal_conv1d


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    backend = sys.modules["ssmlab.ops.causal_conv1d.triton"]
    monkeypatch.setattr(backend, "TILES", {"channels": (64, 64, 4), "tokens": (128, 16, 4)})


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("case", CASES)
def test_equals_definition(case, activation):
    sizes, absent, length = CASES[case]
    options = {"activation": activation}
    if length:
        options["seq_idx"] = torch.arange(sizes[2])[None] // torch.tensor([[length + i] for i in range(sizes[0])])
    compared(causal_conv1d, make(*sizes, absent=absent), torch.float32, options)


@pytest.mark.parametrize("layout", ["channels", "gaps"])
def test_strides(layout):
    compared(causal_conv1d, make(2, 33, 70, 4), torch.float32, {"activation": "silu"}, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions(dtype):
    compared(causal_conv1d, make(2, 48, 70, 4), dtype, {"activation": "silu"})


def test_empty():
    for sizes in ((2, 5, 0, 3), (0, 5, 7, 3)):
        arguments = {k: t.float() for k, t in make(*sizes).items()}
        y, state = on_device(causal_conv1d)(**arguments, backend="triton")
        assert y.shape == sizes[:3] and state.shape == (*sizes[:2], 2)


def test_the_same_bits_twice():
    arguments = {k: t.float().requires_grad_() for k, t in make(2, 33, 70, 4).items()}
    runs = []
    for _ in range(2):
        y, state = on_device(causal_conv1d)(**arguments, activation="silu", backend="triton")
        runs.append([y, state, *torch.autograd.grad(y.square().sum() + state.sum(), list(arguments.values()))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
