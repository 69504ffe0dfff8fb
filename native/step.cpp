// One token of the convolution and of Mamba-2's scan, the states updated in place: what decoding calls for every layer.
//
// A token is a few thousand multiply-adds, less than it takes to start threads for; only the states of many heads are
// worth a second one.
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int64_t WORTH_THREADS = 1 << 16;  // states; below it one thread is done before the others have begun

void silu_in_place(float *y, int64_t count) {
    int64_t i = 0;
    for (; i + W <= count; i += W) store(y + i, load(y + i) * sigmoid(load(y + i)));
    if (i < count) {
        vf v = load_lanes(y + i, (int)(count - i));
        store_lanes(y + i, v * sigmoid(v), (int)(count - i));
    }
}

void conv_row(const ssm_conv_step &a, int64_t b) {
    const float *x = a.x + b * a.x_stride;
    float *y = a.y + b * a.dim, *state = a.state + b * a.dim * a.length;
    const int64_t past = a.width - 1;
    for (int64_t c = 0; c < a.dim; c++, state += a.length) {
        const float *taps = a.weight + c * a.width, *window = state + a.length - past;
        float sum = a.bias ? a.bias[c] : 0.f;
        for (int64_t k = 0; k < past; k++) sum += taps[k] * window[k];
        y[c] = sum + taps[past] * x[c];
        for (int64_t k = 0; k + 1 < a.length; k++) state[k] = state[k + 1];
        if (a.length) state[a.length - 1] = x[c];
    }
    if (a.silu) silu_in_place(y, a.dim);
}

float step_size(const ssm_head_step &a, int64_t b, int64_t h) {
    float dt = a.dt[b * a.dt_stride + h * a.dt_head_stride] + (a.dt_bias ? a.dt_bias[h * a.dt_bias_stride] : 0.f);
    if (!a.softplus) return dt;
    return (dt > 0.f ? dt : 0.f) + __builtin_log1pf(__builtin_expf(-__builtin_fabsf(dt)));
}

// H = decay H + u B^T for one row of H; what remains of H C to be summed over the lanes is returned.
INLINE vf advance_row(const float *before, float *after, const float *B, const float *C, float decay, float u, int64_t n) {
    vf sum = {};
    int64_t k = 0;
    for (; k + W <= n; k += W) {
        vf s = decay * load(before + k) + u * load(B + k);
        store(after + k, s);
        sum += s * load(C + k);
    }
    if (k < n) {
        const int lanes = (int)(n - k);
        vf s = decay * load_lanes(before + k, lanes) + u * load_lanes(B + k, lanes);
        store_lanes(after + k, s, lanes);
        sum += s * load_lanes(C + k, lanes);
    }
    return sum;
}

// H = exp(dt A) H + dt x B^T and y = (H C + D x) silu(z) of one head, W rows at a time.
void head(const ssm_head_step &a, const float *before, float *after, int64_t b, int64_t h) {
    const int64_t n = a.states, p = a.headdim, group = h / (a.heads / a.groups);
    const float dt = step_size(a, b, h), decay = __builtin_expf(dt * a.A[h * a.A_stride]);
    const float *B = a.B + b * a.B_stride + group * n, *C = a.C + b * a.C_stride + group * n;
    const float *x = a.x + b * a.x_stride + h * p, *z = a.z ? a.z + b * a.z_stride + h * p : nullptr;
    float *y = a.y + (b * a.heads + h) * p;
    before += (b * a.heads + h) * p * n, after += (b * a.heads + h) * p * n;
    for (int64_t i = 0; i < p; i += W) {
        const int lanes = (int)min64(W, p - i);
        vf rows[W] = {};
        for (int r = 0; r < lanes; r++) rows[r] = advance_row(before + (i + r) * n, after + (i + r) * n, B, C, decay, dt * x[i + r], n);
        transpose(rows);
        vf out = a.D ? a.D[h * a.D_stride] * load_lanes(x + i, lanes) : (vf){};
        for (int r = 0; r < W; r++) out += rows[r];
        if (z) {
            vf gate = load_lanes(z + i, lanes);
            out *= gate * sigmoid(gate);
        }
        store_lanes(y + i, out, lanes);
    }
}

}  // namespace

void KERNEL(conv_step)(const ssm_conv_step *a) {
    for (int64_t b = 0; b < a->batch; b++) conv_row(*a, b);
}

void KERNEL(heads_part)(const ssm_head_step *a, const float *before, float *after, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) head(*a, before, after, i / a->heads, i % a->heads);
}

void KERNEL(head_step)(const ssm_head_step *a) {
    const int64_t heads = a->batch * a->heads, threads = heads * a->headdim * a->states < WORTH_THREADS ? 1 : a->threads;
    const int64_t pieces = min64(threads, heads);
    PARALLEL_TASKS(threads, pieces, {
        (void)thread;
        KERNEL(heads_part)(a, a->state, a->state, task * heads / pieces, (task + 1) * heads / pieces);
    })
}
