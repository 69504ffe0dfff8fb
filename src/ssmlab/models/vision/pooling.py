"""What a vision model's head does with the positions of the last feature map, by timm's names."""

from __future__ import annotations

from torch import Tensor

from ssmlab.core.errors import ModelError

POOLINGS = ("avg", "")


class Pooled:
    """A part of every vision model: the mean over positions, or none.

    pooling: "avg", or "" for a head that works on every position: `forward_head` then keeps the layout of what
        `forward_features` returns, channels last.
    """

    pooling: str = "avg"

    def set_pooling(self, global_pool: str | None) -> None:
        """Choose the pooling; None leaves it.

        Raises:
            ModelError: it is neither the mean nor none.
        """
        if global_pool is None:
            return
        if global_pool not in POOLINGS:
            raise ModelError(
                f"{type(self).__name__} averages over positions (global_pool='avg') or leaves them ('');"
                f" global_pool={global_pool!r} is not there, take the map from forward_features"
            )
        self.pooling = global_pool

    def pooled(self, x: Tensor, *axes: int) -> Tensor:
        """The mean over these axes, where there is one; without, the channels are last."""
        if self.pooling == "avg":
            return x.mean(axes)
        return x if 1 in axes else x.permute(0, *axes, 1)
