"""The stand-ins of mamba_ssm's Mamba-2 blocks, against our blocks, themselves token by token, and the definition."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from ops.common import relative_error
from ssmlab import nn
from ssmlab.compat.mamba_ssm.modules.mamba2 import Mamba2
from ssmlab.compat.mamba_ssm.modules.mamba2_simple import Mamba2Simple
from ssmlab.compat.mamba_ssm.modules.ssd_minimal import segsum, segsum_unstable, ssd_minimal_discrete, test_correctness
from ssmlab.compat.mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_ref
from ssmlab.core.errors import UserError

SIZES = {"d_model": 16, "d_state": 4, "headdim": 8}
FORMS = {
    "plain": {},
    "groups": {"ngroups": 2, "norm_before_gate": True},
    "no norm": {"rmsnorm": False, "D_has_hdim": True, "bias": True},
    "limited": {"dt_limit": (0.01, 0.05), "d_ssm": 16, "conv_bias": False, "conv_init": 0.2, "A_init_range": (2, 3)},
}


def made(cls=Mamba2, **options):
    torch.manual_seed(0)
    block = cls(**SIZES, layer_idx=1, **options).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return block


def memory(offset=0):
    return SimpleNamespace(key_value_memory_dict={}, seqlen_offset=offset)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_it_is_our_block_and_goes_on_token_by_token(form):
    block, u = made(**FORMS[form]), torch.randn(2, 9, 16)
    whole = block(u)
    assert torch.equal(whole, nn.Mamba2.forward(block, u)[0])
    assert relative_error(block(u.flatten(0, 1), seqlen=9), whole.flatten(0, 1)) < 1e-6
    params = memory()
    found = [block(u[:, :3], inference_params=params)]
    conv, ssm = params.key_value_memory_dict[1]
    assert conv.shape == (2, len(block.conv1d.weight), 4) and ssm.shape == (2, block.nheads, 8, 4)
    assert not conv[..., 0].any() and conv[..., 1:].any(), "a prompt of 3 tokens, newest last"
    for t in range(3, 9):
        params.seqlen_offset = t
        found.append(block(u[:, t : t + 1], inference_params=params))
    assert relative_error(torch.cat(found, 1), whole) < 1e-6
    again = block.allocate_inference_cache(2, None, dtype=torch.float64)
    for t in range(9):
        y, *after = block.step(u[:, t : t + 1], *again)
        assert after[0] is again[0] and after[1] is again[1]
    assert relative_error(y, whole[:, -1:]) < 1e-6 and relative_error(again[1], ssm) < 1e-6


def test_names_and_dtypes_are_the_originals():
    assert {k: tuple(t.shape) for k, t in made().state_dict().items()} == {
        "dt_bias": (4,), "A_log": (4,), "D": (4,), "in_proj.weight": (76, 16), "conv1d.weight": (40, 1, 4),
        "conv1d.bias": (40,), "norm.weight": (32,), "out_proj.weight": (16, 32),
    }  # fmt: skip
    block = Mamba2(**SIZES, dtype=torch.bfloat16)
    assert {name for name, p in block.named_parameters() if p.dtype == torch.float32} == {"D"}
    assert block(torch.randn(1, 5, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert made(conv_init=0.0, conv_bias=False, A_init_range=(2, 2)).A_log.std() < 0.2
    for name in ("A_log", "D", "dt_bias"):
        assert getattr(block, name)._no_weight_decay


@torch.no_grad()
def test_packed_sequences():
    block, u, bounds = made(), torch.randn(1, 12, 16), [0, 5, 6, 10]
    alone = torch.cat([block(u[:, begin:end]) for begin, end in pairwise(bounds)], 1)
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    seq_idx = torch.tensor([[0] * 5 + [1] + [2] * 4 + [-1] * 2])
    for marks in ({"cu_seqlens": cu_seqlens}, {"seq_idx": seq_idx}, {"seq_idx": seq_idx, "cu_seqlens": cu_seqlens}):
        assert relative_error(block(u, **marks)[:, :10], alone) < 1e-6
    params = memory()
    cut = torch.tensor([*bounds, 10])  # the last one is empty
    y = block(u, seq_idx=seq_idx, cu_seqlens=cut, inference_params=params)
    assert relative_error(y[:, :10], alone) < 1e-6 and not y[:, 10:].any()
    assert not params.key_value_memory_dict[1][1][3].any()
    params.seqlen_offset = 1
    new = torch.randn(4, 1, 16)
    found = block(new, inference_params=params)
    for i, (begin, end) in enumerate(pairwise(bounds)):
        exact = block(torch.cat([u[:, begin:end], new[i : i + 1]], 1))[:, -1:]
        assert relative_error(found[i : i + 1], exact) < 1e-6


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("learnable", [True, False])
def test_simple(fused, learnable):
    block = made(Mamba2Simple, ngroups=2, use_mem_eff_path=fused, learnable_init_states=learnable)
    u = torch.randn(2, 9, 16)
    assert ("init_states" in dict(block.named_parameters())) == learnable
    y = block(u)
    halves = block(torch.cat([u, u], 1), seq_idx=torch.tensor([[0] * 9 + [1] * 9]).expand(2, -1))
    assert relative_error(halves[:, :9].detach(), y.detach()) < 1e-6
    assert (relative_error(halves[:, 9:].detach(), y.detach()) < 1e-6) != learnable, "packed ones start from zero"
    if not learnable:
        p = dict(block.named_parameters())
        arguments = (
            block.in_proj(u),
            p["conv1d.weight"][:, 0],
            p["conv1d.bias"],
            p["dt_bias"],
            -p["A_log"].exp(),
            p["D"],
        )
        exact = mamba_split_conv1d_scan_ref(
            *arguments, 8, headdim=8, ngroups=2, rmsnorm_weight=p["norm.weight"], rmsnorm_eps=1e-5,
            outproj_weight=p["out_proj.weight"], norm_before_gate=False,
        )  # fmt: skip
        assert (relative_error(y.detach(), exact.detach()) < 2e-6) != fused, "the reference norms all channels together"
    else:
        assert torch.autograd.grad(y.sum(), block.init_states)[0].any()


def test_minimal_listing():
    torch.manual_seed(0)
    X, A, B, C = torch.randn(2, 12, 3, 4), -torch.rand(2, 12, 3), torch.randn(2, 12, 3, 5), torch.randn(2, 12, 3, 5)
    state = torch.randn(2, 1, 3, 4, 5)
    h, ys = state[:, 0], []
    for t in range(12):
        h = A[:, t].exp()[..., None, None] * h + X[:, t, ..., None] * B[:, t, :, None]
        ys.append((h * C[:, t, :, None]).sum(-1))
    for length in (3, 12):
        y, last = ssd_minimal_discrete(X, A, B, C, length, state)
        assert relative_error(y, torch.stack(ys, 1)) < 1e-6 and relative_error(last, h) < 1e-6
    zero = ssd_minimal_discrete(X, A, B, C, 4)[0]
    assert relative_error(zero, ssd_minimal_discrete(X, A, B, C, 4, torch.zeros_like(state))[0]) < 1e-7
    torch.testing.assert_close(segsum(A), segsum_unstable(A))
    assert segsum(A)[0, 0, 2, 0] == pytest.approx(float(A[0, 0, 1:3].sum())) and segsum(A)[0, 0, 0, 1] == -torch.inf
    test_correctness()
    with pytest.raises(UserError, match="block_len must divide the length 12, got 5"):
        ssd_minimal_discrete(X, A, B, C, 5)


def test_hub_folder(tmp_path):
    block, u = made(ngroups=2), torch.randn(1, 4, 16)
    block.save_pretrained(tmp_path)
    assert torch.equal(Mamba2.from_pretrained(tmp_path)(u), block(u))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made().step(torch.zeros(1, 2, 16), None, None), "one token at a time, got 2"),
        (lambda: Mamba2(**SIZES)(torch.zeros(1, 2, 16), inference_params=memory()), "layer_idx=None"),
        (
            lambda: made()(torch.zeros(2, 2, 16), cu_seqlens=torch.tensor([0, 2]), inference_params=memory()),
            "cu_seqlens cuts one row, got 2",
        ),
        (lambda: Mamba2(**SIZES, process_group=SimpleNamespace(size=lambda: 2)), "over 2 processes has no counterpart"),
        (lambda: Mamba2Simple(**SIZES, activation="gelu"), "'silu' or 'swish', got 'gelu'"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_a_group_of_one_process():
    assert Mamba2(**SIZES, process_group=SimpleNamespace(size=lambda: 1)).nheads == 4
