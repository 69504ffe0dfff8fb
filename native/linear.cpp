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
    const float *w = (const float *)a.weight + panel * a.inputs * SSM_PANEL;
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

constexpr float LARGEST = 32767.f;
constexpr int64_t EXACT = 256;  // pairs of which a sum of 8 times 16 bits stays in 32 bits

// x, transposed, as pairs of 16 bits in its own place, and by what each row is to be multiplied in the end. A row with a NaN
// or an infinity is multiplied by NaN.
INLINE void to_pairs(float *x, int64_t stride, int64_t inputs, float *factor) {
    int32_t *pairs = (int32_t *)x;
    for (int64_t i = 0; i < stride; i += W) {
        vf most = {}, bad = {};
        for (int64_t k = 0; k < inputs; k++) {
            vf v = load(x + k * stride + i);
            vf size = (vf)((vu)v & 0x7fffffff);
            most = size > most ? size : most;
            bad += v * 0.f;
        }
        store(factor + i, most / LARGEST + bad);
        const vf inverse = most > 0.f ? LARGEST / most : (vf){};
        auto rounded = [&](int64_t k) __attribute__((always_inline)) {
            vf v = k < inputs ? load(x + k * stride + i) * inverse : (vf){};
            return __builtin_convertvector(v + (v < 0.f ? splat(-0.5f) : splat(0.5f)), vi);
        };
        for (int64_t k = 0; k < inputs; k += 2) {
            vi pair = (rounded(k) & 0xffff) | (rounded(k + 1) << 16);
            __builtin_memcpy(pairs + k / 2 * stride + i, &pair, sizeof pair);
        }
    }
}

// Sums of int8 weights times some rows of pairs, over `count` pairs; w (count, SSM_PANEL, 2).
template <int M> static void sum_pairs(const int8_t *w, const int32_t *x, int64_t stride, int64_t count, int32_t *sums) {
    for (int64_t k = 0; k < count; k++, w += 2 * SSM_PANEL)
        for (int i = 0; i < M; i++) {
            const int32_t pair = x[k * stride + i], even = (int16_t)pair, odd = pair >> 16;
            for (int c = 0; c < SSM_PANEL; c++) sums[i * SSM_PANEL + c] += even * w[2 * c] + odd * w[2 * c + 1];
        }
}

#if W == 16
template <int M>
__attribute__((target("avx512vnni"))) static void sum_pairs_vnni(const int8_t *w, const int32_t *x, int64_t stride,
                                                                 int64_t count, int32_t *sums) {
    __m512i s[M][2];
    for (int i = 0; i < M; i++) s[i][0] = s[i][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < count; k++, w += 2 * SSM_PANEL) {
        const __m512i left = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w));
        const __m512i right = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w + SSM_PANEL)));
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
            const __m512i pair = _mm512_set1_epi32(x[k * stride + i]);
            s[i][0] = _mm512_dpwssd_epi32(s[i][0], left, pair);
            s[i][1] = _mm512_dpwssd_epi32(s[i][1], right, pair);
        }
    }
    for (int i = 0; i < M; i++)
        for (int c = 0; c < 2; c++) _mm512_storeu_si512(sums + i * SSM_PANEL + c * W, s[i][c]);
}
#endif

// The same as `panel_rows` of integers: exact up to the end of EXACT pairs.
template <int M>
INLINE void panel_pairs(const ssm_product &a, const int32_t *x, int64_t stride, const float *factor, int64_t panel, float *y) {
    const int64_t pairs = ceil_div(a.inputs, 2), wide = a.panels * SSM_PANEL;
    const float *scale = a.scale + panel * SSM_PANEL, *bias = a.bias ? a.bias + panel * SSM_PANEL : nullptr;
    float total[M][SSM_PANEL] = {};
    for (int64_t k = 0; k < pairs; k += EXACT) {
        int32_t sums[M * SSM_PANEL] = {};
        const int8_t *w = (const int8_t *)a.weight + (panel * pairs + k) * 2 * SSM_PANEL;
#if W == 16
        if (__builtin_cpu_supports("avx512vnni")) sum_pairs_vnni<M>(w, x + k * stride, stride, min64(EXACT, pairs - k), sums);
        else
#endif
            sum_pairs<M>(w, x + k * stride, stride, min64(EXACT, pairs - k), sums);
        for (int i = 0; i < M; i++)
            for (int c = 0; c < SSM_PANEL; c++) total[i][c] += (float)sums[i * SSM_PANEL + c];
    }
    y += panel * SSM_PANEL;
    for (int i = 0; i < M; i++)
        for (int c = 0; c < SSM_PANEL; c++) y[i * wide + c] = total[i][c] * factor[i] * scale[c] + (bias ? bias[c] : 0.f);
}

// f<M>(row) for groups of rows.
template <class F> INLINE void row_groups(int64_t rows, F f) {
    int64_t i = 0;
    for (; i + MOST <= rows; i += MOST) f.template operator()<MOST>(i);
    if (MOST > 4 && i + 4 <= rows) f.template operator()<4>(i), i += 4;
    if (i + 2 <= rows) f.template operator()<2>(i), i += 2;
    if (i < rows) f.template operator()<1>(i);
}

}  // namespace

// A panel is read once and stays in the first cache while all rows pass by.
void KERNEL(product_rows)(const ssm_product *a, int64_t first, int64_t last, float *scratch) {
    const int64_t rows = last - first, stride = ceil_div(rows, 16) * 16, wide = a->panels * SSM_PANEL;
    float *y = a->y + first * wide, *factor = scratch + a->inputs * stride;
    transposed(scratch, stride, a->x + first * a->x_stride, a->x_stride, rows, a->inputs);
    if (a->scale) to_pairs(scratch, stride, a->inputs, factor);
    for (int64_t panel = 0; panel < a->panels; panel++)
        row_groups(rows, [&]<int M>(int64_t i) __attribute__((always_inline)) {
            if (a->scale) panel_pairs<M>(*a, (const int32_t *)scratch + i, stride, factor + i, panel, y + i * wide);
            else panel_rows<M>(*a, scratch + i, stride, panel, y + i * wide);
        });
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
