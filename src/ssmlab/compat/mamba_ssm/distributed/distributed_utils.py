"""Exchange between processes, for a world of one: every function is the identity. A larger group is refused."""

import torch
from torch import Tensor, nn

from ssmlab.core.errors import UserError

__all__ = [
    "AllGatherFunc", "AllReduceFunc", "ReduceScatterFunc", "all_gather", "all_gather_raw", "all_reduce",
    "all_reduce_raw", "allreduce_sequence_parallel_grad", "get_dim_for_local_rank", "reduce_scatter",
    "reduce_scatter_raw", "sync_shared_params",
]  # fmt: skip


def one_process(name: str, process_group) -> None:
    """Raise a UserError where the group has several processes."""
    if process_group is None:
        return
    size = process_group.size() if hasattr(process_group, "size") else torch.distributed.get_world_size(process_group)
    if size > 1:
        raise UserError(
            f"{name}: tensor parallelism over {size} processes has no counterpart in ssmlab; give process_group=None "
            "and train data-parallel (torchrun with DDP or FSDP)"
        )


class _Done:
    """The handle of an exchange that there was nothing to wait for."""

    def wait(self) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def _raw(name: str, input_: Tensor, process_group, async_op: bool) -> tuple[Tensor, _Done | None]:
    one_process(name, process_group)
    return input_.contiguous(), _Done() if async_op else None


def all_gather_raw(input_, process_group, async_op=False):
    """(n, ...) of every process -> (processes * n, ...), and a handle where `async_op`."""
    return _raw("all_gather", input_, process_group, async_op)


def reduce_scatter_raw(input_, process_group, async_op=False):
    """The sum over processes, a part for each, and a handle where `async_op`."""
    return _raw("reduce_scatter", input_, process_group, async_op)


def all_reduce_raw(input_, process_group, async_op=False):
    """The sum over processes, and a handle where `async_op`."""
    return _raw("all_reduce", input_, process_group, async_op)


class AllGatherFunc:
    """`all_gather_raw` with a gradient."""

    @staticmethod
    def apply(input_, process_group):
        return all_gather_raw(input_, process_group)[0]


class ReduceScatterFunc:
    """`reduce_scatter_raw` with a gradient."""

    @staticmethod
    def apply(input_, process_group):
        return reduce_scatter_raw(input_, process_group)[0]


class AllReduceFunc:
    """`all_reduce_raw` with a gradient."""

    @staticmethod
    def apply(input_, process_group):
        return all_reduce_raw(input_, process_group)[0]


all_gather, reduce_scatter, all_reduce = AllGatherFunc.apply, ReduceScatterFunc.apply, AllReduceFunc.apply


def sync_shared_params(model: nn.Module, process_group) -> None:
    """Give all processes the parameters of the first: there is only it."""
    one_process("sync_shared_params", process_group)


def allreduce_sequence_parallel_grad(model: nn.Module, process_group) -> None:
    """Add up the gradients of parameters that all processes have: there is one process."""
    one_process("allreduce_sequence_parallel_grad", process_group)


def get_dim_for_local_rank(dim: int, world_size: int, local_rank: int, multiple_of: int = 1) -> int:
    """This process's share of `dim`, a multiple of `multiple_of`; the first processes get what is left over."""
    each, left = divmod(dim // multiple_of, world_size)
    return (each + (local_rank < left)) * multiple_of
