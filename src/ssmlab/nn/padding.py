"""Padded batches, and rows that hold several sequences.

The tokens of every padded row are moved to its front, where a causal block cannot see the padding. After that two
things remain to be done, and they are all that a mask costs a block: the step size of a padded
position is made zero, so that the state stays where the last token left it, and the convolution's state is read from
each row's last tokens instead of the last columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssmlab.core.errors import ShapeError

# softplus of it is 0 (below 2e-38 where the kernels clamp), and no dtype down to float16 overflows at it
NO_STEP = -1e4


class Padding(NamedTuple):
    """Where the tokens of a padded batch are.

    order: for every place of the packed rows the column it came from, (b, l).
    back: the inverse of `order`, (b, l).
    token: True for the packed places that hold a token, (b, l).
    lengths: number of tokens in each row, (b,).
    """

    order: Tensor
    back: Tensor
    token: Tensor
    lengths: Tensor

    @classmethod
    def from_mask(cls, mask: Tensor) -> Padding:
        """Read a mask (b, l), bool, True = token. Tokens may be anywhere in their row.

        Raises:
            ShapeError: the mask is not bool.
        """
        if mask.dtype != torch.bool:
            raise ShapeError(f"mask must be bool, True = token, got {mask.dtype}; pass mask.bool()")
        order = torch.argsort(mask.logical_not().byte(), dim=1, stable=True)
        lengths = mask.sum(1)
        token = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
        return cls(order, torch.argsort(order, dim=1), token, lengths)

    def pack(self, u: Tensor) -> Tensor:
        """u (b, l, d) with each row's tokens in front, in their order, and zeros after them."""
        return _columns(u, self.order).masked_fill(~self.token[..., None], 0)

    def pack_index(self, seq_idx: Tensor) -> Tensor:
        """The sequences of a packed row numbered from 0, (b, l); its padding counts to the last, and resets nothing."""
        packed = seq_idx.take_along_dim(self.order, 1)
        begins = (packed[:, 1:] != packed[:, :-1]) & self.token[:, 1:]
        return torch.cat([torch.zeros_like(begins[:, :1], dtype=torch.int64), begins.cumsum(1)], dim=1)

    def unpack(self, y: Tensor) -> Tensor:
        """Packed y (b, l, d) with every token back at its column, and zeros at the padding."""
        return _columns(y.masked_fill(~self.token[..., None], 0), self.back)

    def last_inputs(self, x: Tensor, count: int, initial_state: Tensor | None, seq_idx: Tensor | None = None) -> Tensor:
        """The convolution's state after each row's last token.

        Args:
            x: packed inputs of the convolution, (b, d, l).
            count: width - 1.
            initial_state: what was before the first token (b, d, count); None stands for zeros.
            seq_idx: from `pack_index`, (b, l).
        Returns:
            The last `count` inputs of the last token's sequence (b, d, count), newest last, zeros where it is shorter.
        """
        place = self.lengths[:, None] - count + torch.arange(count, device=x.device)
        inside = place.clamp(min=0)
        state = x.take_along_dim(inside[:, None], 2)
        if initial_state is None:
            older = torch.zeros_like(state)
        else:
            older = initial_state.to(x.dtype).take_along_dim((place + count).clamp(max=count - 1)[:, None], 2)
        state = torch.where((place < 0)[:, None], older, state)
        if seq_idx is None:
            return state
        own = seq_idx.take_along_dim(inside, 1) == seq_idx[:, -1:]
        return state.masked_fill(~own[:, None], 0)


def _columns(u: Tensor, columns: Tensor) -> Tensor:
    """Of every row of u (b, l, d) some columns (b, k), in their order: (b, k, d). Whole columns are copied; along a
    dimension, every channel would have an index of its own, whose remainders took longer than the copy."""
    first = torch.arange(u.shape[0], device=u.device)[:, None] * u.shape[1]
    return u.flatten(0, 1).index_select(0, (columns + first).flatten()).unflatten(0, columns.shape)


def visible(mask: Tensor) -> Tensor:
    """The keys that a query may see, bool (b, 1, 1, l): the tokens; in a row without one all of its padding, since a
    softmax over nothing is no number."""
    return (mask | ~mask.any(1, keepdim=True))[:, None, None]


def packed(u: Tensor, mask: Tensor | None, seq_idx: Tensor | None) -> tuple[Padding | None, Tensor, Tensor | None]:
    """The padding that a mask says, and u (b, l, d) and seq_idx (b, l) without padding before or between tokens."""
    if mask is None:
        return None, u, seq_idx
    padding = Padding.from_mask(mask)
    return padding, padding.pack(u), None if seq_idx is None else padding.pack_index(seq_idx)


def runs(seq_idx: Tensor) -> Tensor:
    """The sequences of every row numbered from 0, (b, l): a new one begins wherever the number changes."""
    begins = seq_idx[:, 1:] != seq_idx[:, :-1]
    return torch.cat([torch.zeros_like(seq_idx[:, :1], dtype=torch.int64), begins.cumsum(1)], dim=1)


def places(run: Tensor) -> Tensor:
    """How many positions of its own sequence come before a position, (b, l), from `runs`."""
    at = torch.arange(run.shape[1], device=run.device).expand_as(run)
    begins = torch.cat([torch.zeros_like(run[:, :1], dtype=torch.bool), run[:, 1:] != run[:, :-1]], dim=1)
    return at - torch.where(begins, at, 0).cummax(1).values
