"""The selective scan's forward kernel: a program takes some channels through a segment of time, a tile of tokens at a
time. A lane has some tokens in a row, and up to 32 lanes share a channel's tile; the states stay in registers."""

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


@triton.jit
def chain(decay, state, later_decay, later_state):
    """Two stretches as one, each h -> decay h + state."""
    return decay * later_decay, later_decay * state + later_state


@triton.jit
def over_tile(t, CHANNELS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr):
    """(channels, lanes) for all tokens of every lane."""
    return tl.reshape(tl.broadcast_to(t[:, :, None], [CHANNELS, LANES, EACH]), [CHANNELS, LANES * EACH])


@triton.jit
def last_token(t, CHANNELS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr):
    """(channels, lanes): what the last token of a tile has, for all lanes. Within a lane it is taken out by a sum of
    its bits and of zeros, which costs nothing."""
    bits = tl.reshape(t.to(tl.int32, bitcast=True), [CHANNELS, LANES, EACH])
    own = tl.sum(tl.where(tl.arange(0, EACH)[None, None, :] == EACH - 1, bits, 0), 2).to(tl.float32, bitcast=True)
    if LANES == 1:
        return own
    return tl.gather(own, tl.full([CHANNELS, LANES], LANES - 1, tl.int32), 1)


@triton.jit
def states_of(pointer, first, n, d, channel, mask, LANES: tl.constexpr, STATES: tl.constexpr, EXACT: tl.constexpr):
    """The states `first` and later of (n, d), a tuple of (channels, lanes)."""
    found = ()
    for k in tl.static_range(STATES):
        there = mask if EXACT else mask & (channel * 0 + (first + k) < n)
        state = tl.load(pointer + (first + k) * d + channel, mask=there, other=0.0)
        found = found + (state[:, None] + tl.zeros([1, LANES], tl.float32),)  # noqa: RUF005  not in Triton
    return found


@triton.jit
def store_states(pointer, stride_n, first, n, at, mask, values, lane, STATES: tl.constexpr, EXACT: tl.constexpr):
    for k in tl.static_range(STATES):
        there = mask if EXACT else mask & (at * 0 + (first + k) < n)
        to = pointer + (first + k) * stride_n + at
        tl.store(to[:, None] + lane * 0, values[k], mask=there[:, None] & (lane == 0))


@triton.jit
def through_tile(
    out, states, rates, delta, added, fresh, token, B, C, B_n, C_n, first, n, here, RESTART: tl.constexpr,
    ENDS: tl.constexpr, WHOLE: tl.constexpr, EXACT: tl.constexpr, CHANNELS: tl.constexpr, LANES: tl.constexpr,
    EACH: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """The outputs of a tile with those of `STATES` states added, and these states after it. With EXACT there are no
    others. Maps are loaded for all channels, as a tile of one row would be spread over all lanes, and what it meets."""
    after = ()
    for k in tl.static_range(STATES):
        there = here
        if not EXACT:
            there = here & (here.to(tl.int32) * 0 + (first + k) < n)
        a = tl.exp2(delta * rates[k])
        if RESTART:
            a = tl.where(fresh, 0.0, a)
        h = added * tile(B + (first + k) * B_n, there, WHOLE)
        h = tl.where(token == 0, h + a * over_tile(states[k], CHANNELS, LANES, EACH), h)
        _, h = tl.associative_scan((a, h), 1, chain)
        if not ENDS:
            out += h * tile(C + (first + k) * C_n, there, WHOLE)
        after = after + (last_token(h, CHANNELS, LANES, EACH),)  # noqa: RUF005
    return out, after


@triton.jit
def scan_forward(
    x, dt, z, y, B, C, rates, D, bias, restart, start, saved, final, decay, d, l, n, line, width, blocks, chunks,
    each, x_b, x_d, x_o, x_l, dt_b, dt_d, dt_o, dt_l, z_b, z_d, z_o, z_l, y_b, y_d, y_o, y_l,
    B_b, B_g, B_n, B_l, C_b, C_g, C_n, C_l, final_b, final_s, final_d, final_n,
    SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, RESTART: tl.constexpr,
    CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, LINES: tl.constexpr, ADD: tl.constexpr, SAVE: tl.constexpr,
    ENDS: tl.constexpr, WHOLE: tl.constexpr, EXACT: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr,
    LANES: tl.constexpr, EACH: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """y and the final state, from the states `start` (b, segments, n, d) before every segment; with SAVE also those
    before every chunk of TILES tiles, (b, chunks, n, d). With ENDS only the state after every segment and its decay are
    written, for `carry`.

    Without EXACT there are more than STATES states, which are taken in turns: `start` (b, 2 segments, n, d) has those
    before a segment in the even slots, and between tiles they wait in one slot or the other.
    """
    programs, segments, segment = blocks * (d // width), tl.num_programs(1), tl.program_id(1)
    row = (tl.program_id(0) // programs).to(tl.int64)
    channel, mine, group = channels_of(tl.program_id(0) % programs, blocks, width, 0, 1, CHANNELS, WHOLE)
    here, c = mine[:, None], channel.to(tl.int64)[:, None]
    token, lane = tl.arange(0, LANES * EACH)[None, :], tl.arange(0, LANES)[None, :]
    x += row * x_b + c * x_d
    dt += row * dt_b + c * dt_d
    z += row * z_b + c * z_d
    y += row * y_b + c * y_d
    B += group * B_g + (c * B_b if CONSTANT_B else row * B_b + token * B_l + c * 0)
    C += group * C_g + (c * C_b if CONSTANT_C else row * C_b + token * C_l + c * 0)
    at = row * segments + segment
    shift = tl.load(bias + channel, mask=mine, other=0.0)[:, None] if BIAS else 0.0
    skip = tl.load(D + channel, mask=mine, other=0.0)[:, None] if SKIP else 0.0
    total = tl.zeros([CHANNELS], tl.float32)
    kept = 1.0
    if EXACT:
        states = states_of(start + at * n * d, 0, n, d, channel, mine, LANES, STATES, EXACT)
    speeds = states_of(rates, 0, n, d, channel, mine, 1, STATES, EXACT)
    first_tile = segment * each * TILES
    tiles = tl.minimum(each * TILES, tl.cdiv(l, LANES * EACH) - first_tile)
    for i in range(tiles):
        t0 = (first_tile + i) * (LANES * EACH)
        inside = (t0 + token < l) & here
        u = tile(x + place(t0, token, line, x_o, x_l, LINES), inside, WHOLE)
        raw = tile(dt + place(t0, token, line, dt_o, dt_l, LINES), inside, WHOLE) + shift
        delta, _ = step_size(raw, True if WHOLE else inside, SOFTPLUS)
        added = delta * u
        out = skip * u if SKIP else tl.zeros([CHANNELS, LANES * EACH], tl.float32)
        fresh = False
        if RESTART:
            fresh = tl.load(restart + row * l + t0 + token + c * 0, mask=(t0 + token < l) & (c >= 0), other=0) != 0
        if ENDS:
            total += tl.sum(delta, axis=1)
            if RESTART:
                kept *= 1.0 - tl.max(fresh.to(tl.float32))
        B_here, C_here = B, C
        if not CONSTANT_B:
            B_here += t0.to(tl.int64) * B_l
        if not CONSTANT_C:
            C_here += t0.to(tl.int64) * C_l
        chunk = (row * chunks + (first_tile + i) // TILES) * n * d
        if EXACT:
            if SAVE:  # noqa: SIM102  known when it is compiled
                if i % TILES == 0:
                    store_states(saved + chunk, d, 0, n, channel, mine, states, lane, STATES, EXACT)
            out, states = through_tile(
                out, states, speeds, delta, added, fresh, token, B_here, C_here, B_n, C_n, 0, n, here, RESTART,
                ENDS, WHOLE, EXACT, CHANNELS, LANES, EACH, STATES,
            )  # fmt: skip
        else:
            before, after = start + (2 * at + i % 2) * n * d, start + (2 * at + (i + 1) % 2) * n * d
            for first in range(0, n, STATES):
                others = states_of(before, first, n, d, channel, mine, LANES, STATES, EXACT)
                if SAVE:  # noqa: SIM102
                    if i % TILES == 0:
                        store_states(saved + chunk, d, first, n, channel, mine, others, lane, STATES, EXACT)
                others_speeds = states_of(rates, first, n, d, channel, mine, 1, STATES, EXACT)
                out, others = through_tile(
                    out, others, others_speeds, delta, added, fresh, token, B_here, C_here, B_n, C_n, first, n, here,
                    RESTART, ENDS, WHOLE, EXACT, CHANNELS, LANES, EACH, STATES,
                )  # fmt: skip
                store_states(after, d, first, n, channel, mine, others, lane, STATES, EXACT)
            tl.debug_barrier()  # a state is written by one lane and read by all
        if not ENDS:
            if GATE:
                gate = tile(z + place(t0, token, line, z_o, z_l, LINES), inside, WHOLE)
                out *= gate * sigmoid(gate)
            at_y = y + place(t0, token, line, y_o, y_l, LINES)
            if ADD:
                out += tile(at_y, inside, WHOLE)
            tl.store(at_y, out.to(y.dtype.element_ty), mask=inside)
    if ENDS | (segment + 1 == segments):
        place_of = row * final_b + segment * final_s + channel * final_d
        if EXACT:
            store_states(final, final_n, 0, n, place_of, mine, states, lane, STATES, EXACT)
        else:
            last = start + (2 * at + tiles % 2) * n * d
            for first in range(0, n, STATES):
                others = states_of(last, first, n, d, channel, mine, LANES, STATES, EXACT)
                store_states(final, final_n, first, n, place_of, mine, others, lane, STATES, EXACT)
    if ENDS:
        store_decay(decay, rates, total, kept, at, n, d, mine, channel)
