"""The contract of the state space dual (SSD, Mamba-2): one decay a head, so that matrix products carry the work."""

from torch import Tensor

from ssmlab.core.checks import check_count, check_flag, check_shapes
from ssmlab.core.errors import ShapeError
from ssmlab.ops._dispatch import choose, load

# Measured of "chunked" with (b, l, h, p) = (1, 2048, 24, 64), n = 128, g = 1, D, float32, on one Zen 4 thread (its
# CPU time, the other one busy; the least of 12 calls and 3 runs), milliseconds:
#   chunk_size                             32     64    128    256
#   forward                                45     41     47     69
#   its matrix products alone              22     23     27     43
#   forward and backward                  191    142    170    240
# At 1024 tokens and chunks of 64, another machine (AVX-512, one thread), forward and the backward pass alone:
#   chunked 15 and 38, native 5 and 13
CHUNK_SIZE = 64


def ssd(
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
    chunk_size: int = CHUNK_SIZE,
    initial_state: Tensor | None = None,
    seq_idx: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a state space model whose decay is one number a head, over a sequence of p-dimensional inputs.

        H_t = exp(dt_t A) H_{t-1} + dt_t x_t B_t^T        y_t = (H_t C_t + D x_t) * silu(z_t)        H (p, n) per head

    Source: Dao & Gu 2024 (arXiv:2405.21060), section 6, Listing 1. It is `selective_scan` with an A shared by the n
    states and the p channels of a head. Any strides are accepted. Gradients flow into every floating-point argument,
    into the initial state and out of the final state. One step is `l = 1`.

    The result does not depend on `chunk_size` but for rounding. All but "reference" are causal to rounding; only a NaN
    or an infinity reaches back to the start of its chunk. None leaves its row of the batch. Derivatives after the
    first are those of "reference", at its cost.

    Args:
        x: input, (b, l, h, p), float32, bfloat16, float16 or float64.
        dt: step size > 0 (before softplus when `dt_softplus`), (b, l, h).
        A: decay rates < 0, (h,).
        B, C: input and output maps, (b, l, g, n); each of the g groups serves h / g heads in a row.
        D: skip weights, (h,) or (h, p).
        z: gate before silu, (b, l, h, p).
        dt_bias: added to dt before softplus, (h,).
        chunk_size: tokens whose pairs are multiplied out; between chunks the state carries on. "native" takes 64 of
            a longer chunk at a time, "triton" always its own number.
        initial_state: H before the first token, (b, h, p, n).
        seq_idx: integers, (b, l); the state restarts from zero wherever the value differs from the one before.
        backend: "native" (C++ on the CPU), "triton" (GPUs), "chunked" (plain torch, any device) or "reference"; None
            takes SSMLAB_BACKEND from the environment, else the fastest that can run this call.
    Returns:
        y (b, l, h, p) in the dtype of x, and the state after the last step (b, h, p, n) in float32 (float64 where x
        is float64).
    Raises:
        ShapeError: sizes disagree, an argument is no tensor of a dtype and device that it may have, or `chunk_size` is
            below 1.
        BackendError: the requested backend cannot run this call.
    """
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx)
    sizes = _check(*tensors)
    check_flag("ssd", "dt_softplus", dt_softplus)
    chunk_size = check_count("ssd", "chunk_size", chunk_size, 1)
    chosen = choose("ssd", tensors, backend)
    if not (sizes["h"] and sizes["p"] and sizes["n"]):  # nothing to scan, which no kernel takes
        chosen = load("ssd", "reference")
    return chosen.forward(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size)


def _check(x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx) -> dict[str, int]:
    """The sizes by their letters."""
    if isinstance(A, Tensor) and A.is_complex():
        raise ShapeError(f"ssd: A must be real, got {A.dtype}; use selective_scan for a complex one")
    sizes = check_shapes(
        "ssd", x=(x, "b l h p"), dt=(dt, "b l h"), A=(A, "h"), B=(B, "b l g n"), C=(C, "b l g n"), D=(D, "?: h|h p"),
        z=(z, "?: b l h p"), dt_bias=(dt_bias, "?: h"), initial_state=(initial_state, "?: b h p n"),
        seq_idx=(seq_idx, "integer?: b l"),
    )  # fmt: skip
    if sizes["g"] == 0 or sizes["h"] % sizes["g"]:
        raise ShapeError(
            f"ssd: B and C have g={sizes['g']} groups, which do not divide h={sizes['h']} heads; "
            "give one group for every h / g heads"
        )
    return sizes
