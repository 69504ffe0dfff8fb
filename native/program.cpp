// One token of a whole model in one call: its steps one after the other, each shared out to one team of threads.
//
// A token of a model is a few hundred small calls; from Python each costs as much as the arithmetic of some of them, and
// opening a team of threads for each as much again.
#include "kernels.h"
#include "tile.h"

namespace {

struct Part {
    int64_t first, last;
};
// What a thread does of `count` things, in whole groups of `unit`.
Part part_of(int64_t count, int64_t unit, int64_t thread, int64_t threads) {
    const int64_t groups = ceil_div(count, unit);
    return {min64(count, thread * groups / threads * unit), min64(count, (thread + 1) * groups / threads * unit)};
}

INLINE float sum_of(vf v) {
    float total = 0.f;
    for (int i = 0; i < W; i++) total += v[i];
    return total;
}

// Mean squares are summed in float64: a row is short, and the norm is what every following number is multiplied by.
void norm_row(const ssm_norm &a, int64_t row) {
    float *y = a.y + row * a.dim, *residual = a.residual ? a.residual + row * a.dim : nullptr;
    const float *x = a.x ? a.x + row * a.x_stride : nullptr, *gate = a.gate ? a.gate + row * a.gate_stride : nullptr;
    for (int64_t i = 0; i < a.dim; i += W) {
        const int lanes = (int)min64(W, a.dim - i);
        vf v = x ? load_lanes(x + i, lanes) : (vf){};
        if (residual) {
            v += load_lanes(residual + i, lanes);
            store_lanes(residual + i, v, lanes);
        }
        if (gate) {
            vf g = load_lanes(gate + i, lanes);
            v *= g * sigmoid(g);
        }
        store_lanes(y + i, v, lanes);
    }
    const int64_t size = a.dim / a.groups;
    for (int64_t g = 0; g < a.groups; g++, y += size) {
        double squares = 0.0;
        for (int64_t i = 0; i < size; i += W) {
            vf v = load_lanes(y + i, (int)min64(W, size - i));
            squares += sum_of(v * v);
        }
        const float scale = (float)(1.0 / __builtin_sqrt(squares / size + a.eps));
        for (int64_t i = 0; i < size; i++) y[i] *= scale * a.weight[g * size + i];
    }
}

template <class E> void convolve(const ssm_conv_token &a, const E *before, E *after, int64_t row, Part part) {
    const int64_t past = a.width - 1;
    const float *x = a.x + row * a.x_stride;
    float *y = a.y + row * a.dim;
    before += row * a.dim * past, after += row * a.dim * past;
    for (int64_t c = part.first; c < part.last; c++) {
        const float *taps = a.weight + c * a.width;
        const E *window = before + c * past;
        E *moved = after + c * past;
        float sum = a.bias ? a.bias[c] : 0.f;
        for (int64_t k = 0; k < past; k++) sum += taps[k] * to_float(window[k]);
        y[c] = sum + taps[past] * x[c];
        for (int64_t k = 0; k + 1 < past; k++) moved[k] = window[k + 1];
        if (past) from_float(moved + past - 1, x[c]);
    }
    if (!a.silu) return;
    for (int64_t c = part.first; c < part.last; c += W) {
        const int lanes = (int)min64(W, part.last - c);
        vf v = load_lanes(y + c, lanes);
        store_lanes(y + c, v * sigmoid(v), lanes);
    }
}

void conv_token(const ssm_conv_token &a, const void *before, void *after, Part part) {
    for (int64_t row = 0; row < a.rows; row++) {
        if (a.dtype == SSM_FLOAT32) convolve(a, (const float *)before, (float *)after, row, part);
        else if (a.dtype == SSM_BFLOAT16) convolve(a, (const bf16 *)before, (bf16 *)after, row, part);
        else convolve(a, (const f16 *)before, (f16 *)after, row, part);
    }
}

// One token of the convolution for one row, its state (width - 1, dim), the taps (width, dim).
void convolve_row(const ssm_conv_token &a, const float *before, float *after, int64_t row) {
    const int64_t past = a.width - 1, d = a.dim;
    const float *x = a.x + row * a.x_stride;
    for (int64_t c = 0; c < d; c += W) {
        const int lanes = (int)min64(W, d - c);
        vf sum = a.bias ? load_lanes(a.bias + c, lanes) : (vf){}, last = load_lanes(x + c, lanes);
        for (int64_t k = 0; k < past; k++) {
            vf v = load_lanes(before + k * d + c, lanes);
            sum += load_lanes(a.weight + k * d + c, lanes) * v;
            if (k) store_lanes(after + (k - 1) * d + c, v, lanes);
        }
        sum += load_lanes(a.weight + past * d + c, lanes) * last;
        if (past) store_lanes(after + (past - 1) * d + c, last, lanes);
        store_lanes(a.y + row * d + c, a.silu ? sum * sigmoid(sum) : sum, lanes);
    }
}

// h = exp(dt A) h + dt x B and what remains of C h to be summed over the lanes, for one channel; A = -exp(A_log) and
// rate = -dt log2(e). With Ready `A_log` is exp(A_log); else A is made anew for every token: a kept one would have to be
// compared with the weight each time, which takes longer than the exponential.
template <bool Ready>
INLINE vf advance(const float *before, float *after, const float *A_log, const float *B, const float *C, float rate,
                  float u, int64_t n) {
    vf sum = {};
    int64_t k = 0;
    for (; k + W <= n; k += W) {
        vf A = load(A_log + k);
        vf h = exp2v(rate * (Ready ? A : exp2v(LOG2E * A))) * load(before + k) + u * load(B + k);
        store(after + k, h);
        sum += h * load(C + k);
    }
    if (k < n) {
        const int lanes = (int)(n - k);
        vf A = load_lanes(A_log + k, lanes);
        vf h = exp2v(rate * (Ready ? A : exp2v(LOG2E * A))) * load_lanes(before + k, lanes) + u * load_lanes(B + k, lanes);
        store_lanes(after + k, h, lanes);
        sum += h * load_lanes(C + k, lanes);
    }
    return sum;
}

template <bool Ready>
void scan_token(const ssm_scan_token &a, const float *before, float *after, int64_t row, Part part) {
    const int64_t n = a.states;
    const float *A = Ready ? a.rate : a.A_log;
    const float *x = a.x + row * a.x_stride, *dt = a.dt + row * a.dt_stride, *z = a.z + row * a.z_stride;
    const float *B = a.B + row * a.B_stride, *C = a.C + row * a.C_stride;
    before += row * a.dim * n, after += row * a.dim * n;
    for (int64_t c = part.first; c < part.last; c += W) {
        const int lanes = (int)min64(W, part.last - c);
        vf u = load_lanes(x + c, lanes), step = softplus(load_lanes(dt + c, lanes)), gate = load_lanes(z + c, lanes);
        vf rows[W] = {}, rate = -step * LOG2E, in = step * u;
        for (int r = 0; r < lanes; r++)
            rows[r] = advance<Ready>(before + (c + r) * n, after + (c + r) * n, A + (c + r) * n, B, C, rate[r], in[r], n);
        transpose(rows);
        vf y = load_lanes(a.D + c, lanes) * u;
        for (int r = 0; r < W; r++) y += rows[r];
        store_lanes(a.y + row * a.dim + c, y * (gate * sigmoid(gate)), lanes);
    }
}

void run(const ssm_program &p, const ssm_step &step, int64_t thread, int64_t threads) {
    const void *before = step.slot < 0 ? nullptr : p.before[step.slot];
    void *after = step.slot < 0 ? nullptr : p.after[step.slot];
    if (step.kind == SSM_NORM) {
        const ssm_norm &a = *(const ssm_norm *)step.call;
        for (int64_t row = thread; row < a.rows; row += threads) norm_row(a, row);
    } else if (step.kind == SSM_MATVEC) {
        const ssm_linear *a = (const ssm_linear *)step.call;
        const Part part = part_of(a->outputs, 1, thread, threads);
        KERNEL(linear_part)(a, part.first, part.last);
    } else if (step.kind == SSM_CONV_TOKEN) {
        const ssm_conv_token &a = *(const ssm_conv_token *)step.call;
        conv_token(a, before, after, part_of(a.dim, W, thread, threads));
    } else if (step.kind == SSM_SCAN_TOKEN) {
        const ssm_scan_token &a = *(const ssm_scan_token *)step.call;
        for (int64_t row = 0; row < a.rows; row++)
            scan_token<false>(a, (const float *)before, (float *)after, row, part_of(a.dim, W, thread, threads));
    } else {
        const ssm_head_step *a = (const ssm_head_step *)step.call;
        const Part part = part_of(a->batch * a->heads, 1, thread, threads);
        KERNEL(heads_part)(a, (const float *)before, (float *)after, part.first, part.last);
    }
}

// A step for some rows of a program by rows.
void run_rows(const ssm_program &p, const ssm_step &step, int64_t first, int64_t last, float *scratch) {
    if (step.kind == SSM_PRODUCT) {
        KERNEL(product_rows)((const ssm_product *)step.call, first, last, scratch);
        return;
    }
    const float *before = step.slot < 0 ? nullptr : (const float *)p.before[step.slot];
    float *after = step.slot < 0 ? nullptr : (float *)p.after[step.slot];
    for (int64_t i = first; i < last; i++) {
        const int64_t row = p.order[i], parent = p.parent[row], own = p.own[row];
        if (step.kind == SSM_NORM) {
            norm_row(*(const ssm_norm *)step.call, row);
        } else if (step.kind == SSM_CONV_TOKEN) {
            const ssm_conv_token &a = *(const ssm_conv_token *)step.call;
            const int64_t size = a.dim * (a.width - 1);
            convolve_row(a, before + parent * size, after + own * size, row);
        } else if (step.kind == SSM_SCAN_TOKEN) {  // these find the state of `row`
            const ssm_scan_token &a = *(const ssm_scan_token *)step.call;
            const int64_t size = a.dim * a.states;
            scan_token<true>(a, before + (parent - row) * size, after + (own - row) * size, row, {0, a.dim});
        } else {
            const ssm_head_step *a = (const ssm_head_step *)step.call;
            const int64_t size = a->heads * a->headdim * a->states;
            KERNEL(heads_part)(a, before + (parent - row) * size, after + (own - row) * size, row * a->heads,
                               (row + 1) * a->heads);
        }
    }
}

}  // namespace

void KERNEL(program)(const ssm_program *p) {
    if (p->rows) {
        const int64_t groups = p->rows / p->group, pieces = max64(1, min64(p->threads, groups));
        PARALLEL_TASKS(p->threads, pieces, {
            const int64_t first = task * groups / pieces * p->group;
            const int64_t last = (task + 1) * groups / pieces * p->group;
            for (int64_t i = 0; i < p->steps; i++) run_rows(*p, p->step[i], first, last, p->scratch + thread * p->scratch_size);
        })
        return;
    }
#ifdef _OPENMP
    if (p->threads > 1) {
#pragma omp parallel num_threads((int)p->threads)
        for (int64_t i = 0; i < p->steps; i++) {
            run(*p, p->step[i], omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
        }
        return;
    }
#endif
    for (int64_t i = 0; i < p->steps; i++) run(*p, p->step[i], 0, 1);
}
