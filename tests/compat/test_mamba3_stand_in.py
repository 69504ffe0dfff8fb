"""The stand-in of mamba_ssm's Mamba3: the original's names, its states, and one token at a time."""

import inspect
from types import SimpleNamespace

import pytest
import torch

from ssmlab import nn
from ssmlab.compat.mamba_ssm import Mamba3 as at_the_top
from ssmlab.compat.mamba_ssm.modules.mamba3 import Mamba3
from ssmlab.core.errors import UserError

SIZES = {"d_model": 16, "d_state": 8, "headdim": 8}
FORMS = {
    "siso": {},
    "mimo": {"is_mimo": True, "mimo_rank": 2},
    "norm": {"is_outproj_norm": True, "rope_fraction": 1.0},
    "mimo, norm": {"is_mimo": True, "mimo_rank": 2, "is_outproj_norm": True},
}


def made(**options):
    torch.manual_seed(0)
    block = Mamba3(**SIZES, layer_idx=3, **options).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return block


def test_signature_and_names_are_the_originals():
    names = list(inspect.signature(Mamba3.__init__).parameters)[1:]
    assert names[:19] == [
        "d_model", "d_state", "expand", "headdim", "ngroups", "rope_fraction", "dt_min", "dt_max", "dt_init_floor",
        "A_floor", "is_outproj_norm", "is_mimo", "mimo_rank", "chunk_size", "dropout", "layer_idx", "n_layer", "device",
        "dtype",
    ]  # fmt: skip
    assert set(made().state_dict()) == {
        "in_proj.weight", "dt_bias", "B_bias", "C_bias", "B_norm.weight", "C_norm.weight", "D", "out_proj.weight"
    }  # fmt: skip
    assert {"mimo_x", "mimo_z", "mimo_o", "norm.weight"} <= set(made(**FORMS["mimo, norm"]).state_dict())
    assert at_the_top is Mamba3


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_it_is_our_block_and_goes_on_token_by_token(form):
    block, u = made(**FORMS[form]), torch.randn(2, 9, 16)
    whole = block(u)
    torch.testing.assert_close(whole, nn.Mamba3.forward(block, u)[0])
    memory = SimpleNamespace(key_value_memory_dict={}, seqlen_offset=0)
    found = [block(u[:, :4], inference_params=memory)]
    for t in range(4, 9):
        memory.seqlen_offset = t
        found.append(block(u[:, t : t + 1], inference_params=memory))
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-5, rtol=1e-4)
    rank = FORMS[form].get("mimo_rank", 1)
    shapes = [tuple(state.shape) for state in memory.key_value_memory_dict[3]]
    assert shapes == [(2, 4, block.num_rope_angles), (2, 4, 8, 8), (2, rank, 4, 8), (2, 4, 8)]


@torch.no_grad()
def test_step_takes_and_returns_what_the_original_does():
    block, u = made(**FORMS["mimo"]), torch.randn(2, 3, 16)
    states = block.allocate_inference_cache(2, 10)
    for t in range(3):
        out, *after = block.step(u[:, t], *states)
        assert all(map(torch.equal, after, states)) and out.shape == (2, 16)
    torch.testing.assert_close(out, block(u)[:, -1], atol=1e-5, rtol=1e-4)


def test_packed_sequences_do_not_see_each_other():
    block, u = made(), torch.randn(1, 9, 16)
    packed = block(u, cu_seqlens=torch.tensor([0, 4, 9], dtype=torch.int32))
    torch.testing.assert_close(packed, torch.cat([block(u[:, :4]), block(u[:, 4:])], 1), atol=1e-5, rtol=1e-4)


def test_dtype_is_that_of_the_projections():
    block = Mamba3(**SIZES, dtype=torch.bfloat16, is_mimo=True)
    kept = {name for name, p in block.named_parameters() if p.dtype == torch.float32}
    assert kept == {"dt_bias", "B_bias", "C_bias", "D", "mimo_x", "mimo_z", "mimo_o"}
    assert block(torch.randn(1, 5, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_older_activation_can_be_asked_for():
    assert made(A_activation="softplus").A_activation == "softplus" and made().A_activation == "heavy_tail"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mamba3(**SIZES, mimo_ranks=2), "unknown argument 'mimo_ranks'"),
        (lambda: made()(torch.zeros(2, 4, 16), cu_seqlens=torch.tensor([0, 4])), "cu_seqlens cuts one row"),
        (
            lambda: made()(
                torch.zeros(2, 2, 16), inference_params=SimpleNamespace(key_value_memory_dict={}, seqlen_offset=3)
            ),
            "one token at a time after a prompt, got 2",
        ),
        (
            lambda: Mamba3(**SIZES)(
                torch.zeros(2, 2, 16), inference_params=SimpleNamespace(key_value_memory_dict={}, seqlen_offset=0)
            ),
            "layer_idx=None",
        ),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()
