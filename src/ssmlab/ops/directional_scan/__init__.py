"""The contract of the directional scan: selective scans over a feature map along its rows and columns, summed."""

from torch import Tensor

from ssmlab.core.checks import check_count, check_flag, check_shapes
from ssmlab.core.errors import ShapeError
from ssmlab.ops._dispatch import choose, load

# The order of the directions; 1, 2 or 4 of them are used, from the first on.
DIRECTIONS = ("rows", "columns", "rows reversed", "columns reversed")


def directional_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    directions: int = 4,
    backend: str | None = None,
) -> Tensor:
    """Scan a feature map in several directions and sum what each finds at a point.

        y(p) = sum_k  C_k(p) h_k(p) + D_k x(p),    h_k(p) = exp(dt_k(p) A_k) h_k(before p) + dt_k(p) B_k(p) x(p)

    "Before p" is the neighbour along direction k: rows (left to right, line by line), columns (top to bottom), rows
    reversed, columns reversed. Source: VMamba (arXiv:2401.10166), section 4.2, SS2D. No copy of the map is made in any
    order: the order is a stride. Channel-contiguous memory, i.e. `(b, h, w, d).permute(0, 3, 1, 2)`, is the fastest.
    Gradients flow into every argument.

    Args:
        x: feature map, (b, d, h, w), float32, bfloat16, float16 or float64.
        dt: step sizes at every point, (b, k, d, h, w), k = directions.
        A: decay rates < 0, (k, d, n), real.
        B, C: input and output maps at every point, (b, k, n, h, w).
        D: skip weights, (k, d).
        dt_bias: added to dt before softplus, (k, d).
        directions: 1 (rows), 2 (rows and columns) or 4.
        backend: "native", "triton" (GPUs), "chunked" or "reference"; None takes the fastest that can run this call.
    Returns:
        y (b, d, h, w) in the dtype of x.
    Raises:
        ShapeError: sizes disagree, an argument is no tensor of a dtype and device that it may have, or `directions` is
            not 1, 2 or 4.
        BackendError: the requested backend cannot run this call.
    """
    if check_count("directional_scan", "directions", directions, 1) not in (1, 2, 4):
        raise ShapeError(
            f"directional_scan: directions must be 1, 2 or 4 (of {', '.join(DIRECTIONS)}), got {directions}"
        )
    if isinstance(A, Tensor) and A.is_complex():
        raise ShapeError(f"directional_scan: A must be real, got {A.dtype}; use selective_scan along one direction")
    sizes = check_shapes(
        "directional_scan", {"k": directions}, x=(x, "b d h w"), dt=(dt, "b k d h w"), A=(A, "k d n"),
        B=(B, "b k n h w"), C=(C, "b k n h w"), D=(D, "?: k d"), dt_bias=(dt_bias, "?: k d"),
    )  # fmt: skip
    check_flag("directional_scan", "dt_softplus", dt_softplus)
    chosen = choose("directional_scan", (x, dt, A, B, C, D, dt_bias), backend)
    if not sizes["d"] or not sizes["n"]:  # nothing to scan, which no kernel takes
        chosen = load("directional_scan", "chunked")
    return chosen.forward(x, dt, A, B, C, D, dt_bias, dt_softplus)
