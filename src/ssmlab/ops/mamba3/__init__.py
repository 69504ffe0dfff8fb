"""The contract of Mamba-3's scan: a trapezoid instead of Euler's rule, a rotating state, and R inputs and outputs."""

from typing import NamedTuple

import torch
from torch import Tensor

from ssmlab.core.checks import check_choice, check_count, check_shapes, check_state
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.ops._dispatch import BACKENDS
from ssmlab.ops.mamba3 import reference, scan
from ssmlab.ops.ssd import CHUNK_SIZE

PAIRS = ("interleaved", "halves")


class Mamba3State(NamedTuple):
    """What the scan remembers between two calls, in float32 (float64 for float64 inputs).

    angle: how far the pairs of states have turned, (b, h, s).
    ssm: the state H, (b, h, p, n).
    k: the last token's B with its bias, turned, (b, h, r, n).
    v: the last token's input, (b, h, r, p).
    """

    angle: Tensor
    ssm: Tensor
    k: Tensor
    v: Tensor


def mamba3(
    x: Tensor, dt: Tensor, log_decay: Tensor, trap: Tensor, B: Tensor, C: Tensor, angle: Tensor,
    D: Tensor | None = None, *,
    z: Tensor | None = None, B_bias: Tensor | None = None, C_bias: Tensor | None = None,
    mimo_x: Tensor | None = None, mimo_z: Tensor | None = None, mimo_o: Tensor | None = None,
    pairs: str = "interleaved", chunk_size: int = CHUNK_SIZE, initial_state: Mamba3State | None = None,
    seq_idx: Tensor | None = None, lengths: Tensor | None = None, backend: str | None = None,
) -> tuple[Tensor, Mamba3State]:  # fmt: skip
    """Run Mamba-3's state space model over a sequence of p-dimensional inputs, per head:

        theta_t = theta_{t-1} + dt_t pi tanh(angle_t)       k_t, q_t = turn(B_t + B_bias), turn(C_t + C_bias) by theta_t
        H_t = a_t H_{t-1} + (1 - w_t) dt_t a_t v_{t-1} k_{t-1}^T + w_t dt_t v_t k_t^T     a_t = exp(log_decay_t)
        y_t = (H_t q_t + D v_t) * silu(z_t)                                               w_t = sigmoid(trap_t)

    Without the `mimo` weights (SISO, r = 1) v is x. With them (MIMO) there are r pairs of v = mimo_x * x and k, which
    add up in the same H, and r outputs, of which each has its gate mimo_z * z; y is the sum of mimo_o times them.

    Source: Mamba-3 (arXiv:2603.15569): exponential-trapezoidal rule, data-dependent rotation, MIMO. The first of the s
    pairs of states are turned, the others not; which states make a pair is `pairs`. Gradients flow into every
    floating-point argument, into the initial state and out of the final one. One step is `l = 1`.

    Args:
        x: input, (b, l, h, p), float32, bfloat16, float16 or float64.
        dt: step size >= 0, (b, l, h).
        log_decay: A dt <= 0, (b, l, h). Between 0 and -2^-40 the gradient is zero but with "reference".
        trap: weight of the token against its predecessor, before sigmoid, (b, l, h).
        B, C: input and output maps, (b, l, r, g, n); each of the g groups serves h / g heads in a row.
        angle: rates of rotation, before tanh, (b, l, h, s), or (b, l, s) for all heads; 2 s <= n.
        D: skip weights, (h,).
        z: gate before silu, (b, l, h, p).
        B_bias, C_bias: added to B and C, (h, r, n).
        mimo_x, mimo_z, mimo_o: weights of the r inputs, gates and outputs, (h, r, p). mimo_x makes it MIMO; without
            mimo_o the r outputs are returned as they are, and z must be absent.
        pairs: "interleaved" turns states (0, 1), (2, 3), ..., "halves" (i, i + n / 2); the original's SISO and MIMO.
        chunk_size: of `ops.ssd`; a matter of speed alone.
        initial_state: what an earlier call returned.
        seq_idx: integers, (b, l); all four states restart from zero wherever the value differs from the one before.
        lengths: tokens of each row, (b,); what comes after them is padding, which changes nothing but its outputs.
        backend: "native", "chunked" (those of `ops.ssd`, which carries the work) or "reference"; None: its choice.
    Returns:
        y (b, l, h, p), or (b, l, r, h, p) of MIMO without mimo_o, in the dtype of x, and the state after the last
        token. Its angle lies in [0, 2 pi); MIMO's is the whole sum, as the original's is.
    Raises:
        ShapeError: sizes disagree, an argument is no tensor of a dtype and device that it may have, `pairs` is
            neither, or a row has more tokens than columns or less than none.
        BackendError: the requested backend cannot run this call.
    """
    if backend is not None and backend not in BACKENDS["ssd"]:
        raise BackendError(f"mamba3: unknown backend {backend!r}; there are {', '.join(BACKENDS['ssd'])}")
    inputs, mimo = (x, dt, log_decay, trap, B, C, angle, D, z, B_bias, C_bias), (mimo_x, mimo_z, mimo_o)
    sizes = _check(*inputs, *mimo, pairs, initial_state, seq_idx, lengths)
    chunk_size = check_count("mamba3", "chunk_size", chunk_size, 1)
    if lengths is not None and seq_idx is not None and sizes["l"]:
        seq_idx = _without_padding(seq_idx, lengths)
    options = (mimo, pairs, initial_state, seq_idx, lengths)
    if backend == "reference" or not (sizes["h"] and sizes["p"] and sizes["n"]):  # nothing to scan: no kernel takes it
        y, states = reference.forward(*inputs, *options)
    else:
        y, states = scan.forward(*inputs, *options, chunk_size, backend)
    return y, Mamba3State(*states)


def _check(
    x, dt, log_decay, trap, B, C, angle, D, z, B_bias, C_bias, mimo_x, mimo_z, mimo_o, pairs, initial_state, seq_idx,
    lengths,
) -> dict[str, int]:  # fmt: skip
    """The sizes by their letters."""
    given = "" if initial_state is not None else "?"
    angle_, ssm, k, v = check_state("mamba3", initial_state, Mamba3State)
    sizes = check_shapes(
        "mamba3", x=(x, "b l h p"), dt=(dt, "b l h"), log_decay=(log_decay, "b l h"), trap=(trap, "b l h"),
        B=(B, "b l r g n"), C=(C, "b l r g n"), angle=(angle, "b l h s|b l s"), D=(D, "?: h"), z=(z, "?: b l h p"),
        B_bias=(B_bias, "?: h r n"), C_bias=(C_bias, "?: h r n"), mimo_x=(mimo_x, "?: h r p"),
        mimo_z=(mimo_z, "?: h r p"), mimo_o=(mimo_o, "?: h r p"), angle_state=(angle_, f"{given}: b h s"),
        ssm_state=(ssm, f"{given}: b h p n"), k_state=(k, f"{given}: b h r n"), v_state=(v, f"{given}: b h r p"),
        seq_idx=(seq_idx, "integer?: b l"), lengths=(lengths, "integer?: b"),
    )  # fmt: skip
    check_choice("mamba3", "pairs", pairs, PAIRS)
    if sizes["g"] == 0 or sizes["h"] % sizes["g"]:
        raise ShapeError(
            f"mamba3: B and C have g={sizes['g']} groups, which do not divide h={sizes['h']} heads; "
            "give one group for every h / g heads"
        )
    if 2 * sizes["s"] > sizes["n"] or (pairs == "halves" and sizes["n"] % 2):
        raise ShapeError(f"mamba3: s={sizes['s']} angles turn pairs ({pairs}) of n={sizes['n']} states; n is too small")
    if mimo_x is None and (sizes["r"] != 1 or mimo_z is not None or mimo_o is not None):
        raise ShapeError(f"mamba3: r={sizes['r']} inputs or outputs need mimo_x (h, r, p); SISO has r=1 and no weights")
    if mimo_x is not None and (z is None) != (mimo_z is None):
        raise ShapeError("mamba3: z and mimo_z go together; give both or neither")
    if mimo_x is not None and mimo_o is None and z is not None:
        raise ShapeError("mamba3: without mimo_o the outputs are not gated; leave z and mimo_z out")
    if lengths is not None:
        _check_lengths(lengths, sizes["l"])
    return sizes


def _check_lengths(lengths: Tensor, columns: int) -> None:
    """Where the values can be looked at for nothing: on the CPU, and outside compilers and transformations."""
    if type(lengths) is not Tensor or not lengths.is_cpu or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active() or not lengths.numel():
        return
    least, most = (int(end) for end in lengths.aminmax())
    if least < 0 or most > columns:
        wrong = least if least < 0 else most
        raise ShapeError(f"mamba3: lengths must be from 0 to l={columns}, got {wrong}; count the tokens of a row alone")


def _without_padding(seq_idx: Tensor, lengths: Tensor) -> Tensor:
    """The number of a row's last token at its padding, too: no sequence begins there."""
    last = (lengths.long() - 1).clamp(min=0)[:, None]
    places = torch.arange(seq_idx.shape[1], device=seq_idx.device)
    return seq_idx.take_along_dim(torch.minimum(places, last), 1)
