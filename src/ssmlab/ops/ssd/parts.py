"""A sequence cut into chunks, and what the decays within a chunk come to.

Axes: k chunks, b rows, g groups, r heads of a group, q tokens of a chunk, p channels of a head, n states.
"""

from collections.abc import Iterator, Sequence
from math import exp, prod
from typing import NamedTuple

import torch
from torch import Tensor

# Elements that the (q, q) matrices of all heads, or their states, may have at a time: on a CPU what its caches hold.
# Rows of the batch, then chunks, are taken one after the other where there are more.
BUDGET = {"cpu": 2**18, "other": 2**24}
# A token of the log decay `forgets` forgets everything, so that a restart needs no mask, and the sums of a chunk stay
# small enough to be exact. Decays below exp(`least`) are zero and none is above exp(`most`): torch.exp takes 4 to 35
# times as long where its result is not a normal number.
LIMITS = {torch.float32: (-128.0, -80.0, 87.0), torch.float64: (-1024.0, -700.0, 700.0)}
GRID = 512.0


class Part(NamedTuple):
    """Chunks side by side. `log_decay` explains coarse + fine, the log decay since before the chunk."""

    x: Tensor  # (k, b, g, r, q, p), a view
    B: Tensor  # (k, b, g, q, n)
    C: Tensor
    delta: Tensor  # (k, b, g, r, q), like all that follow but the last
    coarse: Tensor
    grow: Tensor  # exp(fine)
    shrink: Tensor  # exp(-fine)
    since: Tensor  # exp(coarse + fine)
    until: Tensor  # the decay after the token, to the end of the chunk
    total: Tensor  # the decay of the whole chunk, (k, b, g, r)

    def take(self, some: slice) -> "Part":
        """Some of the chunks."""
        return Part(*(t[some] for t in self))


def log_decay(delta: Tensor, A: Tensor, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums of the log decays from the start of a chunk, up to and with each token, as coarse + fine.

    A difference of two float32 sums has lost what they were rounded by, 4e-6 at 100. The coarse parts are multiples of
    1 / GRID, so that their sums and differences are exact (up to 2^24 / GRID = 128 * 256 in float32), and the fine
    parts are small. exp(fine) are then factors of single tokens, and cost nothing on pairs of them.
    """
    forgets = LIMITS[delta.dtype][0]
    each = (delta * A).clamp(min=forgets)
    if fresh is not None:
        each = torch.where(fresh, forgets, each)
    coarse = (each * GRID).round() / GRID
    return coarse.cumsum(-1), (each - coarse).cumsum(-1)


def exp_(log: Tensor) -> Tensor:
    """exp in place, between the limits."""
    _, least, most = LIMITS[log.dtype]
    return torch.threshold_(log.clamp_(least, most).exp_(), exp(least + 0.1), 0.0)


def make_part(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, fresh: Tensor | None, q: int) -> Part:
    """All chunks of x (b, k * q, h, p) and the rest; B and C are copied unless their memory is in that order."""
    heads = split_heads(x, B)
    delta = cut(delta, q, heads).contiguous()
    if fresh is not None:
        fresh = cut(fresh[:, :, None], q, (1, 1))
    coarse, fine = log_decay(delta, A.to(delta.dtype).view(*heads, 1), fresh)
    B, C = (cut(map_, q, heads[:1]).to(delta.dtype).contiguous() for map_ in (B, C))
    since, until = exp_(coarse + fine), exp_((coarse[..., -1:] - coarse) + (fine[..., -1:] - fine))
    return Part(cut(x, q, heads), B, C, delta, coarse, fine.exp(), fine.neg().exp(), since, until, since[..., -1])


def split_heads(x: Tensor, B: Tensor) -> tuple[int, int]:
    """(g, r)."""
    return B.shape[2], x.shape[2] // B.shape[2]


def cut(t: Tensor, q: int, heads: tuple[int, ...]) -> Tensor:
    """A view of (b, k * q, h, ...) as (k, b, *heads, q, ...), `heads` being (g, r), or (g,) for B and C."""
    t = t.unflatten(2, heads).unflatten(1, (-1, q))
    after = 3 + len(heads)
    return t.permute(1, 0, *range(3, after), 2, *range(after, t.dim()))


def regions(l: int, chunk_size: int) -> list[tuple[slice, int]]:
    """(tokens, q): the whole chunks, then the shorter one that remains."""
    whole = l // chunk_size * chunk_size
    both = [(slice(0, whole), chunk_size), (slice(whole, l), l - whole)]
    return [(tokens, q) for tokens, q in both if tokens.start < tokens.stop]


def blocks(x: Tensor, n: int, chunk_size: int) -> Iterator[slice]:
    """Rows of the batch that are computed together."""
    b, l, h, p = x.shape
    rows = max(1, _affordable(x.device, h, p, n, min(chunk_size, l)))
    for begin in range(0, b, rows):
        yield slice(begin, min(begin + rows, b))


def pieces(part: Part, b: int) -> list[slice]:
    """Chunks that are computed together; one at a time where the part has some of the b rows only."""
    chunks, rows, g, r, q, p = part.x.shape
    width = max(1, _affordable(part.x.device, g * r, p, part.B.shape[-1], q) // b) if rows == b else 1
    return [slice(i, min(i + width, chunks)) for i in range(0, chunks, width)]


def _affordable(device: torch.device, h: int, p: int, n: int, q: int) -> int:
    """How many chunks of q tokens of one row fit the budget."""
    return BUDGET.get(device.type, BUDGET["other"]) // max(1, h * max(q * q, p * n))


def to_inner(state: Tensor, g: int) -> Tensor:
    """(b, h, p, n) as (b, g, n, r, p), so that the states of a group's heads are one matrix."""
    return state.unflatten(1, (g, state.shape[1] // g)).permute(0, 1, 4, 2, 3)


def to_outer(state: Tensor) -> Tensor:
    """The inverse of `to_inner`."""
    return state.permute(0, 1, 3, 4, 2).flatten(1, 2)


class Workspace:
    """Memory by name, the same for every piece of a call: pages that are touched for the first time cost more than
    the arithmetic on them."""

    def __init__(self, like: Tensor):
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def room(self, name: str, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor; the one of the same name before it is gone."""
        size = prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size].view(*shape)

    def matmul(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """The products of matrices whose leading axes are one run of memory."""
        return matmul(a, b, self.room(name, (*a.shape[:-1], b.shape[-1])))

    def scaled(self, name: str, a: Tensor, factor: Tensor) -> Tensor:
        """a (..., p) * factor (...)."""
        return self.product(name, a, factor[..., None])

    def product(self, name: str, a: Tensor, factor: Tensor) -> Tensor:
        """a * factor, the axes in order in memory whatever the strides of a are."""
        return torch.mul(a, factor, out=self.room(name, a.shape))

    def pairs(self, coarse: Tensor) -> Tensor:
        """exp(coarse_i - coarse_j) where j <= i, else 0; (..., q, q)."""
        room = self.room("pairs", (*coarse.shape, coarse.shape[-1]))
        return exp_(torch.sub(coarse[..., :, None], coarse[..., None, :], out=room)).tril_()


def matmul(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """The products of matrices whose leading axes are one run of memory, into another such run."""
    torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out=out.view(-1, *out.shape[-2:]))
    return out
