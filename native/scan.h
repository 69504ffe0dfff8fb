// What the forward and the backward selective scan share: how the work is cut, and the recurrence itself.
#pragma once

#include "tile.h"

namespace {

constexpr int64_t T = SSM_CHUNK;

// Channels are cut into segments inside their groups. Each task reads its own lines of every row, so wide segments touch
// each page less often; what sums over channels needs a cut that depends on the sizes alone, never on the threads or the
// instruction set, so that its sums come out the same everywhere.
struct Cut {
    int64_t group, segment, per_group;
    Cut(const ssm_scan &a, int64_t wanted) {
        group = a.dim / a.groups;
        segment = max64(16, ceil_div(wanted, 16) * 16);
        per_group = max64(1, ceil_div(group, segment));
    }
    static Cut by_size(const ssm_scan &a) { return Cut(a, min64(256, ceil_div(a.dim * a.batch, 16))); }  // some 16 tasks
    static Cut by_threads(const ssm_scan &a) {
        int64_t share = ceil_div(a.dim * a.batch, max64(1, a.threads));
        return Cut(a, min64(1024, share >= 256 ? ceil_div(share, 4) : share));  // four tasks a thread even out a busy machine
    }
    int64_t tasks(const ssm_scan &a) const { return a.batch * a.groups * per_group; }
};

// One task's share of the channels.
struct Task {
    int64_t b, g, segment, first, last, blocks;
    Task(const ssm_scan &a, const Cut &cut, int64_t index) {
        segment = index % (a.groups * cut.per_group);
        b = index / (a.groups * cut.per_group);
        g = segment / cut.per_group;
        first = g * cut.group + (segment % cut.per_group) * cut.segment;
        last = min64(first + cut.segment, (g + 1) * cut.group);
        blocks = max64(0, ceil_div(last - first, W));
    }
    MEMBER int64_t channel(int64_t block) const { return first + block * W; }
    MEMBER int lanes(int64_t block) const { return (int)min64(W, last - first - block * W); }
};

// B or C of one task: per token as [T][n] scalars, refilled for every chunk, or constant as [n][W] for every block.
struct Map {
    const ssm_tensor *t;
    bool constant;
    int64_t n;
    float *values;
    Map(const ssm_tensor &tensor, int64_t is_constant, int64_t states, int64_t blocks, Arena &arena)
        : t(&tensor), constant(is_constant), n(states), values(arena.take(constant ? blocks * n * W : T * n)) {}
    MEMBER void load_constant(const Task &task) const {
        if (!constant) return;
        for (int64_t k = 0; k < task.blocks; k++)
            load_tile(values + k * n * W, *t, task.channel(k) * t->stride[0], n, task.lanes(k), t->stride[2], t->stride[0]);
    }
    MEMBER void load_tokens(const Task &task, int64_t token, int64_t rows, int64_t inner) const {
        if (constant) return;
        const int64_t base = task.b * t->stride[0];
        if (!inner) {
            load_matrix(values, *t, base + task.g * t->stride[1] + token * t->stride[3], rows, n, t->stride[3], t->stride[2]);
            return;
        }
        for (int64_t row = 0, count; row < rows; row += count) {  // lines of a plane
            const int64_t outer = (token + row) / inner, along = (token + row) % inner;
            count = min64(inner - along, rows - row);
            load_matrix(values + row * n, *t, base + outer * t->stride[1] + along * t->stride[3], count, n, t->stride[3],
                        t->stride[2]);
        }
    }
    MEMBER const float *block(int64_t k) const { return constant ? values + k * n * W : values; }
};

template <int K, bool Constant> struct MapValues {  // the K states from i on, as vectors
    const float *p;
    int64_t row;
    vf held[K];
    static MEMBER MapValues from(const float *values, int64_t i, int64_t n) {
        MapValues m;
        m.p = values + (Constant ? i * W : i);
        m.row = n;
        for (int k = 0; k < K; k++) m.held[k] = Constant ? load(m.p + k * W) : (vf){};
        return m;
    }
    MEMBER vf at(int64_t t, int k) const { return Constant ? held[k] : splat(p[t * row + k]); }
};

// What the next block will read and write: W channels over T tokens lie in one cache line a token, each on another page,
// where no hardware prefetcher finds them. Each group of states asks for one tensor's lines, one a token.
struct Ahead {
    const char *p[8];
    int64_t near[8] = {}, far[8] = {};  // bytes from one token to the next, and from one 16 tokens to the next
    explicit Ahead(const void *anywhere) {  // a line to ask for where there is nothing to fetch
        for (const char *&line : p) line = (const char *)anywhere;
    }
    MEMBER void add(int slot, const ssm_tensor &t, int64_t b, int64_t c, int64_t token) {
        if (!t.data) return;
        const int64_t size = t.dtype == SSM_FLOAT32 ? 4 : 2;
        p[slot] = (const char *)t.data + (b * t.stride[0] + c * t.stride[1] + token * t.stride[2]) * size;
        const bool by_channel = t.stride[1] == 1;  // else by token: 16 channels, then the next line of each
        near[slot] = (by_channel ? t.stride[2] : t.stride[1]) * size;
        far[slot] = by_channel ? 16 * t.stride[2] * size : 64;
    }
    MEMBER void fetch(int slot, int64_t t) const { __builtin_prefetch(p[slot] + (t & 15) * near[slot] + (t >> 4) * far[slot]); }
};

// h_t = 2^(delta_t A) h_{t-1} + (delta_t x_t) B_t and y_t += C_t h_t for K states of W channels over tokens t0..t1.
// A is in units of log2(e). K states share the loads of delta, delta x and y; their chains of products overlap.
template <int K, bool ConstB, bool ConstC>
INLINE void advance_states(const float *delta, const float *dx, float *y, const float *A, float *h, const float *B,
                           const float *C, int64_t i, int64_t n, int64_t t0, int64_t t1, const Ahead &ahead) {
    vf a[K], s[K];
    const int slot = (int)(i / 4 & 3);
    for (int k = 0; k < K; k++) a[k] = load(A + (i + k) * W), s[k] = load(h + (i + k) * W);
    auto b = MapValues<K, ConstB>::from(B, i, n);
    auto c = MapValues<K, ConstC>::from(C, i, n);
    for (int64_t t = t0; t < t1; t++) {
        vf d = load(delta + t * W), u = load(dx + t * W), out = load(y + t * W), decay[K];
        ahead.fetch(slot, t);
        for (int k = 0; k < K; k++) decay[k] = exp2v(d * a[k]);  // all first: 1.4 times as fast as one by one
        for (int k = 0; k < K; k++) {
            s[k] = decay[k] * s[k] + u * b.at(t, k);
            out += s[k] * c.at(t, k);
        }
        store(y + t * W, out);
    }
    for (int k = 0; k < K; k++) store(h + (i + k) * W, s[k]);
}

template <bool ConstB, bool ConstC>
static void advance_all(const float *delta, const float *dx, float *y, const float *A, float *h, const float *B,
                        const float *C, int64_t n, int64_t t0, int64_t t1, const Ahead &ahead) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) advance_states<4, ConstB, ConstC>(delta, dx, y, A, h, B, C, i, n, t0, t1, ahead);
    if (n - i == 3) advance_states<3, ConstB, ConstC>(delta, dx, y, A, h, B, C, i, n, t0, t1, ahead);
    if (n - i == 2) advance_states<2, ConstB, ConstC>(delta, dx, y, A, h, B, C, i, n, t0, t1, ahead);
    if (n - i == 1) advance_states<1, ConstB, ConstC>(delta, dx, y, A, h, B, C, i, n, t0, t1, ahead);
}

// All states of one block over one chunk; the state restarts from zero where a new sequence begins.
INLINE void advance(const Map &B, const Map &C, int64_t block, const float *delta, const float *dx, float *y, const float *A,
                    float *h, int64_t n, int64_t rows, const uint8_t *restart, const Ahead &ahead) {
    for (int64_t t0 = 0, t1; t0 < rows; t0 = t1) {
        for (t1 = t0 + 1; t1 < rows && !(restart && restart[t1]); t1++) {}
        if (!restart) t1 = rows;
        if (restart && restart[t0]) __builtin_memset(h, 0, n * W * sizeof(float));
        const float *b = B.block(block), *c = C.block(block);
        if (B.constant && C.constant) advance_all<true, true>(delta, dx, y, A, h, b, c, n, t0, t1, ahead);
        else if (B.constant) advance_all<true, false>(delta, dx, y, A, h, b, c, n, t0, t1, ahead);
        else if (C.constant) advance_all<false, true>(delta, dx, y, A, h, b, c, n, t0, t1, ahead);
        else advance_all<false, false>(delta, dx, y, A, h, b, c, n, t0, t1, ahead);
    }
}

// [n][W] of a row-major float32 (d, n) matrix, scaled.
INLINE void load_states(float *out, const float *p, int64_t n, int lanes, float scale) {
    load_tile_as(out, p, n, lanes, 1, n);
    for (int64_t i = 0; i < n; i++) store(out + i * W, load(out + i * W) * scale);
}

}  // namespace
