"""Backward passes by themselves, as the originals' private functions offer them: autograd over the forward pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    function: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor | None], douts: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradient of every tensor that is given.

    Args:
        function: takes `tensors`, returns a tuple of outputs.
        douts: gradients of the outputs; None where there is none.
    """
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    with torch.enable_grad():
        outputs = function(*leaves)
    pairs = [(y, g.to(y.dtype)) for y, g in zip(outputs, douts, strict=True) if g is not None]
    found = iter(
        torch.autograd.grad(
            [y for y, _ in pairs], [t for t in leaves if t is not None], [g for _, g in pairs], allow_unused=True
        )
    )
    return [None if t is None else next(found) for t in leaves]


def filled(out: Tensor | None, value: Tensor) -> Tensor:
    """`value`, in `out` where the caller has allocated one."""
    return value if out is None else out.copy_(value)
