// Causal depthwise convolution, forward and backward, over rows of channels.
//
// A task takes a piece of the tokens of a segment of channels. Inputs that are channel-contiguous float32 are read where
// they lie; others pass through a scratch of the same form. A token of a packed batch uses only the taps that stay inside
// its own sequence.
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int64_t PIECE = 128, SEGMENT = 16 * W, MAX_WIDTH = 64;

struct Task {
    int64_t b, piece, first, last, token, rows;
    Task(const ssm_conv &a, int64_t index) {
        int64_t segments = ceil_div(a.dim, SEGMENT), pieces = ceil_div(a.length, PIECE);
        first = index % segments * SEGMENT, last = min64(first + SEGMENT, a.dim);
        piece = index / segments % pieces, b = index / segments / pieces;
        token = piece * PIECE, rows = min64(PIECE, a.length - token);
    }
};
int64_t tasks(const ssm_conv &a) { return a.batch * ceil_div(a.length, PIECE) * ceil_div(a.dim, SEGMENT); }

// Tokens token .. token + rows of one block, token >= -(width - 1): before the first stands the past, or zero.
struct Window {
    const float *p;
    int64_t stride;
    MEMBER vf at(int64_t row) const { return load(p + row * stride); }
};
Window window(const ssm_conv &a, const ssm_tensor &t, int64_t b, int64_t c, int lanes, int64_t token, int64_t rows, float *scratch) {
    if (token >= 0) {
        Rows r = rows_of(t, {b, c, token, rows, lanes, 0}, scratch);
        return {r.p, r.stride};
    }
    int64_t missing = min64(-token, rows), past = a.width - 1 + token;
    if (a.past.data)
        load_tile(scratch, a.past, b * a.past.stride[0] + c * a.past.stride[1] + past * a.past.stride[2], missing, lanes,
                  a.past.stride[2], a.past.stride[1]);
    else __builtin_memset(scratch, 0, missing * W * sizeof(float));
    if (rows > missing)
        load_tile(scratch + missing * W, t, b * t.stride[0] + c * t.stride[1], rows - missing, lanes, t.stride[2], t.stride[1]);
    return {scratch, W};
}

// bias + sum_k weight_k x_{t - (width - 1) + k}; row 0 of the window is token t - (width - 1) of output row 0.
template <int Width> INLINE vf taps_sum(const Window &x, int64_t t, const vf *w, vf sum, int width, int from) {
    const int n = Width ? Width : width;
    for (int k = Width ? 0 : from; k < n; k++)
        if (!Width || k >= from) sum += w[k] * x.at(t + k);
    return sum;
}

template <int Width, bool Silu, bool Packed>
static void forward_rows(const ssm_conv &a, const Window &x, const vf *w, vf bias, const uint8_t *taps, OutRows y, int64_t rows) {
    const int width = (int)a.width;
    for (int64_t t = 0; t < rows; t++) {
        vf sum = taps_sum<Packed ? 0 : Width>(x, t, w, bias, width, Packed ? width - taps[t] : 0);
        store(y.p + t * y.stride, Silu ? sum * sigmoid(sum) : sum);
    }
}
template <int Width> INLINE void forward_any(const ssm_conv &a, const Window &x, const vf *w, vf bias, const uint8_t *taps, OutRows y, int64_t rows) {
    if (taps && a.silu) forward_rows<Width, true, true>(a, x, w, bias, taps, y, rows);
    else if (taps) forward_rows<Width, false, true>(a, x, w, bias, taps, y, rows);
    else if (a.silu) forward_rows<Width, true, false>(a, x, w, bias, taps, y, rows);
    else forward_rows<Width, false, false>(a, x, w, bias, taps, y, rows);
}

INLINE void load_filter(const ssm_conv &a, int64_t c, int lanes, vf *w, vf *bias) {
    for (int64_t k = 0; k < a.width; k++) w[k] = load_lanes(a.weight + k * a.dim + c, lanes);
    *bias = load_lanes(a.bias ? a.bias + c : nullptr, lanes);
}

void forward(const ssm_conv &a, const Task &task, float *workspace) {
    Arena m{workspace};
    float *in = m.take((PIECE + a.width) * W), *out = m.take(PIECE * W);
    vf w[MAX_WIDTH], bias;
    const uint8_t *taps = a.taps ? a.taps + task.b * a.length + task.token : nullptr;
    for (int64_t c = task.first; c < task.last; c += W) {
        int lanes = (int)min64(W, task.last - c);
        load_filter(a, c, lanes, w, &bias);
        Window x = window(a, a.x, task.b, c, lanes, task.token - (a.width - 1), task.rows + a.width - 1, in);
        const Place at{task.b, c, task.token, task.rows, lanes, 0};
        OutRows y = out_rows(a.y, at, out);
        if (a.width == 4) forward_any<4>(a, x, w, bias, taps, y, task.rows);
        else if (a.width == 3) forward_any<3>(a, x, w, bias, taps, y, task.rows);
        else forward_any<0>(a, x, w, bias, taps, y, task.rows);
        flush(a.y, at, out);
    }
}

// Gradients of one block. g, the gradient before the activation, is needed for `width - 1` tokens beyond the piece, which
// are recomputed; row r of g is token task.token + r.
void backward_block(const ssm_conv &a, const Task &task, int64_t c, float *in, float *g, float *gin, float *gout) {
    const int lanes = (int)min64(W, task.last - c), width = (int)a.width;
    const int64_t reach = min64(task.rows + width - 1, a.length - task.token);
    const uint8_t *taps = a.taps ? a.taps + task.b * a.length + task.token : nullptr;
    vf w[MAX_WIDTH], gw[MAX_WIDTH + 1], bias;
    load_filter(a, c, lanes, w, &bias);
    for (int k = 0; k <= width; k++) gw[k] = (vf){};
    Window x = window(a, a.x, task.b, c, lanes, task.token - (width - 1), reach + width - 1, in);
    Rows gy = rows_of(a.gy, {task.b, c, task.token, reach, lanes, 0}, gin);
    for (int64_t t = 0; t < reach; t++) {
        int from = taps ? width - taps[t] : 0;
        vf gt = gy.at(t);
        if (a.silu) {
            vf v = taps_sum<0>(x, t, w, bias, width, from), s = sigmoid(v);
            gt = gt * s * (1.f + v * (1.f - s));
        }
        store(g + t * W, gt);
        if (t >= task.rows) continue;
        for (int k = from; k < width; k++) gw[k] += gt * x.at(t + k);
        gw[width] += gt;
    }
    // x_t was tap k of token t + (width - 1) - k, if that token's sequence reaches back so far.
    const int64_t before = task.token == 0 ? width - 1 : 0;
    for (int64_t t = -before; t < task.rows; t++) {
        vf sum = {};
        for (int k = 0; k < width; k++) {
            int64_t user = t + width - 1 - k;
            if (user >= 0 && user < reach && !(taps && width - taps[user] > k)) sum += w[k] * load(g + user * W);
        }
        store(gout + (t + before) * W, sum);
    }
    if (before && a.gpast.data)
        store_tile(a.gpast, task.b * a.gpast.stride[0] + c * a.gpast.stride[1], gout, width - 1, lanes, a.gpast.stride[2], a.gpast.stride[1]);
    store_tile(a.gx, task.b * a.gx.stride[0] + c * a.gx.stride[1] + task.token * a.gx.stride[2], gout + before * W, task.rows, lanes,
               a.gx.stride[2], a.gx.stride[1]);
    float *partial = a.gweight + (task.b * ceil_div(a.length, PIECE) + task.piece) * (width + 1) * a.dim + c;
    for (int k = 0; k <= width; k++) store_lanes(partial + k * a.dim, gw[k], lanes);
}

void backward(const ssm_conv &a, const Task &task, float *workspace) {
    Arena m{workspace};
    int64_t rows = PIECE + 2 * a.width;
    float *in = m.take(rows * W), *g = m.take(rows * W), *gin = m.take(rows * W), *gout = m.take(rows * W);
    for (int64_t c = task.first; c < task.last; c += W) backward_block(a, task, c, in, g, gin, gout);
}

int64_t floats_per_thread(const ssm_conv &a) { return 4 * (PIECE + 2 * a.width + 1) * W; }

}  // namespace

int64_t KERNEL(conv_pieces)(const ssm_conv *a) { return ceil_div(a->length, PIECE); }

int64_t KERNEL(conv_workspace)(const ssm_conv *a) { return floats_per_thread(*a) * max64(1, a->threads); }

void KERNEL(conv_forward)(const ssm_conv *a) {
    PARALLEL_TASKS(a->threads, tasks(*a), forward(*a, Task(*a, task), a->workspace + thread * floats_per_thread(*a)))
}

void KERNEL(conv_backward)(const ssm_conv *a) {
    PARALLEL_TASKS(a->threads, tasks(*a), backward(*a, Task(*a, task), a->workspace + thread * floats_per_thread(*a)))
}
