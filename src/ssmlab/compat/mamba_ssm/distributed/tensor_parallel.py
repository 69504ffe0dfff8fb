"""Layers that are cut over processes, for a world of one: `nn.Linear` and `nn.Embedding`."""

import torch
from torch import Tensor, nn

from ssmlab.compat._absent import absent
from ssmlab.compat.mamba_ssm.distributed.distributed_utils import one_process
from ssmlab.core.errors import UserError
from ssmlab.ops.linear import linear

__all__ = [
    "ColumnParallelEmbedding", "ColumnParallelLinear", "ParallelEmbeddings", "ParallelLinearFunc", "RowParallelLinear",
    "VocabParallelEmbedding", "parallel_linear_func",
]  # fmt: skip

__getattr__ = absent(
    __name__, "", "", mamba_ssm__utils__torch="custom_bwd custom_fwd",
    mamba_ssm__distributed__distributed_utils=(
        "all_gather_raw all_reduce all_reduce_raw reduce_scatter reduce_scatter_raw"
    ),
)  # fmt: skip


def parallel_linear_func(x, weight, bias=None, process_group=None, sequence_parallel=True):
    """x weight^T + bias."""
    one_process("parallel_linear_func", process_group)
    return linear(x, weight, bias)


class ParallelLinearFunc:
    """`parallel_linear_func` as an autograd function."""

    apply = staticmethod(parallel_linear_func)


class _ParallelLinear(nn.Linear):
    def __init__(
        self, in_features, out_features, process_group, bias=True, sequence_parallel=True, multiple_of=1, device=None,
        dtype=None,
    ):  # fmt: skip
        one_process(type(self).__name__, process_group)
        cut = out_features if isinstance(self, ColumnParallelLinear) else in_features
        if cut % multiple_of:
            raise UserError(f"{type(self).__name__}: {cut} features must be a multiple of {multiple_of}")
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.process_group, self.sequence_parallel = process_group, sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


class ColumnParallelLinear(_ParallelLinear):
    """A linear layer whose outputs are cut; out_features must be a multiple of `multiple_of`."""


class RowParallelLinear(_ParallelLinear):
    """A linear layer whose inputs are cut; in_features must be a multiple of `multiple_of`."""


class VocabParallelEmbedding(nn.Embedding):
    """An embedding whose vocabulary is cut."""

    def __init__(self, num_embeddings, *args, process_group=None, padding_idx=None, **kwargs):
        one_process("VocabParallelEmbedding", process_group)
        super().__init__(num_embeddings, *args, padding_idx=padding_idx, **kwargs)
        self.process_group = process_group


class ColumnParallelEmbedding(nn.Embedding):
    """An embedding whose channels are cut."""

    def __init__(self, num_embeddings, embedding_dim, *args, process_group=None, **kwargs):
        one_process("ColumnParallelEmbedding", process_group)
        super().__init__(num_embeddings, embedding_dim, *args, **kwargs)
        self.process_group = process_group


class ParallelEmbeddings(nn.Module):
    """Embeddings of words and, where max_position_embeddings > 0, of positions, added."""

    def __init__(
        self, embed_dim, vocab_size, max_position_embeddings, process_group, padding_idx=None, sequence_parallel=True,
        device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        factory = {"process_group": process_group, "device": device, "dtype": dtype}
        self.process_group, self.sequence_parallel = process_group, sequence_parallel
        self.max_position_embeddings = max_position_embeddings
        self.word_embeddings = VocabParallelEmbedding(vocab_size, embed_dim, padding_idx=padding_idx, **factory)
        if max_position_embeddings > 0:
            self.position_embeddings = ColumnParallelEmbedding(max_position_embeddings, embed_dim, **factory)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, combine_batch_seqlen_dim=False) -> Tensor:
        """input_ids, position_ids (b, l) -> (b, l, embed_dim), or (b l, embed_dim) where combined."""
        y = self.word_embeddings(input_ids)
        if self.max_position_embeddings > 0:
            if position_ids is None:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
            y = y + self.position_embeddings(position_ids)
        return y.flatten(0, 1) if combine_batch_seqlen_dim else y
