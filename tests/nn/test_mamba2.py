"""The Mamba-2 block: laws, its definition written out, names, initial values, limits, refusals."""

import laws
import pytest
import torch
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import GatedRMSNorm, Mamba2, Mamba2State
from ssmlab.ops import causal_conv1d, selective_scan

CASES = [
    {},
    {"ngroups": 2, "D_has_hdim": True, "bias": True},
    {"d_ssm": 8, "norm_before_gate": True, "conv_bias": False, "d_conv": 2},
    {"rmsnorm": False, "dt_limit": (0.01, 0.05), "d_conv": 1, "expand": 1},
    {"chunk_size": 4, "dt_limit": (0.0, 0.02)},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def block(**options):
    """In float64, so that equal means equal."""
    return Mamba2(laws.WIDTH, **({"d_state": 3, "headdim": 4} | options)).double()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_one_token_at_a_time_equals_whole(options):
    laws.one_by_one_equals_whole(block(**options))


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_halves_equal_whole_with_gradients_through_the_state(options, cut):
    laws.halves_equal_whole(block(**options), cut)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", laws.MASKS)
@pytest.mark.parametrize("options", CASES[:4], ids=str)
def test_padded_equals_alone(kind, options, with_state):
    laws.padded_equals_alone(block(**options), kind, with_state)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_sequences_equal_each_alone(masked, with_state):
    laws.packed_equals_each_alone(block(), masked, with_state)


def test_future_rows_precision_and_sub_modules():
    laws.one_sequence_is_continued(block())
    laws.future_is_ignored_and_rows_are_independent(block())
    laws.float32_is_close_to_float64(block(ngroups=2))
    laws.sub_modules_are_called(block(), ["in_proj", "conv1d", "norm", "out_proj"])
    laws.half_precision_is_close(block())


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_a_selective_scan_of_all_channels(options):
    """The definition in other words: every channel has its head's A, and its group's B and C."""
    model, u = block(**options), laws.inputs()
    mlp, h, p, g, n = model.d_mlp, model.nheads, model.headdim, model.ngroups, model.d_state
    z0, x0, z, x, B, C, dt = model.in_proj(u).split([mlp, mlp, h * p, h * p, g * n, g * n, h], dim=-1)
    weight, bias = model.conv1d.weight.squeeze(1), model.conv1d.bias
    xBC, conv = causal_conv1d(torch.cat([x, B, C], -1).mT, weight, bias, activation="silu")
    x, B, C = xBC.split([h * p, g * n, g * n], dim=1)
    dt = F.softplus(dt + model.dt_bias)
    if model.dt_limit is not None:
        dt = dt.clamp(*model.dt_limit)
    channels = torch.arange(h * p) // p
    D = model.D if len(model.D) == h * p else model.D[channels]
    A = -model.A_log.exp()[channels, None].expand(-1, n)
    y, ssm = selective_scan(x, dt.mT[:, channels], A, B.unflatten(1, (g, n)), C.unflatten(1, (g, n)), D)
    y, gate = y.mT, F.silu(z)
    if model.norm is None:
        y = y * gate
    else:
        y = y if model.norm.norm_before_gate else y * gate
        y = torch.cat([F.rms_norm(part, part.shape[-1:], eps=1e-5) for part in y.chunk(g, -1)], -1) * model.norm.weight
        y = y * gate if model.norm.norm_before_gate else y
    expected = model.out_proj(torch.cat([F.silu(z0) * x0, y], -1))
    got, state = model(u)
    laws.assert_close(got, expected)
    laws.assert_close(state, Mamba2State(conv, ssm.unflatten(1, (h, p))))


def test_names_and_layouts_are_upstreams():
    model = Mamba2(32, d_state=5, d_conv=3, headdim=8, ngroups=2, d_ssm=48)
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == {
        "dt_bias": (6,),
        "A_log": (6,),
        "D": (6,),
        "in_proj.weight": (2 * 64 + 2 * 2 * 5 + 6, 32),
        "conv1d.weight": (48 + 20, 1, 3),
        "conv1d.bias": (68,),
        "norm.weight": (48,),
        "out_proj.weight": (32, 64),
    }
    assert Mamba2(32, headdim=8, D_has_hdim=True).D.shape == (64,)


def test_initial_values_are_the_published_ones():
    model = Mamba2(512, headdim=1)
    dt, A = F.softplus(model.dt_bias).detach(), model.A_log.exp()
    assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 1e-1 * 1.001
    assert A.min() >= 1 and A.max() <= 16
    # means of 1,024 draws, within four standard errors
    torch.testing.assert_close(A.mean(), torch.tensor(8.5), atol=4 * 4.34 / 32, rtol=0)
    torch.testing.assert_close(dt.log().mean(), torch.tensor(1e-2).log(), atol=4 * 1.33 / 32, rtol=0)
    assert torch.equal(model.D, torch.ones(1024))
    assert torch.equal(model.norm.weight, torch.ones(1024))
    floored = Mamba2(8, headdim=8, dt_init_floor=0.05, dt_max=0.04).dt_bias
    torch.testing.assert_close(F.softplus(floored), torch.full((2,), 0.05))


def test_dropout_acts_on_the_output_while_training():
    model, u = block(dropout=0.5), laws.inputs()
    assert 0.2 < (model(u)[0] == 0).double().mean() < 0.8
    assert not (model.eval()(u)[0] == 0).any()


def test_the_state_is_float32_in_half_precision():
    model = Mamba2(8, d_state=3, headdim=4).bfloat16()
    _, state = model(torch.randn(2, 5, 8).bfloat16())
    assert state.conv.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32


def test_the_norm_counts_in_float32():
    norm, x, z = GatedRMSNorm(6, groups=2), torch.randn(4, 6), torch.randn(4, 6)
    got = norm.bfloat16()(x.bfloat16(), z.bfloat16())
    expected = GatedRMSNorm(6, groups=2)(x.bfloat16().float(), z.bfloat16().float())
    assert torch.equal(got, expected.bfloat16())
    with pytest.raises(ModelError, match="groups must divide the 6 channels, got 4"):
        GatedRMSNorm(6, groups=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"headdim": 5}, "headdim must divide the 16 channels.*the nearest that do are 2, 4, 8"),
        ({"ngroups": 3}, "ngroups must divide the 4 heads, got 3"),
        ({"d_ssm": 32}, "d_ssm must not exceed d_inner=16, got 32"),
        ({"dt_limit": (0.1, 0.01)}, "dt_limit"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"A_min": 0}, "A_min <= A_max"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        block(**options)


def test_wrong_arguments_are_refused():
    model, u = block(), laws.inputs()
    _, state = model(u)
    for arguments, words in [
        ((u[..., :-1],), "u must have shape"),
        ((u, Mamba2State(state.conv[:1], state.ssm)), "conv_state must have shape"),
        ((u, Mamba2State(state.conv, state.ssm.mT)), "ssm_state must have shape"),
    ]:
        with pytest.raises(ShapeError, match=words):
            model(*arguments)
    with pytest.raises(ShapeError, match=r"mask\.bool\(\)"):
        model(u, mask=torch.ones(2, laws.LENGTH))
