"""The contract of the selective scan: a diagonal, input-dependent state space model over a sequence."""

from torch import Tensor

from ssmlab.core.checks import check_flag, check_shapes
from ssmlab.core.errors import ShapeError, UserError
from ssmlab.ops._dispatch import choose, load
from ssmlab.ops.selective_scan import zero_order_hold

# The axes of the state, B and C by the kind of A.
_REAL = ("?: b d n", "complex: b n l|b gB n l|d n", "complex: b n l|b gC n l|d n")
_COMPLEX = ("complex?: b d n", "complex: b n 2l|b gB n 2l|d n", "complex: b n 2l|b gC n 2l|d n")


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    seq_idx: Tensor | None = None,
    B_discretization: str = "euler",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a diagonal, input-dependent state space model over a sequence.

        h_t = exp(dt_t A) * h_{t-1} + dt_t B_t x_t        y_t = (C_t h_t + D x_t) * silu(z_t)

    Source: Gu & Dao 2023 (arXiv:2312.00752), eq. 2a-2b, Algorithm 2; A by zero-order hold, B by Euler, or by zero-order
    hold too (eq. 4): then (exp(dt_t A) - 1) / A stands for dt_t.
    Any strides are accepted; channel-contiguous memory, i.e. `(b, l, d).mT`, is the fastest. Gradients flow into every
    floating-point argument, into the initial state and out of the final state. One step is `l = 1`.

    Args:
        x: input, (b, d, l), float32, bfloat16, float16 or float64.
        dt: step size > 0 (before softplus when `dt_softplus`), (b, d, l).
        A: decay rates < 0, (d, n), real or complex.
        B, C: input and output maps, (b, n, l), or (b, g, n, l) with g groups of d / g channels, or constant (d, n).
            With a complex A the ones per token are real with last axis 2l (real, imaginary interleaved), constant
            ones complex, and y = 2 Re(C h).
        D: skip weights, (d,).
        z: gate before silu, (b, d, l).
        dt_bias: added to dt before softplus, (d,).
        initial_state: h before the first token, (b, d, n).
        seq_idx: integers, (b, l); the state restarts from zero wherever the value differs from the one before.
        B_discretization: "euler", as all published models, or "zoh", which takes about 64 tokens at a time, since every
            channel has a B of its own then.
        backend: "native", "triton" (GPUs), "chunked" (plain torch, any device) or "reference"; None takes
            SSMLAB_BACKEND from the environment, else the fastest that can run this call.
    Returns:
        y (b, d, l) in the dtype of x, and the state after the last step (b, d, n) in float32 (complex64 where A is
        complex; float64 or complex128 where x is float64).
    Raises:
        ShapeError: sizes disagree, or an argument is no tensor of a dtype and device that it may have.
        BackendError: the requested backend cannot run this call.
        UserError: B_discretization is neither.
    """
    arguments = (x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, dt_softplus)
    sizes = _check(*arguments, B_discretization)
    held = B_discretization == "zoh" and sizes["d"] > 0 and sizes["n"] > 0
    # A held B has a group for every channel, and C is given as many: the groups of both need not agree.
    seen = (t[:, :1] if held and t.dim() == 4 else t for t in (B, C))
    chosen = choose("selective_scan", (x, dt, A, *seen, D, z, dt_bias, initial_state, seq_idx), backend)
    if not sizes["d"] or not sizes["n"]:  # nothing to scan, which no kernel takes
        chosen = load("selective_scan", "chunked")
    if held:
        return zero_order_hold.forward(chosen.__name__.rpartition(".")[2], *arguments)
    return chosen.forward(*arguments)


def _check(
    x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, dt_softplus, B_discretization
) -> dict[str, int]:  # fmt: skip
    """The sizes by their letters."""
    if B_discretization not in ("euler", "zoh"):
        raise UserError(f"selective_scan: B_discretization must be 'euler' or 'zoh', got {B_discretization!r}")
    complex_ = isinstance(A, Tensor) and A.is_complex()
    known = {"2l": 2 * x.shape[-1]} if complex_ and isinstance(x, Tensor) and x.dim() else None
    state, forms_B, forms_C = _REAL if known is None else _COMPLEX
    sizes = check_shapes(
        "selective_scan", known, x=(x, "b d l"), dt=(dt, "b d l"), A=(A, "complex: d n"),
        B=(B, forms_B), C=(C, forms_C), D=(D, "?: d"), z=(z, "?: b d l"), dt_bias=(dt_bias, "?: d"),
        initial_state=(initial_state, state),
        seq_idx=(seq_idx, "integer?: b l"),
    )  # fmt: skip
    check_flag("selective_scan", "dt_softplus", dt_softplus)
    _check_map("B", B, sizes, complex_)
    _check_map("C", C, sizes, complex_)
    return sizes


def _check_map(name: str, map_: Tensor, sizes: dict[str, int], complex_: bool) -> None:
    """B or C: constant ones complex where A is, the others real, and whole groups of channels."""
    groups = sizes.get(f"g{name}", 1)
    if groups == 0 or sizes["d"] % groups:
        raise ShapeError(
            f"selective_scan: {name} has g={groups} groups, which do not divide d={sizes['d']}; "
            "give one group for every d / g channels"
        )
    if map_.is_complex() != (complex_ and map_.dim() == 2):
        kind, expected = ("complex", "complex" if map_.dim() == 2 else "real") if complex_ else ("real", "real")
        raise ShapeError(
            f"selective_scan: {name} {tuple(map_.shape)} must be {expected} for a {kind} A, got {map_.dtype}; "
            "constant maps follow A, maps per token are real (real, imaginary interleaved)"
        )
