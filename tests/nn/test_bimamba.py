"""The bidirectional block of Vim: against two Mamba blocks, and the laws of padding and packing."""

import laws
import pytest
import torch
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import Bidirectional, BiMamba, Mamba
from ssmlab.ops import causal_conv1d, selective_scan

KINDS = ["v1", "v2"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def block(kind="v2", **options):
    m = BiMamba(laws.WIDTH, **({"d_state": 3, "kind": kind} | options)).double()
    with torch.no_grad():  # directions that differ in everything they may differ in
        for parameter in m.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return m


def two_blocks(m: BiMamba) -> Bidirectional:
    """The same as two Mamba blocks that share the outer projections."""
    state = m.state_dict()
    ahead = {key: value for key, value in state.items() if "_b" not in key.split(".")[0]}
    back = dict(ahead) | {
        key.replace("A_b_log", "A_log").replace("_b.", ".").replace("D_b", "D"): value
        for key, value in state.items()
        if key not in ahead
    }
    blocks = []
    for values in (ahead, back):
        blocks.append(Mamba(m.d_model, m.d_state, m.d_conv).double())
        blocks[-1].load_state_dict(values)
    return Bidirectional(*blocks)


@pytest.mark.parametrize("divide", [False, True])
def test_v2_is_two_mamba_blocks_between_one_pair_of_projections(divide):
    m, u = block(divide=divide), laws.inputs()
    y, state = m(u)
    assert state is None
    laws.assert_close(y, two_blocks(m)(u)[0] / (2 if divide else 1))


def test_v1_scans_the_forward_convolution_in_reverse():
    m, u = block("v1"), laws.inputs()
    x, z = m.in_proj(u).mT.chunk(2, dim=1)
    x, _ = causal_conv1d(x, m.conv1d.weight.squeeze(1), m.conv1d.bias, activation="silu")
    dt, B, C = F.linear(x.mT, m.x_proj.weight).mT.split([m.dt_rank, m.d_state, m.d_state], dim=1)
    tensors = [x, m.dt_proj(dt.mT).mT, B, C, z]

    def scan(A_log, x, dt, B, C, z):
        return selective_scan(x, dt, -A_log.exp(), B, C, m.D, z=z, dt_softplus=True, backend="reference")[0]

    back = scan(m.A_b_log, *(tensor.flip(-1) for tensor in tensors)).flip(-1)
    laws.assert_close(m(u)[0], m.out_proj((scan(m.A_log, *tensors) + back).mT))
    assert not {"conv1d_b.weight", "x_proj_b.weight", "dt_proj_b.weight", "D_b"} & set(m.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_every_position_sees_every_other(kind):
    m, u = block(kind), laws.inputs().requires_grad_()
    for position in range(laws.LENGTH):
        (gradient,) = torch.autograd.grad(m(u)[0][:, position].sum(), u)
        assert gradient.abs().sum(-1).all()


@pytest.mark.parametrize("mask", laws.MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_padded_equals_alone_with_gradients(kind, mask):
    m, u, mask = block(kind), laws.inputs().requires_grad_(), torch.tensor(laws.MASKS[mask]).bool()
    weight = torch.randn(2, laws.LENGTH, laws.WIDTH, dtype=torch.float64)
    y, _ = m(u.masked_fill(~mask[..., None], float("nan")), mask=mask)
    assert torch.equal(y[~mask], torch.zeros_like(y[~mask]))
    alone_loss = torch.zeros(())
    for row in range(2):
        if mask[row].any():
            alone, _ = m(u[row : row + 1, mask[row]])
            laws.assert_close(y[row, mask[row]], alone[0])
            alone_loss = alone_loss + (alone * weight[row, mask[row]]).sum()
    laws.assert_close(laws.gradients((y * weight).sum(), m, u), laws.gradients(alone_loss, m, u))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_equal_each_alone(kind, masked):
    m, parts = block(kind), [laws.inputs(1, length) for length in (4, 1, 5)]
    u, index, mask = torch.cat(parts, 1), torch.tensor([[7] * 4 + [2] + [7] * 5]), None
    if masked:
        mask = torch.tensor([[True] * 2 + [False] * 4 + [True] * 6 + [False] + [True] * 2])
        wide, numbers = torch.randn(1, 15, laws.WIDTH, dtype=torch.float64), torch.full((1, 15), 99)
        wide[mask], numbers[mask] = u[0], index[0]
        u, index = wide, numbers
    y, _ = m(u, mask=mask, seq_idx=index)
    laws.assert_close(y if mask is None else y[mask][None], torch.cat([m(part)[0] for part in parts], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_modules_are_called_and_half_precision_is_close(kind):
    names = ["in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"]
    names += ["conv1d_b", "x_proj_b", "dt_proj_b"] if kind == "v2" else []
    laws.sub_modules_are_called(block(kind), names)
    laws.half_precision_is_close(block(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_close_to_float64(kind):
    laws.float32_is_close_to_float64(block(kind))


def test_biases_can_be_had_and_left_out():
    names = set(BiMamba(4, d_state=2, bias=True, conv_bias=False).state_dict())
    assert {"in_proj.bias", "out_proj.bias"} <= names and not {"conv1d.bias", "conv1d_b.bias"} & names


def test_refuses_a_state_other_shapes_and_unknown_kinds():
    with pytest.raises(ShapeError, match="cannot continue from a state"):
        block()(laws.inputs(), torch.zeros(1))
    with pytest.raises(ShapeError, match=r"BiMamba: u must have shape \(b, l, 8\)"):
        block()(torch.zeros(2, 3, 5))
    with pytest.raises(ModelError, match="kind must be one of v1, v2, got 'v3'"):
        BiMamba(4, kind="v3")
    with pytest.raises(ModelError, match="d_state must be at least 1, got 0"):
        BiMamba(4, d_state=0)
