"""Passes by themselves, as programs import them: against autograd over the functions that span them."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from ops.common import relative_error
from ssmlab import ops
from ssmlab.compat.mamba_ssm.distributed import distributed_utils as dist
from ssmlab.compat.mamba_ssm.distributed import tensor_parallel
from ssmlab.compat.mamba_ssm.ops.tilelang.mamba3.mamba3_mimo import mamba3_mimo
from ssmlab.compat.mamba_ssm.ops.triton import (
    k_activations,
    layer_norm,
    layernorm_gated,
    ssd_bmm,
    ssd_chunk_scan,
    ssd_chunk_state,
    ssd_combined,
    ssd_state_passing,
)
from ssmlab.compat.mamba_ssm.ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined
from ssmlab.compat.mamba_ssm.ops.triton.mamba3.mamba3_siso_step import mamba3_siso_step
from ssmlab.compat.mamba_ssm.utils import determinism
from ssmlab.compat.mamba_ssm.utils.torch import custom_bwd, custom_fwd
from ssmlab.core.errors import UserError

b, l, h, p, g, n, size = 2, 21, 4, 3, 2, 5, 8
SEQ_IDX = torch.tensor([[0] * 6 + [1] * 9 + [2] * 6, [0] * 16 + [3] * 5])


def ssd_inputs():
    torch.manual_seed(0)
    return {"x": torch.randn(b, l, h, p), "dt": torch.rand(b, l, h), "A": -torch.rand(h), "B": torch.randn(b, l, g, n),
            "C": torch.randn(b, l, g, n), "D": torch.randn(h, p), "z": torch.randn(b, l, h, p),
            "dt_bias": torch.rand(h), "initial_states": torch.randn(b, h, p, n)}  # fmt: skip


def close(found, exact):
    for a, e in zip(found, exact, strict=True):
        assert (a is None) == (e is None)
        assert a is None or relative_error(a.detach(), e.detach()) < 3e-6


@pytest.mark.parametrize("seq_idx", [None, SEQ_IDX], ids=["one sequence", "packed"])
def test_chunks_make_the_scan(seq_idx):
    i = ssd_inputs()
    y, before, dt, total, states, final = ssd_combined._mamba_chunk_scan_combined_fwd(
        **i, chunk_size=size, seq_idx=seq_idx, dt_softplus=True
    )
    renamed = {k: t for k, t in i.items() if k != "initial_states"}
    exact = ops.ssd(
        **renamed, dt_softplus=True, initial_state=i["initial_states"], seq_idx=seq_idx, backend="reference"
    )
    close([y, final], exact)
    assert dt.shape == total.shape == (b, h, 3, size) and not dt[..., -1, 5:].any(), "the last chunk is filled up"
    cb = ssd_bmm._bmm_chunk_fwd(i["C"], i["B"], size, seq_idx=seq_idx)
    close(ssd_chunk_scan._chunk_scan_fwd(cb, i["x"], dt, total, i["C"], states, i["D"], i["z"], seq_idx), [y, before])
    added = ssd_chunk_state._chunk_state_fwd(i["B"], i["x"], dt, total, seq_idx)
    passed = ssd_state_passing._state_passing_fwd(
        added.flatten(3), total[..., -1], i["initial_states"].flatten(2), seq_idx, size
    )
    close(passed, [states.flatten(3), final.flatten(2)])
    if seq_idx is None:
        own = (i["B"], i["C"], i["x"], dt, total, states, i["D"], i["z"])
        close([ssd_chunk_scan.chunk_scan(*own)], [y])
        close([ssd_chunk_state.chunk_state(i["B"], i["x"], dt, total)], [added])
    else:
        with pytest.raises(UserError, match="seq_idx needs the chunk_size"):
            ssd_state_passing._state_passing_fwd(added.flatten(3), total[..., -1], seq_idx=seq_idx)


def test_states_of_packed_sequences():
    i = {k: t[:1] if k in ("x", "dt", "B", "C") else t for k, t in ssd_inputs().items()}
    bounds, seq_idx = torch.tensor([0, 6, 15, 15, l]), torch.tensor([[0] * 6 + [1] * 9 + [3] * 6])
    arguments = {k: i[k] for k in ("x", "dt", "A", "B", "C")}
    *_, dt, total, states, _, after = ssd_combined._mamba_chunk_scan_combined_fwd(
        **arguments, chunk_size=size, seq_idx=seq_idx, cu_seqlens=bounds
    )
    found = ssd_chunk_state.chunk_state_varlen(i["B"][0], i["x"][0], dt[0], total[0], bounds, states[0])
    close([found], [after])
    alone = {k: t[:, 6:15] if t.dim() > 1 else t for k, t in arguments.items()}
    close([found[1:2]], [ops.ssd(**alone, backend="reference")[1]])
    assert not found[2].any()


def test_backward_passes_of_the_scan():
    i = ssd_inputs()
    leaves = {k: t.clone().requires_grad_() for k, t in i.items()}
    y, final = ssd_combined.mamba_chunk_scan_combined(**leaves, chunk_size=size, return_final_states=True)
    dout, dfinal = torch.randn_like(y), torch.randn_like(final)
    exact = torch.autograd.grad([y, final], list(leaves.values()), [dout, dfinal])
    dx = torch.empty_like(i["x"])
    found = ssd_combined._mamba_chunk_scan_combined_bwd(
        dout, **i, out=y, chunk_size=size, dfinal_states=dfinal, dx=dx, recompute_output=True
    )
    close(found, [*exact, y])
    assert found[0] is dx
    dt, A = (leaves[k].detach().requires_grad_() for k in ("dt", "A"))
    arguments = (leaves["x"].detach(), dt, A, i["B"], i["C"], i["D"], i["z"])
    exact = torch.autograd.grad(ssd_combined.ssd_selective_scan(*arguments), (dt, A), dout)
    chunks = ssd_chunk_state._chunk_cumsum_fwd(i["dt"], i["A"], size)[1]
    ddt, dA = ssd_combined.selective_scan_bwd(dout, i["x"], chunks, i["A"], i["B"], i["C"], i["D"], i["z"])
    close([ddt.flatten(2)[..., :l].mT, dA], exact)


def test_backward_passes_of_chunks():
    i = ssd_inputs()
    leaves = [i[k].clone().requires_grad_() for k in ("dt", "A", "dt_bias")]
    total, dt = ssd_chunk_state._steps(*leaves[:2], size, leaves[2], True, (0.1, 2.0))
    gradients = torch.randn_like(total), torch.randn_like(dt)
    exact = torch.autograd.grad([total, dt], leaves, gradients)
    found = ssd_chunk_state._chunk_cumsum_bwd(*gradients, *(t.detach() for t in leaves), True, (0.1, 2.0))
    close(found, exact)
    leaves = [torch.randn(b, 3, h, 7), -torch.rand(b, h, 3), torch.randn(b, h, 7)]
    leaves = [t.requires_grad_() for t in leaves]
    before, last = ssd_state_passing.state_passing(*leaves)
    gradients = torch.randn_like(before), torch.randn_like(last)
    exact = torch.autograd.grad([before, last], leaves, gradients)
    arguments = (before.detach(), leaves[1].detach(), *gradients)
    close(ssd_state_passing._state_passing_bwd(*arguments, has_initial_states=True), exact)
    assert ssd_state_passing._state_passing_bwd(*arguments, states_dtype=torch.float16)[3].dtype == torch.float16
    for shape in ((b, l, n), (b, l, g, n)):
        a, k, extra = (torch.randn(shape).requires_grad_() for _ in range(3))
        y = ssd_bmm._bmm_chunk_fwd(a, k, size)
        dout = torch.randn_like(y)
        exact = torch.autograd.grad(y, k, dout)[0] + extra.detach()
        close([ssd_bmm._bmm_chunk_bwd(a.detach(), dout, extra.detach())], [exact])


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("group", [None, 4])
def test_gated_norms(rms, group):
    torch.manual_seed(0)
    leaves = [torch.randn(6, 8), torch.randn(8), None if rms else torch.randn(8), torch.randn(6, 8)]
    leaves = [t if t is None else t.requires_grad_() for t in leaves]
    y = layernorm_gated.layernorm_fn(*leaves, 1e-5, group, False, rms)
    x, weight, bias, z = (t if t is None else t.detach() for t in leaves)
    out = torch.empty_like(x)
    found, mean, rstd = layernorm_gated._layer_norm_fwd(x, weight, bias, 1e-5, z, out, group, False, rms)
    groups = (x * F.silu(z)).unflatten(-1, (-1, group or 8)).transpose(0, 1).flatten(0, 1)
    spread = groups.square().mean(-1) if rms else groups.var(-1, correction=0)
    close([found, mean, rstd], [y, None if rms else groups.mean(-1), (spread + 1e-5).rsqrt()])
    assert found is out
    dout, dz = torch.randn_like(y), torch.empty_like(z)
    exact = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dout))
    exact = [t if t is None else next(exact) for t in leaves]
    gradients = layernorm_gated._layer_norm_bwd(
        dout, x, weight, bias, 1e-5, mean, rstd, z, group, False, rms, recompute_output=True, dz=dz
    )
    close(gradients, [*exact, y])
    assert gradients[3] is dz


@pytest.mark.parametrize("rms", [True, False])
def test_norms_after_a_residual(rms):
    torch.manual_seed(0)
    x, weight, bias, residual, x1 = (torch.randn(s, requires_grad=True) for s in ((6, 8), (8,), (8,), (6, 8), (6, 8)))
    function, ref = (getattr(layer_norm, f"{'rms' if rms else 'layer'}_norm_{end}") for end in ("fn", "ref"))
    options = {"residual": residual, "x1": x1, "weight1": 2 * weight.detach(), "bias1": bias.detach(), "prenorm": True}
    close(function(x, weight, bias, **options), ref(x, weight, bias, **options))
    y, total = function(x, weight, bias, residual=residual, prenorm=True)
    gradients = torch.randn_like(y), torch.randn_like(total)
    exact = torch.autograd.grad([y, total], [x, weight, bias, residual], gradients)
    plain = [t.detach() for t in (x, weight, bias)]
    found = layer_norm._layer_norm_fwd(*plain, 1e-6, residual.detach(), is_rms_norm=rms)
    wide = total.detach()
    spread = wide.square().mean(-1) if rms else wide.var(-1, correction=0)
    close(found, [y, None, None if rms else wide.mean(-1), (spread + 1e-6).rsqrt(), total, None, None, None])
    back = layer_norm._layer_norm_bwd(
        gradients[0], wide, *plain[1:], 1e-6, found[2], found[3], gradients[1], has_residual=True, has_x1=True,
        is_rms_norm=rms, recompute_output=True,
    )  # fmt: skip
    close(back, [*exact, exact[0], None, None, y])
    assert layer_norm._layer_norm_fwd(*plain, 1e-6)[4] is plain[0], "nothing is added"
    with pytest.raises(UserError, match="dropout_p must be 0, got 0.5"):
        layer_norm._layer_norm_bwd(gradients[0], wide, *plain[1:], 1e-6, None, None, dropout_p=0.5)
    mask = torch.rand(6, 8) > 0.5
    kept = ref(x, weight, bias, dropout_p=0.5, dropout_mask=mask, prenorm=True, rowscale=torch.full((6,), 3.0))[1]
    close([kept], [6 * x * mask])
    half = ref(x.bfloat16(), weight, bias, upcast=True)
    assert half.dtype == torch.bfloat16


def test_norms_keep_float64():
    x = torch.randn(2, 8, dtype=torch.float64)
    exact = F.rms_norm(x, (8,), eps=1e-6)
    for function in (layer_norm.rms_norm_fn, layernorm_gated.rmsnorm_fn):
        assert relative_error(function(x, torch.ones(8), None, eps=1e-6), exact) < 1e-14


def test_swiglu():
    xy = torch.randn(3, 10, requires_grad=True)
    y = F.silu(xy[:, :5]) * xy[:, 5:]
    close([k_activations.swiglu(xy), k_activations._swiglu_fwd(xy), k_activations.SwiGLU.apply(xy)], [y] * 3)
    dout, into = torch.randn_like(y), torch.empty_like(xy)
    found = k_activations._swiglu_bwd(xy.detach(), dout, into, recompute_output=True)
    close(found, [torch.autograd.grad(y, xy, dout)[0], y])
    assert found[0] is into


def mamba3_inputs(r=None):
    torch.manual_seed(0)
    rank = () if r is None else (r,)
    found = {"Q": torch.randn(b, l, *rank, g, 8), "K": torch.randn(b, l, *rank, g, 8), "V": torch.randn(b, l, h, p)}
    found |= {"ADT": -torch.rand(b, h, l), "DT": torch.rand(b, h, l), "Trap": torch.randn(b, h, l)}
    found |= {"Q_bias": torch.randn(h, *rank, 8), "K_bias": torch.randn(h, *rank, 8)}
    return found | {"Angles": torch.randn(b, l, h, 3), "D": torch.randn(h), "Z": torch.randn(b, l, h, p)}


def test_mamba3_of_one_input():
    i = mamba3_inputs()
    y, *states = mamba3_siso_combined(**i, return_final_states=True)
    assert torch.equal(y, mamba3_siso_combined(**i))
    assert [tuple(s.shape) for s in states] == [(b, h, 3), (b, h, p, 8), (b, h, 8), (b, h, p)]
    after = [torch.zeros_like(s) for s in states]
    last = {"ADT", "DT", "Trap"}
    for t in range(l):
        one = {
            k: x[..., t] if k in last else x[:, t] if k not in ("Q_bias", "K_bias", "D") else x for k, x in i.items()
        }
        found, after = mamba3_siso_step(**one, Input_States=after)
    close([found, *after], [y[:, -1], *states])
    row = {k: x[:1] if k not in ("Q_bias", "K_bias", "D") else x for k, x in i.items()}
    packed, *ends = mamba3_siso_combined(
        **row, cu_seqlens=torch.tensor([0, 9, l]), Input_States=tuple(states),
        return_final_states=True,
    )  # fmt: skip
    first = {k: x if k in ("Q_bias", "K_bias", "D") else x[..., :9] if k in last else x[:, :9] for k, x in row.items()}
    alone = mamba3_siso_combined(**first, Input_States=tuple(s[:1] for s in states), return_final_states=True)
    close([packed[:, :9], *(end[:1] for end in ends)], alone)
    with pytest.raises(UserError, match="cu_seqlens cuts one row, got 2"):
        mamba3_siso_combined(**i, cu_seqlens=torch.tensor([0, l]))


def test_mamba3_of_several_inputs():
    i = mamba3_inputs(2)
    mimo = {f"MIMO_{k}": torch.randn(h, 2, p) for k in ("V", "Z", "Out")}
    options = {"chunk_size": 8, "rotary_dim_divisor": 2, "dtype": torch.float32}
    y, angle, ssm, k, v = mamba3_mimo(**i, **mimo, **options, return_state=True)
    apart = mamba3_mimo(**i, **(mimo | {"MIMO_Out": None}), **options)
    close([torch.einsum("blrhp,hrp->blhp", apart, mimo["MIMO_Out"])], [y])
    assert k.shape == (b, 2, h, 8) and torch.equal(v, i["V"][:, -1]) and angle.shape == (b, h, 3) and ssm.dim() == 4
    weight, bare = torch.randn(h, p), i | {"Z": None}
    raw = mamba3_mimo(**bare, **(mimo | {"MIMO_Out": None}), **options)
    normed = F.rms_norm(raw, (p,), eps=1e-5) * weight * F.silu(i["Z"][:, :, None] * mimo["MIMO_Z"].transpose(0, 1))
    fused = {"fuse_pregate_headwise_rms_norm": True, "outproj_norm_weight": weight.flatten()}
    close([mamba3_mimo(**i, **mimo, **options, **fused)], [torch.einsum("blrhp,hrp->blhp", normed, mimo["MIMO_Out"])])
    row = {k: x[:1] if k not in ("Q_bias", "K_bias", "D") else x for k, x in i.items()}
    packed = mamba3_mimo(**row, **mimo, **options, cu_seqlens=torch.tensor([0, 9, l]))
    assert relative_error(packed[:, :9], y[:1, :9]) < 3e-6 and relative_error(packed[:, 9:], y[:1, 9:]) > 1e-2
    with pytest.raises(UserError, match="return_state gives one state a row"):
        mamba3_mimo(**row, **mimo, **options, cu_seqlens=torch.tensor([0, l]), return_state=True)


def test_one_process_is_the_identity_and_two_are_refused():
    x, two = torch.randn(3, 8), SimpleNamespace(size=lambda: 2)
    for name in ("all_gather", "reduce_scatter", "all_reduce"):
        assert torch.equal(getattr(dist, name)(x, None), x)
        y, handle = getattr(dist, f"{name}_raw")(x, None, async_op=True)
        assert torch.equal(y, x) and handle.wait() and getattr(dist, f"{name}_raw")(x, None)[1] is None
        with pytest.raises(UserError, match=f"{name}: tensor parallelism over 2 processes"):
            getattr(dist, name)(x, two)
    assert [dist.get_dim_for_local_rank(10, 4, rank, 2) for rank in range(4)] == [4, 2, 2, 2]
    for cls in (tensor_parallel.ColumnParallelLinear, tensor_parallel.RowParallelLinear):
        layer = cls(8, 6, None, multiple_of=2)
        close([layer(x)], [F.linear(x, layer.weight, layer.bias)])
        with pytest.raises(UserError, match="over 2 processes"):
            cls(8, 6, two)
        with pytest.raises(UserError, match="must be a multiple of 5"):
            cls(8, 6, None, multiple_of=5)
    embeddings = tensor_parallel.ParallelEmbeddings(4, 10, 7, None)
    ids = torch.tensor([[1, 2, 3]])
    exact = embeddings.word_embeddings.weight[1:4] + embeddings.position_embeddings.weight[:3]
    close([embeddings(ids)[0], embeddings(ids, combine_batch_seqlen_dim=True)], [exact, exact])
    assert not hasattr(tensor_parallel.ParallelEmbeddings(4, 10, 0, None), "position_embeddings")


def test_small_helpers(monkeypatch):
    monkeypatch.delenv("MAMBA_DETERMINISTIC", raising=False)
    assert determinism.use_deterministic_mode() is False
    monkeypatch.setenv("MAMBA_DETERMINISTIC", "1")
    assert determinism.use_deterministic_mode()
    determinism.set_deterministic_mode(False)
    assert not determinism.use_deterministic_mode()
    determinism.set_deterministic_mode(None)
    tensor, stride = determinism.alloc_tile_workspace((2, 3), 4, torch.float32, "cpu", True)
    assert tensor.shape == (2, 3, 4) and stride == 1
    assert determinism.finalize_tile_workspace(tensor + 1, True).tolist() == [[4.0] * 3] * 2
    assert determinism.alloc_tile_workspace((2,), 4, torch.float32, "cpu", False)[0].shape == (2,)
    assert determinism.alloc_tile_workspace(None, 4, None, "cpu", True) == (None, 0)
    assert determinism.finalize_tile_workspace(None, True) is None and determinism.autotune_configs([1]) == [1]

    class Double(torch.autograd.Function):
        @staticmethod
        @custom_fwd
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @custom_bwd
        def backward(ctx, gradient):
            return 2 * gradient

    x = torch.ones(1, requires_grad=True)
    assert torch.autograd.grad(Double.apply(x), x)[0] == 2
