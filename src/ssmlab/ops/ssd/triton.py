"""The state space dual in Triton on a GPU: matrix products within chunks, states carried by a pass over the chunks."""

import torch
from torch import Tensor

from ssmlab.ops import _triton
from ssmlab.ops._triton import ceil, launch, power, restarts, vector
from ssmlab.ops.ssd import chunked
from ssmlab.ops.ssd.operator import call
from ssmlab.ops.ssd.reference import step_size

# By bytes of an element: tokens of a chunk, states of a block, warps, and registers of a thread at most, so that three
# programs of the forward pass share a multiprocessor. Not measured.
FORWARD = {2: (64, 64, 4, 168), 4: (32, 32, 4, None)}
BACKWARD = {2: (64, 64, 8, None), 4: (32, 32, 8, None)}
MAX_P = 128  # channels of a head, which a program holds at once
PROGRAMS = 512  # a program takes all chunks, or in the backward pass as many heads in turns, as leave this many


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    if tensors and tensors[0] is not None and tensors[0].shape[3] > MAX_P:
        return f"a head has {tensors[0].shape[3]} channels, the kernels take up to {MAX_P}"
    rows, _, h, _ = tensors[0].shape if tensors and tensors[0] is not None else (0, 0, 0, 0)
    return _triton.unusable(tensors) or _triton.too_many("rows", rows) or _triton.too_many("heads", h)


def forward(*arguments):
    """See the contract in `ssmlab.ops.ssd`."""
    return call("triton", differentiable, *arguments)


def differentiable(*arguments):
    """The kernels with their gradient."""
    return chunked.by_kernels("triton", *arguments)


def scan_forward(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size, save):
    """(y, final state, the initial state if `save` and there is one), without autograd. The backward pass computes the
    states between chunks again: of a layer they are several times as large as x."""
    if x.shape[1] == 1 and not save:
        return chunked.scan_forward(
            x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size, False
        )  # fmt: skip
    from ssmlab.ops.ssd import triton_kernels as kernels

    (b, l, h, p), n = x.shape, B.shape[3]
    y, final = x.new_empty(x.shape), x.new_empty((b, h, p, n), dtype=torch.float32)
    delta = step_size(dt, dt_bias, dt_softplus, x).contiguous()
    restart, A, skip, start = restarts(seq_idx), vector(A), _skip(D, x), _state(initial_state, final)
    gate, options = x if z is None else z, _options(x, n, restart, FORWARD)
    states = _states(x, delta, A, B, None, restart, start, final, options, back=False)
    fresh, chunks = A if restart is None else restart, states.shape[1]
    launch(
        kernels.chunk_output, (chunks, h, b), x, delta, A, B, C, A if skip is None else skip, gate, fresh, states, y,
        l, h, p, n, h // B.shape[2], chunks, *x.stride(), *B.stride(), *C.stride(), *gate.stride(),
        SKIP=skip is not None, GATE=z is not None, **options,
    )  # fmt: skip
    return y, final, x.new_empty(0) if initial_state is None or not save else start.clone()


def scan_backward(gy, g_final, saved, x, delta, A, B, C, D, seq_idx, chunk_size, z):
    """The gradients of x, delta, A, B, C, D, the initial state and z."""
    from ssmlab.ops.ssd import triton_kernels as kernels

    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    restart = restarts(seq_idx)
    options = _options(x, n, restart, BACKWARD)
    chunks = ceil(l, options["TOKENS"])
    heads = _heads(b * chunks * h, h // g)
    gx, gdelta, g_initial = x.new_empty(x.shape), delta.new_empty((b, l, h)), delta.new_empty((b, h, p, n))
    gA, gD = delta.new_empty((b, chunks, h)), delta.new_empty((b, chunks, h, p))
    gB, gC = delta.new_empty((2, b, l, h // heads, n))
    gz, gate = x.new_empty(0) if z is None else z.new_empty(z.shape), x if z is None else z
    delta, A32, skip = delta.contiguous(), vector(A), _skip(D, x)
    start = saved if saved.numel() else torch.zeros_like(g_initial)
    before = _states(x, delta, A32, B, None, restart, start, torch.empty_like(g_initial), options, back=False)
    after = _states(gy, delta, A32, C, z, restart, _state(g_final, g_initial), g_initial, options, back=True)
    fresh = A32 if restart is None else restart
    launch(
        kernels.chunk_backward, (chunks, h // heads, b), x, delta, A32, B, C, A32 if skip is None else skip, gate,
        fresh, before, after, gy, gx, gdelta, gA, gB, gC, gD, gz, l, h, p, n, h // g, chunks, heads, *x.stride(),
        *B.stride(), *C.stride(), *gy.stride(), *gate.stride(), SKIP=skip is not None, GATE=z is not None, **options,
    )  # fmt: skip
    gB, gC = (part.unflatten(2, (g, -1)).sum(3).to(map_.dtype) for part, map_ in ((gB, B), (gC, C)))
    if D is None:
        gD = x.new_empty(0)
    else:
        gD = (gD.sum((0, 1)) if D.dim() == 2 else gD.sum((0, 1, 3))).to(D.dtype)
    return gx, gdelta, gA.sum((0, 1)).to(A.dtype), gB, gC, gD, g_initial, gz


def saved_shape(x: Tensor, n: int, initial_state: Tensor | None) -> tuple[int, ...]:
    """Of what the backward pass is given: the initial state, if there is one."""
    b, _, h, p = x.shape
    return (0,) if initial_state is None else (b, h, p, n)


def _states(x, delta, A, B, z, restart, start, final, options, *, back: bool) -> Tensor:
    """The states before every chunk from `start` on, or with `back` their gradients after every chunk, (b, chunks, h,
    p, n); `final` takes what is after (before) all of them.

    With enough programs each takes its states through all chunks; else every chunk has its own, and a second pass
    carries: the states are then written and read twice."""
    from ssmlab.ops.ssd import triton_parts as kernels

    (b, l, h, p), n = x.shape, B.shape[3]
    fresh, gate = A if restart is None else restart, x if z is None else z
    chunks, blocks = ceil(l, options["TOKENS"]), ceil(n, options["N"])
    states, decay = x.new_empty((b, chunks, h, p, n), dtype=torch.float32), A.new_empty((b, chunks, h))
    serial = b * h * blocks >= PROGRAMS
    _, _, warps, registers = FORWARD[x.dtype.itemsize]
    options = options | {"num_warps": warps, "maxnreg": registers, "num_stages": 2}  # the next chunk is loaded ahead
    launch(
        kernels.chunk_states, (blocks if serial else blocks * chunks, h, b), x, delta, A, B, gate, fresh, states,
        decay, start, final, l, h, p, n, h // B.shape[2], chunks, *x.stride(), *B.stride(), *gate.stride(),
        CARRY=serial, BACK=back, GATE=z is not None, **options,
    )  # fmt: skip
    if not serial:
        grid = (ceil(p * n, 256), h, b)
        launch(kernels.carry, grid, states, decay, start, final, h, p * n, chunks, REVERSE=back, BLOCK=256)
    return states


def _options(x: Tensor, n: int, restart: Tensor | None, tiles: dict[int, tuple]) -> dict:
    """Loops over blocks of states have two turns, too few to load ahead: with one stage the tiles fit shared memory.

    Triton's interpreter multiplies bfloat16 wrongly, so there products are taken in float32."""
    import triton.language as tl

    tokens, states, warps, registers = tiles[x.dtype.itemsize]
    kinds = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    dot = tl.float32 if _triton.INTERPRETED and x.dtype == torch.bfloat16 else kinds[x.dtype]
    sizes = {"TOKENS": tokens, "P": power(x.shape[3], 16), "N": min(states, power(n, 16))}
    launched = {"num_warps": warps, "num_stages": 1, "maxnreg": registers}
    return {"RESTART": restart is not None, "DOT": dot, **launched, **sizes}


def _heads(programs: int, group: int) -> int:
    """Heads that a program of the backward pass takes in turns: the most of a group that leave `PROGRAMS`."""
    return max((k for k in range(1, group + 1) if group % k == 0 and programs // k >= PROGRAMS), default=1)


def _state(state: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if state is None else state.float().contiguous()


def _skip(D: Tensor | None, x: Tensor) -> Tensor | None:
    """D for every channel, (h, p)."""
    return None if D is None else vector((D if D.dim() == 2 else D[:, None]).expand(x.shape[2:]))
