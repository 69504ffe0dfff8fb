"""The selective scan's backward kernel: chunks in reverse, the states of each recomputed from the one before it."""

import triton
import triton.language as tl

from ssmlab.ops.selective_scan.triton_parts import (
    LOG2E,
    chain_apart,
    chain_back,
    channels_of,
    map_tile,
    place,
    step_size,
    store_decay,
    tile,
)


@triton.jit
def scan_backward(
    x, dt, z, gy, gx, gdt, gz, B, C, A, D, bias, restart, states, after, first, decay, gA, gB, gC, gD, gbias,
    b, d, l, n, line, width, blocks, chunks, each,
    x_b, x_d, x_o, x_l, dt_b, dt_d, dt_o, dt_l, z_b, z_d, z_o, z_l, gy_b, gy_d, gy_o, gy_l,
    gx_b, gx_d, gx_o, gx_l, gdt_b, gdt_d, gdt_o, gdt_l, gz_b, gz_d, gz_o, gz_l,
    B_b, B_g, B_n, B_o, B_l, C_b, C_g, C_n, C_o, C_l, first_b, first_s, first_d, first_n,
    SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, RESTART: tl.constexpr,
    CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, LINES: tl.constexpr, ADD: tl.constexpr, ENDS: tl.constexpr,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All gradients. `states` (b, chunks, n, d) are those before every chunk; `after` (b, 2 * segments, n, d) holds the
    gradient that comes back into every segment in its even slot, and serves the chunks in turns. `first` takes the
    gradient of the initial state; with ENDS nothing but that of every segment, for `carry`. Sums over tokens are
    written for every chunk (gA, and gB and gC of constant maps: (b, chunks, n, d); gD, gbias: (b, chunks, d)), those
    over channels for every program (gB, gC: (b, programs, n, l)).
    """
    row, segment = tl.program_id(2).to(tl.int64), tl.program_id(1)
    block, programs, segments = tl.program_id(0), tl.num_programs(0), tl.num_programs(1)
    channel, mine, group = channels_of(block, blocks, width, CHANNELS)
    here, c = mine[:, None], channel[:, None]
    token = tl.arange(0, TOKENS)[None, :]
    x += row * x_b
    dt += row * dt_b
    z += row * z_b
    gy += row * gy_b
    gx += row * gx_b
    gdt += row * gdt_b
    gz += row * gz_b
    B += group * B_g + (0 if CONSTANT_B else row * B_b)
    C += group * C_g + (0 if CONSTANT_C else row * C_b)
    shift = tl.load(bias + channel, mask=mine, other=0.0)[:, None] if BIAS else 0.0
    skip = tl.load(D + channel, mask=mine, other=0.0)[:, None] if SKIP else 0.0
    total = tl.zeros([CHANNELS], tl.float32)
    kept = 1.0
    count = tl.minimum(each, chunks - segment * each)
    for i in range(count):
        chunk = segment * each + count - 1 - i
        t0 = chunk * TOKENS
        valid = t0 + token < l
        inside = valid & here
        u = tile(x, c * x_d + place(t0, token, line, x_o, x_l, LINES), inside)
        raw = tile(dt, c * dt_d + place(t0, token, line, dt_o, dt_l, LINES), inside) + shift
        delta, slope = step_size(raw, inside, SOFTPLUS)
        g = tile(gy, c * gy_d + place(t0, token, line, gy_o, gy_l, LINES), inside)
        if RESTART:
            fresh = tl.load(restart + row * l + t0 + token, mask=valid, other=0) != 0
        if ENDS:
            total += tl.sum(delta, axis=1)
            if RESTART:
                kept *= 1.0 - tl.max(fresh.to(tl.float32))
        if GATE:
            gate = tile(z, c * z_d + place(t0, token, line, z_o, z_l, LINES), inside)
            share = tl.sigmoid(gate)
            g_gated = g
            g *= gate * share
        y = skip * u
        found_u, found_delta = skip * g, tl.zeros([CHANNELS, TOKENS], tl.float32)
        at_B = place(t0, token, line, B_o, B_l, LINES) + c * 0
        at_C = place(t0, token, line, C_o, C_l, LINES) + c * 0
        sums = ((row * chunks + chunk) * n) * d + channel
        maps = (row * programs + block) * n * l + t0 + token
        slot, next_slot = segment * 2 + i % 2, segment * 2 + (i + 1) % 2
        for k in range(n):
            rate = tl.load(A + channel * n + k, mask=mine, other=0.0)[:, None]
            back = tl.load(after + ((row * 2 * segments + slot) * n + k) * d + channel, mask=mine, other=0.0)[:, None]
            out_map = map_tile(C, k, C_n, at_C, c * C_b, inside, here, CONSTANT_C)
            a = tl.exp2(delta * (rate * LOG2E))
            if RESTART:
                a = tl.where(fresh, 0.0, a)
            g_h = g * out_map + tl.where(token == TOKENS - 1, back, 0.0)
            _, g_h, _ = tl.associative_scan((a, g_h, tl.full(a.shape, 1.0, tl.float32)), 1, chain_back, reverse=True)
            leaving = tl.gather(a * g_h, tl.zeros([CHANNELS, 1], tl.int32), 1)
            if i + 1 < count:
                tl.store(after + ((row * 2 * segments + next_slot) * n + k) * d + c, leaving, mask=here)
            elif ENDS | (chunk == 0):
                tl.store(first + row * first_b + segment * first_s + c * first_d + k * first_n, leaving, mask=here)
            if not ENDS:
                in_map = map_tile(B, k, B_n, at_B, c * B_b, inside, here, CONSTANT_B)
                before = tl.load(states + sums + k * d, mask=mine, other=0.0)[:, None]
                decayed = tl.where(token == 0, a * before, 0.0)
                _, h, decayed = tl.associative_scan((a, delta * u * in_map + decayed, decayed), 1, chain_apart)
                g_log = g_h * decayed  # of the log decay
                g_map = g_h * in_map
                found_u += g_map * delta
                found_delta += g_log * rate + g_map * u
                tl.store(gA + sums + k * d, tl.sum(g_log * delta, axis=1), mask=mine)
                if GATE:
                    y += h * out_map
                if CONSTANT_B:
                    tl.store(gB + sums + k * d, tl.sum(g_h * delta * u, axis=1), mask=mine)
                else:
                    tl.store(gB + maps + k * l, tl.sum(g_h * delta * u, axis=0)[None, :], mask=valid)
                if CONSTANT_C:
                    tl.store(gC + sums + k * d, tl.sum(g * h, axis=1), mask=mine)
                else:
                    tl.store(gC + maps + k * l, tl.sum(g * h, axis=0)[None, :], mask=valid)
        if not ENDS:
            sums = (row * chunks + chunk) * d + channel
            if SKIP:
                tl.store(gD + sums, tl.sum(g * u, axis=1), mask=mine)
            if GATE:
                at = c * gz_d + place(t0, token, line, gz_o, gz_l, LINES)
                tl.store(gz + at, (g_gated * y * share * (1 + gate * (1 - share))).to(gz.dtype.element_ty), mask=inside)
            g_raw = found_delta * slope
            if BIAS:
                tl.store(gbias + sums, tl.sum(tl.where(inside, g_raw, 0.0), axis=1), mask=mine)
            at = c * gdt_d + place(t0, token, line, gdt_o, gdt_l, LINES)
            tl.store(gdt + at, g_raw.to(gdt.dtype.element_ty), mask=inside)
            at = c * gx_d + place(t0, token, line, gx_o, gx_l, LINES)
            if ADD:
                found_u += tile(gx, at, inside)
            tl.store(gx + at, found_u.to(gx.dtype.element_ty), mask=inside)
        tl.debug_barrier()  # a gradient is written by one lane and read by all
    if ENDS:
        store_decay(decay, A, total, kept, row * segments + segment, n, d, mine, channel)
