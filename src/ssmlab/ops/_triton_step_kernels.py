"""One token of the convolution, of the selective scan and of the state space dual, the states updated in place."""

import triton
import triton.language as tl

from ssmlab.ops.selective_scan.triton_parts import LOG2E, step_size


@triton.jit
def conv_step(
    x, state, weight, bias, y, d, width, length, x_b, x_d, state_b, state_d, state_l, weight_d, weight_w,
    SILU: tl.constexpr, BIAS: tl.constexpr, CHANNELS: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """y (b, d); the inputs of `state` move on by one."""
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mine, place = channel < d, tl.arange(0, LENGTH)[None, :]
    c, here = channel[:, None], mine[:, None] & (place < length)
    new = tl.load(x + row * x_b + channel * x_d, mask=mine, other=0.0)
    old = tl.load(state + row * state_b + c * state_d + place * state_l, mask=here, other=0.0)
    tap = place - (length - (width - 1))
    weights = tl.load(weight + c * weight_d + tap * weight_w, mask=here & (tap >= 0), other=0.0)
    last = tl.load(weight + channel * weight_d + (width - 1) * weight_w, mask=mine, other=0.0)
    out = tl.sum(old.to(tl.float32) * weights.to(tl.float32), 1) + last.to(tl.float32) * new.to(tl.float32)
    if BIAS:
        out += tl.load(bias + channel, mask=mine, other=0.0)
    if SILU:
        out *= tl.sigmoid(out)
    tl.store(y + row * d + channel, out.to(y.dtype.element_ty), mask=mine)
    tl.debug_barrier()  # every lane has read before one writes
    tl.store(state + row * state_b + c * state_d + (place - 1) * state_l, old, mask=here & (place > 0))
    if length > 0:
        end = state + row * state_b + channel * state_d + (length - 1) * state_l
        tl.store(end, new.to(state.dtype.element_ty), mask=mine)


@triton.jit
def scan_step(
    state, into, x, dt, A, B, C, D, z, bias, y, d, n, x_b, x_d, dt_b, dt_d, z_b, z_d, B_b, B_n, C_b, C_n,
    SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, CHANNELS: tl.constexpr,
    STATES: tl.constexpr,
):  # fmt: skip
    """y (b, d) and the new state (b, d, n) in `into`."""
    row = tl.program_id(1).to(tl.int64)
    channel, k = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, STATES)
    mine, there = channel < d, k < n
    here, at = mine[:, None] & there[None, :], channel[:, None] * n + k[None, :]
    u = tl.load(x + row * x_b + channel * x_d, mask=mine, other=0.0).to(tl.float32)
    raw = tl.load(dt + row * dt_b + channel * dt_d, mask=mine, other=0.0).to(tl.float32)
    if BIAS:
        raw += tl.load(bias + channel, mask=mine, other=0.0)
    delta, _ = step_size(raw, mine, SOFTPLUS)
    in_map = tl.load(B + row * B_b + k * B_n, mask=there, other=0.0).to(tl.float32)
    out_map = tl.load(C + row * C_b + k * C_n, mask=there, other=0.0).to(tl.float32)
    rate = tl.load(A + at, mask=here, other=0.0) * LOG2E
    h = tl.load(state + row * d * n + at, mask=here, other=0.0).to(tl.float32)
    h = tl.exp2(delta[:, None] * rate) * h + (delta * u)[:, None] * in_map[None, :]
    tl.debug_barrier()  # where states are few, several warps have the same ones: all must have read them
    tl.store(into + row * d * n + at, h.to(into.dtype.element_ty), mask=here)
    out = tl.sum(h * out_map[None, :], 1)
    if SKIP:
        out += tl.load(D + channel, mask=mine, other=0.0) * u
    if GATE:
        gate = tl.load(z + row * z_b + channel * z_d, mask=mine, other=0.0).to(tl.float32)
        out *= gate * tl.sigmoid(gate)
    tl.store(y + row * d + channel, out.to(y.dtype.element_ty), mask=mine)


@triton.jit
def head_step(
    state, x, dt, A, B, C, D, z, bias, y, h, p, n, group, x_b, x_h, x_p, dt_b, dt_h, z_b, z_h, z_p, B_b, B_g, B_n,
    C_b, C_g, C_n, SOFTPLUS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr,
    CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """y (b, h, p), the state (b, h, p, n) updated in place."""
    row, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    channel, k = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, STATES)
    mine, there = channel < p, k < n
    here = mine[:, None] & there[None, :]
    at = ((row * h + head) * p + channel[:, None]) * n + k[None, :]
    u = tl.load(x + row * x_b + head * x_h + channel * x_p, mask=mine, other=0.0).to(tl.float32)
    raw = tl.load(dt + row * dt_b + head * dt_h + tl.zeros([1], tl.int32)).to(tl.float32)
    if BIAS:
        raw += tl.load(bias + head)
    delta, _ = step_size(raw, raw == raw, SOFTPLUS)
    in_map = tl.load(B + row * B_b + head // group * B_g + k * B_n, mask=there, other=0.0).to(tl.float32)
    out_map = tl.load(C + row * C_b + head // group * C_g + k * C_n, mask=there, other=0.0).to(tl.float32)
    decay = tl.exp2(delta * (tl.load(A + head) * LOG2E))
    H = tl.load(state + at, mask=here, other=0.0).to(tl.float32)
    H = decay[:, None] * H + (delta * u)[:, None] * in_map[None, :]
    tl.debug_barrier()
    tl.store(state + at, H.to(state.dtype.element_ty), mask=here)
    out = tl.sum(H * out_map[None, :], 1)
    if SKIP:
        out += tl.load(D + head) * u
    if GATE:
        gate = tl.load(z + row * z_b + head * z_h + channel * z_p, mask=mine, other=0.0).to(tl.float32)
        out *= gate * tl.sigmoid(gate)
    tl.store(y + (row * h + head) * p + channel, out.to(y.dtype.element_ty), mask=mine)
