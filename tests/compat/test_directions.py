"""Mamba in the directions of its forks, against float64 loops over time."""

import pytest
import torch
from torch.nn import functional as F

from ops.common import relative_error
from ssmlab.compat.mamba_ssm.modules.mamba_simple import Mamba
from ssmlab.core.errors import ShapeError, UserError

b, l, d = 2, 12, 6
ONE = {"in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log",
       "D", "out_proj.weight"}  # fmt: skip
KINDS = {
    "none": ({}, ONE),
    "v1": ({"bimamba_type": "v1"}, ONE | {"A_b_log"}),
    "v2": ({"bimamba_type": "v2"}, ONE | {"b"}),
    "mean": ({"bimamba_type": "v2", "if_divide_out": True, "init_layer_scale": 0.3}, ONE | {"b", "gamma"}),
    "mean, as AuM spells it": ({"bimamba_type": "v2", "if_devide_out": True}, ONE | {"b"}),
    "VideoMamba": ({"bimamba": True}, ONE | {"b"}),
    "VideoMamba, one": ({"bimamba": False}, ONE),
    "v3": ({"bimamba_type": "v3", "nslices": 3}, ONE | {"b", "s"}),
}


def names(wanted):
    """ "b" and "s" stand for everything that a direction has of its own."""
    found = set(wanted) - {"b", "s"}
    for end in wanted & {"b", "s"}:
        found |= {f"A_{end}_log", f"D_{end}"}
        found |= {n.replace(".", f"_{end}.") for n in ONE if n.startswith(("conv1d", "x_proj", "dt_proj"))}
    return found


def direction(p, xz, end, A_log=None, D=None, parts=None):
    """y (b, l, d_inner) of one direction, token by token."""
    x, z = xz.chunk(2, -1)
    weight, bias = p[f"conv1d{end}.weight"], p[f"conv1d{end}.bias"]
    x = F.silu(F.conv1d(F.pad(x.mT, (weight.shape[-1] - 1, 0)), weight, bias, groups=len(weight)).mT)
    dt, B, C = (x @ p[f"x_proj{end}.weight"].mT).split([p[f"dt_proj{end}.weight"].shape[1], 4, 4], -1)
    dt = F.softplus(dt @ p[f"dt_proj{end}.weight"].mT + p[f"dt_proj{end}.bias"])
    if parts is not None:  # "v1" goes backward over what the forward convolution gave
        x, z, dt, B, C = (t.flip(1) for t in (x, z, dt, B, C))
    A = -p[A_log or f"A{end}_log"].exp()
    h, ys = x.new_zeros(b, x.shape[-1], 4), []
    for t in range(l):
        h = (dt[:, t, :, None] * A).exp() * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1) + p[D or f"D{end}"] * x[:, t])
    y = torch.stack(ys, 1) * F.silu(z)
    return y if parts is None else y.flip(1)


def by_hand(p, u, kind, options):
    xz = u @ p["in_proj.weight"].mT
    y = direction(p, xz, "")
    if kind == "v1":
        y = y + direction(p, xz, "", "A_b_log", "D", parts=True)
    elif kind.startswith(("v", "mean")) or kind == "VideoMamba":
        y = y + direction(p, xz.flip(1), "_b").flip(1)
        y = y / 2 if "mean" in kind else y
    if kind == "v3":
        order = torch.arange(l).view(options["nslices"], -1).T.flatten()  # the first token of every slice, the second
        y = y + direction(p, xz[:, order], "_s")[:, order.argsort()]
    y = y @ p["out_proj.weight"].mT
    return y * p["gamma"] if "gamma" in p else y


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients(kind):
    torch.manual_seed(0)
    options, wanted = KINDS[kind]
    block = Mamba(d, d_state=4, **options)
    assert {name for name, _ in block.named_parameters()} == names(wanted)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    p = {name: t.detach().double().requires_grad_() for name, t in block.named_parameters()}
    u = torch.randn(b, l, d)
    exact, y = by_hand(p, u.double(), "none" if kind == "VideoMamba, one" else kind, options), block(u)
    assert relative_error(y.detach(), exact.detach()) < 1e-6
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    found = torch.autograd.grad((y * weight).sum(), list(block.parameters()))
    expected = torch.autograd.grad((exact * weight).sum(), list(p.values()))
    assert max(relative_error(a, e) for a, e in zip(found, expected, strict=True)) < 1e-5


def test_dtype_leaves_rates_and_skips_in_float32():
    block = Mamba(d, bimamba_type="v3", nslices=2, dtype=torch.bfloat16)
    kept = {name for name, t in block.named_parameters() if t.dtype == torch.float32}
    assert kept == {"A_log", "A_b_log", "A_s_log", "D", "D_b", "D_s"}
    assert all(getattr(block, name)._no_weight_decay for name in kept)
    assert block(torch.randn(b, l, d, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_dropout():
    u = torch.randn(b, l, d)
    for options in ({}, {"bimamba_type": "v2"}):
        block = Mamba(d, dropout=0.5, **options)
        assert (block(u) == 0).any() and not (block.eval()(u) == 0).any()
    assert Mamba(d).dropout.p == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mamba(d, use_norm=True), "unknown argument 'use_norm'.*`ssmlab exec` runs the program with the fork"),
        (lambda: Mamba(d, bimamba_type="v6"), "bimamba_type must be one of none, v1, v2, v3, got 'v6'.*ssmlab exec"),
        (lambda: Mamba(d, bimamba_type="v2", layer_idx=0)(torch.zeros(1, 2, d), object()), "has no next token"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_slices_must_divide_the_length():
    with pytest.raises(ShapeError, match="nslices must divide the length 12, got 5"):
        Mamba(d, bimamba_type="v3")(torch.zeros(b, l, d))
