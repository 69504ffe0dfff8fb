"""The recurrence over the states of chunks, by the original's signatures."""

import torch
from torch import Tensor

from ssmlab.compat._absent import absent
from ssmlab.compat._gradients import gradients
from ssmlab.core.errors import UserError

__all__ = ["StatePassingFn", "_state_passing_bwd", "_state_passing_fwd", "state_passing", "state_passing_ref"]
__getattr__ = absent(__name__, "_state_passing_fwd_kernel _state_passing_bwd_kernel", "call state_passing instead")


def state_passing(states, dA_chunk_cumsum, initial_states=None):
    """Carry the state from chunk to chunk.

    Args:
        states: what every chunk adds, (b, c, h, d). dA_chunk_cumsum: logarithms of the chunks' decays, (b, h, c).
        initial_states: (b, h, d).
    Returns:
        The states before the chunks (b, c, h, d), and the last (b, h, d) in float32.
    """
    return _pass(states, dA_chunk_cumsum.exp(), initial_states)


def state_passing_ref(states, dA_chunk_cumsum, initial_states=None):
    """The same, in the dtype of `states`."""
    before, last = _pass(states, dA_chunk_cumsum.exp(), initial_states)
    return before, last.to(states.dtype)


def _pass(states: Tensor, decay: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(states.dtype, torch.float32)
    state = torch.zeros_like(states[:, 0], dtype=wide) if initial is None else initial.to(wide)
    before = []
    for c in range(states.shape[1]):
        before.append(state)
        state = decay[..., c, None].to(wide) * state + states[:, c].to(wide)
    return torch.stack(before, dim=1).to(states.dtype), state


def _decay(dA_chunk_cumsum: Tensor, seq_idx: Tensor | None, chunk_size: int | None) -> Tensor:
    """Of every chunk, zero where its last token is of another sequence than that of the chunk before it."""
    decay = dA_chunk_cumsum.exp()
    if seq_idx is None:
        return decay
    if chunk_size is None:
        raise UserError("_state_passing_fwd: seq_idx needs the chunk_size, got None")
    chunks = decay.shape[-1]
    last = torch.arange(chunk_size - 1, chunks * chunk_size, chunk_size, device=seq_idx.device)
    run = seq_idx.long()[:, last.clamp(max=seq_idx.shape[1] - 1)]
    before = torch.cat([torch.zeros_like(run[:, :1]), run[:, :-1]], dim=1)
    return decay * (run == before)[:, None]


def _state_passing_fwd(states, dA_chunk_cumsum, initial_states=None, seq_idx=None, chunk_size=None, out_dtype=None):
    """`state_passing` without a gradient; the first sequence of `seq_idx` (b, l), number 0, has the initial state."""
    with torch.no_grad():
        before, last = _pass(states, _decay(dA_chunk_cumsum, seq_idx, chunk_size), initial_states)
    return before if out_dtype is None else before.to(out_dtype), last


def _state_passing_bwd(
    states, dA_chunk_cumsum, dout, dfinal_states=None, seq_idx=None, has_initial_states=None, dstates_dtype=None,
    states_dtype=None, chunk_size=None,
):  # fmt: skip
    """The gradients (dstates, ddA_chunk_cumsum, dinitial_states or None[, states in `states_dtype`]).

    Args:
        states: the first result of `state_passing`, the initial states first.
    """
    decay = _decay(dA_chunk_cumsum, seq_idx, chunk_size)
    added = torch.zeros_like(states)  # what each chunk added does not enter the gradients, the states before it do
    wide = torch.promote_types(states.dtype, torch.float32)
    added[:, :-1] = (states[:, 1:].to(wide) - decay[..., :-1].mT[..., None].to(wide) * states[:, :-1].to(wide)).to(
        states.dtype
    )

    def passed(added, log_decay, initial):
        return _pass(added, _decay(log_decay, seq_idx, chunk_size), initial)

    inputs = (added, dA_chunk_cumsum, states[:, 0])
    dstates, ddA, dinitial = gradients(passed, inputs, (dout, dfinal_states))
    dstates = dstates if dstates_dtype is None else dstates.to(dstates_dtype)
    found = (dstates, ddA, dinitial if has_initial_states else None)
    return found if states_dtype is None else (*found, states.to(states_dtype))


class StatePassingFn:
    """`state_passing` as an autograd function."""

    apply = staticmethod(state_passing)
