"""What both passes of the selective scan's kernels share: tiles, step sizes, and how stretches of time are put
together."""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def place(t0, token, line, outer, inner, LINES: tl.constexpr):
    """Offsets of the tokens t0 + token; with LINES, a map's points line by line."""
    if LINES:
        t = t0 + token
        return (t // line).to(tl.int64) * outer + (t % line) * inner
    return t0.to(tl.int64) * inner + token * inner


@triton.jit
def channels_of(block, blocks, width, turn, turns, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """The BLOCK channels of a program's turn, whether they exist, and their group: every group has `blocks` programs of
    as many turns for its `width` channels. With WHOLE all exist, and the compiler knows it."""
    inside = ((block % blocks) * turns + turn) * BLOCK + tl.arange(0, BLOCK)
    group = block // blocks
    return group * width + inside, (inside < width) | WHOLE, group


@triton.jit
def tile(pointer, mask, WHOLE: tl.constexpr):
    """In float32; with WHOLE every address is inside, and loads need neither mask nor zeros to begin with."""
    if WHOLE:
        return tl.load(pointer).to(tl.float32)
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def log1p_of_power(raw):
    """log(1 + e^-|raw|) to 1.5e-7 of itself: e times a polynomial in e = e^-|raw|, fitted to log(1 + e) / e on [0, 1].
    A logarithm of 1 + e would lose the digits of a small e, and a quotient that keeps them is a dozen instructions."""
    e = tl.exp2(tl.abs(raw) * -LOG2E)
    p = -0.0032440233044326305 * e + 0.019851453602313995
    p = p * e - 0.05695951730012894
    p = p * e + 0.10603653639554977
    p = p * e - 0.15305592119693756
    p = p * e + 0.1967593878507614
    p = p * e - 0.24954134225845337
    p = p * e + 0.3332996368408203
    p = p * e - 0.4999990165233612
    return (p * e + 1.0) * e


@triton.jit
def sigmoid(t):
    """Triton's own guards the exponential against a range that ends where the result is 0 or 1 anyway."""
    return 1.0 / (1.0 + tl.exp2(t * -LOG2E))


@triton.jit
def step_size(raw, mask, SOFTPLUS: tl.constexpr):
    """The step size, zero outside the mask, and its derivative."""
    if SOFTPLUS:
        return tl.where(mask, tl.maximum(raw, 0.0) + log1p_of_power(raw), 0.0), sigmoid(raw)
    return tl.where(mask, raw, 0.0), tl.full(raw.shape, 1.0, tl.float32)


@triton.jit
def store_decay(decay, rates, total, kept, at, n, d, mask, channel):
    """The decay of a segment of `total` time, (b, segments, n, d)."""
    for k in range(n):
        rate = tl.load(rates + k * d + channel, mask=mask, other=0.0)
        tl.store(decay + (at * n + k) * d + channel, tl.exp2(total * rate) * kept, mask=mask)


@triton.jit
def carry(local, decay, start, out, segments, size, out_b, out_s, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """Turn what every segment adds (b, segments, size) into what is before it; with REVERSE, after it."""
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    state = tl.load(start + row * size + place, mask=mask, other=0.0)
    for i in range(segments):
        s = segments - 1 - i if REVERSE else i
        tl.store(out + row * out_b + s * out_s + place, state, mask=mask)
        at = (row * segments + s) * size + place
        state = tl.load(decay + at, mask=mask, other=0.0) * state + tl.load(local + at, mask=mask, other=0.0)
