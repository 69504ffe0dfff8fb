"""The largest scores of every row, and the logarithm of the sum of its exponentials: what a search asks of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops.steps import available, is_plain_inference

_LIKELIEST = STRUCTS["ssm_likeliest"]


def likeliest(scores: Tensor, k: int, suppress: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """Without a gradient. On the CPU in float32 one pass over the scores, instead of a sort and several.

    Args:
        scores: (r, n) of a floating dtype.
        k: how many, at most n.
        suppress: places that are not among the largest, but in the sum.
    Returns:
        The logarithms (r,) in float64; values (r, k) in the dtype of the scores, largest first, and their places
        (r, k): equal ones come in the order of their places. Where there are fewer than k, values are -inf.
    """
    plain = scores.dtype is torch.float32 and scores.is_cpu and scores.stride(1) == 1 and len(scores) > 0
    if plain and available() and is_plain_inference(scores, scores):
        return _native_likeliest(scores, k, suppress)
    total = scores.logsumexp(1).double()
    if len(suppress):
        scores = scores.index_fill(1, torch.tensor(list(suppress), device=scores.device), -torch.inf)
    values, places = scores.topk(k, 1)
    if k < scores.shape[1] and bool(((scores >= values[:, -1:]).sum(1) > k).any()):  # topk may take any of equal ones
        values, places = (part[:, :k] for part in scores.sort(dim=1, descending=True, stable=True))
    else:
        places, order = places.sort(1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
    return total, values, places


def _native_likeliest(scores: Tensor, k: int, suppress: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    r, n = scores.shape
    total, places = torch.empty(r, dtype=torch.float64), torch.empty(r, k, dtype=torch.int64)
    values, never = torch.empty(r, k, dtype=torch.float32), torch.tensor(list(suppress), dtype=torch.int64)
    _native.run("ssm_likeliest_", _LIKELIEST(
        rows=r, places=n, count=k, suppressed=len(never), threads=_native.threads(), scores=scores.data_ptr(),
        stride=scores.stride(0), suppress=never.data_ptr(), total=total.data_ptr(), value=values.data_ptr(),
        place=places.data_ptr(),
    ))  # fmt: skip
    return total, values, places
