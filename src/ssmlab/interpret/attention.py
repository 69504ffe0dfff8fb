"""The hidden attention of a scan: the matrix that turns its input into its output, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab.interpret.places import Place

ENTRIES = 1 << 23  # of the matrices that are held at once, in addition to what the caller keeps


@dataclass(frozen=True, kw_only=True)
class Path:
    """One direction of a scan. c are its channels (Mamba-2: heads), each with n states; tokens in the path's order.

        alpha_ij = C_i exp(A (dt_{j+1} + .. + dt_i)) B_j w_j   for j <= i,   0 after

    Source: Ali, Zimerman & Wolf 2024 (arXiv:2403.01590), equations 9-11; for heads, Dao & Gu 2024 (arXiv:2405.21060),
    equation 3.

    direction: in words.
    dt: step sizes after softplus, (r, c, l).
    write: what a token's input is multiplied by besides B, (r, c, l); dt in a selective scan.
    A: (c, n), or (c, 1) where the states of a channel share it; complex where the system is.
    B, C: (r or 1, c, n, l or 1).
    real: whether y = C h; else the states stand for themselves and their conjugates, and y = 2 Re(C h).
    order: the token, in the order of the call, that is read at each step, (l,).
    first: the state before the first token, (r, c, p, n), or None.
    run: the number of the packed sequence that a step belongs to, (r, l), counted from 0, or None.
    """

    direction: str
    dt: Tensor
    write: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    order: Tensor
    real: bool = True
    first: Tensor | None = None
    run: Tensor | None = None

    @property
    def reached(self) -> Tensor:
        """The sum of the step sizes up to each token, (r, c, l); in double precision, since differences of it count."""
        return self.dt.double().cumsum(-1)

    def rows(self, steps: Tensor, channels: slice, reached: Tensor) -> Tensor:
        """Rows of the matrix for some steps and channels, (r, c', q, l), columns in the path's order."""
        time = reached[:, channels]
        gap = (time[..., steps, None] - time[..., None, :]).clamp_(min=0).to(self.dt.dtype)
        A, B, C = self.A[channels], self.B[:, channels], self.C[:, channels]
        C = C[..., steps] if C.shape[-1] > 1 else C
        if A.shape[1] == 1:
            rows = torch.exp(A[:, :, None] * gap) * torch.einsum("rcnq,rcnl->rcql", C, B)
        else:
            rows = torch.zeros(gap.shape, dtype=A.dtype, device=gap.device)
            for n in range(A.shape[1]):  # one state after the other: a tensor (.., q, l, n) is never made
                rows += torch.exp(A[:, n, None, None] * gap) * (C[:, :, n, :, None] * B[:, :, n, None, :])
        rows = _real(rows, self.real) * self.write[:, channels, None]
        return rows.masked_fill(~self._seen(steps)[:, None], 0)

    def _seen(self, steps: Tensor) -> Tensor:
        """Which tokens a step can know of, (r or 1, q, l): itself and those before, of the same sequence."""
        seen = torch.arange(self.dt.shape[-1], device=steps.device) <= steps[:, None]
        return seen[None] if self.run is None else seen & (self.run[:, steps, None] == self.run[:, None])

    def from_first(self, steps: Tensor) -> Tensor | None:
        """What the initial state adds to the output at some steps, (r, c, p, q)."""
        if self.first is None:
            return None
        kept = torch.exp(self.A[..., None] * self.reached[:, :, None, steps].to(self.dt.dtype))  # (r, c, n or 1, q)
        C = self.C[..., steps] if self.C.shape[-1] > 1 else self.C
        found = _real(torch.einsum("rcnq,rcpn->rcpq", C * kept, self.first.to(self.A.dtype)), self.real)
        return found if self.run is None else found * (self.run[:, None, None, steps] == 0)

    def state_norms(self, x: Tensor) -> Tensor:
        """The length of the state after every step, a mean over channels, (r, l).

        Args:
            x: inputs in the path's order, (r, c, p, l).
        """
        n = max(self.B.shape[2], self.A.shape[1])
        state = self.A.new_zeros(*x.shape[:3], n) if self.first is None else self.first.to(self.A.dtype)
        found = []
        for t in range(x.shape[-1]):
            decay = torch.exp(self.A * self.dt[..., t, None])[:, :, None]  # (r, c, 1, n or 1)
            if self.run is not None and t:
                decay = decay * (self.run[:, t] == self.run[:, t - 1])[:, None, None, None]
            taken = (self.write[..., t, None] * x[..., t])[..., None]
            state = decay * state + taken * self.B[..., t if self.B.shape[-1] > 1 else 0][:, :, None]
            found.append(torch.linalg.vector_norm(state, dim=-1).mean((1, 2)))
        return torch.stack(found, -1)


@dataclass(frozen=True, kw_only=True)
class ScanCall:
    """One call of a scan: y = (sum over paths of attention x + what an initial state adds + D x) * gate.

    name: the block's, among the model's modules. op: the operator's.
    paths: one, or one a direction of a directional scan.
    x: input, (r, c, p, l): p channels share a matrix, in Mamba-2 those of a head, else 1. r are rows: images, or the
        windows of images.
    y: output of the operator, in x's shape.
    D: skip weights, (c, p or 1), summed over the paths, or None. gate: silu(z), in x's shape, or None.
    place: where on the image the tokens are, or None where nobody knows.
    """

    name: str
    op: str
    paths: tuple[Path, ...]
    x: Tensor
    y: Tensor
    D: Tensor | None = None
    gate: Tensor | None = None
    place: Place | None = None

    @property
    def length(self) -> int:
        return self.x.shape[-1]

    @property
    def channels(self) -> int:
        return self.x.shape[1]

    def attention(self, tokens: Tensor | list[int] | None = None, channels: slice = slice(None)) -> Tensor:
        """Rows of the matrix, summed over the paths, (r, c', q, l); None takes all tokens.

        All rows of all channels are r c l^2 numbers; ask for the channels or the tokens that matter.
        """
        requested = self._tokens(tokens)
        count = len(range(*channels.indices(self.channels)))
        out = self.x.new_zeros(self.x.shape[0], count, len(requested), self.length)
        for own, rows, block in self._blocks(requested, channels):
            out[:, own, rows] += block
        return out

    def mean_attention(self, tokens: Tensor | list[int] | None = None) -> Tensor:
        """The mean over channels of the rows' absolute values, (r, q, l): how much each token gives, of either sign."""
        requested = self._tokens(tokens)
        out = self.x.new_zeros(self.x.shape[0], len(requested), self.length)
        for _, rows, block in self._blocks(requested, slice(None), summed=True):
            out[:, rows] += block.abs().sum(1)
        return out / self.channels

    def attended(self, tokens: Tensor | list[int] | None = None) -> Tensor:
        """Attention times the input, and what an initial state adds, (r, c, p, q): the scan without skip and gate."""
        requested = self._tokens(tokens)
        out = self.x.new_zeros(*self.x.shape[:3], len(requested))
        for own, rows, block in self._blocks(requested, slice(None)):
            out[:, own, :, rows] += torch.einsum("rcql,rcpl->rcpq", block, self.x[:, own])
        for path in self.paths:
            added = path.from_first(_inverse(path.order)[requested])
            out = out if added is None else out + added
        return out

    def skip(self) -> Tensor:
        """D x, (r, c, p, l); zero without a D."""
        return torch.zeros_like(self.x) if self.D is None else self.D[..., None] * self.x

    def rebuilt(self, tokens: Tensor | list[int] | None = None) -> Tensor:
        """The operator's output at some tokens, made of attention, skip and gate, (r, c, p, q)."""
        requested = self._tokens(tokens)
        y = self.attended(requested) + self.skip()[..., requested]
        return y if self.gate is None else y * self.gate[..., requested]

    def step_sizes(self) -> Tensor:
        """dt of every token, a mean over channels and paths, (r, l): how strongly a token is written."""
        return torch.stack([path.dt.mean(1)[:, _inverse(path.order)] for path in self.paths]).mean(0)

    def state_norms(self) -> Tensor:
        """The length of the state at every token, a mean over channels and paths, (r, l)."""
        found = [path.state_norms(self.x[..., path.order])[:, _inverse(path.order)] for path in self.paths]
        return torch.stack(found).mean(0)

    def to_map(self, values: Tensor) -> Tensor:
        """Values of tokens (r, .., l) on the image, (b, .., h, w); see `Place`."""
        if self.place is None:
            raise ValueError(f"{self.name}: it is not known where on an image its tokens are")
        return self.place.to_map(values)

    def _tokens(self, tokens: Tensor | list[int] | None) -> Tensor:
        every = torch.arange(self.length, device=self.x.device)
        return every if tokens is None else every[torch.as_tensor(tokens, device=self.x.device)]

    def _blocks(
        self, tokens: Tensor, channels: slice, *, summed: bool = False
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Blocks (r, c', q', l) of the rows: which of the channels, which of the tokens, the numbers.

        Those of all paths, one after another; with `summed`, their sum at once.
        """
        first, stop, _ = channels.indices(self.channels)
        size = self.x.shape[0] * self.length
        rows = max(1, min(len(tokens), ENTRIES // size))
        width = max(1, ENTRIES // (size * rows))
        inverses = [_inverse(path.order) for path in self.paths]
        reached = [path.reached for path in self.paths]
        for start in range(first, stop, width):
            own = slice(start, min(start + width, stop))
            for row in range(0, len(tokens), rows):
                requested = slice(row, min(row + rows, len(tokens)))
                parts = (
                    path.rows(inverse[tokens[requested]], own, time)[..., inverse]
                    for path, inverse, time in zip(self.paths, inverses, reached, strict=True)
                )
                inside = slice(own.start - first, own.stop - first)
                for block in [sum(parts)] if summed else parts:
                    yield inside, requested, block


def _inverse(order: Tensor) -> Tensor:
    """The step at which each token is read."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _real(values: Tensor, real: bool) -> Tensor:
    if not values.is_complex():
        return values
    return values.real if real else 2 * values.real
