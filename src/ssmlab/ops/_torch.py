"""What the operators need of torch's transformations and modes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Asked at import: older compilers cannot follow the question.
AUTOCAST = tuple(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))


def differentiates(arguments: tuple) -> bool:
    """Whether a derivative may be asked of this call: a gradient, or a tangent, which leaves no mark on the tensors."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


def full_precision(t: Tensor) -> AbstractContextManager:
    """Autocast off: it would take matrix products in half precision."""
    kind = t.device.type
    return torch.autocast(kind, enabled=False) if kind in AUTOCAST else nullcontext()


def one_by_one(op):
    """A rule for `torch.library.register_vmap` that is right for any mixture of batched and shared arguments: one
    call for each member, since the arguments already have a batch axis of their own."""

    def rule(info, in_dims, *arguments):
        pairs = list(zip(arguments, in_dims, strict=True))
        results = [op(*(a if dim is None else a.select(dim, i) for a, dim in pairs)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])

    return rule
