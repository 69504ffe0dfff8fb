"""Linear time-invariant state space models with a diagonal A (S4D): as a convolution and as a recurrence.

What depends on the parameters alone, and the states that are carried, are computed in float64: a slow state has
exp(dt A) = 1 - 5e-4, whose float32 rounding is already an error of 1e-4 in its decay. Products with the input run in
the precision of the input.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.checks import check_shapes
from ssmlab.errors import ShapeError

DISCRETIZATIONS = ("zoh", "bilinear")
VIEWS = ("auto", "convolution", "recurrence")
CHUNK = 64  # tokens that the recurrence takes in one step
LONG = 512  # tokens from which "auto" takes the convolution


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

    Source: Gu, Gupta, Goel & Re 2022 (arXiv:2206.11893), eq. 2 (the recurrence), 3 (the convolution), section 3.1
    (conjugate pairs: a complex state stands for itself and its conjugate). `discretize` makes A_bar and B_bar.

    The two views are equal up to rounding. The convolution (FFT) costs the same for every n once its kernel is made,
    but a rounding error of the largest output of a channel reaches all its outputs, and so does a NaN or an infinity,
    the earlier ones included. The recurrence is causal to the bit and takes one Python step for CHUNK tokens. One
    step of decoding is `l = 1`. Any strides; gradients flow into every floating-point argument and out of the state.

    Domain: dt > 0, and dt A l small enough for exp(dt Re(A) l) to be finite in the precision of u (below 88 in
    float32). Re(A) <= 0 is always inside, A = 0 too. "bilinear" has a pole at dt A = 2.

    Args:
        u: input, (b, d, l), float32, bfloat16, float16 or float64.
        dt: step size, (d,).
        A: diagonal of the state matrix, (d, n), real or complex.
        B, C: input and output maps, (d, n), complex or real where A is complex, real where A is real.
        D: skip weights, (d,).
        discretization: "zoh" or "bilinear".
        view: "convolution", "recurrence" or "auto", which takes the recurrence below LONG tokens.
        initial_state: h before the first token, (b, d, n).
    Returns:
        y (b, d, l) in the dtype of u, and the state after the last token (b, d, n) in float32 (complex64 where A is
        complex; float64 or complex128 where u is float64).
    Raises:
        ShapeError: sizes disagree, a tensor is complex that cannot be, or a name is unknown.
    """
    if view not in VIEWS:
        raise ShapeError(f"lti: view must be {_listed(VIEWS)}, got {view!r}")
    if view == "recurrence" or (view == "auto" and u.shape[-1] < LONG):
        return lti_recurrence(u, dt, A, B, C, D, discretization=discretization, initial_state=initial_state)
    system = _system("lti", u, dt, A, B, C, D, initial_state, discretization)
    with torch.autocast(u.device.type, enabled=False):
        return _convolve(system), _final_state(system)


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
    """The convolution view of `lti` without its final state, which training does not need.

        y = K * u + D u      K_k = C A_bar^k B_bar      (and C A_bar^(t+1) h_0 from an initial state)

    Source: Gu et al. 2022 (arXiv:2206.11893), eq. 3. Arguments, domain, dtypes and errors are those of `lti`.
    """
    system = _system("lti_convolution", u, dt, A, B, C, D, initial_state, discretization)
    with torch.autocast(u.device.type, enabled=False):
        return _convolve(system)


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
    """The recurrent view of `lti`: chunks of CHUNK tokens, one after the other, each three matrix products.

        h_t = A_bar * h_{t-1} + B_bar u_t      y_t = C h_t + D u_t

    Source: Gu et al. 2022 (arXiv:2206.11893), eq. 2. Arguments, results, domain and errors are those of `lti`.
    """
    system = _system("lti_recurrence", u, dt, A, B, C, D, initial_state, discretization)
    with torch.autocast(u.device.type, enabled=False):
        return _step(system) if u.shape[-1] == 1 else _recur(system)


def lti_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, length: int, *, discretization: str = "zoh") -> Tensor:
    """The convolution kernel of a diagonal state space model: its answer to an impulse.

        K_k = sum_n C_n A_bar_n^k B_bar_n   (A real)   or   2 Re(sum_n C_n A_bar_n^k B_bar_n)   (A complex)

    Source: Gu et al. 2022 (arXiv:2206.11893), eq. 4, the Vandermonde product. With k = i m + j it is a product of two
    matrices of sqrt(l) powers each, so nothing of the size (d, n, l) is made.

    Args:
        dt: step size, (d,). A, B, C: (d, n) as for `lti`. length: l. discretization: "zoh" or "bilinear".
    Returns:
        K (d, l) in float32, float64 where an argument is in double precision.
    Raises:
        ShapeError: sizes disagree, or a name is unknown.
    """
    check_shapes("lti_kernel", A=(A, "d n"), B=(B, "d n"), C=(C, "d n"), dt=(dt, "d"))
    _check_kinds("lti_kernel", A, {"dt": dt}, {"B": B, "C": C})
    if length < 0:
        raise ShapeError(f"lti_kernel: length must be 0 or more, got {length}")
    a, b = _discrete("lti_kernel", dt, A, B, discretization)
    with torch.autocast(dt.device.type, enabled=False):
        return _modes(b * C.to(a.dtype), a, length, _real(_common(dt, A, B, C)))


def discretize(dt: Tensor, A: Tensor, B: Tensor, method: str = "zoh") -> tuple[Tensor, Tensor]:
    """Turn h' = A h + B u in continuous time into h_t = A_bar * h_{t-1} + B_bar u_t.

        zoh:       A_bar = exp(dt A)                        B_bar = (exp(dt A) - 1) / A * B
        bilinear:  A_bar = (1 + dt A / 2) / (1 - dt A / 2)  B_bar = dt B / (1 - dt A / 2)

    Source: Gu et al. 2022 (arXiv:2206.11893), section 2. Zero-order hold is exact for an input that is constant during
    a step, and regular at A = 0 (B_bar = dt B), gradients included; bilinear has a pole at dt A = 2.

    Args:
        dt: step size, (d,).
        A: diagonal of the state matrix, (d, n), real or complex.
        B: input map, (d, n), complex or real where A is complex, real where A is real.
        method: "zoh" or "bilinear".
    Returns:
        A_bar and B_bar (d, n), in float32 (float64 where an argument is), complex where A is.
    Raises:
        ShapeError: sizes disagree, or the method is unknown.
    """
    check_shapes("discretize", A=(A, "d n"), B=(B, "d n"), dt=(dt, "d"))
    _check_kinds("discretize", A, {"dt": dt}, {"B": B})
    a, b = _discrete("discretize", dt, A, B, method, "method")
    dtype = _common(dt, A, B)
    return a.to(dtype), b.to(dtype)


class _System(NamedTuple):
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
        return h.to(_like(self.u.dtype, h))

    def finish(self, y: Tensor) -> Tensor:
        """The skip, and the dtype of the input."""
        y = y if self.D is None else y + self.D.to(y.dtype)[:, None] * self.u
        return y.to(self.out)


def _system(op, u, dt, A, B, C, D, initial_state, discretization) -> _System:
    """Check the arguments and discretise."""
    check_shapes(op, u=(u, "b d l"), dt=(dt, "d"), A=(A, "d n"), B=(B, "d n"), C=(C, "d n"), D=(D, "d"),
                         initial_state=(initial_state, "b d n"))  # fmt: skip
    _check_kinds(op, A, {"u": u, "dt": dt, "D": D}, {"B": B, "C": C, "initial_state": initial_state})
    a, b = _discrete(op, dt, A, B, discretization)
    h = None if initial_state is None else initial_state.to(a.dtype)
    return _System(u.to(torch.promote_types(u.dtype, torch.float32)), a, b, C.to(a.dtype), D, h, u.dtype)


def _check_kinds(op: str, A: Tensor, real: dict[str, Tensor | None], follow: dict[str, Tensor | None]) -> None:
    """`real` are never complex, `follow` only where A is."""
    for name, tensor in {**real, **follow}.items():
        if tensor is None or not tensor.is_complex():
            continue
        if name in real:
            raise ShapeError(f"{op}: {name} must be real, got {tensor.dtype}; {name}.real is")
        if not A.is_complex():
            raise ShapeError(
                f"{op}: {name} must be real for a real A, got {tensor.dtype}; "
                f"give a complex A, A.to({tensor.dtype}) for the same one, and then y = 2 Re(C h)"
            )


def _discrete(op: str, dt: Tensor, A: Tensor, B: Tensor, method: str, option: str = "discretization"):
    """A_bar and B_bar (d, n) in double precision."""
    if method not in DISCRETIZATIONS:
        raise ShapeError(f"{op}: {option} must be {_listed(DISCRETIZATIONS)}, got {method!r}")
    A = A.to(_like(torch.float64, A))
    dt, B = dt.to(torch.float64)[:, None], B.to(A.dtype)
    z = dt * A
    if method == "zoh":
        return torch.exp(z), dt * _phi(z) * B
    return (1 + z / 2) / (1 - z / 2), dt * B / (1 - z / 2)


def _phi(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z, by its series near 0, where the quotient and even more its derivative lose their digits."""
    small = z.detach().abs() < 0.5
    near, far = torch.where(small, z, 0), torch.where(small, 1, z)
    series = torch.ones_like(z)
    for k in range(16, 1, -1):  # 0.5^16 / 17! = 4e-20
        series = 1 + near / k * series
    return torch.where(small, series, (torch.exp(far) - 1) / far)


def _convolve(system: _System) -> Tensor:
    """y (b, d, l) by FFT, padded so that nothing wraps around."""
    u, a, l = system.u, system.a, system.u.shape[-1]
    if u.numel() == 0:
        return system.finish(u)
    K = _modes(system.b * system.c, a, l, u.dtype)
    size = _fast_length(2 * l - 1)
    y = torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(K, size), size)[..., :l]
    return system.finish(y if system.h is None else y + _modes(system.h * (system.c * a), a, l, u.dtype))


def _final_state(system: _System) -> Tensor:
    """A_bar^l h_0 + sum_t A_bar^(l-1-t) B_bar u_t, (b, d, n): first within blocks of sqrt(l) tokens, then over them."""
    u, a, l = system.u, system.a, system.u.shape[-1]
    fine, coarse, m, blocks = _two_levels(a, l)
    padded = F.pad(u, (blocks * m - l, 0)).unflatten(-1, (blocks, m))  # zeros before the first token
    inside = torch.einsum("bdij,djn->bdin", padded, _pairs(fine[:, :m]).to(u.dtype).flip(1))
    h = system.b * (_unpair(inside, a) * coarse.flip(1).to(_like(u.dtype, a))).sum(2)
    return system.state(h if system.h is None else h + _power(a, l) * system.h)


def _recur(system: _System) -> tuple[Tensor, Tensor]:
    """Whole chunks, then what remains as a shorter one."""
    u, l = system.u, system.u.shape[-1]
    m = max(1, min(CHUNK, round(2 * l**0.5)))
    table = _powers(system.a, m)
    tokens = _pairs(table).to(u.dtype)
    kernel = _read(system.b * system.c, tokens[:, :m])
    h = system.a.new_zeros(u.shape[0], *system.a.shape) if system.h is None else system.h
    outputs = []
    for begin, end, size in ((0, l // m * m, m), (l // m * m, l, l % m)):
        if begin < end:
            u_ = u[..., begin:end].unflatten(-1, (-1, size))
            y, h = _chunks(system, u_, h, tokens[:, : size + 1], kernel[:, :size], table[:, size])
            outputs.append(y.flatten(2))
    y = torch.cat(outputs, dim=-1) if outputs else u
    return system.finish(y), system.state(h)


def _chunks(system: _System, u: Tensor, h: Tensor, tokens: Tensor, kernel: Tensor, decay: Tensor):
    """y (b, d, c, m) of c chunks of m tokens, and the state after them: what each chunk adds, the states before each,
    then their outputs. `tokens` are the powers 0..m of A_bar as pairs (d, m + 1, 2 n), `decay` is the last one."""
    m = u.shape[-1]
    toeplitz = F.pad(kernel, (m - 1, 0)).unfold(-1, m, 1).flip(-1)  # [i, j] = K[i - j], 0 above the diagonal
    y = torch.einsum("bdcj,dij->bdci", u, toeplitz)
    added = _unpair(torch.einsum("bdcj,djn->bdcn", u, tokens[:, :m].flip(1)), system.a)
    starts = []
    for piece in (added.to(h.dtype) * system.b[:, None]).unbind(2):
        starts.append(h)
        h = torch.addcmul(piece, decay.expand_as(h), h)
    before = torch.stack(starts, dim=2) * system.c[:, None]
    return y + _read(before * system.a[:, None], tokens[:, :m]), h


def _step(system: _System) -> tuple[Tensor, Tensor]:
    """One token."""
    h = system.b * system.u if system.h is None else system.a * system.h + system.b * system.u
    y = (system.c * h).sum(-1, keepdim=True)
    return system.finish((2 * y.real if y.is_complex() else y).to(system.u.dtype)), system.state(h)


def _modes(weight: Tensor, a: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """sum_n weight_n a_n^k, twice the real part where complex: (..., d, l) from (..., d, n) and (d, n)."""
    fine, coarse, m, _ = _two_levels(a, length)
    left = weight.unsqueeze(-2).to(_like(dtype, a)) * coarse.to(_like(dtype, a))
    return _read(left, _pairs(fine[:, :m]).to(dtype)).flatten(-2)[..., :length]


def _read(h: Tensor, powers: Tensor) -> Tensor:
    """sum_n h_n powers_n, twice the real part where h is complex: (..., d, i, j) from (..., d, i, n) and pairs
    (d, j, 2 n); (d, j) from (d, n)."""
    left = _pairs(2 * h.conj() if h.is_complex() else h).to(powers.dtype)
    return torch.einsum("dn,djn->dj" if h.dim() == 2 else "...din,djn->...dij", left, powers)


def _two_levels(a: Tensor, length: int) -> tuple[Tensor, Tensor, int, int]:
    """Powers 0..m of a and 0..blocks-1 of a^m, with m about sqrt(length) and m * blocks >= length."""
    m = max(1, round(length**0.5))
    blocks = -(-length // m)
    fine = _powers(a, m)
    return fine, _powers(fine[:, m], blocks - 1)[:, :blocks], m, blocks


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
    """A complex last axis n as a real one of 2 n; a real one as it is. Then Re(sum h g) = sum pairs(h) pairs(conj g)."""
    return torch.view_as_real(t.resolve_conj()).flatten(-2) if t.is_complex() else t


def _unpair(t: Tensor, a: Tensor) -> Tensor:
    """What `_pairs` did, undone where a is complex."""
    return torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) if a.is_complex() else t


def _like(real: torch.dtype, t: Tensor) -> torch.dtype:
    """The complex form of a real dtype where t is complex."""
    return real.to_complex() if t.is_complex() else real


def _common(*tensors: Tensor) -> torch.dtype:
    """The dtype that holds all of them, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real()


def _fast_length(least: int) -> int:
    """The smallest 2^k times 1, 3, 5, 9 or 15 that is not below: lengths at which an FFT is fast."""
    return min(odd << max(0, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)
