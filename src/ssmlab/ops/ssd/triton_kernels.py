"""The state space dual's kernels over chunks whose states are known: outputs, and gradients."""

import triton
import triton.language as tl

from ssmlab.ops.ssd.triton_parts import (
    decays,
    fine_product,
    pairs,
    product,
    silu,
    state_product,
    tile,
    total_of,
)


@triton.jit
def chunk_output(
    x, delta, A, B, C, D, z, restart, states, y, l, h, p, n, group, chunks, x_b, x_l, x_h, x_p, B_b, B_l, B_g, B_n,
    C_b, C_l, C_g, C_n, z_b, z_l, z_h, z_p, SKIP: tl.constexpr, GATE: tl.constexpr, RESTART: tl.constexpr,
    DOT: tl.constexpr, TOKENS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """y of a chunk and a head: the pairs of its tokens, and what they recall of the state before it."""
    row, head, chunk = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(0)
    t = chunk * TOKENS + tl.arange(0, TOKENS)
    valid, channel = t < l, tl.arange(0, P)
    step, coarse, fine = decays(delta + row * l * h + head, tl.load(A + head), restart + row * l, t, valid, h, RESTART)
    x_ = tile(x + row * x_b + head * x_h, t, x_l, valid, channel, x_p, channel < p)
    B += row * B_b + head // group * B_g
    C += row * C_b + head // group * C_g
    states += ((row * chunks + chunk) * h + head) * p * n
    like, recalled = tl.zeros([TOKENS, TOKENS], tl.float32), tl.zeros([TOKENS, P], tl.float32)
    for first in range(0, n, N):
        state = first + tl.arange(0, N)
        B_ = tile(B, t, B_l, valid, state, B_n, state < n)
        C_ = tile(C, t, C_l, valid, state, C_n, state < n)
        like += product(C_, tl.trans(B_), DOT)
        before = tile(states, channel, n, channel < p, state, 1, state < n)
        recalled += state_product(C_, tl.trans(before), DOT)
    out = product(like * pairs(coarse, fine, TOKENS) * step[None, :], x_, DOT)
    out += recalled * tl.exp(coarse + fine)[:, None]
    if SKIP:
        skip = tl.load(D + head * p + channel, mask=channel < p, other=0.0)
        out += skip[None, :] * x_.to(tl.float32)
    if GATE:
        out *= silu(tile(z + row * z_b + head * z_h, t, z_l, valid, channel, z_p, channel < p).to(tl.float32))
    place = y + ((row * l + t)[:, None] * h + head) * p + channel[None, :]
    tl.store(place, out.to(y.dtype.element_ty), mask=valid[:, None] & (channel < p)[None, :])


@triton.jit
def chunk_backward(
    x, delta, A, B, C, D, z, restart, states, after, gy, gx, gdelta, gA, gB, gC, gD, gz, l, h, p, n, group, chunks,
    heads, x_b, x_l, x_h, x_p, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, gy_b, gy_l, gy_h, gy_p, z_b, z_l, z_h, z_p,
    SKIP: tl.constexpr, GATE: tl.constexpr, RESTART: tl.constexpr, DOT: tl.constexpr,
    TOKENS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """All gradients of a chunk, for some `heads` of a group in turns: `after` (b, chunks, h, p, n) is the gradient of
    the state after every chunk. Sums over tokens are written for every chunk (gA (b, chunks, h), gD (b, chunks, h, p)),
    those over heads for every program (gB, gC (b, l, h / heads, n)).

    Within the chunk y_i = sum over j <= i of  (C_i B_j) decay_ij step_j x_j. The gate needs y, which is recomputed. The
    gradient that has passed it is no longer of a half precision: where digits will cancel it keeps its own.
    """
    row, part, chunk = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(0)
    parts = tl.num_programs(1)
    i = tl.arange(0, TOKENS)
    t = chunk * TOKENS + i
    valid, channel = t < l, tl.arange(0, P)
    here = channel < p
    B += row * B_b + part * heads // group * B_g
    C += row * C_b + part * heads // group * C_g
    for k in range(heads):
        head = part * heads + k
        rate = tl.load(A + head)
        step, coarse, fine = decays(delta + row * l * h + head, rate, restart + row * l, t, valid, h, RESTART)
        end_coarse, end_fine = total_of(coarse, TOKENS), total_of(fine, TOKENS)
        since, until = tl.exp(coarse + fine), tl.exp((end_coarse - coarse) + (end_fine - fine))
        decay = pairs(coarse, fine, TOKENS)
        x_ = tile(x + row * x_b + head * x_h, t, x_l, valid, channel, x_p, here)
        g = tile(gy + row * gy_b + head * gy_h, t, gy_l, valid, channel, gy_p, here)
        wide, g_wide = x_.to(tl.float32), g.to(tl.float32)
        if GATE:
            z_ = tile(z + row * z_b + head * z_h, t, z_l, valid, channel, z_p, here).to(tl.float32)
            g_gated, g_wide = g_wide, g_wide * silu(z_)
        at = ((row * chunks + chunk) * h + head) * p * n
        like = tl.zeros([TOKENS, TOKENS], tl.float32)
        for first in range(0, n, N):
            state = first + tl.arange(0, N)
            B_ = tile(B, t, B_l, valid, state, B_n, state < n)
            like += product(tile(C, t, C_l, valid, state, C_n, state < n), tl.trans(B_), DOT)
        g_pairs = fine_product(g_wide, tl.trans(x_), DOT) if GATE else product(g, tl.trans(x_), DOT)
        g_pairs *= step[None, :] * decay
        near = product(tl.trans(like * decay), g_wide, DOT)
        if GATE:
            y = tl.zeros([TOKENS, P], tl.float32)
        far, recalled, kept = tl.zeros([TOKENS, P], tl.float32), tl.zeros([TOKENS], tl.float32), 0.0
        for first in range(0, n, N):
            state = first + tl.arange(0, N)
            mask = valid[:, None] & (state < n)[None, :]
            B_ = tile(B, t, B_l, valid, state, B_n, state < n)
            C_ = tile(C, t, C_l, valid, state, C_n, state < n)
            before = tile(states + at, channel, n, here, state, 1, state < n)
            back = tile(after + at, channel, n, here, state, 1, state < n)
            far += state_product(B_, tl.trans(back), DOT)
            kept += tl.sum(before * back)
            if GATE:
                y += state_product(C_, tl.trans(before), DOT)
            g_C = state_product(g_wide * since[:, None], before, DOT)
            recalled += tl.sum(g_C * C_.to(tl.float32), 1)
            g_C += product(g_pairs, B_, DOT)
            g_B = state_product(wide * (step * until)[:, None], back, DOT) + product(tl.trans(g_pairs), C_, DOT)
            place = ((row * l + t)[:, None] * parts + part) * n + state[None, :]
            if k > 0:
                g_B += tl.load(gB + place, mask=mask, other=0.0)
                g_C += tl.load(gC + place, mask=mask, other=0.0)
            tl.store(gB + place, g_B, mask=mask)
            tl.store(gC + place, g_C, mask=mask)
        far_x = tl.sum(wide * far, 1)
        # Of the log decay of token t: the pairs j < t <= i, the outputs from t on, the inputs before t, the chunk.
        # Sums of the pairs on either side of t instead of differences of larger sums, whose digits would cancel.
        until_t = tl.where(i[:, None] > i[None, :], tl.cumsum(g_pairs * like, 1), 0.0)
        crossing = tl.sum(until_t, 0)  # of token t + 1
        earlier = i[None, :] < i[:, None]
        g_log = tl.sum(tl.where(i[None, :] == i[:, None] - 1, crossing[None, :], 0.0), 1)
        g_log += tl.sum(tl.where(earlier, 0.0, recalled[None, :]), 1)
        g_log += tl.sum(tl.where(earlier, (step * until * far_x)[None, :], 0.0), 1)
        g_log += tl.exp(end_coarse + end_fine) * kept
        g_step = tl.sum(wide * near, 1) + until * far_x + rate * g_log
        tl.store(gdelta + (row * l + t) * h + head, g_step, mask=valid)
        tl.store(gA + (row * chunks + chunk) * h + head, tl.sum(step * g_log))
        found = near * step[:, None] + far * (step * until)[:, None]
        if GATE:
            y = y * since[:, None] + product(like * decay * step[None, :], x_, DOT)
        if SKIP:
            skip = tl.load(D + head * p + channel, mask=here, other=0.0)[None, :]
            found += skip * g_wide
            if GATE:
                y += skip * wide
            tl.store(gD + ((row * chunks + chunk) * h + head) * p + channel, tl.sum(g_wide * wide, 0), mask=here)
        place, mask = ((row * l + t)[:, None] * h + head) * p + channel[None, :], valid[:, None] & here[None, :]
        tl.store(gx + place, found.to(gx.dtype.element_ty), mask=mask)
        if GATE:
            share = tl.sigmoid(z_)
            g_z = g_gated * y * share * (1 + z_ * (1 - share))
            tl.store(gz + place, g_z.to(gz.dtype.element_ty), mask=mask)
        tl.debug_barrier()  # the next head adds to gB and gC, whose numbers other lanes may load than stored them
