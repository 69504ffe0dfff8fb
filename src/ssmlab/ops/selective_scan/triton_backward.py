"""The selective scan's backward kernel: chunks in reverse, the states of each recomputed from the one before it.

A lane has EACH tokens in a row, of one channel or two, and goes through them by itself, back and forth. Between lanes
goes one number a state forward and one back. A reversed scan of Triton over all tokens would mirror every number by a
shuffle.
"""

import triton
import triton.language as tl

from ssmlab.ops.selective_scan.triton_parts import (
    channels_of,
    place,
    sigmoid,
    step_size,
    store_decay,
    tile,
)
from ssmlab.ops.selective_scan.triton_tokens import (
    between_lanes,
    from_pieces,
    lane_beside,
    lane_spans,
    map_pieces,
    map_place,
    neighbour,
    over_channels,
    over_tokens,
    owned,
    pieces,
)

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def before_lanes(a, put, before, rate, span_before, open_before, lane, LANES: tl.constexpr, EACH: tl.constexpr):
    """The state before every lane."""
    h = put[0]
    for j in tl.static_range(1, EACH):
        h = a[j] * h + put[j]
    h = tl.where(lane == 0, before[:, None], neighbour(h, lane - 1, LANES))
    return between_lanes(tl.where(open_before, tl.exp2(span_before * rate), 0.0), h, lane, LANES, REVERSE=False)


@triton.jit
def after_lanes(a, g_out, after, rate, span_after, open_after, lane, LANES: tl.constexpr, EACH: tl.constexpr):
    """The gradient that comes back into every lane, and what the lane's own tokens send on."""
    g = g_out[EACH - 1]
    for j in tl.static_range(1, EACH):
        g = a[EACH - j] * g + g_out[EACH - 1 - j]
    own = a[0] * g
    g = tl.where(lane == LANES - 1, after[:, None], neighbour(own, lane + 1, LANES))
    return between_lanes(tl.where(open_after, tl.exp2(span_after * rate), 0.0), g, lane, LANES, REVERSE=True), own


@triton.jit
def through_lanes(h, g_h, a, put, g_out, EACH: tl.constexpr):
    """From the states before the lanes and the gradients that come back: for every token its state, what is left in it
    of the state before, and their gradient; and what goes on to the tokens before.

    What is left is computed directly: as a difference of the state and of what the token adds it would lose digits
    where the decay is strong.
    """
    states, left, gradients = (), (), ()
    for j in tl.static_range(EACH):
        left_j = a[j] * h
        h = left_j + put[j]
        states, left = states + (h,), left + (left_j,)  # noqa: RUF005
    for j in tl.static_range(EACH - 1, -1, -1):
        g_h += g_out[j]
        gradients = (g_h,) + gradients  # noqa: RUF005
        g_h *= a[j]
    return states, left, gradients, g_h


@triton.jit
def store_map(
    pointer, sums, maps, t, mine, token, l, group, turn, CONSTANT: tl.constexpr, WHOLE: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Write what the tokens of a tuple give to the gradient of B or C of a state; what goes to a token is added to that
    of the turns before, which the same lane has written."""
    if CONSTANT:
        tl.store(pointer + sums, over_tokens(t, EACH), mask=mine)
    else:
        found = over_channels(t, group, CHANNELS, GROUPS, LANES, EACH)
        for j in tl.static_range(EACH // min(GROUPS, EACH)):
            wanted = (token + j < l) | WHOLE
            if GROUPS > EACH:  # some have the same
                wanted &= group < EACH
            at = pointer + maps + j
            tl.store(at, found[j] + tl.load(at, mask=wanted & (token * 0 + turn > 0), other=0.0), mask=wanted)


@triton.jit
def scan_backward(
    x, dt, z, gy, gx, gdt, gz, B, C, rates, D, bias, restart, states, after, first, decay, gA, gB, gC, gD, gbias,
    d, l, n, line, width, blocks, chunks, each, turns,
    x_b, x_d, x_o, x_l, dt_b, dt_d, dt_o, dt_l, z_b, z_d, z_o, z_l, gy_b, gy_d, gy_o, gy_l,
    gx_b, gx_d, gx_o, gx_l, gdt_b, gdt_d, gdt_o, gdt_l, gz_b, gz_d, gz_o, gz_l,
    B_b, B_g, B_n, B_l, C_b, C_g, C_n, C_l, first_b, first_s, first_d, first_n,
    SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, RESTART: tl.constexpr,
    CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, LINES: tl.constexpr, ADD: tl.constexpr, ENDS: tl.constexpr,
    WHOLE: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """All gradients. A program takes `turns` tiles of channels in turns through every chunk of its segment of time.

    `states` (b, chunks, n, d) are those before every chunk; `after` (b, 2 * segments, n, d) holds the gradient that
    comes back into every segment in its even slot, and serves the chunks in turns. `first` takes the gradient of the
    initial state; with ENDS (one turn) nothing but that of every segment, for `carry`. Sums over tokens are written for
    every chunk (gA, and gB and gC of constant maps: (b, chunks, n, d); gD, gbias: (b, chunks, d)), those over channels
    for every program (gB, gC: (b, programs, n, l)).
    """
    programs, segments, segment = blocks * (d // width), tl.num_programs(1), tl.program_id(1)
    row, block = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    token, lanes, group = tl.arange(0, LANES * EACH)[None, :], tl.arange(0, LANES), tl.arange(0, GROUPS)[:, None]
    lane = lanes[None, :]
    own = owned(group, lane, GROUPS, EACH)
    nothing = tl.zeros([CHANNELS, LANES], tl.float32)
    total = tl.zeros([CHANNELS], tl.float32)
    kept = 1.0
    count = tl.minimum(each, chunks - segment * each)
    for i in range(count * turns):
        turn, chunk = i % turns, segment * each + count - 1 - i // turns
        channel, mine, of_group = channels_of(block, blocks, width, turn, turns, CHANNELS, WHOLE)
        here, c = mine[:, None], channel.to(tl.int64)[:, None]
        t0 = chunk * (LANES * EACH)
        inside = (t0 + token < l) & here
        at_x = row * x_b + c * x_d + place(t0, token, line, x_o, x_l, LINES)
        at_dt = row * dt_b + c * dt_d + place(t0, token, line, dt_o, dt_l, LINES)
        at_z = row * z_b + c * z_d + place(t0, token, line, z_o, z_l, LINES)
        at_gy = row * gy_b + c * gy_d + place(t0, token, line, gy_o, gy_l, LINES)
        shift = tl.load(bias + channel, mask=mine, other=0.0)[:, None] if BIAS else 0.0
        raw = tile(dt + at_dt, inside, WHOLE) + shift
        step, _ = step_size(raw, True if WHOLE else inside, SOFTPLUS)
        g = tile(gy + at_gy, inside, WHOLE)
        if GATE:
            gate = tile(z + at_z, inside, WHOLE)
            g *= gate * sigmoid(gate)
        delta = pieces(step, CHANNELS, LANES, EACH)
        added = pieces(step * tile(x + at_x, inside, WHOLE), CHANNELS, LANES, EACH)
        g_y = pieces(g, CHANNELS, LANES, EACH)
        span, severed, fresh = lane_spans(delta, restart + row * l, t0, l, CHANNELS, LANES, EACH, RESTART)
        span_before, open_before = lane_beside(span, severed, lane - 1, LANES, RESTART)
        span_after, open_after = lane_beside(span, severed, lane + 1, LANES, RESTART)
        if ENDS:
            total += tl.sum(span, 1)
            if RESTART:
                kept *= tl.where(tl.max(severed) > 0, 0.0, 1.0)
        found_map, found_log, y = (), (), ()
        for _ in tl.static_range(EACH):
            found_map, found_log, y = found_map + (nothing,), found_log + (nothing,), y + (nothing,)  # noqa: RUF005
        B_here = B + of_group * B_g + map_place(row, t0, lanes * EACH, channel, B_b, B_l, CONSTANT_B)
        C_here = C + of_group * C_g + map_place(row, t0, lanes * EACH, channel, C_b, C_l, CONSTANT_C)
        slot = row * 2 * segments + segment * 2
        now, later = slot + (i // turns) % 2, slot + (i // turns + 1) % 2
        sums, maps = (row * chunks + chunk) * n * d + channel, (row * programs + block) * n * l + t0 + own
        for k in range(n):
            rate = tl.load(rates + k * d + channel, mask=mine, other=0.0)[:, None]
            back = tl.load(after + (now * n + k) * d + channel, mask=mine, other=0.0)
            out_map = map_pieces(C_here + k * C_n, C_l, mine, CONSTANT_C, WHOLE, EACH)
            a, g_out = (), ()
            for j in tl.static_range(EACH):
                a_j = tl.exp2(delta[j] * rate)
                if RESTART:
                    a_j = tl.where(fresh[j], 0.0, a_j)
                a, g_out = a + (a_j,), g_out + (g_y[j] * out_map[j],)  # noqa: RUF005
            g_after, leaving = after_lanes(a, g_out, back, rate, span_after, open_after, lane, LANES, EACH)
            if ENDS:
                through = tl.exp2(span * rate)
                if RESTART:
                    through = tl.where(severed > 0, 0.0, through)
                leaving += through * g_after
            else:
                in_map = map_pieces(B_here + k * B_n, B_l, mine, CONSTANT_B, WHOLE, EACH)
                before = tl.load(states + sums + k * d, mask=mine, other=0.0)
                put = ()
                for j in tl.static_range(EACH):
                    put = put + (added[j] * in_map[j],)  # noqa: RUF005
                h = before_lanes(a, put, before, rate, span_before, open_before, lane, LANES, EACH)
                h_of, left, g_of, leaving = through_lanes(h, g_after, a, put, g_out, EACH)
                of_A, of_B, of_C, of_map, of_log, of_y = (), (), (), (), (), ()
                for j in tl.static_range(EACH):
                    g_log = g_of[j] * left[j]  # of the log decay
                    of_map = of_map + (found_map[j] + g_of[j] * in_map[j],)  # noqa: RUF005
                    of_log = of_log + (found_log[j] + g_log * rate,)  # noqa: RUF005
                    of_A = of_A + (g_log * delta[j],)  # noqa: RUF005
                    of_B, of_C = of_B + (g_of[j] * added[j],), of_C + (g_y[j] * h_of[j],)  # noqa: RUF005
                    if GATE:
                        of_y = of_y + (y[j] + h_of[j] * out_map[j],)  # noqa: RUF005
                found_map, found_log = of_map, of_log
                if GATE:
                    y = of_y
                tl.store(gA + sums + k * d, over_tokens(of_A, EACH), mask=mine)
                store_map(
                    gB, sums + k * d, maps + k * l, of_B, mine, t0 + own, l, group, turn, CONSTANT_B, WHOLE, CHANNELS,
                    GROUPS, LANES, EACH,
                )  # fmt: skip
                store_map(
                    gC, sums + k * d, maps + k * l, of_C, mine, t0 + own, l, group, turn, CONSTANT_C, WHOLE, CHANNELS,
                    GROUPS, LANES, EACH,
                )  # fmt: skip
            at = after + (later * n + k) * d + channel
            tl.store(at[:, None] + lane * 0, leaving, mask=here & (lane == 0))
        if not ENDS:
            sums = (row * chunks + chunk) * d + channel
            # Loaded again: in registers they would have waited through the loop.
            u = tile(x + at_x, inside, WHOLE)
            _, slope = step_size(tile(dt + at_dt, inside, WHOLE) + shift, True if WHOLE else inside, SOFTPLUS)
            skip = tl.load(D + channel, mask=mine, other=0.0)[:, None] if SKIP else 0.0
            g = from_pieces(g_y, CHANNELS, LANES, EACH)
            of_map = from_pieces(found_map, CHANNELS, LANES, EACH)
            of_log = from_pieces(found_log, CHANNELS, LANES, EACH)
            if SKIP:
                tl.store(gD + sums, tl.sum(g * u, 1), mask=mine)
            if GATE:
                gate = tile(z + at_z, inside, WHOLE)
                share = sigmoid(gate)
                g_gate = tile(gy + at_gy, inside, WHOLE) * (skip * u + from_pieces(y, CHANNELS, LANES, EACH))
                g_gate *= share * (1 + gate * (1 - share))
                at = gz + row * gz_b + c * gz_d + place(t0, token, line, gz_o, gz_l, LINES)
                tl.store(at, g_gate.to(gz.dtype.element_ty), mask=inside)
            g_raw = (of_log * LN2 + of_map * u) * slope  # the rates are those of powers of two
            if BIAS:
                tl.store(gbias + sums, tl.sum(tl.where(inside, g_raw, 0.0), 1), mask=mine)
            at = gdt + row * gdt_b + c * gdt_d + place(t0, token, line, gdt_o, gdt_l, LINES)
            tl.store(at, g_raw.to(gdt.dtype.element_ty), mask=inside)
            at = gx + row * gx_b + c * gx_d + place(t0, token, line, gx_o, gx_l, LINES)
            g_u = of_map * from_pieces(delta, CHANNELS, LANES, EACH) + skip * g
            if ADD:
                g_u += tile(at, inside, WHOLE)
            tl.store(at, g_u.to(gx.dtype.element_ty), mask=inside)
        tl.debug_barrier()  # a gradient is written by one lane and read by all
    if ENDS | (segment == 0):
        for turn in range(turns):
            channel, mine, _ = channels_of(block, blocks, width, turn, turns, CHANNELS, WHOLE)
            slot = row * 2 * segments + segment * 2 + count % 2
            for k in range(n):
                gradient = tl.load(after + (slot * n + k) * d + channel, mask=mine, other=0.0)
                at = first + row * first_b + segment * first_s + channel * first_d + k * first_n
                tl.store(at, gradient, mask=mine)
    if ENDS:
        channel, mine, _ = channels_of(block, blocks, width, 0, 1, CHANNELS, WHOLE)
        store_decay(decay, rates, total, kept, row * segments + segment, n, d, mine, channel)
