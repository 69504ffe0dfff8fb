// y = x W^T + bias for a few rows of x: what decoding does all the time, limited by how fast W can be read.
//
// The rows of W are read one after the other, each once: several streams at a time were slower.
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int ROWS = 4;  // rows of x that share the loads of a row of W

template <int R, class E> INLINE void products(const E *w, const float *x, int64_t x_stride, int64_t inputs, float *out) {
    vf even[R] = {}, odd[R] = {};
    int64_t k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) {
        vf first = load_vec(w + k), second = load_vec(w + k + W);
        for (int r = 0; r < R; r++) {
            even[r] += first * load(x + r * x_stride + k);
            odd[r] += second * load(x + r * x_stride + k + W);
        }
    }
    for (int r = 0; r < R; r++) {
        vf both = even[r] + odd[r];
        float sum = 0;
        for (int i = 0; i < W; i++) sum += both[i];
        for (int64_t i = k; i < inputs; i++) sum += to_float(w[i]) * x[r * x_stride + i];
        out[r] = sum;
    }
}

template <class E> void outputs(const ssm_linear &a, int64_t first, int64_t last) {
    for (int64_t m = first; m < last; m++) {
        const E *w = (const E *)a.weight + m * a.weight_stride;
        for (int64_t row = 0, count; row < a.rows; row += count) {
            count = min64(ROWS, a.rows - row);
            const float *x = a.x + row * a.x_stride;
            float sums[ROWS];
            if (count == 4) products<4>(w, x, a.x_stride, a.inputs, sums);
            else if (count == 3) products<3>(w, x, a.x_stride, a.inputs, sums);
            else if (count == 2) products<2>(w, x, a.x_stride, a.inputs, sums);
            else products<1>(w, x, a.x_stride, a.inputs, sums);
            for (int64_t r = 0; r < count; r++) a.y[(row + r) * a.outputs + m] = sums[r] + (a.bias ? a.bias[m] : 0.f);
        }
    }
}

void piece(const ssm_linear &a, int64_t first, int64_t last) {
    if (a.dtype == SSM_FLOAT32) outputs<float>(a, first, last);
    else if (a.dtype == SSM_BFLOAT16) outputs<bf16>(a, first, last);
    else outputs<f16>(a, first, last);
}

}  // namespace

void KERNEL(linear)(const ssm_linear *a) {
    const int64_t pieces = max64(1, min64(a->threads, a->outputs));
    PARALLEL_TASKS(a->threads, pieces, {
        (void)thread;
        piece(*a, task * a->outputs / pieces, (task + 1) * a->outputs / pieces);
    })
}
