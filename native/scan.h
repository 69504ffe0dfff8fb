// What the forward and the backward selective scan share: how the work is cut, and the recurrence itself.
#pragma once

#include "tile.h"

namespace {

constexpr int64_t T = SSM_CHUNK;

// A state's number N is vf where A is real and vc where it is complex; in memory real and imaginary parts alternate by vectors.
// The recurrence and its derivative are written once for both: of a real number the conjugate is itself.
struct vc { vf re, im; };
template <class N> constexpr int PARTS = sizeof(N) / sizeof(vf);
INLINE int64_t parts(const ssm_scan &a) { return a.h0.dtype == SSM_COMPLEX64 ? 2 : 1; }
INLINE int64_t numbers(const ssm_scan &a) { return a.states * parts(a); }  // floats in one channel's states

INLINE vc operator+(vc a, vc b) { return {a.re + b.re, a.im + b.im}; }
INLINE vc operator*(vc a, vf b) { return {a.re * b, a.im * b}; }
INLINE vc operator*(vc a, vc b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
INLINE vf conj(vf a) { return a; }
INLINE vc conj(vc a) { return {a.re, -a.im}; }
INLINE vf inner(vf a, vf b) { return a * b; }  // Re(a conj(b))
INLINE vf inner(vc a, vc b) { return a.re * b.re + a.im * b.im; }
INLINE vf part(vf a, int) { return a; }
INLINE vf part(vc a, int p) { return p ? a.im : a.re; }
INLINE void store(float *p, vc v) { store(p, v.re), store(p + W, v.im); }
template <class N> INLINE N load_number(const float *p) {
    if constexpr (PARTS<N> == 2) return {load(p), load(p + W)};
    else return load(p);
}

// Step sizes of W channels: `rest` is what a complex scan needs beyond the upper bits of delta, for an angle of many turns
// is known no better than its step.
struct Step { vf delta, rest; };
INLINE Step step_size(const ssm_scan &a, vf dt, vf bias) {
    if (parts(a) == 1) {
        vf raw = dt + bias;
        return {a.softplus ? softplus(raw) : raw, (vf){}};
    }
    vd exact = widen(dt) + widen(bias);
    if (a.softplus) exact = softplus(exact);
    vf delta = narrow(exact);
    return {delta, narrow(exact - widen(coarse(delta)))};
}

struct Steps {  // of one block over one chunk: [T][W] each
    float *delta, *rest, *dx;
    explicit Steps(Arena &arena) : delta(arena.take(T * W)), rest(arena.take(T * W)), dx(arena.take(T * W)) {}
    MEMBER void put(int64_t t, Step d, vf x) const {
        store(delta + t * W, d.delta), store(rest + t * W, d.rest), store(dx + t * W, d.delta * x);
    }
    template <class N> MEMBER Step at(int64_t t) const {
        return {load(delta + t * W), PARTS<N> == 2 ? load(rest + t * W) : (vf){}};
    }
};

// A of one state, in units of log2(e), and exp(delta A).
template <class N> struct Rate;
template <> struct Rate<vf> {
    vf a;
    static MEMBER Rate from(const float *p) { return {load(p) * LOG2E}; }
    MEMBER vf decay(Step d) const { return exp2v(d.delta * a); }
};
template <> struct Rate<vc> {
    vc a;
    Turns angle;
    static MEMBER Rate from(const float *p) { return {load_number<vc>(p) * splat(LOG2E), turns(load(p + W))}; }
    MEMBER vc decay(Step d) const {
        vc unit;
        cos_sin(d.delta, d.rest, angle, &unit.re, &unit.im);
        return unit * exp2v(d.delta * a.re);
    }
};

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

// B or C of one task: per token as [T][parts][n] scalars, refilled for every chunk, or constant as [n][parts][W] for every block.
struct Map {
    const ssm_tensor *t;
    bool constant;
    int64_t n, parts;
    float *values;
    Map(const ssm_tensor &tensor, int64_t is_constant, const ssm_scan &a, int64_t blocks, Arena &arena)
        : t(&tensor), constant(is_constant), n(a.states), parts(::parts(a)),
          values(arena.take(numbers(a) * (constant ? blocks * W : T))) {}
    MEMBER void load_constant(const Task &task) const {
        if (!constant) return;
        for (int64_t k = 0; k < task.blocks; k++)
            load_tile(values + k * n * parts * W, *t, task.channel(k) * t->stride[0], n * parts, task.lanes(k), t->stride[2],
                      t->stride[0]);
    }
    MEMBER void load_tokens(const Task &task, int64_t token, int64_t rows, int64_t inner) const {
        if (constant) return;
        const int64_t base = task.b * t->stride[0];
        if (!inner) {
            load_matrix(values, *t, base + task.g * t->stride[1] + token * parts * t->stride[3], rows * parts, n, t->stride[3],
                        t->stride[2]);
            return;
        }
        for (int64_t row = 0, count; row < rows; row += count) {  // lines of a plane
            const int64_t outer = (token + row) / inner, along = (token + row) % inner;
            count = min64(inner - along, rows - row);
            load_matrix(values + row * n, *t, base + outer * t->stride[1] + along * t->stride[3], count, n, t->stride[3],
                        t->stride[2]);
        }
    }
    MEMBER const float *block(int64_t k) const { return constant ? values + k * n * parts * W : values; }
};

template <class N, int K, bool Constant> struct MapValues {  // the K states from i on
    const float *p;
    int64_t n;
    N held[K];
    static MEMBER MapValues from(const float *values, int64_t i, int64_t n) {
        MapValues m;
        m.p = values + (Constant ? i * PARTS<N> * W : i);
        m.n = n;
        for (int k = 0; k < K; k++) m.held[k] = Constant ? load_number<N>(m.p + k * PARTS<N> * W) : (N){};
        return m;
    }
    MEMBER N at(int64_t t, int k) const {
        if constexpr (Constant) return held[k];
        else if constexpr (PARTS<N> == 2) return {splat(p[2 * t * n + k]), splat(p[(2 * t + 1) * n + k])};
        else return splat(p[t * n + k]);
    }
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

// h_t = exp(delta_t A) h_{t-1} + (delta_t x_t) B_t and y_t += C_t h_t, or 2 Re(C_t h_t), for K states of W channels over
// tokens t0..t1. K states share the loads of delta, delta x and y; their chains of products overlap.
template <class N, int K, bool ConstB, bool ConstC>
INLINE void advance_states(const Steps &m, float *y, const float *A, float *h, const float *B, const float *C, int64_t i,
                           int64_t n, int64_t t0, int64_t t1, const Ahead &ahead) {
    constexpr int P = PARTS<N>;
    Rate<N> a[K];
    N s[K];
    const int slot = (int)(i / 4 & 3);
    for (int k = 0; k < K; k++) a[k] = Rate<N>::from(A + (i + k) * P * W), s[k] = load_number<N>(h + (i + k) * P * W);
    auto b = MapValues<N, K, ConstB>::from(B, i, n);
    auto c = MapValues<N, K, ConstC>::from(C, i, n);
    for (int64_t t = t0; t < t1; t++) {
        const Step d = m.at<N>(t);
        vf u = load(m.dx + t * W), out = load(y + t * W);
        N decay[K];
        ahead.fetch(slot, t);
        for (int k = 0; k < K; k++) decay[k] = a[k].decay(d);  // all first: 1.4 times as fast as one by one
        for (int k = 0; k < K; k++) {
            s[k] = decay[k] * s[k] + b.at(t, k) * u;
            out += (float)P * inner(s[k], conj(c.at(t, k)));
        }
        store(y + t * W, out);
    }
    for (int k = 0; k < K; k++) store(h + (i + k) * P * W, s[k]);
}

template <class N, bool ConstB, bool ConstC>
static void advance_all(const Steps &m, float *y, const float *A, float *h, const float *B, const float *C, int64_t n,
                        int64_t t0, int64_t t1, const Ahead &ahead) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) advance_states<N, 4, ConstB, ConstC>(m, y, A, h, B, C, i, n, t0, t1, ahead);
    if (n - i == 3) advance_states<N, 3, ConstB, ConstC>(m, y, A, h, B, C, i, n, t0, t1, ahead);
    if (n - i == 2) advance_states<N, 2, ConstB, ConstC>(m, y, A, h, B, C, i, n, t0, t1, ahead);
    if (n - i == 1) advance_states<N, 1, ConstB, ConstC>(m, y, A, h, B, C, i, n, t0, t1, ahead);
}

// All states of one block over one chunk; the state restarts from zero where a new sequence begins.
template <class N>
INLINE void advance_numbers(const Map &B, const Map &C, int64_t block, const Steps &m, float *y, const float *A, float *h,
                            int64_t rows, const uint8_t *restart, const Ahead &ahead) {
    const int64_t n = B.n;
    for (int64_t t0 = 0, t1; t0 < rows; t0 = t1) {
        for (t1 = t0 + 1; t1 < rows && !(restart && restart[t1]); t1++) {}
        if (!restart) t1 = rows;
        if (restart && restart[t0]) __builtin_memset(h, 0, n * sizeof(N));
        const float *b = B.block(block), *c = C.block(block);
        if (B.constant && C.constant) advance_all<N, true, true>(m, y, A, h, b, c, n, t0, t1, ahead);
        else if (B.constant) advance_all<N, true, false>(m, y, A, h, b, c, n, t0, t1, ahead);
        else if (C.constant) advance_all<N, false, true>(m, y, A, h, b, c, n, t0, t1, ahead);
        else advance_all<N, false, false>(m, y, A, h, b, c, n, t0, t1, ahead);
    }
}

INLINE void advance(const Map &B, const Map &C, int64_t block, const Steps &m, float *y, const float *A, float *h, int64_t rows,
                    const uint8_t *restart, const Ahead &ahead) {
    if (B.parts == 2) advance_numbers<vc>(B, C, block, m, y, A, h, rows, restart, ahead);
    else advance_numbers<vf>(B, C, block, m, y, A, h, rows, restart, ahead);
}

}  // namespace
