"""SS2D and the layers around it: against the scan's definition, in every layout."""

import math

import pytest
import torch
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import SS2D, Blocks, DropPath, LayerNorm2d, Linear2d, Mlp, PatchMerging, Permute, drop_path_rates
from ssmlab.ops import cross_merge, cross_scan, selective_scan


def block(d_model=12, **options):
    torch.manual_seed(0)
    options = {"d_state": 3, "channel_first": False} | options
    module = SS2D(d_model, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def by_definition(m: SS2D, u):
    """SS2D of a channel-last map, written out: the map is copied into four sequences, each with its own projections."""
    x = F.linear(u, m.in_proj.weight)
    x, z = x.chunk(2, -1) if m.gate else (x, None)
    x = F.silu(m.conv2d(x.permute(0, 3, 1, 2)))
    _, d, h, w = x.shape
    found = []
    for k, sequence in enumerate(cross_scan(x).unbind(1)):
        dt, B, C = torch.einsum("cd,bdl->bcl", m.x_proj_weight[k], sequence).split([m.dt_rank, *[m.d_state] * 2], 1)
        dt = torch.einsum("dr,brl->bdl", m.dt_projs_weight[k], dt)
        A, D = -m.A_logs.view(4, d, -1)[k].exp(), m.Ds.view(4, d)[k]
        bias = m.dt_projs_bias[k]
        y, _ = selective_scan(sequence, dt, A, B, C, D, dt_bias=bias, dt_softplus=True, backend="reference")
        found.append(y)
    y = cross_merge(torch.stack(found, 1), h, w).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (d,), m.out_norm.weight, m.out_norm.bias)
    return F.linear(y if z is None else y * F.silu(z), m.out_proj.weight)


@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"gate": False, "conv_bias": False, "expand": 1.0}, {"dt_rank": 3, "d_conv": 5}]
)
def test_is_the_sum_of_four_scans(options, channel_first):
    m = block(channel_first=channel_first, **options)
    u = torch.randn(2, 5, 7, 12)
    y = m(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if channel_first else m(u)
    torch.testing.assert_close(y, by_definition(m, u), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_definition():
    m = block()
    u = torch.randn(1, 4, 3, 12)
    grads = []
    for function in (m, lambda x: by_definition(m, x)):
        x = u.clone().requires_grad_()
        m.zero_grad()
        function(x).square().sum().backward()
        grads.append([x.grad, *(p.grad.clone() for p in m.parameters())])
    for ours, expected in zip(*grads, strict=True):
        assert ours.abs().sum() > 0
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 6), (9, 2)])
def test_any_map_goes_through(h, w):
    assert block()(torch.randn(2, h, w, 12)).shape == (2, h, w, 12)


def test_no_map_is_copied_between_layers():
    m = block(channel_first=True, gate=False)
    x = torch.randn(2, 6, 5, 12).permute(0, 3, 1, 2)
    assert m(x).is_contiguous(memory_format=torch.channels_last)
    for layer in (LayerNorm2d(12), Linear2d(12, 12), Mlp(12, 24, channel_first=True)):
        assert layer(x).is_contiguous(memory_format=torch.channels_last)


def test_initial_values():
    torch.manual_seed(0)
    m = SS2D(32, 4)
    dt = F.softplus(m.dt_projs_bias)
    assert 1e-3 * 0.99 <= dt.min() < 3e-3
    assert 0.03 < dt.max() <= 0.1 * 1.01
    torch.testing.assert_close(m.A_logs.exp(), torch.arange(1.0, 5).expand(4 * 64, 4))
    assert torch.equal(m.Ds, torch.ones(4 * 64))
    assert 0.9 * 64**-0.5 < m.x_proj_weight.abs().max() <= 64**-0.5
    assert 0.9 * 2**-0.5 < m.dt_projs_weight.abs().max() <= 2**-0.5
    assert m.dt_rank == math.ceil(32 / 16)


def test_half_precision_keeps_the_decay_rates_wide():
    m = block().bfloat16()
    u = torch.randn(1, 4, 4, 12)
    y = m(u.bfloat16())
    assert y.dtype == torch.bfloat16
    assert m._A().dtype == torch.float32
    torch.testing.assert_close(y.float(), m.float()(u), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state must be at least 1"),
        ({"d_conv": 4}, "d_conv must be odd"),
        ({"expand": 0.01}, "d_inner must be at least 1"),
        ({"dt_rank": "all"}, "'auto' or at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        SS2D(12, **options)


def test_a_map_in_the_other_layout_is_named():
    with pytest.raises(ShapeError, match="SS2D"):
        block()(torch.randn(2, 12, 5, 7))


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize(("h", "w"), [(4, 6), (5, 6), (4, 7), (5, 7)])
def test_merging_pads_or_crops_odd_maps(h, w, pad):
    m = PatchMerging(3, 5, pad=pad)
    x = torch.randn(2, h, w, 3)
    rows, columns = ((h + 1) // 2, (w + 1) // 2) if pad else (h // 2, w // 2)
    even = torch.zeros(2, 2 * rows, 2 * columns, 3)
    even[:, : min(h, 2 * rows), : min(w, 2 * columns)] = x[:, : 2 * rows, : 2 * columns]
    quads = even.view(2, rows, 2, columns, 2, 3).permute(0, 1, 3, 4, 2, 5).flatten(3)  # by columns, then by rows
    torch.testing.assert_close(m(x), m.reduction(m.norm(quads)))
    assert m(x).shape == (2, rows, columns, 5)


def test_layers_of_maps_are_those_of_positions():
    x = torch.randn(2, 6, 3, 4)
    last = x.permute(0, 2, 3, 1)
    norm, linear = LayerNorm2d(6), Linear2d(6, 5)
    torch.testing.assert_close(norm(x), F.layer_norm(last, (6,)).permute(0, 3, 1, 2))
    expected = F.conv2d(x, linear.weight[..., None, None], linear.bias)
    torch.testing.assert_close(linear(x), expected, rtol=1e-4, atol=1e-6)
    mlp = Mlp(6, 12)
    first = Mlp(6, 12, channel_first=True)
    first.load_state_dict(mlp.state_dict())
    torch.testing.assert_close(first(x), mlp(last).permute(0, 3, 1, 2))
    assert torch.equal(Permute(0, 2, 3, 1)(x), last)


def test_drop_path_leaves_out_whole_images():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = drop(x)
    kept = y[:, 0, 0] != 0
    assert abs(kept.float().mean() - 0.75) < 0.03
    assert torch.equal(y, kept[:, None, None] * torch.full_like(x, 4 / 3))
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_drop_path_grows_linearly():
    rates = drop_path_rates(0.3, (2, 1, 1))
    assert [len(stage) for stage in rates] == [2, 1, 1]
    torch.testing.assert_close(torch.tensor([*rates[0], *rates[1], *rates[2]]), torch.linspace(0, 0.3, 4))
    assert drop_path_rates(0.3, (1,)) == [[0.0]]


def test_checkpointed_blocks_compute_the_same_once_seen_by_batch_norm():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        blocks = Blocks(*(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)) for _ in range(2)))
        blocks.grad_checkpointing = checkpointing
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        y = blocks(x)
        y.square().mean().backward()
        found.append([y, x.grad, *blocks.state_dict().values(), *(p.grad for p in blocks.parameters())])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
    assert blocks[0][1].momentum == 0.1
