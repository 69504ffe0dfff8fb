// Backward selective scan: chunks from the last to the first, each recomputed from a saved state.
//
// With g_t = dL/dh_t:   g_t = C_t gy_t + a_{t+1} g_{t+1},   dC_t = gy_t h_t,   dB_t = g_t delta_t x_t,
// d(delta x)_t = sum_n g_t B_t,   d(delta)_t = sum_n g_t a_t h_{t-1} A + d(delta x)_t x_t,   dA = sum_t g_t a_t h_{t-1} delta_t.
// Where A is complex these are dL/dRe + i dL/dIm, as torch has them: the factors of g and gy are conjugated, gy counts twice
// for the states, and d(delta x) and d(delta) take real parts.
// dB and dC sum over channels: in a buffer of the task, where the lanes of several states share a vector, across lanes
// once a chunk, across tasks by the caller. No atomics; the cut depends on the sizes alone, so the result does not depend on the number of threads.
#include "kernels.h"
#include "scan.h"

namespace {

constexpr int G = W == 16 ? 4 : 2;  // states that are differentiated together

// States in groups of G, then one by one; each has a place of T rows in the buffers of gB and gC.
INLINE int64_t slots(int64_t n) { return n / G + n % G; }
INLINE int64_t slot_of(int64_t i, int64_t n) { return i < n / G * G ? i / G : n / G + i % G; }

// The real parts of all places, then the imaginary ones.
INLINE int64_t token_sums(const ssm_scan &a) { return parts(a) * slots(a.states) * T * W; }

struct Buffers {
    float *A, *gA, *gh, *gD, *gbias, *h, *starts;
    float *y, *raw, *gy, *gdx, *gdelta, *x, *dt, *z, *gout, *out;
    float *decay, *state, *gB, *gC;
    Steps steps;
    Map B, C;
    Buffers(const ssm_scan &a, int64_t blocks, Arena &m)
        : steps(m), B(a.B, a.b_constant, a, blocks, m), C(a.C, a.c_constant, a, blocks, m) {
        int64_t size = numbers(a) * W, replays = a.interval / T;
        float **states[] = {&A, &gA, &gh}, **sums[] = {&gD, &gbias}, **recomputed[] = {&decay, &state};
        float **tokens[] = {&y, &raw, &gy, &gdx, &gdelta, &x, &dt, &z, &gout, &out};
        for (float **p : states) *p = m.take(blocks * size);
        for (float **p : sums) *p = m.take(blocks * W);
        h = m.take(size);
        starts = m.take(replays * blocks * size);
        for (float **p : tokens) *p = m.take(T * W);
        for (float **p : recomputed) *p = m.take(T * G * parts(a) * W);
        // Constant maps have one gradient a channel, as A has; maps per token one a token, summed over the channels.
        gB = m.take(a.b_constant ? blocks * size : token_sums(a));
        gC = m.take(a.c_constant ? blocks * size : token_sums(a));
    }
};

struct Chunk {  // one block of channels over one chunk of tokens
    const ssm_scan &a;
    const Task &task;
    const Buffers &m;
    int64_t block, token, rows;
    const uint8_t *restart;
    Ahead ahead;
    MEMBER int64_t n() const { return a.states; }
    MEMBER int64_t size() const { return numbers(a) * W; }
    MEMBER int64_t c() const { return task.channel(block); }
    MEMBER int lanes() const { return task.lanes(block); }
    MEMBER Place place() const { return {task.b, c(), token, rows, lanes(), a.inner}; }
    MEMBER Rows read(const ssm_tensor &t, float *scratch) const { return rows_of(t, place(), scratch); }
};

// delta, delta x and, in y, the skip; `raw` keeps the step size before softplus for its derivative.
void prologue(const Chunk &k) {
    Rows x = k.read(k.a.x, k.m.x), dt = k.read(k.a.dt, k.m.dt);
    vf bias = load_lanes(k.a.dt_bias ? k.a.dt_bias + k.c() : nullptr, k.lanes());
    vf skip = load_lanes(k.a.D ? k.a.D + k.c() : nullptr, k.lanes());
    for (int64_t t = 0; t < k.rows; t++) {
        store(k.m.raw + t * W, dt.at(t) + bias);
        k.m.steps.put(t, step_size(k.a, dt.at(t), bias), x.at(t));
        store(k.m.y + t * W, k.a.D ? skip * x.at(t) : (vf){});
    }
}

// Add what K states found at one token to the sums over channels, part by part.
template <class N, int K> INLINE void add_merged(float *sums, int64_t n, const N *v) {
    for (int p = 0; p < PARTS<N>; p++) {
        vf parts[K];
        for (int j = 0; j < K; j++) parts[j] = part(v[j], p);
        float *place = sums + p * slots(n) * T * W;
        store(place, load(place) + merge<K>(parts));
    }
}
template <class N> INLINE void add_number(float *p, N v) { store(p, load_number<N>(p) + v); }

template <class N, int K, bool ConstB, bool ConstC, bool Gated>
INLINE void differentiate_states(const Chunk &k, int64_t i, int64_t t0, int64_t t1, bool fresh) {
    constexpr int P = PARTS<N>, S = P * W;
    const Buffers &m = k.m;
    const int64_t n = k.n();
    const float *A = m.A + (k.block * n + i) * S, *h = m.h + i * S;
    float *gA = m.gA + (k.block * n + i) * S, *gh = m.gh + (k.block * n + i) * S;
    auto B = MapValues<N, K, ConstB>::from(m.B.block(k.block), i, n);
    auto C = MapValues<N, K, ConstC>::from(m.C.block(k.block), i, n);
    const int slot = (int)(i / 4 & 3);
    Rate<N> a[K];
    N s[K];
    for (int j = 0; j < K; j++) a[j] = Rate<N>::from(A + j * S), s[j] = fresh ? (N){} : load_number<N>(h + j * S);
    for (int64_t t = t0; t < t1; t++) {
        const Step d = m.steps.at<N>(t);
        vf dx = load(m.steps.dx + t * W), y = {};
        N decay[K];
        k.ahead.fetch(slot, t);
        for (int j = 0; j < K; j++) decay[j] = a[j].decay(d);
        for (int j = 0; j < K; j++) {
            s[j] = decay[j] * s[j] + B.at(t, j) * dx;
            if (Gated) y += (float)P * inner(s[j], conj(C.at(t, j)));
            store(m.decay + (t * K + j) * S, decay[j]);
            store(m.state + (t * K + j) * S, s[j]);
        }
        if (Gated) store(m.y + t * W, load(m.y + t * W) + y);
    }
    N g[K], sum_A[K], sum_B[K], sum_C[K];
    for (int j = 0; j < K; j++) g[j] = load_number<N>(gh + j * S), sum_A[j] = sum_B[j] = sum_C[j] = (N){};
    float *gB = m.gB + (ConstB ? (k.block * n + i) * P : slot_of(i, n) * T) * W;
    float *gC = m.gC + (ConstC ? (k.block * n + i) * P : slot_of(i, n) * T) * W;
    for (int64_t t = t1 - 1; t >= t0; t--) {
        vf gy = (float)P * load(m.gy + t * W), dx = load(m.steps.dx + t * W), delta = load(m.steps.delta + t * W);
        vf gdx = load(m.gdx + t * W), gdelta = load(m.gdelta + t * W);
        k.ahead.fetch(slot + 4, t);
        N gB_t[K], gC_t[K];
        for (int j = 0; j < K; j++) {
            N state = load_number<N>(m.state + (t * K + j) * S);
            N before = t > t0 ? load_number<N>(m.state + ((t - 1) * K + j) * S) : fresh ? (N){} : load_number<N>(h + j * S);
            N gh_t = g[j] + conj(C.at(t, j)) * gy;
            gC_t[j] = conj(state) * gy;
            gB_t[j] = gh_t * dx;
            if (ConstC) sum_C[j] = sum_C[j] + gC_t[j];
            if (ConstB) sum_B[j] = sum_B[j] + gB_t[j];
            gdx += inner(gh_t, B.at(t, j));
            g[j] = gh_t * conj(load_number<N>(m.decay + (t * K + j) * S));
            N decayed = g[j] * conj(before);
            gdelta += inner(decayed, a[j].a);
            sum_A[j] = sum_A[j] + decayed * delta;
        }
        if (!ConstC) add_merged<N, K>(gC + t * W, n, gC_t);
        if (!ConstB) add_merged<N, K>(gB + t * W, n, gB_t);
        store(m.gdx + t * W, gdx);
        store(m.gdelta + t * W, gdelta);
    }
    for (int j = 0; j < K; j++) {
        add_number(gA + j * S, sum_A[j]);
        if (ConstB) add_number(gB + j * S, sum_B[j]);
        if (ConstC) add_number(gC + j * S, sum_C[j]);
        store(gh + j * S, g[j]);
    }
}

template <class N, bool ConstB, bool ConstC, bool Gated>
static void differentiate_all(const Chunk &k, int64_t t0, int64_t t1, bool fresh) {
    int64_t i = 0, n = k.n();
    for (; i + G <= n; i += G) differentiate_states<N, G, ConstB, ConstC, Gated>(k, i, t0, t1, fresh);
    for (; i < n; i++) differentiate_states<N, 1, ConstB, ConstC, Gated>(k, i, t0, t1, fresh);
}

template <class N, bool ConstB, bool ConstC> INLINE void differentiate_gated(const Chunk &k, int64_t t0, int64_t t1, bool fresh) {
    if (k.a.z.data) differentiate_all<N, ConstB, ConstC, true>(k, t0, t1, fresh);
    else differentiate_all<N, ConstB, ConstC, false>(k, t0, t1, fresh);
}

template <class N> void differentiate_numbers(const Chunk &k, int64_t t0, int64_t t1, bool fresh) {
    if (k.a.b_constant && k.a.c_constant) differentiate_gated<N, true, true>(k, t0, t1, fresh);
    else if (k.a.b_constant) differentiate_gated<N, true, false>(k, t0, t1, fresh);
    else if (k.a.c_constant) differentiate_gated<N, false, true>(k, t0, t1, fresh);
    else differentiate_gated<N, false, false>(k, t0, t1, fresh);
}

void differentiate(const Chunk &k, int64_t t0, int64_t t1, bool fresh) {
    if (parts(k.a) == 2) differentiate_numbers<vc>(k, t0, t1, fresh);
    else differentiate_numbers<vf>(k, t0, t1, fresh);
}

// Sequences inside a chunk, last first. `m.h` holds the state before the chunk; a new sequence starts from zero, and no
// gradient passes its start.
void sequences(const Chunk &k) {
    for (int64_t t1 = k.rows, t0; t1 > 0; t1 = t0) {
        t0 = 0;
        if (k.restart)
            for (t0 = t1 - 1; t0 > 0 && !k.restart[t0]; t0--) {}
        bool fresh = k.restart && k.restart[t0];
        differentiate(k, t0, t1, fresh);
        if (fresh) __builtin_memset(k.m.gh + k.block * k.size(), 0, k.size() * sizeof(float));
    }
}

// From the gradient of the output to gy, the gradient of C h + D x.
void enter(const Chunk &k) {
    Rows gout = k.read(k.a.gy, k.m.gout);
    const bool gated = k.a.z.data;
    Rows z = gated ? k.read(k.a.z, k.m.z) : gout;
    for (int64_t t = 0; t < k.rows; t++) {
        vf g = gout.at(t);
        if (gated) g = g * z.at(t) * sigmoid(z.at(t));
        store(k.m.gy + t * W, g);
        store(k.m.gdx + t * W, (vf){});
        store(k.m.gdelta + t * W, (vf){});
    }
}

// From d(delta x) and d(delta) to the gradients of x, dt, z, D and the bias. `gdelta` came in units of log2(e).
void leave(const Chunk &k) {
    const Buffers &m = k.m;
    const Place at = k.place();
    Rows x = k.read(k.a.x, m.x);
    vf skip = load_lanes(k.a.D ? k.a.D + k.c() : nullptr, k.lanes());
    vf gD = load(m.gD + k.block * W), gbias = load(m.gbias + k.block * W);
    OutRows gx = out_rows(k.a.gx, at, m.out);
    Rows before = k.a.accumulate ? k.read(k.a.gx, m.z) : x;
    for (int64_t t = 0; t < k.rows; t++) {
        vf gy = load(m.gy + t * W), g = load(m.gdx + t * W) * load(m.steps.delta + t * W);
        if (k.a.D) g += gy * skip;
        if (k.a.accumulate) g += before.at(t);
        store(gx.p + t * gx.stride, g);
        gD += gy * x.at(t);
    }
    flush(k.a.gx, at, m.out);
    OutRows gdt = out_rows(k.a.gdt, at, m.out);
    for (int64_t t = 0; t < k.rows; t++) {
        vf g = load(m.gdelta + t * W) * (1.f / LOG2E) + load(m.gdx + t * W) * x.at(t);
        if (k.a.softplus) g *= sigmoid(load(m.raw + t * W));
        store(gdt.p + t * gdt.stride, g);
        gbias += g;
    }
    flush(k.a.gdt, at, m.out);
    store(m.gD + k.block * W, gD), store(m.gbias + k.block * W, gbias);
    if (!k.a.z.data) return;
    Rows z = k.read(k.a.z, m.z), gout = k.read(k.a.gy, m.gout);
    OutRows gz = out_rows(k.a.gz, at, m.out);
    for (int64_t t = 0; t < k.rows; t++) {
        vf v = z.at(t), s = sigmoid(v);
        store(gz.p + t * gz.stride, gout.at(t) * load(m.y + t * W) * s * (1.f + v * (1.f - s)));
    }
    flush(k.a.gz, at, m.out);
}

void load_saved(const ssm_scan &a, const Task &task, int64_t block, int64_t interval, float *h) {
    const float *row = a.saved + (task.b * ceil_div(a.length, a.interval) + interval) * numbers(a) * a.dim;
    for (int64_t i = 0; i < numbers(a); i++) store(h + i * W, load_lanes(row + i * a.dim + task.channel(block), task.lanes(block)));
}

// The states before every chunk of an interval, from the saved one before the first.
void replay(const ssm_scan &a, const Task &task, const Buffers &m, int64_t interval, int64_t begin, int64_t end) {
    const int64_t size = numbers(a) * W;
    for (int64_t k = 0; k < task.blocks; k++) load_saved(a, task, k, interval, m.starts + k * size);
    for (int64_t token = begin, s = 0; token + T < end; token += T, s++) {
        m.B.load_tokens(task, token, T, a.inner), m.C.load_tokens(task, token, T, a.inner);
        const uint8_t *restart = a.restart ? a.restart + task.b * a.length + token : nullptr;
        for (int64_t k = 0; k < task.blocks; k++) {
            float *from = m.starts + (s * task.blocks + k) * size, *to = m.starts + ((s + 1) * task.blocks + k) * size;
            __builtin_memcpy(to, from, size * sizeof(float));
            Chunk chunk{a, task, m, k, token, T, restart, Ahead(a.A)};
            prologue(chunk);
            advance(m.B, m.C, k, m.steps, m.y, m.A + k * size, to, T, restart, Ahead(a.A));
        }
    }
}

Ahead ahead(const ssm_scan &a, const Task &task, int64_t block, int64_t token) {
    bool last = block + 1 == task.blocks;
    int64_t c = task.channel(last ? 0 : block + 1), next = last ? max64(0, token - T) : token;
    Ahead lines(a.A);
    if (a.inner) return lines;
    const ssm_tensor *tensors[] = {&a.x, &a.dt, &a.gy, &a.z, &a.gx, &a.gdt, &a.gz};
    for (int i = 0; i < 7; i++) lines.add(i, *tensors[i], task.b, c, next);
    return lines;
}

// [T][parts][n] of the sums over the block's channels.
void sum_slots(const ssm_scan &a, float *out, const float *sums, int64_t rows) {
    const int64_t n = a.states, stride = numbers(a);
    for (int64_t p = 0; p < parts(a); p++, out += n, sums += slots(n) * T * W)
        for (int64_t i = 0; i < n; i += i < n / G * G ? G : 1) {
            const float *place = sums + slot_of(i, n) * T * W;
            if (i < n / G * G) sum_merged<G>(out + i, place, rows, stride);
            else sum_merged<1>(out + i, place, rows, stride);
        }
}

void differentiate_chunk(const ssm_scan &a, const Task &task, const Buffers &m, const float *starts, int64_t token, int64_t rows) {
    const int64_t size = numbers(a) * W;
    m.B.load_tokens(task, token, rows, a.inner), m.C.load_tokens(task, token, rows, a.inner);
    if (!a.b_constant) __builtin_memset(m.gB, 0, token_sums(a) * sizeof(float));
    if (!a.c_constant) __builtin_memset(m.gC, 0, token_sums(a) * sizeof(float));
    for (int64_t k = 0; k < task.blocks; k++) {
        __builtin_memcpy(m.h, starts + k * size, size * sizeof(float));
        const uint8_t *restart = a.restart ? a.restart + task.b * a.length + token : nullptr;
        Chunk chunk{a, task, m, k, token, rows, restart, ahead(a, task, k, token)};
        prologue(chunk);
        enter(chunk);
        sequences(chunk);
        leave(chunk);
    }
    int64_t row = ((task.segment * a.batch + task.b) * a.length + token) * numbers(a);
    if (!a.b_constant) sum_slots(a, a.gB + row, m.gB, rows);
    if (!a.c_constant) sum_slots(a, a.gC + row, m.gC, rows);
}

void start(const ssm_scan &a, const Task &task, const Buffers &m) {
    const int64_t n = numbers(a), size = n * W;
    m.B.load_constant(task), m.C.load_constant(task);
    for (int64_t k = 0; k < task.blocks; k++) {
        int64_t c = task.channel(k);
        load_tile_as(m.A + k * size, a.A + c * n, n, task.lanes(k), 1, n);
        if (a.g_final) load_tile_as(m.gh + k * size, a.g_final + (task.b * a.dim + c) * n, n, task.lanes(k), 1, n);
        else __builtin_memset(m.gh + k * size, 0, size * sizeof(float));
    }
    __builtin_memset(m.gA, 0, task.blocks * size * sizeof(float));
    __builtin_memset(m.gD, 0, task.blocks * W * sizeof(float));
    __builtin_memset(m.gbias, 0, task.blocks * W * sizeof(float));
    if (a.b_constant) __builtin_memset(m.gB, 0, task.blocks * size * sizeof(float));
    if (a.c_constant) __builtin_memset(m.gC, 0, task.blocks * size * sizeof(float));
}

void finish(const ssm_scan &a, const Task &task, const Buffers &m) {
    const int64_t n = numbers(a), size = n * W;
    for (int64_t k = 0; k < task.blocks; k++) {
        int64_t channel = task.b * a.dim + task.channel(k);
        int lanes = task.lanes(k);
        store_tile_as(a.gh0 + channel * n, m.gh + k * size, n, lanes, 1, n);
        store_tile_as(a.gA + channel * n, m.gA + k * size, n, lanes, 1, n);
        if (a.b_constant) store_tile_as(a.gB + channel * n, m.gB + k * size, n, lanes, 1, n);
        if (a.c_constant) store_tile_as(a.gC + channel * n, m.gC + k * size, n, lanes, 1, n);
        store_lanes(a.gD + channel, load(m.gD + k * W), lanes);
        store_lanes(a.gdt_bias + channel, load(m.gbias + k * W), lanes);
    }
}

void run(const ssm_scan &a, const Cut &cut, int64_t index, float *workspace) {
    Task task(a, cut, index);
    Arena arena{workspace};
    Buffers m(a, ceil_div(cut.segment, W), arena);
    start(a, task, m);
    for (int64_t i = ceil_div(a.length, a.interval) - 1; i >= 0; i--) {
        int64_t begin = i * a.interval, end = min64(begin + a.interval, a.length);
        replay(a, task, m, i, begin, end);
        for (int64_t s = ceil_div(end - begin, T) - 1; s >= 0; s--) {
            int64_t token = begin + s * T;
            differentiate_chunk(a, task, m, m.starts + s * task.blocks * numbers(a) * W, token, min64(T, end - token));
        }
    }
    finish(a, task, m);
}

int64_t floats_per_thread(const ssm_scan &a) {
    Arena arena{nullptr};
    Buffers m(a, ceil_div(Cut::by_size(a).segment, W), arena);
    return arena.used;
}

}  // namespace

int64_t KERNEL(scan_segments)(const ssm_scan *a) { return a->groups * Cut::by_size(*a).per_group; }

int64_t KERNEL(scan_backward_workspace)(const ssm_scan *a) { return floats_per_thread(*a) * max64(1, a->threads); }

void KERNEL(scan_backward)(const ssm_scan *a) {
    Cut cut = Cut::by_size(*a);
    int64_t per_thread = floats_per_thread(*a);
    PARALLEL_TASKS(a->threads, cut.tasks(*a), run(*a, cut, task, a->workspace + thread * per_thread))
}
