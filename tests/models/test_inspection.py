"""Looking inside: what is seen explains the states and outputs that the model returns."""

import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.language.inspection import inspect

CASES = {
    "mamba": ("mamba_lm_test", {}),
    "falcon": ("mamba_lm_test", {"mixer_norm_eps": 1e-6}),
    "mamba2": ("mamba2_lm_test", {"ngroups": 2}),
    "mamba2 with limits": ("mamba2_lm_test", {"dt_limit": (0.01, 0.05), "D_has_hdim": True}),
    "mamba with complex A": ("mamba_lm_test", {"init": "lin"}),
    "mamba3": ("mamba3_lm_test", {}),
    "mamba3 mimo": ("mamba3_mimo_lm_test", {}),
    "s4d": ("s4d_lm_test", {}),
    "s4d bilinear": ("s4d_lm_test", {"discretization": "bilinear"}),
    "s4d without gate": ("s4d_lm_test", {"gate": False, "d_conv": 0, "init": "real"}),
}
each_case = pytest.mark.parametrize("case", CASES)


def build(case):
    torch.manual_seed(0)
    name, options = CASES[case]
    return create_model(name, **options).double().eval()


def tokens():
    return torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(1))


@each_case
def test_the_states_are_those_the_model_returns(case):
    model, ids = build(case), tokens()
    with inspect(model) as seen:
        logits, state = model(ids)
    assert [own.name for own in seen] == ["backbone.layers.0.mixer", "backbone.layers.1.mixer"]
    for own, layer in zip(seen, state):
        torch.testing.assert_close(own.states()[:, -1], layer.ssm)
        assert (own.dt > 0).all() and own.states().shape == (2, 7, *layer.ssm.shape[1:])
    assert torch.equal(model(ids)[0], logits) and len(seen) == 2  # nothing is noted any more


@each_case
def test_calls_go_on_from_the_state_and_padding_is_where_it_was(case):
    model, ids = build(case), tokens()
    with inspect(model) as whole:
        model(ids)
    with inspect(model) as parts:
        model(ids[:, 4:], model(ids[:, :4])[1])
    assert len(parts) == 4
    for own, first, second in zip(whole, parts[:2], parts[2:]):
        torch.testing.assert_close(torch.cat([first.states(), second.states()], 1), own.states())
    mask = torch.ones(2, 7).bool()
    mask[0, :3] = False
    with inspect(model) as padded:
        model(ids, mask=mask)
    with inspect(model) as alone:
        model(ids[:1, 3:])
    for own, row in zip(padded, alone):
        assert not own.dt[0, :3].any() and not own.states()[0, :3].any()
        for field in ("x", "dt", "B", "C"):
            got = getattr(own, field)  # an S4D's B and C are the same at every token
            torch.testing.assert_close(got if got.dim() == 2 else got[:1, 3:], getattr(row, field))


@each_case
def test_packed_sequences_begin_anew(case):
    """Two sequences in a row, behind a state that belongs to the first: the second is as it is alone."""
    model, ids = build(case), tokens()
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    mask = torch.ones(2, 7).bool()
    mask[:, 0] = mask[1, 4] = False
    _, before = model(ids[:, :2])
    for given in (None, mask):
        with inspect(model) as packed:
            model(ids, before, seq_idx=seq_idx, mask=given)
        with inspect(model) as first:
            model(ids[:, :3], before, mask=None if given is None else given[:, :3])
        with inspect(model) as second:
            model(ids[:, 3:], mask=None if given is None else given[:, 3:])
        for own, *parts in zip(packed, first, second, strict=True):
            torch.testing.assert_close(own.states(), torch.cat([part.states() for part in parts], 1))


@pytest.mark.parametrize("case", ["mamba", "mamba2", "mamba3", "mamba3 mimo", "s4d", "s4d without gate"])
def test_outputs_follow_from_what_is_seen(case):
    """out_proj's input from C h + D x and the gate, for every kind of block."""
    model, behind = build(case), []
    block = model.backbone.layers[0].mixer
    block.out_proj.register_forward_pre_hook(lambda module, inputs: behind.append(inputs[0]))
    with inspect(model) as seen:
        model(tokens())
    own, states = seen[0], seen[0].states()
    u = block.in_proj(model.backbone.layers[0].norm(model.backbone.embedding(tokens())))
    silu, gelu = torch.nn.functional.silu, torch.nn.functional.gelu
    if case == "mamba":
        y = torch.einsum("bldn,bln->bld", states, own.C) + block.D * own.x
        expected = y * silu(u.chunk(2, -1)[1])
    elif case == "mamba2":
        y = torch.einsum("blhpn,blhn->blhp", states, own.C) + block.D[:, None] * own.x
        expected = block.norm(y.flatten(2), u[..., : block.d_ssm])
    elif case == "mamba3":
        y = torch.einsum("blhpn,blhn->blhp", states, own.C) + block.D[:, None] * own.x
        expected = y.flatten(2) * silu(u[..., : block.d_inner])
    elif case == "mamba3 mimo":
        y = torch.einsum("blhpn,blrhn->blrhp", states, own.C) + block.D[:, None] * own.x
        z = u[..., : block.d_inner].unflatten(-1, (1, block.nheads, block.headdim)) * block.mimo_z.transpose(0, 1)
        expected = (y * silu(z) * block.mimo_o.transpose(0, 1)).sum(2).flatten(2)
    else:
        y = torch.einsum("bldn,dn->bld", states, own.C)
        y = (2 * y.real if y.is_complex() else y) + block.D * own.x
        expected = y * silu(u.chunk(2, -1)[1]) if block.gate else gelu(y)
    torch.testing.assert_close(behind[0], expected)


def test_gradients_reach_the_parameters_and_half_precision_is_seen_wide():
    model = build("mamba")
    with inspect(model) as seen:
        model(tokens())
    seen[1].states().sum().backward()
    assert model.backbone.layers[1].mixer.A_log.grad.abs().sum() > 0
    with inspect(model.bfloat16()) as seen:
        model(tokens())
    assert {seen[0].dt.dtype, seen[0].B.dtype, seen[0].states().dtype} == {torch.float32}


def test_other_blocks_run_unseen():
    with inspect(create_model("mamba2_attention_lm_test")) as seen:
        pass
    assert seen == []
    with (
        pytest.raises(ModelError, match="LanguageModel has no block of a state space model"),
        inspect(create_model("transformer_lm_test")),
    ):
        pass
