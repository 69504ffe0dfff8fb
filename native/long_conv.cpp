// The causal convolution with a filter as long as the sequence, term by term: W channels beside each other, the outputs and
// the filter in blocks that stay in registers, so that an input is read once for all products it has in a block.
//
// y_t = sum_k f_k x_(t-k). Both gradients are the same sum: with gy read backwards in time, f gives the gradient of x and x
// that of f, both written backwards; the latter is summed over the batch.
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int BLOCK = W == 16 ? 8 : 4;       // 2 BLOCK + 1 vectors are held
constexpr int64_t PIECE = 256;               // taps that are summed up before they are added, so that rounding stays small

// sum[i] += sum_j f[j] x[i - j + BLOCK - 1], i and j below BLOCK; in the first block terms before the sequence are left out.
template <bool First> INLINE void block(const float *f, const float *x, vf *sum) {
    vf tap[BLOCK];
    for (int j = 0; j < BLOCK; j++) tap[j] = load(f + j * W);
#pragma GCC unroll 16
    for (int s = First ? 0 : 1 - BLOCK; s < BLOCK; s++) {  // s = i - j
        const vf in = load(x + (int64_t)s * W);
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++)
            if (i - s >= 0 && i - s < BLOCK) sum[i] += tap[i - s] * in;
    }
}

// out += f * x, `rows` of W channels each, a multiple of BLOCK.
void convolve(float *out, const float *f, const float *x, int64_t rows) {
    for (int64_t piece = 0; piece < rows; piece += PIECE)
        for (int64_t t = piece; t < rows; t += BLOCK) {
            vf sum[BLOCK] = {};
            for (int64_t k = piece; k < min64(piece + PIECE, t); k += BLOCK) block<false>(f + k * W, x + (t - k) * W, sum);
            if (t < piece + PIECE) block<true>(f + t * W, x, sum);
            for (int i = 0; i < BLOCK; i++) store(out + (t + i) * W, load(out + (t + i) * W) + sum[i]);
        }
}

int64_t padded(const ssm_long_conv &a) { return ceil_div(a.length, BLOCK) * BLOCK; }

void read(float *tile, const ssm_tensor &t, int64_t b, int64_t c, int lanes, int64_t length, int64_t rows) {
    load_tile(tile, t, b * t.stride[0] + c * t.stride[1], length, lanes, t.stride[2], t.stride[1]);
    __builtin_memset(tile + length * W, 0, (rows - length) * W * sizeof(float));
}
void reverse(float *tile, int64_t length) {
    for (int64_t i = 0, j = length - 1; i < j; i++, j--) {
        const vf first = load(tile + i * W);
        store(tile + i * W, load(tile + j * W));
        store(tile + j * W, first);
    }
}

// Of one block of channels of one row, or of all rows where the filter's gradient is asked for.
void channels(const ssm_long_conv &a, int64_t task, float *workspace) {
    const bool sum = a.kind == SSM_LONG_FILTER;
    const int64_t blocks = ceil_div(a.dim, W), row = task / blocks, c = task % blocks * W, rows = padded(a);
    const int lanes = (int)min64(W, a.dim - c);
    Arena m{workspace};
    float *x = m.take(rows * W), *f = m.take(rows * W), *y = m.take(rows * W);
    __builtin_memset(y, 0, rows * W * sizeof(float));
    for (int64_t b = row; b < (sum ? a.batch : row + 1); b++) {
        read(x, a.x, b, c, lanes, a.length, rows);
        read(f, a.filter, b, c, lanes, a.length, rows);
        if (a.kind != SSM_LONG_OUTPUT) reverse(x, a.length);
        convolve(y, f, x, rows);
    }
    if (a.kind != SSM_LONG_OUTPUT) reverse(y, a.length);
    store_tile(a.y, row * a.y.stride[0] + c * a.y.stride[1], y, a.length, lanes, a.y.stride[2], a.y.stride[1]);
}

int64_t floats_per_thread(const ssm_long_conv &a) { return 3 * padded(a) * W; }

}  // namespace

int64_t KERNEL(long_conv_workspace)(const ssm_long_conv *a) { return floats_per_thread(*a) * max64(1, a->threads); }

void KERNEL(long_conv)(const ssm_long_conv *a) {
    const int64_t tasks = ceil_div(a->dim, W) * (a->kind == SSM_LONG_FILTER ? 1 : a->batch);
    PARALLEL_TASKS(a->threads, tasks, channels(*a, task, a->workspace + thread * floats_per_thread(*a)))
}
