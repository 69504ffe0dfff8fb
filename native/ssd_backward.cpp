// Backward state space dual: chunks from the last to the first, each recomputed from the state before it.
//
// With S' the gradient of the state after the chunk, and w_ij = decay(j to i) delta_j for j <= i:
//   d(C B^T)_ij = w_ij gy_i x_j,   dx_j = sum_i w_ij (C_i B_j) gy_i + far_j B_j S',   S = total S' + sum_i C_i^T since_i gy_i,
//   dC_i = sum_j d(C B^T)_ij B_j + since_i gy_i H^T,   dB_j = sum_i d(C B^T)_ij C_i + far_j x_j S'^T.
// The log decay of a token takes part in the pairs j < token <= i, in what is recalled of H from it on, in what is kept in H'
// before it, and in total H. These are summed as they are: differences of sums over rows and columns would be cheaper, but
// their digits cancel where the decay is strong.
// dB and dC sum over the heads of a task in its buffers, over tasks by the caller, always in the same order.
#include "kernels.h"
#include "ssd.h"

namespace {

struct Buffers {
    float *grads, *gA, *gD;               // of the task's heads: S' (n, P); one number; (P)
    float *B, *C, *B_turned, *C_turned;   // (q, N) twice; (n, Q) twice
    float *gB, *gC, *like, *glike, *sums; // (n, Q) twice; (q, Q) twice; (q, N)
    float *x, *gy, *x_turned, *gy_turned; // (q, P) twice; (p, Q) twice
    float *pairs, *gx;                    // (q, Q), (q, P)
    float *below, *column, *crossing;     // (Q) twice; (q, W)
    float *recalled, *kept, *glog;        // (Q) each
    Decays decays;
    Buffers(const Sizes &s, int64_t heads, Arena &m) : decays(s, m) {
        grads = m.take(heads * s.state()), gA = m.take(heads), gD = m.take(heads * s.P);
        float **maps[] = {&B, &C, &sums}, **turned[] = {&B_turned, &C_turned, &gB, &gC}, **squares[] = {&like, &glike, &pairs};
        float **tokens[] = {&x, &gy, &gx}, **channels[] = {&x_turned, &gy_turned};
        float **numbers[] = {&below, &column, &recalled, &kept, &glog};
        for (float **p : maps) *p = m.take(s.Q * s.N);
        for (float **p : turned) *p = m.take(s.n * s.Q);
        for (float **p : squares) *p = m.take(s.Q * s.Q);
        for (float **p : tokens) *p = m.take(s.Q * s.P);
        for (float **p : channels) *p = m.take(s.p * s.Q);
        for (float **p : numbers) *p = m.take(s.Q);
        crossing = m.take(s.Q * W);
    }
};

// One head over one chunk.
struct Head {
    const ssm_ssd &a;
    const Sizes &s;
    const Buffers &m;
    const Chunk &at;
    int64_t h;
    const float *H;          // (n, P)
    float *grad, *gA, *gD;

    // From the gradient of y z sigmoid(z) to that of y, `gy`, and that of z.
    void open_gate() const {
        load_head(m.gx, s, a.z, at, h);
        load_padded_as(m.x, s.P, inner(a, s, at, h), at.rows, s.p, a.heads * s.p, 1);
        for (int64_t k = 0; k < at.rows * s.P; k += W) {
            const vf g = load(m.gy + k), z = load(m.gx + k), open = sigmoid(z);
            store(m.gx + k, g * load(m.x + k) * (open * (1.f + z * (1.f - open))));
            store(m.gy + k, g * (z * open));
        }
        store_head(a.gz, m.gx, s, at, h);
    }

    void load_inputs() const {
        load_head(m.gy, s, a.gy, at, h);
        if (a.z.data) open_gate();
        load_head(m.x, s, a.x, at, h);
        transposed(m.x_turned, s.Q, m.x, s.P, at.rows, s.p), transposed(m.gy_turned, s.Q, m.gy, s.P, at.rows, s.p);
        for (int64_t c = 0; a.D && c < s.P; c += W) {
            vf sum = load(gD + c);
            for (int64_t t = 0; t < at.rows; t++) sum += load(m.gy + t * s.P + c) * load(m.x + t * s.P + c);
            store(gD + c, sum);
        }
    }

    // pairs_ij = gy_i x_j.
    void correlate() const {
        blocks<true>(at.rows, padded(at.rows), [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
            Block<M, N> block;
            block.clear();
            block.template add<false>(m.gy + i * s.P, s.P, m.x_turned + c, s.Q, s.p);
            block.write(m.pairs + i * s.Q + c, s.Q);
        });
    }

    // From gy_i x_j to w_ij (C_i B_j), whose products with gy_i are gradients of x. On the way, from the last row up: the
    // gradients of C B^T; of delta by way of the pairs, as column sums; of the log decays by way of the pairs.
    void weigh() const {
        const Decays &d = m.decays;
        const int64_t size = padded(at.rows);
        __builtin_memset(m.below, 0, size * sizeof(float)), __builtin_memset(m.column, 0, size * sizeof(float));
        for (int64_t i = at.rows - 1; i >= 0; i--) {
            const vf ci = splat(d.coarse[i]), grow = splat(d.grow[i]);
            float *pairs = m.pairs + i * s.Q, *glike = m.glike + i * s.Q;
            const float *like = m.like + i * s.Q;
            const int64_t lines = s.state() / 16;
            for (int64_t k = lines * i / at.rows; k < lines * (i + 1) / at.rows; k++) __builtin_prefetch(H + k * 16, 0, 2);
            vf crossing = {};
            int64_t j = 0;
            for (; j <= i; j += W) {
                const vi lanes = lanes_from(j), lower = lanes <= (int32_t)i;
                const vf near = load(d.near + j), decay = decay_of(ci - load(d.coarse + j)) * grow, g = load(pairs + j);
                const vf alike = lower ? decay * load(like + j) : (vf){}, both = lower ? alike * g : (vf){};
                const vf below = load(m.below + j) + near * both;  // sums over the rows from i on
                store(glike + j, load(glike + j) + (lower ? near * decay * g : (vf){}));
                store(pairs + j, near * alike);
                store(m.column + j, load(m.column + j) + both);
                store(m.below + j, below);
                crossing += lanes < (int32_t)i ? below : (vf){};
            }
            for (; j < min64(i + TALL, s.Q); j += W) store(pairs + j, (vf){});
            store(m.crossing + i * W, crossing);
        }
        sum_merged<1>(m.glog, m.crossing, at.rows, 1);
    }

    // With v (n, Q) = left (n, P) right (p, Q):  sums += v * factor,  dots = the sums over n of v * map.
    MEMBER void through_state(float *sums, float *dots, const float *left, const float *right, const float *map,
                              const float *factor) const {
        const int64_t size = padded(at.rows);
        __builtin_memset(dots, 0, size * sizeof(float));
        blocks(s.n, size, [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
            Block<M, N> block;
            block.clear();
            block.template add<false>(left + i * s.P, s.P, right + c, s.Q, s.p);
            vf dot[N];
            for (int k = 0; k < N; k++) dot[k] = load(dots + c + k * W);
            block.each([&](vf &v, int row, int column) __attribute__((always_inline)) {
                const int64_t k = (i + row) * s.Q + c + column;
                dot[column / W] += v * load(map + k);
                store(sums + k, load(sums + k) + v * load(factor + c + column));
            });
            for (int k = 0; k < N; k++) store(dots + c + k * W, dot[k]);
        });
    }

    void inputs() const {
        const int64_t rows = at.rows;
        blocks(rows, s.P, [&]<int M, int N>(int64_t j, int64_t c) __attribute__((always_inline)) {
            Block<M, N> block;
            block.clear();
            block.template add<false>(m.B + j * s.N, s.N, grad + c, s.P, s.n);
            block.scale(m.decays.far + j);
            block.template add<true>(m.pairs + j * s.Q + j, s.Q, m.gy + j * s.P + c, s.P, rows - j);
            block.write(m.gx + j * s.P + c, s.P);
        });
        for (int64_t c = 0; a.D && c < s.p; c += W) {
            const vf skip = load_lanes(a.D + h * s.p + c, (int)min64(W, s.p - c));
            for (int64_t k = c; k < rows * s.P; k += s.P) store(m.gx + k, load(m.gx + k) + skip * load(m.gy + k));
        }
        store_head(a.gx, m.gx, s, at, h);
    }

    // The decay of the state across the whole chunk; then S, in the place of S'.
    float carry() const {
        const Decays &d = m.decays;
        vf product[2] = {};
        for (int64_t k = 0; k < s.state(); k += W) product[k / W & 1] += load(H + k) * load(grad + k);
        product[0] += product[1];
        float sum = 0;
        for (int i = 0; i < W; i++) sum += product[0][i];
        for (int64_t t = 0; t < at.rows; t++)
            for (int64_t c = 0; c < s.P; c += W) store(m.gy + t * s.P + c, load(m.gy + t * s.P + c) * d.since[t]);
        blocks(s.n, s.P, [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
            Block<M, N> block;
            block.read(grad + i * s.P + c, s.P, d.total);
            block.template add<true>(m.C + i, s.N, m.gy + c, s.P, at.rows);
            block.write(grad + i * s.P + c, s.P);
        });
        return d.total * sum;
    }

    // The gradients of delta and A: by way of the log decays, and as a factor of x.
    void step_sizes(float across) const {
        const Decays &d = m.decays;
        float after = 0, before = across, sum = 0, *out = a.gdt + (at.b * a.length + at.token) * a.heads + h;
        for (int64_t t = at.rows - 1; t >= 0; t--) m.glog[t] += after += d.since[t] * m.recalled[t];
        for (int64_t t = 0; t < at.rows; t++) {
            const float glog = m.glog[t] + before;
            out[t * a.heads] = d.shrink[t] * m.column[t] + d.until[t] * m.kept[t] + a.A[h] * glog;
            before += d.far[t] * m.kept[t];
            sum += d.delta[t] * glog;
        }
        *gA += sum;
    }

    void differentiate() const {
        load_inputs();
        correlate();
        weigh();
        through_state(m.gC, m.recalled, H, m.gy_turned, m.C_turned, m.decays.since);
        through_state(m.gB, m.kept, grad, m.x_turned, m.B_turned, m.decays.far);
        inputs();
        step_sizes(carry());
    }
};

// The chunk's rows of `out` = sums^T (tokens, n) and what `product` adds to its blocks.
template <class F>
INLINE void store_map(const ssm_ssd &a, const Buffers &m, const Sizes &s, const Task &task, const Chunk &at, float *out,
                      const float *sums, F product) {
    transposed(m.sums, s.N, sums, s.Q, s.n, at.rows);
    blocks(at.rows, s.N, [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
        Block<M, N> block;
        block.read(m.sums + i * s.N + c, s.N, 1.f);
        product(block, i, c);
        block.write(m.sums + i * s.N + c, s.N);
    });
    out += (((task.segment * a.batch + at.b) * a.length + at.token) * a.groups + task.g) * s.n;
    store_padded_as(out, m.sums, s.N, at.rows, s.n, a.groups * s.n, 1);
}

void maps(const ssm_ssd &a, const Buffers &m, const Sizes &s, const Task &task, const Chunk &at) {
    const int64_t rows = at.rows;
    auto of_C = [&]<int M, int N>(Block<M, N> &block, int64_t i, int64_t c) __attribute__((always_inline)) {
        block.template add<false>(m.glike + i * s.Q, s.Q, m.B + c, s.N, min64(i + M, rows));
    };
    auto of_B = [&]<int M, int N>(Block<M, N> &block, int64_t j, int64_t c) __attribute__((always_inline)) {
        block.template add<true>(m.glike + j * s.Q + j, s.Q, m.C + j * s.N + c, s.N, rows - j);
    };
    store_map(a, m, s, task, at, a.gC, m.gC, of_C);
    store_map(a, m, s, task, at, a.gB, m.gB, of_B);
}

void start(const ssm_ssd &a, const Buffers &m, const Sizes &s, const Task &task, const Chunk &at) {
    load_map(m.B, s, a.B, at, task.g), load_map(m.C, s, a.C, at, task.g);
    transposed(m.B_turned, s.Q, m.B, s.N, at.rows, s.n), transposed(m.C_turned, s.Q, m.C, s.N, at.rows, s.n);
    alike(m.like, s, m.C, m.B_turned, at.rows);
    __builtin_memset(m.glike, 0, at.rows * s.Q * sizeof(float));
    __builtin_memset(m.gB, 0, s.n * s.Q * sizeof(float)), __builtin_memset(m.gC, 0, s.n * s.Q * sizeof(float));
}

void run(const ssm_ssd &a, const Cut &cut, int64_t index, float *workspace) {
    const Task task(a, cut, index);
    const Sizes s(a);
    Arena arena{workspace};
    Buffers m(s, cut.segment, arena);
    const int64_t first = task.b * a.heads + task.first, states = s.p * s.n;
    __builtin_memset(m.gA, 0, task.heads * sizeof(float)), __builtin_memset(m.gD, 0, task.heads * s.P * sizeof(float));
    for (int64_t k = 0; k < task.heads; k++)
        load_state(m.grads + k * s.state(), s, a.g_final ? a.g_final + (first + k) * states : nullptr);
    for (int64_t chunk = ceil_div(a.length, s.q) - 1; chunk >= 0; chunk--) {
        const Chunk at{task.b, chunk * s.q, min64(s.q, a.length - chunk * s.q)};
        start(a, m, s, task, at);
        for (int64_t k = 0; k < task.heads; k++) {
            m.decays.compute(a, at, task.first + k);
            const float *H = a.saved + (chunk * a.batch * a.heads + first + k) * s.state();
            Head{a, s, m, at, task.first + k, H, m.grads + k * s.state(), m.gA + k, m.gD + k * s.P}.differentiate();
        }
        maps(a, m, s, task, at);
    }
    for (int64_t k = 0; k < task.heads; k++) {
        transposed(a.gh0 + (first + k) * states, s.n, m.grads + k * s.state(), s.P, s.n, s.p);
        __builtin_memcpy(a.gD + (first + k) * s.p, m.gD + k * s.P, s.p * sizeof(float));
        a.gA[first + k] = m.gA[k];
    }
}

int64_t floats_per_thread(const ssm_ssd &a) {
    Arena arena{nullptr};
    Buffers m(Sizes{a}, Cut{a}.segment, arena);
    return arena.used;
}

}  // namespace

int64_t KERNEL(ssd_backward_workspace)(const ssm_ssd *a) { return floats_per_thread(*a) * max64(1, a->threads); }

void KERNEL(ssd_backward)(const ssm_ssd *a) {
    const Cut cut(*a);
    const int64_t per_thread = floats_per_thread(*a);
    PARALLEL_TASKS(a->threads, cut.tasks(*a), run(*a, cut, task, a->workspace + thread * per_thread))
}
