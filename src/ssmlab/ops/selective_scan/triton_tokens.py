"""Tiles of the selective scan's backward kernel, whose tokens a lane goes through by itself: tuples of EACH tensors
(channels, lanes), the j-th of token lane * EACH + j. What crosses lanes is here."""

import triton
import triton.language as tl

from ssmlab.ops.selective_scan.triton_parts import tile


@triton.jit
def _split(t, CHANNELS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr):
    """The even and the odd tokens of (channels, lanes, tokens); nothing moves where a lane has them all."""
    if EACH == 2:
        even, odd = tl.split(tl.reshape(t, [CHANNELS, LANES, 2]))
    else:
        even, odd = tl.split(tl.reshape(t, [CHANNELS, LANES, EACH // 2, 2]))
    return even, odd


@triton.jit
def pieces(t, CHANNELS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr):
    """The 4 or 8 tokens of every lane in (channels, lanes * tokens), one by one."""
    even, odd = _split(t, CHANNELS, LANES, EACH)
    if EACH == 4:
        t0, t2 = _split(even, CHANNELS, LANES, 2)
        t1, t3 = _split(odd, CHANNELS, LANES, 2)
        found = (t0, t1, t2, t3)
    else:
        t04, t26 = _split(even, CHANNELS, LANES, 4)
        t15, t37 = _split(odd, CHANNELS, LANES, 4)
        t0, t4 = _split(t04, CHANNELS, LANES, 2)
        t1, t5 = _split(t15, CHANNELS, LANES, 2)
        t2, t6 = _split(t26, CHANNELS, LANES, 2)
        t3, t7 = _split(t37, CHANNELS, LANES, 2)
        found = (t0, t1, t2, t3, t4, t5, t6, t7)
    return found


@triton.jit
def from_pieces(t, CHANNELS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr):
    """The inverse of `pieces`."""
    if EACH == 4:
        joined = tl.join(tl.join(t[0], t[2]), tl.join(t[1], t[3]))
    else:
        even = tl.join(tl.join(t[0], t[4]), tl.join(t[2], t[6]))
        odd = tl.join(tl.join(t[1], t[5]), tl.join(t[3], t[7]))
        joined = tl.join(even, odd)
    return tl.reshape(joined, [CHANNELS, LANES * EACH])


@triton.jit
def neighbour(t, lane, LANES: tl.constexpr):
    """(channels, lanes) of other lanes, of the nearest where there is none."""
    at = tl.minimum(tl.maximum(lane, 0), LANES - 1)
    return tl.gather(t, at + tl.zeros(t.shape, tl.int32), 1)


@triton.jit
def lane_spans(
    delta, restart, t0, l, CHANNELS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr, RESTART: tl.constexpr
):  # fmt: skip
    """The time of every lane's tokens, how many sequences begin in it, and for each token whether one does."""
    span, severed, fresh = tl.zeros([CHANNELS, LANES], tl.float32), tl.zeros([CHANNELS, LANES], tl.float32), ()
    for j in tl.static_range(EACH):
        span += delta[j]
        if RESTART:
            t = t0 + tl.arange(0, LANES) * EACH + j
            mark = tl.load(restart + t, mask=t < l, other=0)[None, :]
            severed, fresh = severed + mark.to(tl.float32), fresh + (mark != 0,)  # noqa: RUF005
    return span, severed, fresh


@triton.jit
def lane_beside(span, severed, at, LANES: tl.constexpr, RESTART: tl.constexpr):
    """The time of the lane `at`, before or after each, and whether anything comes through it: not where there is none,
    or a sequence begins in it."""
    there = (at >= 0) & (at < LANES)
    if RESTART:
        there = there & (neighbour(severed, at, LANES) == 0)
    return neighbour(span, at, LANES), there


@triton.jit
def map_place(row, t0, token, channel, stride_b, stride_l, CONSTANT: tl.constexpr):
    """Where B or C of a row's tokens is, or of constant maps of the channels."""
    if CONSTANT:
        at = channel.to(tl.int64) * stride_b
    else:
        at = row * stride_b + t0.to(tl.int64) * stride_l + token * stride_l
    return at


@triton.jit
def map_pieces(pointer, stride, mask, CONSTANT: tl.constexpr, WHOLE: tl.constexpr, EACH: tl.constexpr):
    """B or C of a state, token by token: (channels, 1) where constant, else (1, lanes)."""
    found = ()
    if CONSTANT:
        t = tile(pointer, mask, WHOLE)[:, None]
        for _ in tl.static_range(EACH):
            found = found + (t,)  # noqa: RUF005  not in Triton
    else:
        for j in tl.static_range(EACH):
            found = found + (tl.load(pointer + j * stride).to(tl.float32)[None, :],)  # noqa: RUF005
    return found


@triton.jit
def between_lanes(decay, state, lane, LANES: tl.constexpr, REVERSE: tl.constexpr):
    """What is before every lane (with REVERSE after it): the decay of the lane before it, 0 where nothing comes
    from there, and what that lane leaves of its own, are put together with those of all lanes before."""
    for r in tl.static_range(5):
        if (1 << r) < LANES:
            there = lane + (1 << r) if REVERSE else lane - (1 << r)
            state += decay * neighbour(state, there, LANES)
            if (2 << r) < LANES:
                decay *= neighbour(decay, there, LANES)
    return state


@triton.jit
def swapped(t, r: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """(groups, lanes) with every group's numbers at the group whose bit r is the other: the bits of both together
    without one's own, of which the compiler makes one shuffle. A gather along groups would change the layout."""
    bits = tl.reshape(t.to(tl.int32, bitcast=True), [GROUPS >> (r + 1), 2, LANES << r])
    bits = tl.sum(bits, 1, keep_dims=True) - bits
    return tl.reshape(bits.to(tl.float32, bitcast=True), [GROUPS, LANES])


@triton.jit
def over_channels(
    t, group, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr
):  # fmt: skip
    """Sums over channels of every token of a tuple: a tuple of (groups, lanes). A lane adds up those channels that are
    GROUPS apart, which it has itself. Then two groups exchange halves of their tokens until each has some of its own,
    those from `owned` on: half the shuffles of sums that all receive."""
    sums = ()
    for j in tl.static_range(EACH):
        sums = sums + (tl.sum(tl.reshape(t[j], [CHANNELS // GROUPS, GROUPS, LANES]), 0),)  # noqa: RUF005
    t = sums
    for r in tl.static_range(5):
        if (1 << r) < GROUPS:
            if (1 << r) < EACH:
                kept = ()
                for j in tl.static_range(EACH >> (r + 1)):
                    low, high, upper = t[j], t[j + (EACH >> (r + 1))], ((group >> r) & 1) != 0
                    given = swapped(tl.where(upper, low, high), r, GROUPS, LANES)
                    kept = kept + (tl.where(upper, high, low) + given,)  # noqa: RUF005
                t = kept
            else:
                t = (t[0] + swapped(t[0], r, GROUPS, LANES),)
    return t


@triton.jit
def owned(group, lane, GROUPS: tl.constexpr, EACH: tl.constexpr):
    """The first token that a lane has after `over_channels`."""
    token = lane * EACH + group * 0
    for r in tl.static_range(5):
        if (1 << r) < GROUPS and (1 << r) < EACH:
            token += ((group >> r) & 1) * (EACH >> (r + 1))
    return token


@triton.jit
def over_tokens(t, EACH: tl.constexpr):
    """The sum of a tuple's tokens over lanes, for every channel."""
    total = t[0]
    for j in tl.static_range(1, EACH):
        total += t[j]
    return tl.sum(total, 1)
