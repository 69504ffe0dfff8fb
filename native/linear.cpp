// y = x W^T + bias for a few rows of x: what decoding does all the time, limited by how fast W can be read.
//
// The rows of W are read one after the other, each once: several streams at a time were slower. Weights of 8 bits become
// floats on the way: memory is slower than that, so x keeps its precision.
#include "kernels.h"
#include "product.h"

namespace {

constexpr int ROWS = 4, OUTPUTS = 4;  // rows of x that share the loads of a row of W; rows of W summed over lanes together

// x times one row of W, of which W sums per row of x remain; those of a row are OUTPUTS vectors apart.
template <int R, class E> INLINE void products(const E *w, const float *x, int64_t x_stride, int64_t inputs, vf *out) {
    vf even[R] = {}, odd[R] = {};
    int64_t k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) {
        vf first = load_vec(w + k), second = load_vec(w + k + W);
        for (int r = 0; r < R; r++) {
            even[r] += first * load(x + r * x_stride + k);
            odd[r] += second * load(x + r * x_stride + k + W);
        }
    }
    if (k + W <= inputs) {
        for (int r = 0; r < R; r++) even[r] += load_vec(w + k) * load(x + r * x_stride + k);
        k += W;
    }
    for (int r = 0; r < R; r++) {
        vf sum = even[r] + odd[r];
        for (int64_t i = k; i < inputs; i++) sum[0] += to_float(w[i]) * x[r * x_stride + i];
        out[r * OUTPUTS] = sum;
    }
}

// What is left of OUTPUTS vectors: lane by lane it took longer than the products of a short row.
INLINE void sum_lanes(const vf *sums, float *out) {
    float lanes[W];
    store(lanes, merge<OUTPUTS>(sums));
    for (int m = 0; m < OUTPUTS; m++) {
        out[m] = lanes[m * (W / OUTPUTS)];
        for (int i = 1; i < W / OUTPUTS; i++) out[m] += lanes[m * (W / OUTPUTS) + i];
    }
}

template <class E> INLINE void some_rows(const E *w, const ssm_linear &a, int64_t row, int64_t count, vf *out) {
    const float *x = a.x + row * a.x_stride;
    if (count == 4) products<4>(w, x, a.x_stride, a.inputs, out);
    else if (count == 3) products<3>(w, x, a.x_stride, a.inputs, out);
    else if (count == 2) products<2>(w, x, a.x_stride, a.inputs, out);
    else products<1>(w, x, a.x_stride, a.inputs, out);
}

template <class E> void outputs(const ssm_linear &a, int64_t first, int64_t last) {
    for (int64_t m = first; m < last; m += OUTPUTS) {
        const int64_t some = min64(OUTPUTS, last - m);
        for (int64_t row = 0, count; row < a.rows; row += count) {
            count = min64(ROWS, a.rows - row);
            vf sums[ROWS * OUTPUTS] = {};
            for (int64_t i = 0; i < some; i++)
                some_rows((const E *)a.weight + (m + i) * a.weight_stride, a, row, count, sums + i);
            for (int64_t r = 0; r < count; r++) {
                float y[OUTPUTS];
                sum_lanes(sums + r * OUTPUTS, y);
                for (int64_t i = 0, o = m; i < some; i++, o++)
                    a.y[(row + r) * a.outputs + o] = y[i] * (a.scale ? a.scale[o] : 1.f) + (a.bias ? a.bias[o] : 0.f);
            }
        }
    }
}

#if W == 16 || defined(__ARM_NEON)
constexpr int MOST = 8;  // rows whose sums with a row of two vectors the registers hold
#else
constexpr int MOST = 4;
#endif

// M rows of y times a panel; x is transposed, its rows side by side. Each sum is over the inputs in their order.
template <int M> INLINE void panel_rows(const ssm_product &a, const float *x, int64_t x_stride, int64_t panel, float *y) {
    const float *w = a.weight + panel * a.inputs * SSM_PANEL;
    for (int c = 0; c < SSM_PANEL; c += 2 * W) {
        Block<M, 2> sums;
        sums.clear();
        sums.template add<true>(x, x_stride, w + c, SSM_PANEL, a.inputs);
        sums.each([&](vf &v, int, int at) __attribute__((always_inline)) {
            if (a.bias) v += load(a.bias + panel * SSM_PANEL + c + at);
        });
        sums.write(y + panel * SSM_PANEL + c, a.panels * SSM_PANEL);
    }
}

}  // namespace

// A panel is read once and stays in the first cache while all rows pass by.
void KERNEL(product_rows)(const ssm_product *a, int64_t first, int64_t last, float *scratch) {
    const int64_t rows = last - first, stride = ceil_div(rows, 16) * 16, wide = a->panels * SSM_PANEL;
    transposed(scratch, stride, a->x + first * a->x_stride, a->x_stride, rows, a->inputs);
    for (int64_t panel = 0; panel < a->panels; panel++) {
        float *y = a->y + first * wide;
        int64_t i = 0;
        for (; i + MOST <= rows; i += MOST) panel_rows<MOST>(*a, scratch + i, stride, panel, y + i * wide);
        if (MOST > 4 && i + 4 <= rows) panel_rows<4>(*a, scratch + i, stride, panel, y + i * wide), i += 4;
        if (i + 2 <= rows) panel_rows<2>(*a, scratch + i, stride, panel, y + i * wide), i += 2;
        if (i < rows) panel_rows<1>(*a, scratch + i, stride, panel, y + i * wide);
    }
}

void KERNEL(linear_part)(const ssm_linear *a, int64_t first, int64_t last) {
    if (a->dtype == SSM_FLOAT32) outputs<float>(*a, first, last);
    else if (a->dtype == SSM_BFLOAT16) outputs<bf16>(*a, first, last);
    else if (a->dtype == SSM_FLOAT16) outputs<f16>(*a, first, last);
    else outputs<int8_t>(*a, first, last);
}

void KERNEL(linear)(const ssm_linear *a) {
    const int64_t pieces = max64(1, min64(a->threads, a->outputs));
    PARALLEL_TASKS(a->threads, pieces, {
        (void)thread;
        KERNEL(linear_part)(a, task * a->outputs / pieces, (task + 1) * a->outputs / pieces);
    })
}
