"""The causal convolution's kernels: a program has a tile of tokens and channels and reads it once a tap."""

import triton
import triton.language as tl


@triton.jit
def _tap(x, past, t, j, taps, token, channel, l, x_d, x_l, p_d, p_w, WIDTH: tl.constexpr, PAST: tl.constexpr):
    """The input j tokens before `t`, float32; zero beyond the sequence."""
    s, inside = t - j, (j < taps) & token
    value = tl.load(x + s * x_l + channel * x_d, mask=inside & (s >= 0), other=0.0).to(tl.float32)
    if PAST:
        before = tl.load(past + (s + WIDTH - 1) * p_w + channel * p_d, mask=inside & (s < 0), other=0.0)
        value += before.to(tl.float32)
    return value


@triton.jit
def _taps_of(taps, t, valid, WIDTH: tl.constexpr, TAPS: tl.constexpr):
    """How many taps of a token stay inside its sequence."""
    if TAPS:
        return tl.load(taps + t, mask=valid, other=0).to(tl.int32)
    return tl.zeros_like(t) + WIDTH


@triton.jit
def _sum(
    x, past, filters, bias, t, taps, token, channel, here, l, d, x_d, x_l, p_d, p_w, WIDTH: tl.constexpr,
    BIAS: tl.constexpr, PAST: tl.constexpr,
):  # fmt: skip
    """The output before its activation, (tokens, channels)."""
    total = tl.zeros((t + channel).shape, tl.float32)
    for k in tl.static_range(WIDTH):
        weight = tl.load(filters + k * d + channel, mask=here, other=0.0)
        total += weight * _tap(
            x, past, t, WIDTH - 1 - k, taps, token & here, channel, l, x_d, x_l, p_d, p_w, WIDTH, PAST
        )
    if BIAS:
        total += tl.load(bias + channel, mask=here, other=0.0)
    return total


@triton.jit
def conv_forward(
    x, y, filters, bias, past, taps, l, d, x_b, x_d, x_l, y_b, y_d, y_l, p_b, p_d, p_w, WIDTH: tl.constexpr,
    SILU: tl.constexpr, BIAS: tl.constexpr, PAST: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """y of one tile."""
    row = tl.program_id(2).to(tl.int64)
    t = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None]
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[None, :]
    token, here = t < l, channel < d
    count = _taps_of(taps + row * l, t, token, WIDTH, TAPS)
    total = _sum(
        x + row * x_b, past + row * p_b, filters, bias, t.to(tl.int64), count, token, channel, here, l, d, x_d, x_l,
        p_d, p_w, WIDTH, BIAS, PAST,
    )  # fmt: skip
    if SILU:
        total = total * tl.sigmoid(total)
    place = y + row * y_b + t.to(tl.int64) * y_l + channel * y_d
    tl.store(place, total.to(y.dtype.element_ty), mask=token & here)


@triton.jit
def conv_backward(
    x, gy, gx, filters, bias, past, gpast, taps, partial, l, d, x_b, x_d, x_l, g_b, g_d, g_l, o_b, o_d, o_l,
    p_b, p_d, p_w, WIDTH: tl.constexpr, SILU: tl.constexpr, BIAS: tl.constexpr, PAST: tl.constexpr,
    TAPS: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's inputs, the first tile's before the first token; `partial` (b, tiles, width + 1, d) takes
    the tile's part in those of the weight and the bias.

    An input is a tap of the `WIDTH` tokens from its own on, whose sums are computed again: reading them from the cache
    costs less than writing the gradients before the activation to memory and reading them back.
    """
    row, tile = tl.program_id(2).to(tl.int64), tl.program_id(0)
    t = (tile * TOKENS + tl.arange(0, TOKENS) - (WIDTH - 1))[:, None]
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[None, :]
    here = channel < d
    x += row * x_b
    past += row * p_b
    found = tl.zeros([TOKENS, CHANNELS], tl.float32)
    place = partial + (row * tl.num_programs(0) + tile) * (WIDTH + 1) * d + channel
    for j in tl.static_range(WIDTH):
        s = t + j
        token = (s >= 0) & (s < l)
        count = _taps_of(taps + row * l, s, token, WIDTH, TAPS)
        s = s.to(tl.int64)
        g = tl.load(gy + row * g_b + s * g_l + channel * g_d, mask=token & here, other=0.0).to(tl.float32)
        if SILU:
            total = _sum(
                x, past, filters, bias, s, count, token, channel, here, l, d, x_d, x_l, p_d, p_w, WIDTH, BIAS, PAST
            )
            gate = tl.sigmoid(total)
            g *= gate * (1 + total * (1 - gate))
        weight = tl.load(filters + (WIDTH - 1 - j) * d + channel, mask=here, other=0.0)
        found += tl.where(j < count, weight * g, 0.0)
        if j == 0:
            for k in tl.static_range(WIDTH):
                value = _tap(
                    x, past, s, WIDTH - 1 - k, count, token & here, channel, l, x_d, x_l, p_d, p_w, WIDTH, PAST
                )
                tl.store(place + k * d, tl.sum(g * value, axis=0)[None, :], mask=here)
            tl.store(place + WIDTH * d, tl.sum(g, axis=0)[None, :], mask=here)
    t = t.to(tl.int64)
    out = gx + row * o_b + t * o_l + channel * o_d
    tl.store(out, found.to(gx.dtype.element_ty), mask=(t >= 0) & (t < l) & here)
    if PAST:
        out = gpast + (row * d + channel) * (WIDTH - 1) + (t + WIDTH - 1)
        tl.store(out, found, mask=(t < 0) & here)
