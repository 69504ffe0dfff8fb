"""What the state space dual's kernels share, and those that carry states from chunk to chunk."""

import triton
import triton.language as tl

FORGETS: tl.constexpr = tl.constexpr(-128.0)  # the log decay of a restart, and the least of a token
GRID: tl.constexpr = tl.constexpr(512.0)


@triton.jit
def decays(delta, rate, restart, t, valid, stride, RESTART: tl.constexpr):
    """A chunk's step sizes, and the sums of its log decays up to and with every token as coarse + fine: the coarse ones
    are multiples of 1 / GRID, whose sums and differences are exact (see `ssd.parts.log_decay`)."""
    step = tl.load(delta + t.to(tl.int64) * stride, mask=valid, other=0.0)
    each = tl.maximum(step * rate, FORGETS)
    if RESTART:
        each = tl.where(tl.load(restart + t, mask=valid, other=0) != 0, FORGETS, each)
    coarse = tl.floor(each * GRID + 0.5) / GRID
    return step, tl.cumsum(coarse, 0), tl.cumsum(each - coarse, 0)


@triton.jit
def total_of(sums, TOKENS: tl.constexpr):
    """The last of a chunk's sums."""
    return tl.sum(tl.where(tl.arange(0, TOKENS) == TOKENS - 1, sums, 0.0), 0)


@triton.jit
def pairs(coarse, fine, TOKENS: tl.constexpr):
    """(i, j): the decay from token j to token i, 0 where j is later."""
    i = tl.arange(0, TOKENS)
    log = (coarse[:, None] - coarse[None, :]) + (fine[:, None] - fine[None, :])
    causal = i[:, None] >= i[None, :]
    return tl.where(causal, tl.exp(tl.where(causal, log, 0.0)), 0.0)


@triton.jit
def tile(pointer, rows, row_stride, row_mask, columns, column_stride, column_mask):
    """A matrix, zero where masked."""
    at = rows.to(tl.int64)[:, None] * row_stride + columns[None, :] * column_stride
    return tl.load(pointer + at, mask=row_mask[:, None] & column_mask[None, :], other=0.0)


@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def product(a, b, DOT: tl.constexpr):
    """a b with operands of the type DOT, summed in float32."""
    return tl.dot(a.to(DOT), b.to(DOT), input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def fine_product(a, b, DOT: tl.constexpr):
    """`product` of a float32 matrix and one of the type DOT, with the digits of `a` that DOT has no room for."""
    found = product(a, b, DOT)
    if tl.float32 != DOT:
        found += product(a - a.to(DOT).to(tl.float32), b, DOT)
    return found


@triton.jit
def state_product(a, b, DOT: tl.constexpr):
    """`product` where one of them is a state or its gradient. These are float32 and may be larger than any float16, so
    that there the product is of tf32, whose digits are as many."""
    if tl.float16 == DOT:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32", out_dtype=tl.float32)
    return product(a, b, DOT)


@triton.jit
def chunk_adds(
    x, delta, rate, B, z, restart, chunk, l, h, channel, p, state, n, x_l, x_p, B_l, B_n, z_l, z_p,
    BACK: tl.constexpr, GATE: tl.constexpr, RESTART: tl.constexpr, DOT: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to some states of a head, and its decay. With BACK what the chunk's outputs add to the gradient
    of the state before it: x is then their gradient, which passes their gate z where there is one, and B is C."""
    t = chunk * TOKENS + tl.arange(0, TOKENS)
    valid = t < l
    step, coarse, fine = decays(delta, rate, restart, t, valid, h, RESTART)
    end_coarse, end_fine = total_of(coarse, TOKENS), total_of(fine, TOKENS)
    if BACK:
        factor = tl.exp(coarse + fine)
    else:
        factor = step * tl.exp((end_coarse - coarse) + (end_fine - fine))
    x_ = tile(x, t, x_l, valid, channel, x_p, channel < p).to(tl.float32)
    if GATE:
        x_ *= silu(tile(z, t, z_l, valid, channel, z_p, channel < p).to(tl.float32))
    B_ = tile(B, t, B_l, valid, state, B_n, state < n)
    return fine_product(tl.trans(x_ * factor[:, None]), B_, DOT), tl.exp(end_coarse + end_fine)


@triton.jit
def chunk_states(
    x, delta, A, B, z, restart, states, decay, start, final, l, h, p, n, group, chunks, x_b, x_l, x_h, x_p,
    B_b, B_l, B_g, B_n, z_b, z_l, z_h, z_p, CARRY: tl.constexpr, BACK: tl.constexpr, GATE: tl.constexpr,
    RESTART: tl.constexpr, DOT: tl.constexpr, TOKENS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """With CARRY a program takes some states of a head through all chunks, from `start` to `final`, and writes those
    before every chunk (with BACK from the last chunk to the first, those after it). Else it writes what its chunk adds
    to them (b, chunks, h, p, n), and its decay (b, chunks, h), for `carry`."""
    row, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    channel, state = tl.arange(0, P), tl.program_id(0) % tl.cdiv(n, N) * N + tl.arange(0, N)
    x += row * x_b + head * x_h
    z += row * z_b + head * z_h
    B += row * B_b + head // group * B_g
    delta += row * l * h + head
    restart += row * l
    rate = tl.load(A + head)
    place, mask = channel[:, None] * n + state[None, :], (channel < p)[:, None] & (state < n)[None, :]
    if CARRY:
        now = tl.load(start + (row * h + head) * p * n + place, mask=mask, other=0.0)
        for i in range(chunks):
            chunk = chunks - 1 - i if BACK else i
            tl.store(states + ((row * chunks + chunk) * h + head) * p * n + place, now, mask=mask)
            added, left = chunk_adds(
                x, delta, rate, B, z, restart, chunk, l, h, channel, p, state, n, x_l, x_p, B_l, B_n, z_l, z_p, BACK,
                GATE, RESTART, DOT, TOKENS,
            )  # fmt: skip
            now = left * now + added
        tl.store(final + (row * h + head) * p * n + place, now, mask=mask)
    else:
        chunk = tl.program_id(0) // tl.cdiv(n, N)
        added, left = chunk_adds(
            x, delta, rate, B, z, restart, chunk, l, h, channel, p, state, n, x_l, x_p, B_l, B_n, z_l, z_p, BACK, GATE,
            RESTART, DOT, TOKENS,
        )  # fmt: skip
        tl.store(states + ((row * chunks + chunk) * h + head) * p * n + place, added, mask=mask)
        tl.store(decay + (row * chunks + chunk) * h + head, left)


@triton.jit
def carry(states, decay, start, final, h, size, chunks, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """Turn what every chunk adds (b, chunks, h, size) into what is before it; with REVERSE, after it."""
    row, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    state = tl.load(start + (row * h + head) * size + place, mask=mask, other=0.0)
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        at = (row * chunks + chunk) * h + head
        added = tl.load(states + at * size + place, mask=mask, other=0.0)
        tl.store(states + at * size + place, state, mask=mask)
        state = tl.load(decay + at) * state + added
    tl.store(final + (row * h + head) * size + place, state, mask=mask)
