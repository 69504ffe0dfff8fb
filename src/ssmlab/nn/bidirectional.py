"""Two causal blocks, one reading forward and one backward, so that every position sees the whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError, ShapeError

MERGES = ("sum", "concat")


class Bidirectional(nn.Module):
    """Run one block over the sequence and another over its reverse.

        y = forward_block(u) + reverse(backward_block(reverse(u)))      or both side by side

    Args:
        forward_block, backward_block: causal blocks with the forward of this package; the same module may be given
            twice, and the two directions then share their weights.
        merge: "sum" keeps the channels, "concat" puts the backward block's after the forward block's.
    Raises:
        ModelError: an unknown merge.
    """

    def __init__(self, forward_block: nn.Module, backward_block: nn.Module, merge: str = "sum"):
        super().__init__()
        if merge not in MERGES:
            raise ModelError(f"Bidirectional: merge must be one of {', '.join(MERGES)}, got {merge!r}")
        self.forward_block = forward_block
        self.backward_block = backward_block
        self.merge = merge

    def forward(
        self, u: Tensor, state: None = None, *, mask: Tensor | None = None, seq_idx: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """u (b, l, d) -> y (b, l, d), or (b, l, 2 d) for "concat"; there is no state to return.

        Args:
            mask: bool (b, l), True = token; padding changes nothing at the tokens.
            seq_idx: int (b, l), for several sequences packed in a row.
        Raises:
            ShapeError: a state is given. The backward block starts at the sequence's end, so a bidirectional model
                cannot continue one.
        """
        if state is not None:
            raise ShapeError(
                "Bidirectional: a bidirectional block reads whole sequences and cannot continue from a state; "
                "pass state=None and the whole sequence"
            )
        ahead, _ = self.forward_block(u, mask=mask, seq_idx=seq_idx)
        back, _ = self.backward_block(_reverse(u), mask=_reverse(mask), seq_idx=_reverse(seq_idx))
        back = back.flip(1)
        return (ahead + back if self.merge == "sum" else torch.cat([ahead, back], dim=-1)), None

    def extra_repr(self) -> str:
        return f"merge={self.merge}"


def _reverse(tensor):
    return None if tensor is None else tensor.flip(1)
