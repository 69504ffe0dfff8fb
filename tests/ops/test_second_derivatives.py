"""Second derivatives of every operator and block: those of the definition, and of finite differences."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, vjp

from ops.common import relative_error
from ssmlab import nn, ops
from ssmlab.ops import _native

BUILT = [] if _native.MISSING else ["native"]


def numbers(*shape, positive=False):
    t = torch.randn(shape, dtype=torch.float64)
    return t.abs() + 0.1 if positive else t


def scan(complex_=False):
    b, d, n, l = 2, 4, 3, 9
    A, length = -numbers(d, n, positive=True), 2 * l if complex_ else l
    a = {"x": numbers(b, d, l), "dt": numbers(b, d, l), "A": torch.complex(A, numbers(d, n)) if complex_ else A}
    a |= {
        "B": numbers(b, n, length),
        "C": numbers(b, n, length),
        "D": numbers(d),
        "z": numbers(b, d, l),
        "dt_bias": numbers(d),
    }
    state = torch.complex(numbers(b, d, n), numbers(b, d, n)) if complex_ else numbers(b, d, n)
    return ops.selective_scan, a | {"initial_state": state}, {"dt_softplus": True, "seq_idx": breaks(b, l)}


def dual():
    b, l, h, p, n = 2, 70, 2, 3, 4
    a = {"x": numbers(b, l, h, p), "dt": numbers(b, l, h), "A": -numbers(h, positive=True), "B": numbers(b, l, 1, n)}
    a |= {"C": numbers(b, l, 1, n), "D": numbers(h), "z": numbers(b, l, h, p), "initial_state": numbers(b, h, p, n)}
    return ops.ssd, a, {"dt_softplus": True, "seq_idx": breaks(b, l)}


def convolution():
    a = {"x": numbers(2, 3, 7), "weight": numbers(3, 4), "bias": numbers(3), "initial_state": numbers(2, 3, 3)}
    return ops.causal_conv1d, a, {"activation": "silu", "seq_idx": breaks(2, 7)}


def directions():
    b, k, d, n, h, w = 1, 4, 2, 3, 3, 4
    a = {"x": numbers(b, d, h, w), "dt": numbers(b, k, d, h, w), "A": -numbers(k, d, n, positive=True)}
    a |= {"B": numbers(b, k, n, h, w), "C": numbers(b, k, n, h, w), "D": numbers(k, d), "dt_bias": numbers(k, d)}
    return ops.directional_scan, a, {"dt_softplus": True}


def rotating():
    b, l, h, p, n, s = 1, 9, 2, 3, 4, 2
    a = {"x": numbers(b, l, h, p), "dt": numbers(b, l, h, positive=True), "log_decay": -numbers(b, l, h, positive=True)}
    a |= {
        "trap": numbers(b, l, h),
        "B": numbers(b, l, 1, 1, n),
        "C": numbers(b, l, 1, 1, n),
        "angle": numbers(b, l, h, s),
    }
    return ops.mamba3, a | {"D": numbers(h), "z": numbers(b, l, h, p)}, {}


def breaks(rows, length):
    return (torch.arange(length) >= length // 2).long().expand(rows, -1)


CASES = {"scan": scan, "complex": lambda: scan(True), "ssd": dual, "conv": convolution, "directions": directions,
         "mamba3": rotating}  # fmt: skip


def second(op, arguments, dtype, **options):
    """Of a loss that bends: the derivatives of a direction's part of its gradient, for every argument."""
    leaves = {k: t.to(dtype.to_complex() if t.is_complex() else dtype).requires_grad_() for k, t in arguments.items()}
    y, state = (*r[:1], r[1]) if isinstance(r := op(**leaves, **options), tuple) else (r, None)
    loss = y.double().sin().sum()
    for part in () if state is None else state if isinstance(state, tuple) else (state,):
        loss = loss + (torch.view_as_real(part) if part.is_complex() else part).double().cos().sum()
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    generator, total = torch.Generator().manual_seed(1), 0.0
    for g in first:
        g = torch.view_as_real(g) if g.is_complex() else g
        total = total + (g.double() * torch.randn(g.shape, generator=generator, dtype=torch.float64)).sum()
    found = torch.autograd.grad(total, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["chunked", *BUILT])
def test_second_derivatives_are_the_definitions(case, backend):
    if (case, backend) == ("conv", "chunked"):
        pytest.skip("a convolution has no chunks")
    op, arguments, options = CASES[case]()
    exact = second(op, arguments, torch.float64, backend="reference", **options)
    dtype = torch.float32 if backend == "native" else torch.float64
    found = second(op, arguments, dtype, backend=backend, **options)
    for name, value in found.items():
        error = relative_error(value.to(exact[name].dtype), exact[name])
        assert error < (1e-4 if backend == "native" else 1e-11), f"{name}: {error:.1e}"


@pytest.mark.parametrize("case", CASES)
def test_the_definitions_are_those_of_finite_differences(case):
    op, arguments, options = CASES[case]()
    leaves = {k: t.requires_grad_() for k, t in arguments.items() if k in ("x", "dt", "A", "weight", "angle")}

    def run(*tensors):
        out = op(**arguments | dict(zip(leaves, tensors, strict=True)), backend="reference", **options)
        return out[0] if isinstance(out, tuple) else out

    torch.autograd.gradgradcheck(run, tuple(leaves.values()), fast_mode=True)


BLOCKS = {
    "Mamba": lambda: nn.Mamba(8, 4),
    "Mamba, complex": lambda: nn.Mamba(8, 4, init="lin"),
    "Mamba2": lambda: nn.Mamba2(8, 4, headdim=4),
    "Mamba3": lambda: nn.Mamba3(8, 4, headdim=4),
    "Mamba3, MIMO": lambda: nn.Mamba3(8, 4, headdim=4, mimo_rank=2),
    "S4D": lambda: nn.S4D(8, 4, d_conv=3),
    "SS2D": lambda: nn.SS2D(8, 4),
    "BiMamba": lambda: nn.BiMamba(8, 4),
    "MambaVisionMixer": lambda: nn.MambaVisionMixer(8, 4),
}


def test_attention_leaves_it_to_torch_which_refuses():
    x = torch.randn(1, 9, 8, requires_grad=True)
    (first,) = torch.autograd.grad(nn.Attention(8, 2)(x)[0].sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for .* is not implemented"):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name, dtype):
    block, shape = BLOCKS[name]().double(), (1, 3, 3, 8) if name == "SS2D" else (1, 9, 8)
    u, way = numbers(*shape), numbers(*shape)

    def loss(x):
        y = block(x)
        return (y[0] if isinstance(y, tuple) else y).sin().sum()

    step = 1e-5 * way
    right = (grad(loss)(u + step) - grad(loss)(u - step)) / 2e-5
    block.to(dtype)
    x, direction = u.to(dtype).requires_grad_(), way.to(dtype)
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    by_autograd = torch.autograd.grad((first * direction).sum(), x)[0]
    by_transform = vjp(grad(loss), x.detach())[1](direction)[0]
    for found in (by_autograd, by_transform):
        assert relative_error(found.detach(), right.detach()) < (1e-7 if dtype is torch.float64 else 1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is (deprecated|not supported):FutureWarning")  # forward mode
@pytest.mark.parametrize("case", [c for c in CASES if c != "complex"])
def test_a_tangent_is_right_or_refused(case):
    """The kernels have none; the definition has."""
    op, arguments, options = CASES[case]()
    narrow = {k: t.float() for k, t in arguments.items()}
    x = narrow.pop("x")
    for backend in (None, "reference"):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            if backend is None and BUILT:
                with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
                    op(x=dual, **narrow, **options)
                continue
            out = op(x=dual, **narrow, backend=backend, **options)
            tangent = forward_ad.unpack_dual(out[0] if isinstance(out, tuple) else out).tangent
        y, moved = (op(x=v, **narrow, backend="reference", **options) for v in (x, x + 1e-2))
        difference = (moved[0] - y[0]) / 1e-2 if isinstance(y, tuple) else (moved - y) / 1e-2
        assert relative_error(tangent, difference) < 0.05
