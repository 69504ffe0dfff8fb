"""The stand-ins of causal_conv1d: sequences, single tokens, rings, chosen rows, packed sequences."""

import pytest
import torch

from ops.common import relative_error
from ssmlab.compat.causal_conv1d.causal_conv1d_interface import (
    causal_conv1d_fn,
    causal_conv1d_ref,
    causal_conv1d_update,
    causal_conv1d_update_ref,
)
from ssmlab.compat.causal_conv1d.causal_conv1d_varlen import (
    causal_conv1d_varlen_states,
    causal_conv1d_varlen_states_ref,
)
from ssmlab.compat.causal_conv1d.cpp_functions import (
    causal_conv1d_bwd_function,
    causal_conv1d_fwd_function,
    causal_conv1d_update_function,
)
from ssmlab.core.errors import UserError

b, d, l, w = 3, 5, 17, 4
close = pytest.approx(0, abs=2e-6)


@pytest.fixture
def inputs():
    return {"x": torch.randn(b, d, l), "weight": torch.randn(d, w), "bias": torch.randn(d)}


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
def test_sequences(inputs, activation):
    past, out = torch.randn(b, d, w - 1), torch.empty(b, d, w - 1)
    y, final = causal_conv1d_fn(
        **inputs, initial_states=past, return_final_states=True, final_states_out=out, activation=activation
    )
    expected, last = causal_conv1d_ref(**inputs, initial_states=past, return_final_states=True, activation=activation)
    assert (
        relative_error(y, expected) == close and torch.equal(final, last) and torch.equal(final, inputs["x"][..., -3:])
    )
    assert final is out
    by_hand = sum(
        inputs["weight"][:, k, None] * torch.cat([past, inputs["x"]], -1)[..., k : k + l] for k in range(w)
    ) + inputs["bias"][:, None]  # fmt: skip
    if activation is None:
        assert relative_error(y, by_hand) == close


def test_an_unknown_activation(inputs):
    with pytest.raises(UserError, match="'silu' or 'swish', got 'relu'"):
        causal_conv1d_fn(**inputs, activation="relu")


def test_padding_is_zero(inputs):
    seq_idx = torch.tensor([[0] * 6 + [1] * 8 + [-1] * 3] * b, dtype=torch.int32)
    y = causal_conv1d_fn(**inputs, seq_idx=seq_idx)
    assert not y[..., 14:].any()
    second = inputs | {"x": inputs["x"][..., 6:14]}
    assert relative_error(y[..., 6:14], causal_conv1d_ref(**second)) == close


@pytest.mark.parametrize("tokens", [None, 1, 3, 6])
@pytest.mark.parametrize("length", [3, 4, 9])
@pytest.mark.parametrize("ring", [False, True])
def test_update(inputs, tokens, length, ring):
    if ring and (tokens or 1) > length:
        pytest.skip("the ring is shorter than what is written")
    x = torch.randn(b, d, l)
    state = torch.zeros(b, d, length)
    seen = torch.zeros(b, dtype=torch.int32) if ring else None
    outputs, step = [], tokens or 1
    for t in range(0, l - l % step, step):
        piece = x[..., t] if tokens is None else x[..., t : t + step]
        expected_state = state.clone()
        y = causal_conv1d_update(piece, state, inputs["weight"], inputs["bias"], "silu", seen)
        expected = causal_conv1d_update_ref(piece, expected_state, inputs["weight"], inputs["bias"], "silu", seen)
        assert y.shape == piece.shape and relative_error(y, expected) == close and torch.equal(state, expected_state)
        outputs.append(y.reshape(b, d, -1))
        seen = None if seen is None else seen + step
    whole = causal_conv1d_fn(x, inputs["weight"], inputs["bias"], activation="silu")
    found = torch.cat(outputs, dim=-1)
    assert relative_error(found, whole[..., : found.shape[-1]]) == close


def test_update_of_chosen_rows(inputs):
    states = torch.randn(8, d, 5)
    before, rows = states.clone(), torch.tensor([6, -1, 2], dtype=torch.int32)
    x = torch.randn(b, d)
    y = causal_conv1d_update(x, states, inputs["weight"], conv_state_indices=rows)
    assert not y[1].any()
    for i, row in ((0, 6), (2, 2)):
        alone = before[row : row + 1].clone()
        assert relative_error(y[i : i + 1], causal_conv1d_update_ref(x[i : i + 1], alone, inputs["weight"])) == close
        assert torch.equal(states[row : row + 1], alone)
    others = [0, 1, 3, 4, 5, 7]
    assert torch.equal(states[others], before[others])


def test_states_of_packed_sequences():
    lengths = torch.tensor([1, 7, 2, 30])
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    x = torch.randn(int(lengths.sum()), d)
    for count in (1, 3, 20):
        found = causal_conv1d_varlen_states(x, bounds, count)
        assert torch.equal(found, causal_conv1d_varlen_states_ref(x, bounds, count))
        assert found.shape == (4, d, count) and torch.equal(found[0, :, -1], x[0])


def test_passes_apart(inputs):
    past = torch.randn(b, d, w - 1)
    leaves = [t.clone().requires_grad_() for t in (*inputs.values(), past)]
    y, final = causal_conv1d_ref(*leaves[:3], initial_states=leaves[3], return_final_states=True, activation="silu")
    gy, gfinal = torch.randn_like(y), torch.randn_like(final)
    expected = torch.autograd.grad([y, final], leaves, [gy, gfinal])
    x, weight, bias = inputs.values()
    out = torch.empty_like(final)
    assert relative_error(causal_conv1d_fwd_function(x, weight, bias, None, past, out, True), y.detach()) == close
    assert torch.equal(out, final)
    gx = torch.empty_like(x)
    found = causal_conv1d_bwd_function(x, weight, bias, gy, None, past, gfinal, gx, True, True)
    assert found[0] is gx
    assert max(relative_error(a, e) for a, e in zip(found, expected, strict=True)) == close
    assert causal_conv1d_bwd_function(x, weight, None, gy, None, None, None, None, False, True)[2:] == (None, None)
    state = torch.zeros(b, d, w)
    y = causal_conv1d_update_function(x[..., :2], state, weight, bias, False, None, None)
    assert relative_error(y, causal_conv1d_ref(x[..., :2], weight, bias)) == close
