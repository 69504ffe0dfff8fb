"""MambaVision's mixer, its convolution, attention and windows: against their definitions written out."""

import laws
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import MambaVisionMixer, SameConv1d, SelfAttention
from ssmlab.nn.windows import from_windows, to_windows
from ssmlab.ops import selective_scan


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def mixer(**options):
    return MambaVisionMixer(laws.WIDTH, **({"d_state": 3} | options)).double()


def by_definition(m: MambaVisionMixer, u, bias_times=2):
    """The mixer from torch's own parts and the scan's definition; the bias of dt_proj is added `bias_times`."""
    x, z = m.in_proj(u).mT.chunk(2, dim=1)
    half = x.shape[1]
    x = F.silu(F.conv1d(x, m.conv1d_x.weight, padding="same", groups=half))
    z = F.silu(F.conv1d(z, m.conv1d_z.weight, padding="same", groups=half))
    dt, B, C = F.linear(x.mT, m.x_proj.weight).mT.split([m.dt_rank, m.d_state, m.d_state], dim=1)
    dt = F.linear(dt.mT, m.dt_proj.weight, bias_times * m.dt_proj.bias).mT
    y, _ = selective_scan(x, dt, -m.A_log.exp(), B, C, m.D, dt_softplus=True, backend="reference")
    return m.out_proj(torch.cat([y, z], dim=1).mT)


@pytest.mark.parametrize(
    "options", [{}, {"d_conv": 5, "expand": 2}, {"d_conv": 1, "d_state": 1, "dt_rank": 3}], ids=str
)
def test_mixer_and_its_gradients_are_those_of_the_definition(options):
    m, u = mixer(**options), laws.inputs().requires_grad_()
    weight = torch.randn(2, laws.LENGTH, laws.WIDTH, dtype=torch.float64)
    y, expected = m(u), by_definition(m, u)
    laws.assert_close(y, expected)
    laws.assert_close(
        laws.gradients((y * weight).sum(), m, u),
        torch.autograd.grad((expected * weight).sum(), [u, *m.parameters()]),
    )


def test_the_bias_of_the_step_size_counts_twice():
    m, u = mixer(), laws.inputs()
    with torch.no_grad():
        m.dt_proj.bias.fill_(1.0)
    laws.assert_close(m(u), by_definition(m, u, bias_times=2))
    assert (m(u) - by_definition(m, u, bias_times=1)).abs().max() > 1e-3


def test_mixer_looks_one_token_ahead_through_its_convolution():
    u = laws.inputs(1).requires_grad_()
    (gradient,) = torch.autograd.grad(mixer()(u)[0, 4].sum(), u)
    assert gradient[0, :6].abs().sum(-1).all() and not gradient[0, 6:].any()


def test_mixer_calls_its_modules():
    names = ["in_proj", "conv1d_x", "conv1d_z", "x_proj", "dt_proj", "out_proj"]
    laws.sub_modules_are_called(mixer(), names)


def test_mixer_in_half_precision_is_close():
    m, u = mixer().float(), laws.inputs().float()
    expected = m(u)
    with torch.autocast("cpu", torch.bfloat16):
        got = m(u)
    for y in (got, m.bfloat16()(u.bfloat16())):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05 * float(expected.detach().abs().max()))


def test_initial_step_sizes_are_in_their_range():
    steps = F.softplus(mixer(dt_min=0.01, dt_max=0.02).dt_proj.bias)
    assert steps.min() >= 0.01 - 1e-6 and steps.max() <= 0.02 + 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_model": 3}, "expand \\* d_model must be even"),
        ({"d_model": 4, "dt_min": 0.2, "dt_max": 0.1}, "0 < dt_min <= dt_max"),
        ({"d_model": 4, "d_state": 0}, "d_state must be a whole number of at least 1, got 0"),
        ({"d_model": 4, "d_conv": 2}, "width must be odd to see as far ahead as back, got 2"),
        ({"d_model": 4, "dt_rank": "big"}, "dt_rank must be a whole number of at least 1, got 'big'"),
    ],
)
def test_sizes_that_make_no_mixer_are_named(options, words):
    with pytest.raises(ModelError, match=words):
        MambaVisionMixer(**options)


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"MambaVisionMixer: u must have shape \(b, l, 8\)"):
        mixer()(torch.zeros(2, 8, 5, dtype=torch.float64))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_same_convolution_is_torchs(width):
    ours, theirs = SameConv1d(6, width), nn.Conv1d(6, 6, width, groups=6, bias=False, padding="same")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 9, 12)[..., :6].mT
    torch.testing.assert_close(ours(x), F.silu(theirs(x)), rtol=1e-5, atol=1e-6)
    assert ours(x).mT.is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_torchs(bias):
    ours, theirs = SelfAttention(8, 2, qkv_bias=bias), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias if bias else torch.zeros(24))
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    u = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(u), theirs(u, u, u)[0], rtol=1e-5, atol=1e-6)


def test_attention_norms_queries_and_keys():
    ours, u = SelfAttention(8, 2, qk_norm=True), torch.randn(2, 5, 8)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in ours.qkv(u).chunk(3, dim=-1))
    scores = F.layer_norm(q, (4,)) @ F.layer_norm(k, (4,)).mT / 2
    expected = ours.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours(u), expected, rtol=1e-5, atol=1e-6)
    assert set(ours.state_dict()) > {"q_norm.weight", "k_norm.weight"}


def test_attention_drops_only_in_training():
    ours, u = SelfAttention(8, 2, attn_drop=0.5, proj_drop=0.5), torch.randn(2, 5, 8)
    assert not torch.equal(ours(u), ours(u))
    ours.eval()
    assert torch.equal(ours(u), ours(u))
    with pytest.raises(ModelError, match="num_heads must divide d_model=8, got 3"):
        SelfAttention(8, 3)


@pytest.mark.parametrize("shape", [(4, 4), (8, 4), (5, 7), (3, 9), (1, 1)])
def test_windows_come_back(shape):
    x = torch.randn(2, 3, *shape)
    tokens = to_windows(x, 4)
    rows, columns = -(-shape[0] // 4), -(-shape[1] // 4)
    assert tokens.shape == (2 * rows * columns, 16, 3)
    assert torch.equal(from_windows(tokens, 4, *shape), x)


def test_windows_are_read_row_by_row_and_padded_with_zeros():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    expected = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 0, 0], [10, 11, 0, 0]]
    assert to_windows(x, 2)[..., 0].tolist() == expected


def test_one_window_of_channels_last_memory_is_not_copied():
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    tokens = to_windows(x, 4)
    assert tokens.data_ptr() == x.data_ptr() == from_windows(tokens, 4, 4, 4).data_ptr()
