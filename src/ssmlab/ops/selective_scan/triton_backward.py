"""The selective scan's backward kernel: chunks in reverse, the states of each recomputed from the one before it.

A lane has TOKENS / LANES tokens in a row and goes through them by itself, back and forth; between lanes a scan carries
states forward and gradients back. A reversed scan of Triton over all tokens would mirror every number by a shuffle.
"""

import triton
import triton.language as tl

from ssmlab.ops.selective_scan.triton_parts import (
    chain,
    channels_of,
    from_pieces,
    map_tile,
    neighbour,
    pieces,
    place,
    step_size,
    store_decay,
    tile,
)

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def over_tokens(t):
    """The sum of (channels, lanes, tokens) for every channel."""
    return tl.sum(tl.sum(t, 2), 1)


@triton.jit
def scan_backward(
    x, dt, z, gy, gx, gdt, gz, B, C, rates, D, bias, restart, states, after, first, decay, gA, gB, gC, gD, gbias,
    d, l, n, line, width, blocks, chunks, each,
    x_b, x_d, x_o, x_l, dt_b, dt_d, dt_o, dt_l, z_b, z_d, z_o, z_l, gy_b, gy_d, gy_o, gy_l,
    gx_b, gx_d, gx_o, gx_l, gdt_b, gdt_d, gdt_o, gdt_l, gz_b, gz_d, gz_o, gz_l,
    B_b, B_g, B_n, B_l, C_b, C_g, C_n, C_l, first_b, first_s, first_d, first_n,
    SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, RESTART: tl.constexpr,
    CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, LINES: tl.constexpr, ADD: tl.constexpr, ENDS: tl.constexpr,
    WHOLE: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All gradients. `states` (b, chunks, n, d) are those before every chunk; `after` (b, 2 * segments, n, d) holds the
    gradient that comes back into every segment in its even slot, and serves the chunks in turns. `first` takes the
    gradient of the initial state; with ENDS nothing but that of every segment, for `carry`. Sums over tokens are
    written for every chunk (gA, and gB and gC of constant maps: (b, chunks, n, d); gD, gbias: (b, chunks, d)), those
    over channels for every program (gB, gC: (b, programs, n, l)).
    """
    programs, segments, segment = blocks * (d // width), tl.num_programs(1), tl.program_id(1)
    row, block = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    channel, mine, group = channels_of(block, blocks, width, CHANNELS)
    here, c = mine[:, None, None], channel.to(tl.int64)[:, None, None]
    lane, later = tl.arange(0, LANES)[None, :], tl.arange(0, LANES)[:, None] * EACH + tl.arange(0, EACH)[None, :]
    token = later[None, :, :]
    x += row * x_b + c * x_d
    dt += row * dt_b + c * dt_d
    z += row * z_b + c * z_d
    gy += row * gy_b + c * gy_d
    gx += row * gx_b + c * gx_d
    gdt += row * gdt_b + c * gdt_d
    gz += row * gz_b + c * gz_d
    B += group * B_g + (c * B_b if CONSTANT_B else row * B_b + token * B_l + c * 0)
    C += group * C_g + (c * C_b if CONSTANT_C else row * C_b + token * C_l + c * 0)
    shift = tl.load(bias + channel, mask=mine, other=0.0)[:, None, None] if BIAS else 0.0
    skip = tl.load(D + channel, mask=mine, other=0.0)[:, None, None] if SKIP else 0.0
    total = tl.zeros([CHANNELS], tl.float32)
    kept = 1.0
    count = tl.minimum(each, chunks - segment * each)
    for i in range(count):
        chunk = segment * each + count - 1 - i
        t0 = chunk * (LANES * EACH)
        valid = (t0 + token < l) & (c >= 0)
        inside = valid & here
        u = tile(x + place(t0, token, line, x_o, x_l, LINES), inside, WHOLE)
        raw = tile(dt + place(t0, token, line, dt_o, dt_l, LINES), inside, WHOLE) + shift
        delta, slope = step_size(raw, True if WHOLE else inside, SOFTPLUS)
        g = tile(gy + place(t0, token, line, gy_o, gy_l, LINES), inside, WHOLE)
        added, span = delta * u, tl.sum(delta, 2)
        if RESTART:
            fresh = tl.load(restart + row * l + t0 + token + c * 0, mask=valid, other=0) != 0
            severed = tl.max(fresh.to(tl.int32), 2) != 0
        if ENDS:
            total += tl.sum(span, 1)
            if RESTART:
                kept *= 1.0 - tl.max(fresh.to(tl.float32))
        if GATE:
            gate = tile(z + place(t0, token, line, z_o, z_l, LINES), inside, WHOLE)
            share = tl.sigmoid(gate)
            g_gated = g
            g *= gate * share
            y = skip * u
        found_map = tl.zeros([CHANNELS, LANES, EACH], tl.float32)
        found_log = tl.zeros([CHANNELS, LANES, EACH], tl.float32)
        B_here, C_here = B, C
        if not CONSTANT_B:
            B_here += t0.to(tl.int64) * B_l
        if not CONSTANT_C:
            C_here += t0.to(tl.int64) * C_l
        sums = ((row * chunks + chunk) * n) * d + channel
        maps = (row * programs + block) * n * l + t0 + later
        slot, next_slot = segment * 2 + i % 2, segment * 2 + (i + 1) % 2
        for k in range(n):
            rate = tl.load(rates + k * d + channel, mask=mine, other=0.0)
            back = tl.load(after + ((row * 2 * segments + slot) * n + k) * d + channel, mask=mine, other=0.0)[:, None]
            out_map = map_tile(C_here, k, C_n, valid, here, CONSTANT_C, WHOLE)
            a = tl.exp2(delta * rate[:, None, None])
            through = tl.exp2(span * rate[:, None])  # the decay of a lane's tokens together
            if RESTART:
                a, through = tl.where(fresh, 0.0, a), tl.where(severed, 0.0, through)
            a_of, g_of = pieces(a, CHANNELS, LANES, EACH), pieces(g * out_map, CHANNELS, LANES, EACH)
            leaving = g_of[EACH - 1]
            for j in tl.static_range(1, EACH):
                leaving = a_of[EACH - j] * leaving + g_of[EACH - 1 - j]
            leaving = tl.where(lane == LANES - 1, a_of[0] * leaving + through * back, a_of[0] * leaving)
            _, leaving = tl.associative_scan((through, leaving), 1, chain, reverse=True)
            before_all = tl.sum(tl.where(lane == 0, leaving, 0.0), 1)
            if i + 1 < count:
                tl.store(after + ((row * 2 * segments + next_slot) * n + k) * d + channel, before_all, mask=mine)
            elif ENDS | (chunk == 0):
                place_of = row * first_b + segment * first_s + channel * first_d
                tl.store(first + place_of + k * first_n, before_all, mask=mine)
            if not ENDS:
                in_map = map_tile(B_here, k, B_n, valid, here, CONSTANT_B, WHOLE)
                before = tl.load(states + sums + k * d, mask=mine, other=0.0)[:, None]
                b_of = pieces(added * in_map, CHANNELS, LANES, EACH)
                h = b_of[0]
                for j in tl.static_range(1, EACH):
                    h = a_of[j] * h + b_of[j]
                h = tl.where(lane == 0, h + through * before, h)
                _, h = tl.associative_scan((through, h), 1, chain)
                h = tl.where(lane == 0, before, neighbour(h, lane - 1, CHANNELS, LANES))
                g_h = tl.where(lane == LANES - 1, back, neighbour(leaving, lane + 1, CHANNELS, LANES)) + g_of[EACH - 1]
                # What is left of the state before a token stands by itself: as a difference of the state and of what
                # the token adds it would lose its digits where the decay is strong.
                states_of, decayed_of, g_states_of = (), (), (g_h,)
                for j in tl.static_range(EACH):
                    decayed = a_of[j] * h
                    h = decayed + b_of[j]
                    states_of, decayed_of = states_of + (h,), decayed_of + (decayed,)  # noqa: RUF005  not in Triton
                    if j > 0:
                        g_h = a_of[EACH - j] * g_h + g_of[EACH - 1 - j]
                        g_states_of = (g_h,) + g_states_of  # noqa: RUF005
                hidden = from_pieces(states_of, CHANNELS, LANES, EACH)
                g_hidden = from_pieces(g_states_of, CHANNELS, LANES, EACH)
                g_log = g_hidden * from_pieces(decayed_of, CHANNELS, LANES, EACH)  # of the log decay
                found_map += g_hidden * in_map
                found_log += g_log * rate[:, None, None]
                tl.store(gA + sums + k * d, over_tokens(g_log * delta), mask=mine)
                if GATE:
                    y += hidden * out_map
                if CONSTANT_B:
                    tl.store(gB + sums + k * d, over_tokens(g_hidden * added), mask=mine)
                else:
                    tl.store(gB + maps + k * l, tl.sum(g_hidden * added, 0), mask=t0 + later < l)
                if CONSTANT_C:
                    tl.store(gC + sums + k * d, over_tokens(g * hidden), mask=mine)
                else:
                    tl.store(gC + maps + k * l, tl.sum(g * hidden, 0), mask=t0 + later < l)
        if not ENDS:
            sums = (row * chunks + chunk) * d + channel
            if SKIP:
                tl.store(gD + sums, over_tokens(g * u), mask=mine)
            if GATE:
                at = gz + place(t0, token, line, gz_o, gz_l, LINES)
                tl.store(at, (g_gated * y * share * (1 + gate * (1 - share))).to(gz.dtype.element_ty), mask=inside)
            g_raw = (found_log * LN2 + found_map * u) * slope  # the rates are those of powers of two
            if BIAS:
                tl.store(gbias + sums, over_tokens(tl.where(inside, g_raw, 0.0)), mask=mine)
            tl.store(gdt + place(t0, token, line, gdt_o, gdt_l, LINES), g_raw.to(gdt.dtype.element_ty), mask=inside)
            at = gx + place(t0, token, line, gx_o, gx_l, LINES)
            g_u = found_map * delta + skip * g
            if ADD:
                g_u += tile(at, inside, WHOLE)
            tl.store(at, g_u.to(gx.dtype.element_ty), mask=inside)
        tl.debug_barrier()  # a gradient is written by one lane and read by all
    if ENDS:
        store_decay(decay, rates, total, kept, row * segments + segment, n, d, mine, channel)
