"""The arguments of the time-invariant operator, checked and discretised, in double precision."""

from typing import NamedTuple

import torch
from torch import Tensor

from ssmlab.core.checks import check_choice, check_shapes
from ssmlab.core.errors import ShapeError

DISCRETIZATIONS = ("zoh", "bilinear")


class System(NamedTuple):
    """What a call comes to: u (b, d, l) in its working precision, the coefficients (d, n) in double precision."""

    u: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    D: Tensor | None
    h: Tensor | None  # (b, d, n) in double precision
    out: torch.dtype

    def state(self, h: Tensor) -> Tensor:
        """The state in the precision in which it is handed out."""
        return h.to(like(self.u.dtype, h))

    def finish(self, y: Tensor) -> Tensor:
        """The skip, and the dtype of the input."""
        y = y if self.D is None else y + self.D.to(y.dtype)[:, None] * self.u
        return y.to(self.out)


def make_system(
    op: str,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    discretization: str,
) -> System:
    """Check the arguments and discretise."""
    coefficient = "complex: d n"
    check_shapes(
        op, u=(u, "b d l"), dt=(dt, "d"), A=(A, coefficient), B=(B, coefficient), C=(C, coefficient), D=(D, "?: d"),
        initial_state=(initial_state, "complex?: b d n"),
    )  # fmt: skip
    check_kinds(op, A, {"B": B, "C": C, "initial_state": initial_state})
    a, b = discrete(op, dt, A, B, "discretization", discretization)
    h = None if initial_state is None else initial_state.to(a.dtype)
    return System(u.to(torch.promote_types(u.dtype, torch.float32)), a, b, C.to(a.dtype), D, h, u.dtype)


def check_kinds(op: str, A: Tensor, follow: dict[str, Tensor | None]) -> None:
    """`follow` are complex only where A is."""
    for name, tensor in follow.items():
        if tensor is not None and tensor.is_complex() and not A.is_complex():
            raise ShapeError(
                f"{op}: {name} must be real for a real A, got {tensor.dtype}; "
                f"give a complex A, A.to({tensor.dtype}) for the same one, and then y = 2 Re(C h)"
            )


def discrete(op: str, dt: Tensor, A: Tensor, B: Tensor, option: str, method: str) -> tuple[Tensor, Tensor]:
    """A_bar and B_bar (d, n) in double precision."""
    check_choice(op, option, method, DISCRETIZATIONS)
    A = A.to(like(torch.float64, A))
    dt, B = dt.to(torch.float64)[:, None], B.to(A.dtype)
    z = dt * A
    if method == "zoh":
        return torch.exp(z), dt * _phi(z) * B
    return (1 + z / 2) / (1 - z / 2), dt * B / (1 - z / 2)


def _phi(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z, by its series near 0, where the quotient and even more its derivative lose their digits."""
    small = z.detach().abs() < 0.1
    near, far = torch.where(small, z, 0), torch.where(small, 1, z)
    series = torch.ones_like(z)
    for k in range(11, 1, -1):  # 0.1^11 / 12! = 2e-20
        series = 1 + near / k * series
    return torch.where(small, series, (torch.exp(far) - 1) / far)


def like(real: torch.dtype, t: Tensor) -> torch.dtype:
    """The complex form of a real dtype where t is complex."""
    return real.to_complex() if t.is_complex() else real


def common(*tensors: Tensor) -> torch.dtype:
    """The dtype that holds all of them, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
