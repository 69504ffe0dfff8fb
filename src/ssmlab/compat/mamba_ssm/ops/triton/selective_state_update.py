"""One token of Mamba-1 or Mamba-2, with the state updated in place, by the original's signature."""

import torch
from torch import Tensor

from ssmlab.compat._absent import absent
from ssmlab.ops import selective_scan, ssd
from ssmlab.ops.steps import head_step, scan_step

__all__ = ["selective_state_update", "selective_state_update_ref"]
__getattr__ = absent(__name__, "_selective_scan_update_kernel", "call selective_state_update instead")


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):
    """Advance `state` by one token, in place, and return the output. There is no gradient, as in the original.

    Args:
        state: (b, d, n), or (b, h, p, n) with heads; any floating dtype, computed in float32.
        x, dt, z: (b, d) or (b, h, p). A: (d, n) or (h, p, n). D, dt_bias: (d,) or (h, p).
        B, C: (b, n), or (b, g, n) with groups of heads.
        state_batch_indices: (b,), which rows of a larger `state` are meant; rows with a negative index are padding:
            their output is zero and no state is touched.
    Returns:
        (b, d) or (b, h, p), in the dtype of x.
    """
    arguments = (x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    with torch.no_grad():
        if state_batch_indices is None:
            out = _in_place(state, *arguments)
            if out is not None:
                return out
            out, after = _step(state, *arguments, None)
            state.copy_(after)
            return out
        rows = state_batch_indices.long()
        kept = rows >= 0
        out, after = _step(state[rows.clamp(min=0)], *arguments, None)
        state[rows[kept]] = after[kept].to(state.dtype)
        return out * kept.view(-1, *[1] * (out.dim() - 1))


def _in_place(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus) -> Tensor | None:
    """The kernels made for single tokens, where they take these tensors."""
    if state.dim() == 3:
        return scan_step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    if not _one_decay_a_head(dt, A, D, dt_bias) or (D is not None and D.stride(-1) != 0):
        return None
    B, C = (t if t.dim() == 3 else t[:, None] for t in (B, C))
    D, dt_bias = (None if t is None else t[:, 0] for t in (D, dt_bias))
    return head_step(state, x, dt[..., 0], A[:, 0, 0], B, C, D, z, dt_bias, dt_softplus)


def selective_state_update_ref(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """The same by its definition."""
    out, after = _step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, "reference")
    state.copy_(after)
    return out


def _step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, backend) -> tuple[Tensor, Tensor]:
    if backend is None and state.dim() == 4 and _one_decay_a_head(dt, A, D, dt_bias):
        return _step_of_heads(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    (b, *heads), n = x.shape, A.shape[-1]
    flat = [None if t is None else t.reshape(b, -1, 1) for t in (x, dt, z)]
    D, dt_bias = (None if t is None else t.reshape(-1) for t in (D, dt_bias))
    y, after = selective_scan(
        flat[0], flat[1], A.reshape(-1, n), B[..., None], C[..., None], D, z=flat[2], dt_bias=dt_bias,
        dt_softplus=dt_softplus, initial_state=state.reshape(b, -1, n).to(_wide(state)), backend=backend,
    )  # fmt: skip
    return y.reshape(b, *heads), after.reshape(state.shape)


def _wide(state: Tensor) -> torch.dtype:
    return torch.promote_types(state.dtype, torch.float32)


def _one_decay_a_head(dt: Tensor, A: Tensor, D: Tensor | None, dt_bias: Tensor | None) -> bool:
    """Whether the channels and states of a head share their numbers by strides of zero, as Mamba-2 passes them."""
    tied = [dt.stride(-1) == 0, A.stride(-1) == 0 and A.stride(-2) == 0]
    return all(tied) and (dt_bias is None or dt_bias.stride(-1) == 0) and A.shape[-1] > 1 and A.shape[-2] > 1


def _step_of_heads(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus) -> tuple[Tensor, Tensor]:
    B, C = (t[:, None] if t.dim() == 3 else t[:, None, None] for t in (B, C))
    y, after = ssd(
        x[:, None], dt[:, None, :, 0], A[:, 0, 0], B, C, D, z=None if z is None else z[:, None],
        dt_bias=None if dt_bias is None else dt_bias[:, 0], dt_softplus=dt_softplus, initial_state=state,
    )  # fmt: skip
    return y[:, 0], after
