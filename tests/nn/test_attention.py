"""Causal attention: laws, its definition written out, rotary positions, refusals; the gated MLP beside it."""

import laws
import pytest
import torch
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import Attention, AttentionState, GatedMLP
from ssmlab.nn.self_attention import SHORT, attend

CASES = [
    {},
    {"num_kv_heads": 1, "qkv_bias": True, "out_bias": True},
    {"d_conv": 4, "head_dim": 6, "rotary_dim": 4, "num_kv_heads": 2},
    {"d_conv": 1, "rotary_dim": 0},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def block(**options):
    """In float64, so that equal means equal."""
    return Attention(laws.WIDTH, 2, **options).double()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_one_token_at_a_time_equals_whole(options):
    laws.one_by_one_equals_whole(block(**options))


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_halves_equal_whole_with_gradients_through_the_state(options, cut):
    laws.halves_equal_whole(block(**options), cut)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", laws.MASKS)
@pytest.mark.parametrize("options", CASES, ids=str)
def test_padded_equals_alone(kind, options, with_state):
    laws.padded_equals_alone(block(**options), kind, with_state)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_packed_sequences_equal_each_alone(options, masked, with_state):
    laws.packed_equals_each_alone(block(**options), masked, with_state)


def test_future_rows_precision_and_sub_modules():
    laws.one_sequence_is_continued(block(d_conv=3))
    laws.future_is_ignored_and_rows_are_independent(block())
    laws.float32_is_close_to_float64(block(d_conv=3))
    laws.sub_modules_are_called(block(d_conv=3), ["in_proj", "conv1d", "out_proj"])
    laws.half_precision_is_close(block())


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_softmax_attention_written_out(options):
    model, u = block(**options), laws.inputs()
    qkv = model.in_proj(u)
    if model.conv1d is not None:
        qkv = model.conv1d(qkv.mT)[0].mT
    heads, groups = model.num_heads, model.num_kv_heads
    q, k, v = qkv.unflatten(-1, (-1, model.head_dim)).split([heads, groups, groups], 2)
    half, answers = model.rotary_dim // 2, []
    rate = 10000.0 ** (-torch.arange(half).double() / max(half, 1))
    turn = torch.polar(torch.ones(()).double(), torch.arange(laws.LENGTH).double()[:, None] * rate)
    for head in range(heads):
        pair = [t[:, :, i] for t, i in ((q, head), (k, head // (heads // groups)))]
        for i, t in enumerate(pair):
            rotated = torch.complex(t[..., :half], t[..., half : 2 * half]) * turn
            pair[i] = torch.cat([rotated.real, rotated.imag, t[..., 2 * half :]], -1)
        score = pair[0] @ pair[1].mT / model.head_dim**0.5
        future = torch.ones(laws.LENGTH, laws.LENGTH).triu(1).bool()
        answers.append(score.masked_fill(future, -torch.inf).softmax(-1) @ v[:, :, head // (heads // groups)])
    laws.assert_close(model(u)[0], model.out_proj(torch.cat(answers, -1)))


def test_scores_depend_on_distances_alone():
    """A prefix of other tokens that nobody sees shifts all positions and changes nothing but them."""
    model, u = block(rotary_dim=4), laws.inputs()
    _, state = model(laws.inputs())
    blind = AttentionState(*state[:3], torch.zeros_like(state.seen))
    laws.assert_close(model(u, blind)[0], model(u)[0])
    seen = model(u, AttentionState(state.conv, torch.zeros_like(state.k), torch.zeros_like(state.v), state.seen))[0]
    assert not torch.allclose(seen, model(u)[0])


def test_names_and_layouts_are_upstreams():
    model = Attention(16, 4, num_kv_heads=2, head_dim=8, d_conv=4, out_bias=True)
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == {
        "in_proj.weight": (64, 16),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "out_proj.weight": (16, 32),
        "out_proj.bias": (16,),
    }


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((8, 0), {}, "num_heads must be at least 1, got 0"),
        ((8, 3), {}, "3 heads do not divide d_model=8; give head_dim"),
        ((8, 4), {"num_kv_heads": 3}, "num_kv_heads must divide num_heads=4, got 3"),
        ((8, 2), {"rotary_dim": 3}, "rotary_dim must be even and at most head_dim=4, got 3"),
        ((8, 2), {"rotary_dim": 6}, "at most head_dim=4"),
    ],
)
def test_wrong_sizes_are_refused(arguments, options, words):
    with pytest.raises(ModelError, match=words):
        Attention(*arguments, **options)


def test_wrong_arguments_are_refused():
    model, u = block(), laws.inputs()
    _, state = model(u)
    with pytest.raises(ShapeError, match="k_state must have shape"):
        model(u, state._replace(k=state.k[..., :-1]))
    with pytest.raises(ShapeError, match="seen_state must have shape"):
        model(u, state._replace(seen=state.seen[:, 1:]))
    with pytest.raises(ShapeError, match="u must have shape"):
        model(u[..., :-1])


def test_gated_mlp_is_swiglu():
    mlp, u = GatedMLP(8, 10, multiple_of=4, bias=True).double(), laws.inputs()
    assert mlp.fc1.weight.shape == (24, 8) and mlp.fc2.weight.shape == (8, 12)
    x, gate = F.linear(u, mlp.fc1.weight, mlp.fc1.bias).split(12, -1)
    laws.assert_close(mlp(u), F.linear(x * gate * gate.sigmoid(), mlp.fc2.weight, mlp.fc2.bias))
    assert GatedMLP(8, 10).fc2.weight.shape == (8, 128)
    assert "fc1.bias" not in GatedMLP(8, 10).state_dict()
    with pytest.raises(ModelError, match="hidden must be at least 1, got 0"):
        GatedMLP(8, 0)


@pytest.mark.parametrize("keys", [5, SHORT + 1])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_in_half_precision_are_torchs_over_few_keys_and_many(keys, autocast):
    """Few keys are taken in float32 inside; what comes out has the inputs' dtype and the error of bfloat16 at most."""
    half = [torch.randn(2, 3, keys, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [t.detach().double().requires_grad_() for t in half]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = attend(*half, is_causal=True)
    expected = F.scaled_dot_product_attention(*exact, is_causal=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=0.02, atol=0.02)
    y.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip(half, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.03, atol=0.03)
