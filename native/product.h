// Products of small matrices in registers: blocks of M rows and N vectors, vectors along the rows of `b` and of the result.
#pragma once

#include "tile.h"

namespace {

// The largest block that the registers hold beside a row of `b`: 32 of them, or 16.
#if W == 16 || defined(__ARM_NEON)
constexpr int TALL = 6, WIDE = 4;
#else
constexpr int TALL = W == 8 ? 6 : 4, WIDE = 2;
#endif

template <int M, int N> struct Block {
    vf v[M][N];
    template <class F> MEMBER void each(F f) {
#pragma GCC unroll 8
        for (int i = 0; i < M; i++)
#pragma GCC unroll 8
            for (int c = 0; c < N; c++) f(v[i][c], i, c * W);
    }
    MEMBER void clear() {
        each([](vf &v, int, int) __attribute__((always_inline)) { v = (vf){}; });
    }
    MEMBER void read(const float *p, int64_t stride, float factor) {
        each([&](vf &v, int i, int c) __attribute__((always_inline)) { v = load(p + i * stride + c) * factor; });
    }
    MEMBER void write(float *p, int64_t stride) {
        each([&](vf &v, int i, int c) __attribute__((always_inline)) { store(p + i * stride + c, v); });
    }
    MEMBER void scale(const float *rows) {
        each([&](vf &v, int i, int) __attribute__((always_inline)) { v *= rows[i]; });
    }
    // += a b over `terms` terms; the factor of row i and term k is a[i * stride + k], or a[k * stride + i] where Turned.
    template <bool Turned>
    MEMBER void add(const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t terms) {
        for (int64_t k = 0; k < terms; k++) {
            vf row[N];
#pragma GCC unroll 8
            for (int c = 0; c < N; c++) row[c] = load(b + k * b_stride + c * W);
            each([&](vf &v, int i, int c) __attribute__((always_inline)) {
                v += (Turned ? a[k * a_stride + i] : a[i * a_stride + k]) * row[c / W];
            });
        }
    }
};

template <int N, class F> INLINE void row_blocks(int64_t begin, int64_t rows, int64_t column, F f) {
    int64_t i = begin;
    for (; i + TALL <= rows; i += TALL) f.template operator()<TALL, N>(i, column);
    if (TALL > 4 && i + 4 <= rows) f.template operator()<4, N>(i, column), i += 4;
    if (i + 2 <= rows) f.template operator()<2, N>(i, column), i += 2;
    if (i < rows) f.template operator()<1, N>(i, column);
}

// f<M, N>(row, column) for blocks that cover `rows` rows and `columns` columns, a multiple of W. With Lower only what lies on
// or below the diagonal must be covered, and blocks are narrower to follow it.
template <bool Lower = false, class F> INLINE void blocks(int64_t rows, int64_t columns, F f) {
    int64_t c = 0;
    if constexpr (WIDE == 4 && !Lower)
        for (; c + 4 * W <= columns; c += 4 * W) row_blocks<4>(0, rows, c, f);
    for (; c + 2 * W <= columns; c += 2 * W) row_blocks<2>(Lower ? c : 0, rows, c, f);
    if (c < columns) row_blocks<1>(Lower ? c : 0, rows, c, f);
}

// out (columns, rows) = the transpose of in (rows, columns); what `out` has beyond is left alone.
INLINE void transposed(float *out, int64_t out_stride, const float *in, int64_t in_stride, int64_t rows, int64_t columns) {
    const int64_t full_rows = rows / W * W, full_columns = columns / W * W;
    for (int64_t r = 0; r < full_rows; r += W)
        for (int64_t c = 0; c < full_columns; c += W) {
            vf v[W];
            for (int i = 0; i < W; i++) v[i] = load(in + (r + i) * in_stride + c);
            transpose(v);
            for (int i = 0; i < W; i++) store(out + (c + i) * out_stride + r, v[i]);
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < full_rows ? full_columns : 0; c < columns; c++) out[c * out_stride + r] = in[r * in_stride + c];
}

template <class E>
static void load_padded_as(float *out, int64_t out_stride, const E *p, int64_t rows, int64_t columns, int64_t row_stride,
                           int64_t column_stride) {
    for (int64_t r = 0; r < rows; r++, p += row_stride, out += out_stride) {
        int64_t c = 0;
        if (column_stride == 1)
            for (; c + W <= columns; c += W) store(out + c, load_vec(p + c));
        for (; c < columns; c++) out[c] = to_float(p[c * column_stride]);
        for (; c < out_stride; c++) out[c] = 0.f;
    }
}

template <class E>
static void store_padded_as(E *p, const float *in, int64_t in_stride, int64_t rows, int64_t columns, int64_t row_stride,
                            int64_t column_stride) {
    for (int64_t r = 0; r < rows; r++, p += row_stride, in += in_stride) {
        int64_t c = 0;
        if (column_stride == 1)
            for (; c + W <= columns; c += W) store_vec(p + c, load(in + c));
        for (; c < columns; c++) from_float(p + c * column_stride, in[c]);
    }
}

// (rows, columns) of any dtype from element `offset` on, to rows of floats that are filled up with zeros.
INLINE void load_padded(float *out, int64_t out_stride, const ssm_tensor &t, int64_t offset, int64_t rows, int64_t columns,
                        int64_t row_stride, int64_t column_stride) {
    auto from = [&](auto *p) { load_padded_as(out, out_stride, p + offset, rows, columns, row_stride, column_stride); };
    if (t.dtype == SSM_FLOAT32) from((const float *)t.data);
    else if (t.dtype == SSM_BFLOAT16) from((const bf16 *)t.data);
    else from((const f16 *)t.data);
}
INLINE void store_padded(const ssm_tensor &t, int64_t offset, const float *in, int64_t in_stride, int64_t rows, int64_t columns,
                         int64_t row_stride, int64_t column_stride) {
    auto to = [&](auto *p) { store_padded_as(p + offset, in, in_stride, rows, columns, row_stride, column_stride); };
    if (t.dtype == SSM_FLOAT32) to((float *)t.data);
    else if (t.dtype == SSM_BFLOAT16) to((bf16 *)t.data);
    else to((f16 *)t.data);
}

}  // namespace
