"""The contract of the time-invariant operator (S4D): a diagonal state space model, convolution and recurrence."""

from torch import Tensor

from ssmlab.core.checks import check_choice, check_count, check_shapes
from ssmlab.ops._torch import full_precision
from ssmlab.ops.lti.system import check_kinds, common, discrete, make_system
from ssmlab.ops.lti.views import convolve, final_state, modes, recur, recurrence_is_faster, two_levels

VIEWS = ("auto", "convolution", "recurrence")


def lti(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    discretization: str = "zoh",
    view: str = "auto",
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a diagonal state space model, the same at every token, over a sequence.

        h_t = A_bar * h_{t-1} + B_bar u_t        y_t = C h_t + D u_t   (A real)   or   2 Re(C h_t) + D u_t   (A complex)

    Source: Gu, Gupta, Goel & Ré 2022 (arXiv:2206.11893), S4D: sections 2 and 3. A complex state stands for itself and
    its conjugate, hence 2 Re. `discretize` makes A_bar and B_bar.

    Two views, equal up to rounding. The recurrence takes chunks of up to CHUNK tokens, one Python step for each, and
    is causal to the bit; only a NaN or an infinity reaches back to the start of its chunk. The convolution, by FFT,
    costs the same for every n once its kernel is made; its rounding is relative to a channel's largest output, and a
    NaN or an infinity reaches all outputs of its channel. Neither leaves its channel and row. One step of decoding is
    `l = 1`. Any strides; gradients flow into every argument and out of the state.

    Domain: exp(dt Re(A) l) finite in the precision of the result, i.e. dt Re(A) l below 88 in float32; Re(A) <= 0 is
    always inside, A = 0 too. "bilinear" has a pole at dt A = 2. The device must have float64.

    Args:
        u: input, (b, d, l), float32, bfloat16, float16 or float64.
        dt: step size > 0, (d,).
        A: diagonal of the state matrix, (d, n), real or complex.
        B, C: input and output maps, (d, n); they and the state may be complex where A is.
        D: skip weights, (d,).
        discretization: "zoh" (zero-order hold) or "bilinear".
        view: "convolution", "recurrence", or "auto": the one that was measured to be faster.
        initial_state: h before the first token, (b, d, n).
    Returns:
        y (b, d, l) in the dtype of u, and the state after the last token (b, d, n) in float32 (complex64 where A is
        complex; float64 or complex128 where u is float64).
    Raises:
        ShapeError: sizes disagree, a tensor is complex that may not be, or a name is unknown.
    """
    check_choice("lti", "view", view, VIEWS)
    system = make_system("lti", u, dt, A, B, C, D, initial_state, discretization)
    with full_precision(u):
        if view == "recurrence" or (view == "auto" and recurrence_is_faster(u)):
            return recur(system)
        levels = two_levels(system.a, u.shape[-1], system.u.dtype)
        return convolve(system, levels), final_state(system, levels)


def lti_convolution(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    discretization: str = "zoh",
    initial_state: Tensor | None = None,
) -> Tensor:
    """The convolution view of `lti` without the final state, which training does not need.

        y = K * u + D u      K of `lti_kernel`; an initial state adds C A_bar^(t+1) h_0

    Source: Gu et al. 2022 (arXiv:2206.11893), section 2. Arguments, dtypes, domain and errors are those of `lti`.

    Returns:
        y (b, d, l) in the dtype of u.
    """
    system = make_system("lti_convolution", u, dt, A, B, C, D, initial_state, discretization)
    with full_precision(u):
        return convolve(system, two_levels(system.a, u.shape[-1], system.u.dtype))


def lti_recurrence(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    discretization: str = "zoh",
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrent view of `lti`, in chunks: matrix products within and between them, and a carried state.

        h_t = A_bar * h_{t-1} + B_bar u_t      y_t = C h_t + D u_t

    Source: Gu et al. 2022 (arXiv:2206.11893), section 2; the chunks as in Dao & Gu 2024 (arXiv:2405.21060), section 6.
    Arguments, results, dtypes, domain and errors are those of `lti`.
    """
    system = make_system("lti_recurrence", u, dt, A, B, C, D, initial_state, discretization)
    with full_precision(u):
        return recur(system)


def lti_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, length: int, *, discretization: str = "zoh") -> Tensor:
    """The convolution kernel of a diagonal state space model: its response to an impulse.

        K_k = sum_n C_n A_bar_n^k B_bar_n   (A real)   or   2 Re(sum_n C_n A_bar_n^k B_bar_n)   (A complex)

    Source: Gu et al. 2022 (arXiv:2206.11893), section 3.2, the Vandermonde product. With k = i m + j it is a product
    of two matrices of about sqrt(l) powers each, so nothing of the size (d, n, l) is made.

    Args:
        dt: step size > 0, (d,).
        A, B, C: (d, n), as for `lti`.
        length: l, 0 or more.
        discretization: "zoh" or "bilinear".
    Returns:
        K (d, l) in float32, or float64 where an argument is in double precision.
    Raises:
        ShapeError: sizes disagree, a tensor is complex that may not be, or a name is unknown.
    """
    coefficient = "complex: d n"
    check_shapes("lti_kernel", A=(A, coefficient), B=(B, coefficient), C=(C, coefficient), dt=(dt, "d"))
    check_kinds("lti_kernel", A, {"B": B, "C": C})
    length = check_count("lti_kernel", "length", length, 0)
    a, b = discrete("lti_kernel", dt, A, B, "discretization", discretization)
    with full_precision(dt):
        return modes(b * C.to(a.dtype), two_levels(a, length, common(dt, A, B, C).to_real()), length)


def discretize(dt: Tensor, A: Tensor, B: Tensor, method: str = "zoh") -> tuple[Tensor, Tensor]:
    """Turn h' = A h + B u in continuous time into h_t = A_bar * h_{t-1} + B_bar u_t.

        zoh:       A_bar = exp(dt A)                          B_bar = (exp(dt A) - 1) / A * B
        bilinear:  A_bar = (1 + dt A / 2) / (1 - dt A / 2)    B_bar = dt B / (1 - dt A / 2)

    Source: Gu et al. 2022 (arXiv:2206.11893), section 3.1. Zero-order hold is exact where the input is constant during
    a step, and regular at A = 0 (B_bar = dt B), gradients included; bilinear has a pole at dt A = 2.

    Args:
        dt: step size > 0, (d,).
        A: diagonal of the state matrix, (d, n), real or complex.
        B: input map, (d, n), real, or complex where A is.
        method: "zoh" or "bilinear".
    Returns:
        A_bar and B_bar (d, n) in float32, or float64 where an argument is in double precision; complex where A is.
    Raises:
        ShapeError: sizes disagree, a tensor is complex that may not be, or the method is unknown.
    """
    check_shapes("discretize", A=(A, "complex: d n"), B=(B, "complex: d n"), dt=(dt, "d"))
    check_kinds("discretize", A, {"B": B})
    a, b = discrete("discretize", dt, A, B, "method", method)
    return a.to(common(dt, A, B)), b.to(common(dt, A, B))
