"""What others know of an operator: ops/<op>/example.py holds one `Example`, which doctor, benchmarks, FLOP counting and
the operator tests read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

CHANNEL, TIME = "channel-contiguous", "time-contiguous"  # neighbours in memory: channels of a token, or tokens
CHANNELS, LENGTHS = (64, 1536), (1, 49, 196, 3136)  # of the benchmarks on a CPU
GPU_SIZES = [*((1, 2048, 2**k) for k in range(9, 17)), (8, 5120, 2048), (1, 5120, 65536)]  # (b, d, l)


class Maker:
    """Random tensors, the same every time.

    Args:
        dtype: of what there is for every token; parameters are float32.
        layout: CHANNEL or TIME, of what there is for every token; None: as an example draws it.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, device: str = "cpu", layout: str | None = None):
        self.random = torch.Generator().manual_seed(0)
        self.dtype, self.device, self.layout = dtype, device, layout

    def parameter(self, *sizes: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(sizes, generator=self.random, dtype=torch.float32).to(self.device)

    def uniform(self, *sizes: int) -> Tensor:
        """Between 0 and 1."""
        return torch.rand(sizes, generator=self.random, dtype=torch.float32).to(self.device)

    def rates(self, *sizes: int) -> Tensor:
        """Decay rates, below 0."""
        return -self.uniform(*sizes) * 4 - 0.1

    def tokens(self, *sizes: int, channels: int | None = None, shift: float = 0.0) -> Tensor:
        """Normal numbers for every token; `channels` is the axis that `layout` may move in memory."""
        made = (torch.randn(sizes, generator=self.random, dtype=torch.float32) + shift).to(self.device, self.dtype)
        return self.laid_out(made, channels)

    def laid_out(self, made: Tensor, channels: int | None) -> Tensor:
        """The same numbers in the layout."""
        if self.layout is None or channels is None:
            return made
        if self.layout == CHANNEL:
            return made.movedim(channels, -1).contiguous().movedim(-1, channels)
        return made.movedim(channels, 1).contiguous().movedim(1, channels) if channels == -1 else made.contiguous()


@dataclass(frozen=True)
class Grid:
    """Shapes of a benchmark: all sizes (b, d, l, n) in all dtypes and layouts."""

    sizes: Sequence[tuple[int, int, int, int]]
    layouts: tuple[str, ...] = (CHANNEL,)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Example:
    """The facts of an operator.

    Args:
        inputs: function of a `Maker` and of sizes by name, b, d, l and n among them: every tensor argument by name.
        axes: of every argument, by name, with the contract's letters.
        odd: sizes with which kernels meet their remainders; for doctor and the tests.
        options: arguments that are no tensors.
        forms: what computes it where it has no backends of its own.
        call: function of (form, **arguments) that does so; "auto" is a plain call, "reference" the definition. None:
            the operator is called with `backend=form`.
        part: which part of a model's cost it is, of `profiling.flops.PARTS`.
        counted: names in torch.ops.ssmlab that have a FLOP formula and count to that part.
        limits: the largest ||y - y64|| / ||y64|| of y and every gradient with which a candidate is timed, by dtype. A
            bfloat16 rounds by up to 4e-3, and other people's code rounds more often than once.
        full, quick, gpu, gpu_quick: shapes of `ssmlab bench ops`; an operator without `full` is not timed.
        not_timed: optional arguments that are left out there, since other people's code does not have them.
        directions: scans of one input.
        loops: whether the reference loops over tokens.
        is_map: whether tokens lie on a square map, whose channels go with its size.
        yardsticks: what is timed next to it on a GPU, "attention" or "exp in registers".
    """

    inputs: Callable[..., dict[str, Tensor]]
    axes: Mapping[str, str]
    odd: Mapping[str, int]
    options: Mapping[str, object] = field(default_factory=dict)
    forms: tuple[str, ...] = ()
    call: Callable | None = None
    part: str = "batched products"
    counted: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=lambda: {"float32": 1e-5, "bfloat16": 3e-2})
    full: Grid | None = None
    quick: Grid | None = None
    gpu: Grid | None = None
    gpu_quick: Grid | None = None
    not_timed: tuple[str, ...] = ()
    directions: int = 1
    loops: bool = False
    is_map: bool = False
    yardsticks: tuple[str, ...] = ()
