"""The scan of Mamba-2 and what its block computes around it, by the original's signatures.

`chunk_size` is accepted and not used: it changes the result by rounding only, and the sizes that suit a GPU are slow on
a CPU (`ssmlab.ops.ssd` has the timings).
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.compat._absent import AUTOGRAD, absent
from ssmlab.compat._gradients import filled, gradients
from ssmlab.compat.mamba_ssm.ops.triton.k_activations import swiglu
from ssmlab.compat.mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from ssmlab.compat.mamba_ssm.ops.triton.ssd_chunk_state import _chunk_cumsum_fwd, _chunk_state_fwd
from ssmlab.compat.mamba_ssm.ops.triton.ssd_state_passing import _state_passing_fwd
from ssmlab.core.errors import UserError
from ssmlab.ops import causal_conv1d, selective_scan, ssd
from ssmlab.ops.linear import linear

__all__ = [
    "MambaChunkScanCombinedFn", "MambaSplitConv1dScanCombinedFn", "_mamba_chunk_scan_combined_bwd",
    "_mamba_chunk_scan_combined_fwd", "ensure_stride", "mamba_chunk_scan", "mamba_chunk_scan_combined",
    "mamba_conv1d_scan_ref", "mamba_split_conv1d_scan_combined", "mamba_split_conv1d_scan_ref",
    "selective_scan_bwd", "ssd_chunk_scan_combined_ref", "ssd_selective_scan",
]  # fmt: skip
NO_LIMIT = (0.0, float("inf"))
TRITON_22 = True
__getattr__ = absent(
    __name__, "init_to_zero rearrange_and_update_stride _chunk_scan_chunk_state_bwd_dx_kernel "
    "_chunk_scan_chunk_state_bwd_dx",
    f"call mamba_chunk_scan_combined, {AUTOGRAD}", causal_conv1d="causal_conv1d_fn",
    causal_conv1d__cpp_functions=(
        "causal_conv1d_bwd_function causal_conv1d_fwd_function causal_conv1d_update_function"
    ),
    mamba_ssm__ops__selective_scan_interface="selective_scan_fn",
    mamba_ssm__ops__triton__k_activations="_swiglu_bwd _swiglu_fwd",
    mamba_ssm__ops__triton__layernorm_gated="_layer_norm_bwd _layer_norm_fwd",
    mamba_ssm__ops__triton__ssd_bmm="_bmm_chunk_bwd _bmm_chunk_fwd",
    mamba_ssm__ops__triton__ssd_chunk_scan=(
        "_chunk_scan_bwd_dC _chunk_scan_bwd_dcb _chunk_scan_bwd_ddAcs_prev _chunk_scan_bwd_ddAcs_stable "
        "_chunk_scan_bwd_dstates _chunk_scan_bwd_dz _chunk_scan_fwd chunk_scan chunk_scan_ref"
    ),
    mamba_ssm__ops__triton__ssd_chunk_state=(
        "_chunk_cumsum_bwd _chunk_state_bwd_db _chunk_state_bwd_ddAcs_stable chunk_state chunk_state_ref "
        "chunk_state_varlen"
    ),
    mamba_ssm__ops__triton__ssd_state_passing="_state_passing_bwd state_passing state_passing_ref",
    mamba_ssm__utils__torch="custom_bwd custom_fwd",
)  # fmt: skip


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=NO_LIMIT, return_final_states=False, return_varlen_states=False, state_dtype=None,
):  # fmt: skip
    """x, z (b, l, h, p), dt (b, l, h), A (h,), B, C (b, l, g, n), D (h,) or (h, p) -> out (b, l, h, p)[, states].

    Args:
        initial_states: (b, h, p, n), as the final states that are returned.
        seq_idx: (b, l), for several sequences packed in a row.
        cu_seqlens: (sequences + 1,), needed where the state after each packed sequence is asked for.
        dt_limit: least and largest step size.
        return_varlen_states: also return the state after each packed sequence, (sequences, h, p, n).
    """
    y, final = _scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit, initial_states, seq_idx, None)
    results = [y] + [final] * return_final_states
    if return_varlen_states:
        if cu_seqlens is None:
            raise UserError("mamba_chunk_scan_combined: return_varlen_states needs cu_seqlens, got None")
        results.append(_states_after(cu_seqlens, x, dt, A, B, C, dt_bias, dt_softplus, dt_limit))
    return results[0] if len(results) == 1 else tuple(results)


def mamba_chunk_scan(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
    """`mamba_chunk_scan_combined` without its options."""
    return _scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, NO_LIMIT, None, None, None)[0]


def ssd_chunk_scan_combined_ref(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
    """The same by its definition, a loop over time."""
    return _scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, NO_LIMIT, None, None, "reference")[0]


def ssd_selective_scan(x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, dt_limit=NO_LIMIT):
    """The same by Mamba-1's scan; dt may be (b, l, h, p), A (d, n) and dt_bias (h, p) too."""
    h, p = x.shape[2:]

    def channels(t, each):  # (b, l, h, p), or (b, l, h) repeated -> (b, d, l)
        return None if t is None else (t if t.dim() == 4 else t[..., None].expand(*t.shape, each)).flatten(2).mT

    A = A[:, None, None].expand(h, p, B.shape[-1]).flatten(0, 1) if A.dim() == 1 else A
    D, dt_bias = (
        None if t is None else (t if t.dim() == 2 else t[:, None].expand(h, p)).flatten() for t in (D, dt_bias)
    )
    dt = channels(dt, p)
    if tuple(dt_limit) != NO_LIMIT:
        dt, dt_bias, dt_softplus = _limited(dt.mT, dt_bias, dt_softplus, dt_limit).mT, None, False
    y, _ = selective_scan(
        channels(x, p), dt, A.float(), B.permute(0, 2, 3, 1), C.permute(0, 2, 3, 1), D, z=channels(z, p),
        dt_bias=dt_bias, dt_softplus=dt_softplus,
    )  # fmt: skip
    return y.mT.unflatten(-1, (h, p))


def mamba_conv1d_scan_ref(
    xBC, conv1d_weight, conv1d_bias, dt, A, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False,
    dt_limit=NO_LIMIT, activation="silu", headdim=None, ngroups=1,
):  # fmt: skip
    """Convolution and scan by their definitions: xBC (b, l, d + 2 g n), z (b, l, d) -> (b, l, d)."""
    heads = dt.shape[2]
    width = z.shape[-1] if z is not None else heads * _headdim(D, headdim)
    x, B, C = _convolved(xBC, conv1d_weight, conv1d_bias, None, activation, width, heads, ngroups, "reference")
    z = None if z is None else z.unflatten(-1, (heads, -1))
    return ssd_selective_scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit).flatten(2)


def mamba_split_conv1d_scan_combined(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states=None, seq_idx=None, dt_limit=NO_LIMIT,
    return_final_states=False, activation="silu", rmsnorm_weight=None, rmsnorm_eps=1e-6, outproj_weight=None,
    outproj_bias=None, headdim=None, ngroups=1, norm_before_gate=True, state_dtype=None,
):  # fmt: skip
    """All of a Mamba-2 block but its first projection: zxbcdt (b, l, 2 d + 2 g n + h) -> (b, l, d or d_out)[, states].

    Args:
        zxbcdt: where it has 2 e more channels, the first are those of a gated layer, whose e outputs come before y.
        dt_bias, A: (h,). D: (h,), then `headdim` is needed, or (h, p).
        rmsnorm_weight: (d,), of a norm in groups of d / ngroups channels; None gates without a norm.
        norm_before_gate: norm(y) * silu(z), else norm(y * silu(z)).
        outproj_weight: (d_out, d), of the second projection; None leaves it out.
    """
    return _split_scan(
        zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, initial_states, seq_idx, dt_limit, return_final_states,
        activation, rmsnorm_weight, rmsnorm_eps, outproj_weight, outproj_bias, headdim, ngroups, norm_before_gate, None,
    )  # fmt: skip


def mamba_split_conv1d_scan_ref(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, dt_limit=NO_LIMIT, activation="silu",
    rmsnorm_weight=None, rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None, headdim=None, ngroups=1,
    norm_before_gate=True,
):  # fmt: skip
    """The same with convolution and scan by their definitions, and the norm over all d channels."""
    return _split_scan(
        zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, None, None, dt_limit, False, activation, rmsnorm_weight,
        rmsnorm_eps, outproj_weight, outproj_bias, headdim, ngroups, norm_before_gate, "reference",
    )  # fmt: skip


def _split_scan(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, initial_states, seq_idx, dt_limit, return_final_states,
    activation, rmsnorm_weight, rmsnorm_eps, outproj_weight, outproj_bias, headdim, ngroups, norm_before_gate, backend,
):  # fmt: skip
    heads = len(dt_bias)
    width = heads * _headdim(D, headdim)
    gated = zxbcdt.shape[-1] - width - len(conv1d_weight) - heads  # of a gated layer, which is first
    zx0, z, xBC, dt = zxbcdt.split([gated, width, len(conv1d_weight), heads], dim=-1)
    x, B, C = _convolved(xBC, conv1d_weight, conv1d_bias, seq_idx, activation, width, heads, ngroups, backend)
    gate = z.unflatten(-1, (heads, -1)) if rmsnorm_weight is None else None
    y, final = _scan(x, dt, A, B, C, D, gate, dt_bias, True, dt_limit, initial_states, seq_idx, backend)
    y = y.flatten(2)
    if rmsnorm_weight is not None:
        group = width // ngroups if backend is None else None  # the original's reference norms all channels together
        y = rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, group, norm_before_gate)
    if gated:
        y = torch.cat([swiglu(zx0), y], dim=-1)
    if outproj_weight is not None:
        y = linear(y, outproj_weight, outproj_bias)
    return (y, final) if return_final_states else y


def _headdim(D: Tensor, headdim: int | None) -> int:
    if D is not None and D.dim() == 2:
        return D.shape[1]
    if headdim is None:
        raise UserError("headdim must be given where D has one number a head, got headdim=None")
    return headdim


def _convolved(xBC, weight, bias, seq_idx, activation, width, heads, ngroups, backend):
    """x (b, l, h, p), B, C (b, l, g, n) after their convolution."""
    activation = "silu" if activation in ("silu", "swish") else None
    xBC, _ = causal_conv1d(xBC.mT, weight, bias, activation=activation, seq_idx=seq_idx, backend=backend)
    maps = (len(weight) - width) // 2
    x, B, C = xBC.mT.split([width, maps, maps], dim=-1)
    return x.unflatten(-1, (heads, -1)), B.unflatten(-1, (ngroups, -1)), C.unflatten(-1, (ngroups, -1))


def _scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit, initial_states, seq_idx, backend):
    if tuple(dt_limit) != NO_LIMIT:
        dt, dt_bias, dt_softplus = _limited(dt, dt_bias, dt_softplus, dt_limit), None, False
    return ssd(
        x, dt, A, B, C, D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus, initial_state=initial_states,
        seq_idx=seq_idx, backend=backend,
    )  # fmt: skip


def _limited(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, limit: tuple[float, float]) -> Tensor:
    """The step sizes (b, l, h) as they are used."""
    dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    return (F.softplus(dt) if dt_softplus else dt).clamp(*limit)


def _states_after(cu_seqlens, x, dt, A, B, C, dt_bias, dt_softplus, dt_limit) -> Tensor:
    """The state after each of the sequences packed in the only row; every one is scanned by itself."""
    bounds = cu_seqlens.tolist()
    states = []
    for begin, end in pairwise(bounds):
        here = slice(begin, end)
        alone = (x[:, here], dt[:, here], A, B[:, here], C[:, here])
        states.append(_scan(*alone, None, None, dt_bias, dt_softplus, dt_limit, None, None, None)[1])
    return torch.cat(states)


def _mamba_chunk_scan_combined_fwd(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=NO_LIMIT, state_dtype=None,
):  # fmt: skip
    """The forward pass by itself, with what lies between.

    Returns:
        y, y before the gate or None, dt as it is used and its sums times A (b, h, c, chunk_size), the states before
        the chunks (b, c, h, p, n), the last state[, the states after each packed sequence where `cu_seqlens`].
    """
    with torch.no_grad():
        dA_cumsum, steps = _chunk_cumsum_fwd(dt, A, chunk_size, dt_bias, dt_softplus, dt_limit)
        added = _chunk_state_fwd(B, x, steps, dA_cumsum, seq_idx)
        initial = None if initial_states is None else initial_states.flatten(2)
        states, _ = _state_passing_fwd(added.flatten(3), dA_cumsum[..., -1], initial, seq_idx, chunk_size)
        states = states.unflatten(-1, added.shape[-2:]).to(C.dtype if state_dtype is None else state_dtype)
        y, final = _scan(x, dt, A, B, C, D, None, dt_bias, dt_softplus, dt_limit, initial_states, seq_idx, None)
        gated = None if z is None else (y * F.silu(z.float())).to(y.dtype)
        found = (y, None) if gated is None else (gated, y)
        found = (*found, steps, dA_cumsum, states, final)
        if cu_seqlens is None:
            return found
        return *found, _states_after(cu_seqlens, x, dt, A, B, C, dt_bias, dt_softplus, dt_limit)


def _mamba_chunk_scan_combined_bwd(
    dout, x, dt, A, B, C, out, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, dfinal_states=None,
    seq_idx=None, dt_softplus=False, dt_limit=NO_LIMIT, dx=None, ddt=None, dB=None, dC=None, dz=None,
    recompute_output=False, state_dtype=None,
):  # fmt: skip
    """The backward pass by itself, which runs the forward pass again.

    Returns:
        (dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_states[, y]); None for absent inputs. Those that are given are
        filled.
    """

    def outputs(x, dt, A, B, C, D, z, dt_bias, initial):
        return _scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit, initial, seq_idx, None)

    inputs = (x, dt, A, B, C, D, z, dt_bias, initial_states)
    found = gradients(outputs, inputs, (dout, dfinal_states))
    given = (dx, ddt, None, dB, dC, None, dz, None, None)
    found = [g if g is None else filled(into, g) for into, g in zip(given, found, strict=True)]
    if recompute_output:
        with torch.no_grad():
            found.append(outputs(*inputs)[0])
    return tuple(found)


def selective_scan_bwd(dout, x, dt, A, B, C, D=None, z=None):
    """The gradients (ddt, dA) of `ssd_selective_scan`, dt (b, h, c, chunk_size) or (b, h, p, c, chunk_size)."""
    steps = (dt if dt.dim() == 5 else dt[:, :, None]).flatten(3).permute(0, 3, 1, 2)[:, : x.shape[1]]
    steps = steps if dt.dim() == 5 else steps[..., 0]

    def output(steps, A):
        return (ssd_selective_scan(x, steps, A, B, C, D, z),)

    ddt, dA = gradients(output, (steps, A), (dout,))
    ddt = F.pad(ddt, (0, 0) * (ddt.dim() - 2) + (0, dt.shape[-2:].numel() - ddt.shape[1]))
    return ddt.movedim(1, -1).unflatten(-1, dt.shape[-2:]), dA


def ensure_stride(inp: Tensor) -> Tensor:
    """A tensor whose rows lie one after another."""
    return inp.contiguous()


class MambaChunkScanCombinedFn:
    """`mamba_chunk_scan_combined` as an autograd function."""

    apply = staticmethod(mamba_chunk_scan_combined)


class MambaSplitConv1dScanCombinedFn:
    """`mamba_split_conv1d_scan_combined` as an autograd function."""

    apply = staticmethod(mamba_split_conv1d_scan_combined)
