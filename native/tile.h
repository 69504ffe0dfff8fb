// Tiles: [rows][W] floats that hold W channels over some rows (tokens or states) of a strided tensor of any dtype.
#pragma once

#include "ssmlab.h"
#include "simd.h"

namespace {

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Hands out 64-byte aligned pieces of the caller's workspace; with base == 0 it only counts.
struct Arena {
    float *base;
    int64_t used = 0;
    float *take(int64_t floats) {
        float *p = base ? base + used : nullptr;
        used += ceil_div(floats, 16) * 16;
        return p;
    }
};

template <class E>
static void load_tile_as(float *out, const E *p, int64_t rows, int lanes, int64_t row_stride, int64_t lane_stride) {
    int64_t r = 0;
    if (lane_stride == 1 && lanes == W) {
        for (; r < rows; r++) store(out + r * W, load_vec(p + r * row_stride));
    } else if (row_stride == 1 && lanes == W) {
        for (; r + W <= rows; r += W) {
            vf v[W];
            for (int i = 0; i < W; i++) v[i] = load_vec(p + i * lane_stride + r);
            transpose(v);
            for (int i = 0; i < W; i++) store(out + (r + i) * W, v[i]);
        }
    }
    for (; r < rows; r++)
        for (int i = 0; i < W; i++) out[r * W + i] = i < lanes ? to_float(p[r * row_stride + i * lane_stride]) : 0.f;
}

template <class E>
static void store_tile_as(E *p, const float *in, int64_t rows, int lanes, int64_t row_stride, int64_t lane_stride) {
    int64_t r = 0;
    if (lane_stride == 1 && lanes == W) {
        for (; r < rows; r++) store_vec(p + r * row_stride, load(in + r * W));
    } else if (row_stride == 1 && lanes == W) {
        for (; r + W <= rows; r += W) {
            vf v[W];
            for (int i = 0; i < W; i++) v[i] = load(in + (r + i) * W);
            transpose(v);
            for (int i = 0; i < W; i++) store_vec(p + i * lane_stride + r, v[i]);
        }
    }
    for (; r < rows; r++)
        for (int i = 0; i < lanes; i++) from_float(p + r * row_stride + i * lane_stride, in[r * W + i]);
}

// Read `rows` x `lanes` from element `offset` on; missing lanes become 0.
INLINE void load_tile(float *out, const ssm_tensor &t, int64_t offset, int64_t rows, int lanes, int64_t row_stride,
                      int64_t lane_stride) {
    if (t.dtype == SSM_FLOAT32) load_tile_as(out, (const float *)t.data + offset, rows, lanes, row_stride, lane_stride);
    else if (t.dtype == SSM_BFLOAT16) load_tile_as(out, (const bf16 *)t.data + offset, rows, lanes, row_stride, lane_stride);
    else load_tile_as(out, (const f16 *)t.data + offset, rows, lanes, row_stride, lane_stride);
}
INLINE void store_tile(const ssm_tensor &t, int64_t offset, const float *in, int64_t rows, int lanes, int64_t row_stride,
                       int64_t lane_stride) {
    if (t.dtype == SSM_FLOAT32) store_tile_as((float *)t.data + offset, in, rows, lanes, row_stride, lane_stride);
    else if (t.dtype == SSM_BFLOAT16) store_tile_as((bf16 *)t.data + offset, in, rows, lanes, row_stride, lane_stride);
    else store_tile_as((f16 *)t.data + offset, in, rows, lanes, row_stride, lane_stride);
}

// Tokens `token` .. `token + rows` of one block of channels, in one line (inner == 0) or as points of a plane.
struct Place {
    int64_t b, c, token, rows;
    int lanes;
    int64_t inner;
    MEMBER int64_t offset(const ssm_tensor &t) const { return b * t.stride[0] + c * t.stride[1] + token * t.stride[2]; }
    MEMBER bool direct(const ssm_tensor &t) const {
        return t.dtype == SSM_FLOAT32 && t.stride[1] == 1 && lanes == W && !inner;
    }
    // The pieces that lie in one line of the plane: f(first row, rows, element offset, stride from row to row).
    template <class F> MEMBER void lines(const ssm_tensor &t, F f) const {
        if (!inner) return f((int64_t)0, rows, offset(t), t.stride[2]);
        const int64_t base = b * t.stride[0] + c * t.stride[1];
        for (int64_t row = 0, count; row < rows; row += count) {
            const int64_t outer = (token + row) / inner, along = (token + row) % inner;
            count = min64(inner - along, rows - row);
            f(row, count, base + outer * t.stride[2] + along * t.stride[3], t.stride[3]);
        }
    }
};

// Rows of W channels: the tensor itself where it is channel-contiguous float32, else a copy in `scratch`.
struct Rows {
    const float *p;
    int64_t stride;
    MEMBER vf at(int64_t row) const { return load(p + row * stride); }
};
INLINE Rows rows_of(const ssm_tensor &t, const Place &at, float *scratch) {
    if (at.direct(t)) return {(const float *)t.data + at.offset(t), t.stride[2]};
    at.lines(t, [&](int64_t row, int64_t count, int64_t offset, int64_t stride) {
        load_tile(scratch + row * W, t, offset, count, at.lanes, stride, t.stride[1]);
    });
    return {scratch, W};
}

// Where to write such rows; `flush` moves them to the tensor if they went to scratch.
struct OutRows {
    float *p;
    int64_t stride;
};
INLINE OutRows out_rows(const ssm_tensor &t, const Place &at, float *scratch) {
    if (at.direct(t)) return {(float *)t.data + at.offset(t), t.stride[2]};
    return {scratch, W};
}
INLINE void flush(const ssm_tensor &t, const Place &at, const float *scratch) {
    if (at.direct(t)) return;
    at.lines(t, [&](int64_t row, int64_t count, int64_t offset, int64_t stride) {
        store_tile(t, offset, scratch + row * W, count, at.lanes, stride, t.stride[1]);
    });
}

template <class E>
static void load_matrix_as(float *out, const E *p, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
    for (int64_t r = 0; r < rows; r++) {
        const E *row = p + r * row_stride;
        int64_t c = 0;
        if (column_stride == 1)
            for (; c + W <= columns; c += W) store(out + r * columns + c, load_vec(row + c));
        for (; c < columns; c++) out[r * columns + c] = to_float(row[c * column_stride]);
    }
}

// (rows, columns) scalars of any dtype into a contiguous float array.
INLINE void load_matrix(float *out, const ssm_tensor &t, int64_t offset, int64_t rows, int64_t columns, int64_t row_stride,
                        int64_t column_stride) {
    if (t.dtype == SSM_FLOAT32) load_matrix_as(out, (const float *)t.data + offset, rows, columns, row_stride, column_stride);
    else if (t.dtype == SSM_BFLOAT16) load_matrix_as(out, (const bf16 *)t.data + offset, rows, columns, row_stride, column_stride);
    else load_matrix_as(out, (const f16 *)t.data + offset, rows, columns, row_stride, column_stride);
}

// out[r * stride + k] = sum over the W / K lanes that `merge<K>` left of state k in row r.
template <int K> INLINE void sum_merged(float *out, const float *in, int64_t rows, int64_t stride) {
    int64_t r = 0;
    for (; r + W <= rows; r += W) {
        vf v[W];
        for (int i = 0; i < W; i++) v[i] = load(in + (r + i) * W);
        transpose(v);  // v[lane] holds that lane of W rows
        for (int k = 0; k < K; k++) {
            vf sum = v[k * (W / K)];
            for (int i = 1; i < W / K; i++) sum += v[k * (W / K) + i];
            for (int i = 0; i < W; i++) out[(r + i) * stride + k] = sum[i];
        }
    }
    for (; r < rows; r++)
        for (int k = 0; k < K; k++) {
            float sum = 0;
            for (int i = 0; i < W / K; i++) sum += in[r * W + k * (W / K) + i];
            out[r * stride + k] = sum;
        }
}

// A copy of a size that is known only when it runs is a call, which takes longer than what becomes of the lanes.
INLINE vf load_lanes(const float *p, int lanes) {
    if (p && lanes == W) return load(p);
    vf v = {};
    if (p) __builtin_memcpy(&v, p, lanes * sizeof(float));
    return v;
}
INLINE void store_lanes(float *p, vf v, int lanes) {
    if (lanes == W) store(p, v);
    else __builtin_memcpy(p, &v, lanes * sizeof(float));
}

}  // namespace
