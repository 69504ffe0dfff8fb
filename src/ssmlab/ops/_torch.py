"""What the operators need of torch's transformations and modes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssmlab.core.errors import ShapeError

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
    call for each member, since the arguments already have a batch axis of their own. For a list of numbers torch
    gives a list of None in the place of an axis."""

    def rule(info, in_dims, *arguments):
        pairs, members = list(zip(arguments, in_dims, strict=True)), range(info.batch_size)
        results = [op(*(a.select(dim, i) if isinstance(dim, int) else a for a, dim in pairs)) for i in members]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])

    return rule


def on_one_device(op: str, fake: Callable) -> Callable:
    """A fake kernel that refuses tensors on several devices.

    With one on "meta" the dispatcher takes it for all of them, and what it makes on the CPU is never filled.
    """

    def checked(*arguments, **options):
        devices = {str(t.device) for t in (*arguments, *options.values()) if isinstance(t, Tensor)}
        if len(devices) > 1:
            raise ShapeError(f"{op}: the tensors are on {' and '.join(sorted(devices))}; move them to one device")
        return fake(*arguments, **options)

    return checked


def pulled_back(kernel: Callable, definition: Callable, saved: Tensor | None, inputs: tuple, gradients: tuple) -> tuple:
    """The gradients of an operator's inputs, by its kernels; what is differentiated again is its definition.

    Args:
        kernel: (saved, inputs, gradients) -> a gradient for every input, None for what has none.
        definition: (*inputs) -> outputs, in plain torch.
        saved: what the kernels kept of the forward pass.
        inputs: tensors, whole numbers among them, or None.
        gradients: of the outputs, None where there is none.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return kernel(saved, inputs, gradients)
    found = iter(Pullback.apply(kernel, definition, len(inputs), saved, *inputs, *gradients))
    return tuple(next(found) if _is_real(t) else None for t in inputs)


class Pullback(torch.autograd.Function):
    """`pulled_back` where a graph is made of it, so that second and further derivatives are right."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernel, definition, count, saved, *tensors):
        found = kernel(saved, tensors[:count], tensors[count:])
        return tuple(g for g, t in zip(found, tensors[:count], strict=True) if _is_real(t))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.definition, ctx.count, _, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *directions):
        tensors, count, definition = list(ctx.saved_tensors), ctx.count, ctx.definition
        live = [i for i, t in enumerate(tensors) if _is_real(t)]
        inputs, outputs = [i for i in live if i < count], [i for i in range(count, len(tensors)) if i in live]

        def gradient(*values):
            own = tensors.copy()
            for i, value in zip(live, values, strict=True):
                own[i] = value

            def run(*leaves):
                arguments = own[:count]
                for i, leaf in zip(inputs, leaves, strict=True):
                    arguments[i] = leaf
                results = definition(*arguments)
                return tuple(results[i - count] for i in outputs)

            return _pulled(run, [own[i] for i in inputs], [own[i] for i in outputs])

        second = dict(zip(live, _pulled(gradient, [tensors[i] for i in live], directions), strict=True))
        return None, None, None, None, *(second.get(i) for i in range(len(tensors)))


def _pulled(function: Callable, arguments: Sequence[Tensor], directions: Sequence[Tensor]) -> tuple[Tensor, ...]:
    results, pull, *_ = torch.func.vjp(function, *arguments)
    return pull(tuple(d.to(y.dtype) for d, y in zip(directions, results, strict=True)))


def _is_real(t: object) -> bool:
    """Whether it is a tensor with a gradient."""
    return isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
