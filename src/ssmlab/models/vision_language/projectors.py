"""From the features of an image encoder to the tokens that a language model reads."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn.dt import check_sizes
from ssmlab.nn.linear import Linear
from ssmlab.nn.ss2d import SS2D

PROJECTORS = ("linear", "mlp", "fused_mlp", "pool", "pixel_shuffle", "queries", "scan")
HEAD = 64  # channels of a head of `Queries`, at most

Grid = tuple[int, int]


class Projector(nn.Module):
    """Features (b, n, d_in) of a grid -> tokens (b, m, d_model).

        linear         layers = Linear                                          m = n
        mlp            layers = Linear, then GELU, Linear `depth` - 1 times     m = n        (LLaVA-1.5: depth 2)
        fused_mlp      d_in -> 4 d_in -> d_model -> d_model, GELU in between    m = n        (Cobra)
        pool           means of `factor` x `factor` features, then mlp          m = n / factor^2
        pixel_shuffle  `factor` x `factor` features side by side, then mlp      m = n / factor^2
        queries        `queries` learned vectors attend to the features, then mlp            m = queries
        scan           x + SS2D(norm(x)) over the grid, then mlp                m = n

    Sources: LLaVA (arXiv:2304.08485, 2310.03744), Cobra (arXiv:2403.14520), pixel shuffle as in InternVL
    (arXiv:2404.16821), queries as in BLIP-2 (arXiv:2301.12597) with one layer, scan as in VL-Mamba (arXiv:2403.13600).

    Args:
        d_in, d_model: channels of the features and of the tokens.
        kind: of `PROJECTORS`.
        depth: linear layers of the mlp.
        factor: of pool and pixel_shuffle.
        queries: of queries.
        norm: of the features first, which small data need. True: LayerNorm; "batch": BatchNorm, which takes away what
            all images have in common, where they look much alike.
        newline: one learned token after every row of the grid, as LLaVA-NeXT (LLaVA 1.6) has it, by which a model that
            reads in one direction knows where a row ends.
    Raises:
        ModelError: an unknown kind, or a size that is not positive.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        kind: str = "mlp",
        *,
        depth: int = 2,
        factor: int = 2,
        queries: int = 64,
        norm: bool | str = False,
        newline: bool = False,
    ):
        super().__init__()
        if kind not in PROJECTORS:
            raise ModelError(f"projector must be one of {', '.join(PROJECTORS)}, got {kind!r}")
        check_sizes("Projector", d_in=d_in, d_model=d_model, depth=depth, factor=factor, queries=queries)
        self.kind, self.factor, self.queries = kind, factor, queries
        if norm not in (False, True, "batch"):
            raise ModelError(f"projector: norm must be true, false or batch, got {norm!r}")
        self.norm = nn.BatchNorm1d(d_in) if norm == "batch" else nn.LayerNorm(d_in) if norm else nn.Identity()
        inner = d_in * factor**2 if kind == "pixel_shuffle" else d_in
        if kind == "queries":
            self.mix: nn.Module = Queries(d_in, queries)
        elif kind == "scan":
            self.mix = Scan(d_in)
        sizes = {"linear": [inner, d_model], "fused_mlp": [inner, 4 * inner, d_model, d_model]}
        sizes_of = sizes.get(kind, [inner] + [d_model] * depth)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes_of):
            layers += [*([nn.GELU()] if layers else []), Linear(before, after)]
        self.layers = nn.Sequential(*layers)
        self.newline = nn.Parameter(torch.randn(d_model) * d_model**-0.5) if newline else None

    def grid_of(self, count: int, grid: Grid | None) -> tuple[int, Grid | None]:
        """How many tokens become of so many features, and in which grid; None where there is none.

        Raises:
            ShapeError: the kind or the newlines need a grid, or one that `factor` divides.
        """
        count, grid = self._mixed(count, grid)
        if self.newline is None:
            return count, grid
        if grid is None:
            raise ShapeError(
                f"newline ends the rows of a grid, and projector {self.kind} has none here; take tokens='patch' and a "
                "kind that keeps the grid, or leave newline out"
            )
        return grid[0] * (grid[1] + 1), None

    def _mixed(self, count: int, grid: Grid | None) -> tuple[int, Grid | None]:
        """The same before newlines."""
        if self.kind == "queries":
            return self.queries, None
        if self.kind in ("linear", "mlp", "fused_mlp"):
            return count, grid
        if grid is None:
            raise ShapeError(
                f"projector {self.kind} needs the features' grid, and there is none with CLS tokens or after tokens "
                "were merged; take tokens='patch', or another kind"
            )
        if self.kind == "scan":
            return count, grid
        if self.kind == "pixel_shuffle" and (grid[0] % self.factor or grid[1] % self.factor):
            raise ShapeError(
                f"pixel_shuffle joins {self.factor} x {self.factor} features, the grid is {grid[0]} x {grid[1]}; take "
                "a factor that divides it, or kind='pool'"
            )
        small = (math.ceil(grid[0] / self.factor), math.ceil(grid[1] / self.factor))
        return small[0] * small[1], small

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Features (b, n, d_in) of a grid (h, w), row by row, -> tokens (b, m, d_model)."""
        x = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        self.grid_of(x.shape[1], grid)  # raises where they do not fit
        _, small = self._mixed(x.shape[1], grid)
        if self.kind == "queries":
            x = self.mix(x)
        elif grid is not None and small is not None and self.kind in ("pool", "pixel_shuffle", "scan"):
            maps = x.unflatten(1, grid)  # (b, h, w, c)
            if self.kind == "scan":
                maps = self.mix(maps)
            elif self.kind == "pool":
                maps = F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), small).permute(0, 2, 3, 1)
            else:
                f = self.factor
                maps = maps.unflatten(1, (small[0], f)).unflatten(3, (small[1], f))  # (b, h, f, w, f, c)
                maps = maps.transpose(2, 3).flatten(3)
            x = maps.flatten(1, 2)
        x = self.layers(x)
        if self.newline is None or small is None:
            return x
        rows = x.unflatten(1, small)
        ends = self.newline.to(x.dtype).expand(*rows.shape[:2], 1, -1)
        return torch.cat([rows, ends], 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"kind={self.kind}"


class Queries(nn.Module):
    """Learned vectors that attend to features, whose order then plays no part: out_proj(softmax(q k^T / sqrt(c)) v).

    Args:
        d_model: channels of features and queries.
        queries: how many.
    """

    def __init__(self, d_model: int, queries: int):
        super().__init__()
        self.heads = max(1, d_model // HEAD)
        if d_model % self.heads:
            self.heads = 1
        self.query = nn.Parameter(torch.randn(queries, d_model) * 0.02)
        self.kv_proj = Linear(d_model, 2 * d_model)
        self.out_proj = Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, n, d_model) -> (b, queries, d_model)."""
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.kv_proj(x).chunk(2, dim=-1))
        q = self.query.unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(len(x), -1, -1, -1)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.query + self.out_proj(found.transpose(1, 2).flatten(2))


class Scan(nn.Module):
    """x + SS2D(norm(x)): every feature sees the map from four directions before a causal model reads them in one.

    Args:
        d_model: channels.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.block = SS2D(d_model, expand=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, h, w, d_model) -> the same shape."""
        return x + self.block(self.norm(x))
