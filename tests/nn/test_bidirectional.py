"""The bidirectional wrapper and the residual branch."""

import pytest
import torch
from torch import nn

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import Bidirectional, Mamba, Residual


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    return [Mamba(4, d_state=2).double() for _ in range(2)]


def inputs(length=6):
    torch.manual_seed(1)
    return torch.randn(2, length, 4, dtype=torch.float64)


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_is_one_block_forward_and_one_backward(blocks, merge):
    u = inputs()
    ahead, back = blocks[0](u)[0], blocks[1](u.flip(1))[0].flip(1)
    y, state = Bidirectional(*blocks, merge=merge)(u)
    assert state is None
    assert torch.equal(y, ahead + back if merge == "sum" else torch.cat([ahead, back], -1))


def test_every_position_sees_every_other(blocks):
    u = inputs().requires_grad_()
    model = Bidirectional(*blocks)
    for position in range(6):
        (gradient,) = torch.autograd.grad(model(u)[0][:, position].sum(), u)
        assert gradient.abs().sum(-1).all()


def test_reversed_input_with_blocks_exchanged_is_reversed_output(blocks):
    u = inputs()
    there, back = Bidirectional(*blocks), Bidirectional(*reversed(blocks))
    torch.testing.assert_close(there(u)[0], back(u.flip(1))[0].flip(1), rtol=1e-12, atol=1e-12)


def test_padded_equals_alone(blocks):
    u, model = inputs(), Bidirectional(*blocks)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0]]).bool()
    y = model(u, mask=mask)[0]
    for row in range(2):
        torch.testing.assert_close(y[row, mask[row]], model(u[row : row + 1, mask[row]])[0][0], rtol=1e-11, atol=1e-12)


def test_packed_sequences_equal_each_alone(blocks):
    u, model = inputs(), Bidirectional(*blocks)
    index = torch.tensor([[0, 0, 1, 1, 1, 1]]).expand(2, -1)
    alone = torch.cat([model(u[:, :2])[0], model(u[:, 2:])[0]], 1)
    torch.testing.assert_close(model(u, seq_idx=index)[0], alone, rtol=1e-11, atol=1e-12)


def test_refuses_a_state_and_unknown_merges(blocks):
    _, state = blocks[0](inputs())
    with pytest.raises(ShapeError, match="cannot continue from a state"):
        Bidirectional(*blocks)(inputs(), state)
    with pytest.raises(ModelError, match="sum, concat, got 'mean'"):
        Bidirectional(*blocks, merge="mean")


def test_residual_adds_the_normed_block_and_passes_state(blocks):
    u, norm = inputs(), nn.LayerNorm(4).double()
    model = Residual(norm, blocks[0])
    y, state = model(u)
    expected, last = blocks[0](norm(u))
    assert torch.equal(y, u + expected)
    assert torch.equal(state.ssm, last.ssm)
    again, _ = model(u, state)
    assert torch.equal(again, u + blocks[0](norm(u), last)[0])
