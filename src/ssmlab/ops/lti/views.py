"""The two views of the time-invariant operator in plain PyTorch, for any device that has float64.

What depends on the parameters alone, and the states that are carried, are computed in float64: a slow state has
exp(dt A) = 1 - 5e-4, whose float32 rounding is already an error of 1e-4 in its decay. Products with the input run in
the precision of the input.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.lti.direct import long_conv, usable
from ssmlab.ops.lti.system import System, like

CHUNK = 64  # most tokens that the recurrence takes in one step
LONG = 1024  # tokens from which the recurrence is faster on a CPU than an FFT, forward and backward, for n = 8 and 32


class Levels(NamedTuple):
    """A_bar^(i m + j) = coarse_i fine_j."""

    fine: Tensor  # (d, m, n), a complex one as pairs (d, m, 2 n)
    coarse: Tensor  # (d, blocks, n)


def recurrence_is_faster(u: Tensor) -> bool:
    """Many steps only where they cost little to start, which is on a CPU."""
    return u.shape[-1] == 1 or (u.device.type == "cpu" and u.shape[-1] >= LONG and not usable(u))


def convolve(system: System, levels: Levels) -> Tensor:
    """y (b, d, l), term by term, or by FFT, padded so that nothing wraps around."""
    u, l = system.u, system.u.shape[-1]
    if u.numel() == 0:
        return system.finish(u)
    K = modes(system.b * system.c, levels, l)
    if usable(u):
        y = long_conv(u, K)
    else:
        # The smallest 2^k times 1, 3, 5, 9 or 15 that is long enough: lengths at which an FFT is fast
        size = min(odd << max(0, (-(-(2 * l - 1) // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))
        y = torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(K, size), size)[..., :l]
    return system.finish(y if system.h is None else y + modes(system.h * (system.c * system.a), levels, l))


def final_state(system: System, levels: Levels) -> Tensor:
    """A_bar^l h_0 + sum_t A_bar^(l-1-t) B_bar u_t, (b, d, n): within blocks of 2 sqrt(l) tokens, then over them."""
    u, l = system.u, system.u.shape[-1]
    blocks, m = levels.coarse.shape[1], levels.fine.shape[1]
    padded = F.pad(u, (blocks * m - l, 0)).unflatten(-1, (blocks, m))  # zeros before the first token
    inside = _unpair(torch.einsum("bdij,djn->bdin", padded, levels.fine.flip(1)), system.a)
    h = system.b * (inside * levels.coarse.flip(1)).sum(2)
    return system.state(h if system.h is None else h + _power(system.a, l) * system.h)


def recur(system: System) -> tuple[Tensor, Tensor]:
    """Whole chunks, then what remains as a shorter one."""
    u, l = system.u, system.u.shape[-1]
    if l == 1:
        return _step(system)
    m = max(1, min(CHUNK, round(2 * l**0.5)))  # the table of powers costs as much as the tokens of a short sequence
    table = _powers(system.a, m)
    powers = _pairs(table[:, :m]).to(u.dtype)
    kernel = _read(system.b * system.c, powers)
    h = system.a.new_zeros(u.shape[0], *system.a.shape) if system.h is None else system.h
    outputs = []
    for begin, end, size in ((0, l // m * m, m), (l // m * m, l, l % m)):
        if begin < end:
            u_ = u[..., begin:end].unflatten(-1, (-1, size))
            y, h = _chunks(system, u_, h, powers[:, :size], kernel[:, :size], table[:, size])
            outputs.append(y.flatten(2))
    y = torch.cat(outputs, dim=-1) if outputs else u
    return system.finish(y), system.state(h)


def _chunks(
    system: System, u: Tensor, h: Tensor, powers: Tensor, kernel: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor]:
    """y (b, d, c, m) of c chunks of m tokens, and the state after them, from the state h before them.

    `powers` are 1, A_bar ... A_bar^(m-1) as pairs (d, m, 2 n), `decay` is A_bar^m. Each chunk alone, as a Toeplitz
    matrix; what each adds to the state; the states before each; what these add to the outputs.
    """
    m = u.shape[-1]
    toeplitz = F.pad(kernel, (m - 1, 0)).unfold(-1, m, 1).flip(-1)  # [i, j] = K[i - j], 0 above the diagonal
    y = torch.einsum("bdcj,dij->bdci", u, toeplitz)
    added = _unpair(torch.einsum("bdcj,djn->bdcn", u, powers.flip(1)), system.a)
    write, read = (t[:, None].to(added.dtype) for t in (system.b, system.c * system.a))
    starts = []
    for piece in (added * write).unbind(2):
        starts.append(h.to(piece.dtype))
        h = decay * h + piece  # in double precision
    return y + _read(torch.stack(starts, dim=2) * read, powers), h


def _step(system: System) -> tuple[Tensor, Tensor]:
    """One token."""
    h = system.b * system.u if system.h is None else system.a * system.h + system.b * system.u
    y = (system.c * h).sum(-1, keepdim=True)
    return system.finish((2 * y.real if y.is_complex() else y).to(system.u.dtype)), system.state(h)


def modes(weight: Tensor, levels: Levels, length: int) -> Tensor:
    """sum_n weight_n A_bar_n^k, twice the real part where complex: (..., d, l) from (..., d, n)."""
    left = weight.unsqueeze(-2).to(levels.coarse.dtype) * levels.coarse
    return _read(left, levels.fine).flatten(-2)[..., :length]


def _read(h: Tensor, powers: Tensor) -> Tensor:
    """sum_n h_n powers_n, twice the real part where h is complex.

    (..., d, i, j) from (..., d, i, n), or (d, j) from (d, n), and powers (d, j, n), as pairs where complex.
    """
    left = _pairs(2 * h.conj() if h.is_complex() else h).to(powers.dtype)
    return torch.einsum("dn,djn->dj" if h.dim() == 2 else "...din,djn->...dij", left, powers)


def two_levels(a: Tensor, length: int, dtype: torch.dtype) -> Levels:
    """All powers below length, in about 2.5 sqrt(length) of them: the fine ones are in products of matrices."""
    m = max(1, round(2 * length**0.5))
    blocks = -(-length // m)
    fine = _powers(a, m)
    coarse = _powers(fine[:, m], blocks - 1)[:, :blocks]
    return Levels(_pairs(fine[:, :m]).to(dtype), coarse.to(like(dtype, a)))


def _powers(a: Tensor, count: int) -> Tensor:
    """1, a, ..., a^count: (d, count + 1, n) from (d, n). By doubling, not by logarithms: a may be 0 or negative."""
    powers, top = torch.ones_like(a).unsqueeze(1), a
    while (have := powers.shape[1]) <= count:
        powers = torch.cat([powers, powers[:, : count + 1 - have] * top.unsqueeze(1)], dim=1)
        top = top * top
    return powers


def _power(a: Tensor, exponent: int) -> Tensor:
    """a^exponent by squaring."""
    result = torch.ones_like(a)
    while exponent:
        if exponent & 1:
            result = result * a
        a, exponent = a * a, exponent >> 1
    return result


def _pairs(t: Tensor) -> Tensor:
    """A complex last axis n as a real one of 2 n: Re(sum h g) = sum pairs(h) pairs(conj g). A real one as it is."""
    return torch.view_as_real(t.resolve_conj()).flatten(-2) if t.is_complex() else t


def _unpair(t: Tensor, a: Tensor) -> Tensor:
    """What `_pairs` did, undone where a is complex."""
    return torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) if a.is_complex() else t
