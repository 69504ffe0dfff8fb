"""What both passes of the selective scan's kernels share: tiles of (channels, tokens), step sizes, and how stretches of
time are put together."""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def chain(decay, state, later_decay, later_state):
    """Two stretches as one, each h -> decay h + state."""
    return decay * later_decay, later_decay * state + later_state


@triton.jit
def chain_apart(decay, state, decayed, later_decay, later_state, later_decayed):
    """`chain`, with what is left after a stretch's last token of the state before that token: the difference of the
    state and of what the token adds would lose its digits where the decay is strong."""
    recalled = later_decay * state
    return decay * later_decay, recalled + later_state, recalled + later_decayed


@triton.jit
def chain_back(first, gradient, through, earlier_first, earlier_gradient, earlier_through):
    """Two stretches as one, the later first: the gradient of the state after a stretch's first token is
    gradient + through * (what comes back from after the stretch), and `first` is the decay of that token."""
    between = earlier_through * first
    return earlier_first, earlier_gradient + between * gradient, between * through


@triton.jit
def place(t0, token, line, outer, inner, LINES: tl.constexpr):
    """Offsets of the tokens t0 + token; with LINES, a map's points line by line."""
    if LINES:
        t = t0 + token
        return (t // line).to(tl.int64) * outer + (t % line) * inner
    return t0.to(tl.int64) * inner + token * inner


@triton.jit
def channels_of(block, blocks, width, BLOCK: tl.constexpr):
    """The channels of a program and their group: every group has `blocks` programs for its `width` channels."""
    inside = (block % blocks) * BLOCK + tl.arange(0, BLOCK)
    group = block // blocks
    return group * width + inside, inside < width, group


@triton.jit
def tile(pointer, at, mask):
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def step_size(raw, mask, SOFTPLUS: tl.constexpr):
    """The step size before the mask's zeros, log(1 + e^raw) without losing small values, and its derivative."""
    if SOFTPLUS:
        e = tl.exp(-tl.abs(raw))
        u = 1.0 + e
        log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
        return tl.where(mask, tl.maximum(raw, 0.0) + log1p, 0.0), tl.sigmoid(raw)
    return tl.where(mask, raw, 0.0), tl.full(raw.shape, 1.0, tl.float32)


@triton.jit
def map_tile(pointer, k, stride_n, at_token, at_channel, inside, here, CONSTANT: tl.constexpr):
    """B or C of state k: (channels, 1) where constant, else (channels, tokens) although the channels share it, because
    a tile of one row would be spread over all warps, and with it everything that it meets."""
    if CONSTANT:
        value = tl.load(pointer + k * stride_n + at_channel, mask=here, other=0.0)
    else:
        value = tl.load(pointer + k * stride_n + at_token, mask=inside, other=0.0)
    return value.to(tl.float32)


@triton.jit
def store_decay(decay, A, total, kept, at, n, d, mask, channel):
    """The decay of a segment of `total` time, (b, segments, n, d)."""
    for k in range(n):
        rate = tl.load(A + channel * n + k, mask=mask, other=0.0) * LOG2E
        tl.store(decay + (at * n + k) * d + channel, tl.exp2(total * rate) * kept, mask=mask)


@triton.jit
def carry(local, decay, start, out, segments, size, out_b, out_s, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """Turn what every segment adds (b, segments, size) into what stands before it; with REVERSE, after it."""
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    state = tl.load(start + row * size + place, mask=mask, other=0.0)
    for i in range(segments):
        s = segments - 1 - i if REVERSE else i
        tl.store(out + row * out_b + s * out_s + place, state, mask=mask)
        at = (row * segments + s) * size + place
        state = tl.load(decay + at, mask=mask, other=0.0) * state + tl.load(local + at, mask=mask, other=0.0)
