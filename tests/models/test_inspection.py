"""Looking inside: what is seen explains the states and outputs that the model returns."""

import pytest
import torch

from ssmlab.errors import ModelError
from ssmlab.models.inspection import inspect
from ssmlab.models.language import create_language_model

CASES = {
    "mamba": ("mamba_lm_test", {}),
    "falcon": ("mamba_lm_test", {"mixer_norm_eps": 1e-6}),
    "mamba2": ("mamba2_lm_test", {"ngroups": 2}),
    "mamba2 with limits": ("mamba2_lm_test", {"dt_limit": (0.01, 0.05), "D_has_hdim": True}),
}
each_case = pytest.mark.parametrize("case", CASES)


def build(case):
    torch.manual_seed(0)
    name, options = CASES[case]
    return create_language_model(name, **options).double().eval()


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
            torch.testing.assert_close(getattr(own, field)[:1, 3:], getattr(row, field))


def test_outputs_follow_from_what_is_seen():
    """y = C h + D x before gate and projection, for both kinds of block."""
    for case in ("mamba", "mamba2"):
        model, gated = build(case), []
        block = model.backbone.layers[0].mixer
        block.out_proj.register_forward_pre_hook(lambda module, inputs, gated=gated: gated.append(inputs[0]))
        with inspect(model) as seen:
            model(tokens())
        own = seen[0]
        hidden = model.backbone.layers[0].norm(model.backbone.embedding(tokens()))
        if case == "mamba":
            y = torch.einsum("bldn,bln->bld", own.states(), own.C) + block.D * own.x
            z = block.in_proj(hidden).chunk(2, -1)[1]
            expected = y * torch.nn.functional.silu(z)
        else:
            y = torch.einsum("blhpn,blhn->blhp", own.states(), own.C) + block.D[:, None] * own.x
            expected = block.norm(y.flatten(2), block.in_proj(hidden)[..., : block.d_ssm])
        torch.testing.assert_close(gated[0], expected)


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
    with inspect(create_language_model("mamba2_attention_lm_test")) as seen:
        pass
    assert seen == []
    with (
        pytest.raises(ModelError, match="LanguageModel has no Mamba or Mamba-2 block"),
        inspect(create_language_model("transformer_lm_test")),
    ):
        pass
