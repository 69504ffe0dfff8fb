"""Context parallelism: one long sequence over several processes, each with a piece of it.

A Mamba or Mamba-2 block needs nothing of the pieces before its own but the state after them: the last inputs of its
convolution and the state of its scan. Each process takes it from its left neighbour, computes its piece, and passes the
state after it to the right; in the backward pass the state's gradient goes the other way. What is computed is exactly
what one process computes, in the same order.

A process and layer send one message each way, whose size does not depend on the length: for Mamba
b d_inner (d_conv - 1 + d_state) numbers, for Mamba-2 b (nheads headdim d_state + (d_ssm + 2 ngroups d_state) w) with
w = d_conv - 1. The pieces of a layer are computed one after the other, but a process goes on with the next layer while
its neighbour computes this one: with L layers and R processes a pass takes as long as L + R - 1 pieces of layers, of
which every process computes L.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ssmlab.core.errors import UserError
from ssmlab.nn import S4D, SS2D, Attention, Bidirectional, BiMamba, CrossAttention, Mamba3, SelfAttention
from ssmlab.nn.mamba import Mamba, MambaState
from ssmlab.nn.mamba2 import Mamba2, Mamba2State

# Blocks that mix tokens in another way; all other modules treat every token alone
_OTHERS = (Attention, BiMamba, Bidirectional, CrossAttention, Mamba3, S4D, SS2D, SelfAttention)


def piece_of(sequence: Tensor, rank: int, size: int, dim: int = 1) -> Tensor:
    """A process' piece of a sequence: neighbours' lengths differ by 1 at most.

    Args:
        sequence: the same on all processes, with the tokens along `dim`. Labels are cut like tokens, after they were
            shifted.
    """
    length = sequence.shape[dim]
    begin, end = length * rank // size, length * (rank + 1) // size
    return sequence.narrow(dim, begin, end - begin)


@contextmanager
def cut_sequences(model: nn.Module, group: Any = None) -> Iterator[None]:
    """Every Mamba and Mamba-2 block of a model goes on, within, from the state that the process to the left ends with.

    A process that is alone computes the whole sequence, as without it.

    The model is called on this process' piece (`piece_of`) without a state; its outputs are those of the piece, and the
    state that it returns is that after the piece. All processes make the same calls, forward and backward. Gradients of
    parameters are of the piece: their sum over the processes is that of the sequence, if each one's loss is a sum over
    its tokens divided by what belongs to all.

    Args:
        group: of torch.distributed, its ranks in the order of the pieces; None: all processes.
    Raises:
        UserError: the model has other layers that see several tokens, or computes layers again in the backward pass; a
            block is given a state or a mask; or a piece is shorter than a convolution.
    """
    layers = [module for module in model.modules() if isinstance(module, Mamba | Mamba2)]
    for name, module in model.named_modules():
        if isinstance(module, _OTHERS):
            raise UserError(f"{name} ({type(module).__name__}) cannot read a piece of a sequence; Mamba and Mamba2 can")
        if getattr(module, "gradient_checkpointing", False):
            raise UserError(f"{name or 'the model'} computes layers twice, and a state comes once; switch it off")
    if not layers:
        raise UserError("the model has no Mamba or Mamba-2 block, whose sequences could be cut")
    if not distributed.is_initialized():
        yield
        return
    neighbours = _Neighbours(group)
    hooks = [
        hook
        for layer in layers
        for hook in (
            layer.register_forward_pre_hook(neighbours.receive, with_kwargs=True),
            layer.register_forward_hook(neighbours.send, with_kwargs=True),
        )
    ]
    try:
        yield
        neighbours.finish()
    finally:
        for hook in hooks:
            hook.remove()


class _Neighbours:
    """The processes to the left and to the right, None at the ends, and what is on its way to them."""

    def __init__(self, group: Any):
        ranks = distributed.get_process_group_ranks(group or distributed.group.WORLD)
        place = ranks.index(distributed.get_rank())
        self.group = group
        self.left = ranks[place - 1] if place else None
        self.right = ranks[place + 1] if place + 1 < len(ranks) else None
        self.sent: list[tuple[Any, Tensor]] = []

    def receive(self, layer: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The block's arguments with the state from the left."""
        u, state = args[0], args[1] if len(args) > 1 else kwargs.get("state")
        if state is not None or kwargs.get("mask") is not None:
            raise UserError(f"{type(layer).__name__}: a piece of a sequence takes no state and no mask of its own")
        if u.shape[1] < layer.d_conv - 1:
            raise UserError(
                f"a piece has {u.shape[1]} tokens, the convolution needs {layer.d_conv - 1}; take fewer processes"
            )
        if self.left is None:
            return None
        kind, like = _state_like(layer, u)
        trained = next((p for p in layer.parameters() if p.requires_grad), None)
        conv, ssm = _FromLeft.apply(self, like, u, trained)
        if (index := kwargs.get("seq_idx")) is not None:  # the state is of the left's last sequence
            before = torch.empty_like(index[:, -1].contiguous())
            distributed.recv(before, self.left, self.group)
            same = (before == index[:, 0]).view(-1, *(1,) * (conv.ndim - 1))
            conv, ssm = conv * same, ssm * same.view(-1, *(1,) * (ssm.ndim - 1))
        return (u,), kwargs | {"state": kind(conv, ssm)}

    def send(self, layer: Any, args: tuple, kwargs: dict, found: tuple[Tensor, Any]) -> tuple[Tensor, Any] | None:
        """The block's results, after the state has gone to the right."""
        if self.right is None:
            return None
        y, state = found
        y = _ToRight.apply(y, self, *state)
        if (index := kwargs.get("seq_idx")) is not None:
            self.post(index[:, -1].contiguous(), self.right)
        return y, state

    def post(self, tensor: Tensor, to: int) -> None:
        """Send without waiting; the tensor is kept until it has arrived."""
        self.sent = [(work, kept) for work, kept in self.sent if not work.is_completed()]
        self.sent.append((distributed.isend(tensor, to, self.group), tensor))

    def finish(self) -> None:
        """Wait until all has arrived."""
        for work, _ in self.sent:
            work.wait()
        self.sent = []


def _state_like(layer: Any, u: Tensor) -> tuple[Any, tuple[Tensor, Tensor]]:
    """The kind of a block's state, and tensors of its parts' shapes and dtypes."""
    A, kind = layer._A(), MambaState if isinstance(layer, Mamba) else Mamba2State
    if isinstance(layer, Mamba):
        channels, shape = layer.d_inner, A.shape
    else:
        channels = layer.d_ssm + 2 * layer.ngroups * layer.d_state
        shape = (layer.nheads, layer.headdim, layer.d_state)
    dtype = torch.get_autocast_dtype(u.device.type) if torch.is_autocast_enabled(u.device.type) else u.dtype
    conv = torch.empty(len(u), channels, layer.d_conv - 1, dtype=dtype, device=u.device)
    return kind, (conv, torch.empty(len(u), *shape, dtype=A.dtype, device=u.device))


class _FromLeft(torch.autograd.Function):
    """The state that the left process ends with; its gradient goes back there."""

    @staticmethod
    def forward(ctx, neighbours, like, *trained):
        """The tensors `like`, filled; they have a gradient where one of `trained` has, as what the left sends does."""
        ctx.neighbours = neighbours
        for part in like:
            distributed.recv(_real(part), neighbours.left, neighbours.group)
        return like

    @staticmethod
    def backward(ctx, *gradients):
        for gradient in gradients:
            ctx.neighbours.post(_real(gradient.contiguous()), ctx.neighbours.left)
        return None, None, None, None


class _ToRight(torch.autograd.Function):
    """y as it is, after the state was sent to the right; in the backward pass its gradient comes from there."""

    @staticmethod
    def forward(ctx, y, neighbours, *state):
        ctx.neighbours = neighbours
        ctx.like = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in state]
        for part in state:
            neighbours.post(_real(part.detach().contiguous()), neighbours.right)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, gradient):
        for part in ctx.like:
            distributed.recv(_real(part), ctx.neighbours.right, ctx.neighbours.group)
        return gradient, None, *ctx.like


def _real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs, which every backend sends."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
