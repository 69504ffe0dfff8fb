"""The selective scan's forward kernel: a program takes some channels through a segment of time, a tile of tokens at a
time; the tokens of a tile are put together by an associative scan over the lanes, the states one after the other."""

import triton
import triton.language as tl

from ssmlab.ops.selective_scan.triton_parts import (
    LOG2E,
    chain,
    channels_of,
    map_tile,
    place,
    step_size,
    store_decay,
    tile,
)


@triton.jit
def scan_forward(
    x, dt, z, y, B, C, A, D, bias, restart, states, final, decay, b, d, l, n, line, width, blocks, chunks, each,
    x_b, x_d, x_o, x_l, dt_b, dt_d, dt_o, dt_l, z_b, z_d, z_o, z_l, y_b, y_d, y_o, y_l,
    B_b, B_g, B_n, B_o, B_l, C_b, C_g, C_n, C_o, C_l, final_b, final_s, final_d, final_n,
    SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, RESTART: tl.constexpr,
    CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, LINES: tl.constexpr, ADD: tl.constexpr, SAVE: tl.constexpr,
    ENDS: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y and the final state. `states` (b, slots, n, d) holds the state before every segment in the slot of its first
    chunk and takes those before the other chunks: with SAVE a slot a chunk, else two a segment, in turns. With ENDS
    only the state after every segment and its decay are written, for `carry`.
    """
    row, segment = tl.program_id(2).to(tl.int64), tl.program_id(1)
    channel, mine, group = channels_of(tl.program_id(0), blocks, width, CHANNELS)
    here, c = mine[:, None], channel[:, None]
    token = tl.arange(0, TOKENS)[None, :]
    x += row * x_b
    dt += row * dt_b
    z += row * z_b
    y += row * y_b
    B += group * B_g + (0 if CONSTANT_B else row * B_b)
    C += group * C_g + (0 if CONSTANT_C else row * C_b)
    shift = tl.load(bias + channel, mask=mine, other=0.0)[:, None] if BIAS else 0.0
    total = tl.zeros([CHANNELS], tl.float32)
    kept = 1.0
    for i in range(tl.minimum(each, chunks - segment * each)):
        chunk = segment * each + i
        t0 = chunk * TOKENS
        valid = t0 + token < l
        inside = valid & here
        u = tile(x, c * x_d + place(t0, token, line, x_o, x_l, LINES), inside)
        raw = tile(dt, c * dt_d + place(t0, token, line, dt_o, dt_l, LINES), inside) + shift
        delta, _ = step_size(raw, inside, SOFTPLUS)
        added = delta * u
        if RESTART:
            fresh = tl.load(restart + row * l + t0 + token, mask=valid, other=0) != 0
        if ENDS:
            total += tl.sum(delta, axis=1)
            if RESTART:
                kept *= 1.0 - tl.max(fresh.to(tl.float32))
        out = tl.zeros([CHANNELS, TOKENS], tl.float32)
        slot = chunk if SAVE else segment * 2 + i % 2
        after = chunk + 1 if SAVE else segment * 2 + (i + 1) % 2
        slots = chunks if SAVE else tl.num_programs(1) * 2
        at_B = place(t0, token, line, B_o, B_l, LINES) + c * 0
        at_C = place(t0, token, line, C_o, C_l, LINES) + c * 0
        for k in range(n):
            rate = tl.load(A + channel * n + k, mask=mine, other=0.0)[:, None] * LOG2E
            before = tl.load(states + ((row * slots + slot) * n + k) * d + channel, mask=mine, other=0.0)[:, None]
            a = tl.exp2(delta * rate)
            if RESTART:
                a = tl.where(fresh, 0.0, a)
            h = added * map_tile(B, k, B_n, at_B, c * B_b, inside, here, CONSTANT_B)
            h += tl.where(token == 0, a * before, 0.0)
            _, h = tl.associative_scan((a, h), 1, chain)
            if not ENDS:
                out += h * map_tile(C, k, C_n, at_C, c * C_b, inside, here, CONSTANT_C)
            last = tl.gather(h, tl.full([CHANNELS, 1], TOKENS - 1, tl.int32), 1)
            if (i + 1 < each) & (chunk + 1 < chunks):
                tl.store(states + ((row * slots + after) * n + k) * d + c, last, mask=here)
            elif ENDS | (chunk + 1 == chunks):
                tl.store(final + row * final_b + segment * final_s + c * final_d + k * final_n, last, mask=here)
        if not ENDS:
            at_y = c * y_d + place(t0, token, line, y_o, y_l, LINES)
            if SKIP:
                out += tl.load(D + channel, mask=mine, other=0.0)[:, None] * u
            if GATE:
                gate = tile(z, c * z_d + place(t0, token, line, z_o, z_l, LINES), inside)
                out *= gate * tl.sigmoid(gate)
            if ADD:
                out += tile(y, at_y, inside)
            tl.store(y + at_y, out.to(y.dtype.element_ty), mask=inside)
        tl.debug_barrier()  # a state is written by one lane and read by all
    if ENDS:
        store_decay(decay, A, total, kept, row * tl.num_programs(1) + segment, n, d, mine, channel)
