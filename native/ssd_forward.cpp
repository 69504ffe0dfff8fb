// Forward state space dual: a task walks its heads through time, chunk by chunk.
//
// y_i = since_i C_i H + sum over j <= i of (C_i B_j) decay(j to i) delta_j x_j is one block of registers for both sums, and
// H' = total H + sum over j of B_j far_j x_j the other product. A chunk's tiles stay in L2, what is multiplied in L1.
#include "kernels.h"
#include "ssd.h"

namespace {

struct Buffers {
    float *states, *B, *C, *turned, *like, *pairs, *x, *y, *z;
    Decays decays;
    Buffers(const ssm_ssd &a, const Sizes &s, int64_t heads, Arena &m)
        : states(m.take(heads * s.state())), B(m.take(s.Q * s.N)), C(m.take(s.Q * s.N)), turned(m.take(s.n * s.Q)),
          like(m.take(s.Q * s.Q)), pairs(m.take(s.Q * s.Q)), x(m.take(s.Q * s.P)), y(m.take(s.Q * s.P)),
          z(m.take(a.z.data ? s.Q * s.P : 0)), decays(s, m) {}
};

// pairs_ij = like_ij exp(log decay from j to i) delta_j where j <= i, else 0 as far as the products read.
void weigh(const Buffers &m, const Sizes &s, int64_t rows) {
    const Decays &d = m.decays;
    for (int64_t i = 0; i < rows; i++) {
        const vf ci = splat(d.coarse[i]), grow = splat(d.grow[i]);
        int64_t j = 0;
        for (; j <= i; j += W) {
            vf v = decay_of(ci - load(d.coarse + j)) * (grow * load(d.near + j)) * load(m.like + i * s.Q + j);
            store(m.pairs + i * s.Q + j, lanes_from(j) <= (int32_t)i ? v : (vf){});
        }
        for (; j < min64(i + TALL, s.Q); j += W) store(m.pairs + i * s.Q + j, (vf){});
    }
}

void outputs(const Buffers &m, const Sizes &s, const float *H, int64_t rows) {
    blocks(rows, s.P, [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
        Block<M, N> block;
        block.clear();
        block.template add<false>(m.C + i * s.N, s.N, H + c, s.P, s.n);
        block.scale(m.decays.since + i);
        block.template add<false>(m.pairs + i * s.Q, s.Q, m.x + c, s.P, min64(i + M, rows));
        block.write(m.y + i * s.P + c, s.P);
    });
}

// The skip and the gate; a backward pass will want to know what was gated.
void finish(const ssm_ssd &a, const Buffers &m, const Sizes &s, const Chunk &at, int64_t h) {
    if (a.D) {
        for (int64_t c = 0; c < s.p; c += W) {
            const vf skip = load_lanes(a.D + h * s.p + c, (int)min64(W, s.p - c));
            for (float *y = m.y + c, *x = m.x + c; y < m.y + at.rows * s.P; y += s.P, x += s.P)
                store(y, load(y) + skip * load(x));
        }
    }
    if (a.z.data) {
        if (a.saved) store_padded_as(inner(a, s, at, h), m.y, s.P, at.rows, s.p, a.heads * s.p, 1);
        load_head(m.z, s, a.z, at, h);
        for (int64_t k = 0; k < at.rows * s.P; k += W) store(m.y + k, load(m.y + k) * (load(m.z + k) * sigmoid(load(m.z + k))));
    }
    store_head(a.y, m.y, s, at, h);
}

void leave(const Buffers &m, const Sizes &s, const float *H, float *after, int64_t rows) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t c = 0; c < s.P; c += W) store(m.x + t * s.P + c, load(m.x + t * s.P + c) * m.decays.far[t]);
    blocks(s.n, s.P, [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
        Block<M, N> block;
        block.read(H + i * s.P + c, s.P, m.decays.total);
        block.template add<true>(m.B + i, s.N, m.x + c, s.P, rows);
        block.write(after + i * s.P + c, s.P);
    });
}

void advance(const ssm_ssd &a, Buffers &m, const Sizes &s, const Chunk &at, int64_t h, const float *H, float *after) {
    m.decays.compute(a, at, h);
    load_head(m.x, s, a.x, at, h);
    weigh(m, s, at.rows);
    outputs(m, s, H, at.rows);
    finish(a, m, s, at, h);
    leave(m, s, H, after, at.rows);
}

void run(const ssm_ssd &a, const Cut &cut, int64_t index, float *workspace) {
    const Task task(a, cut, index);
    const Sizes s(a);
    Arena arena{workspace};
    Buffers m(a, s, cut.segment, arena);
    auto number = [&](int64_t k) { return task.b * a.heads + task.first + k; };  // of the task's k-th head
    auto place = [&](int64_t k, int64_t chunk) {  // of its state before a chunk
        const bool kept = a.saved && chunk * s.q < a.length;
        return kept ? a.saved + (chunk * a.batch * a.heads + number(k)) * s.state() : m.states + k * s.state();
    };
    for (int64_t k = 0; k < task.heads; k++) load_state(place(k, 0), s, a.h0 ? a.h0 + number(k) * s.p * s.n : nullptr);
    int64_t chunk = 0;
    for (int64_t token = 0; token < a.length; token += s.q, chunk++) {
        const Chunk at{task.b, token, min64(s.q, a.length - token)};
        load_map(m.B, s, a.B, at, task.g), load_map(m.C, s, a.C, at, task.g);
        transposed(m.turned, s.Q, m.B, s.N, at.rows, s.n);
        alike(m.like, s, m.C, m.turned, at.rows);
        for (int64_t k = 0; k < task.heads; k++) advance(a, m, s, at, task.first + k, place(k, chunk), place(k, chunk + 1));
    }
    for (int64_t k = 0; k < task.heads; k++)
        transposed(a.h_final + number(k) * s.p * s.n, s.n, place(k, chunk), s.P, s.n, s.p);
}

int64_t floats_per_thread(const ssm_ssd &a) {
    Arena arena{nullptr};
    Buffers m(a, Sizes(a), Cut(a).segment, arena);
    return arena.used;
}

}  // namespace

int64_t KERNEL(ssd_segments)(const ssm_ssd *a) { return Cut(*a).per_group; }

int64_t KERNEL(ssd_forward_workspace)(const ssm_ssd *a) { return floats_per_thread(*a) * max64(1, a->threads); }

void KERNEL(ssd_forward)(const ssm_ssd *a) {
    const Cut cut(*a);
    const int64_t per_thread = floats_per_thread(*a);
    PARALLEL_TASKS(a->threads, cut.tasks(*a), run(*a, cut, task, a->workspace + thread * per_thread))
}
