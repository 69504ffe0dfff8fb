// What the forward and the backward of the state space dual share: the cut into tasks, the maps, the decays of a chunk.
//
// Tiles of a chunk have a row for each of its q tokens, or one for each of the n states with the tokens along it; rows are
// filled up with zeros to a multiple of 16 floats. The state of a head is (n, p), rows again of a multiple of 16.
#pragma once

#include "product.h"

namespace {

INLINE int64_t padded(int64_t size) { return ceil_div(size, 16) * 16; }

struct Sizes {
    int64_t q, n, p, Q, N, P;  // tokens of a chunk, states, channels; the same filled up
    explicit Sizes(const ssm_ssd &a)
        : q(a.chunk), n(a.states), p(a.headdim), Q(padded(q)), N(padded(n)), P(padded(p)) {}
    MEMBER int64_t state() const { return n * P; }
};

// A task walks some heads of a group through the chunks: few, so that there are tasks for all threads; several, so that they
// share C B^T. The cut depends on the sizes alone, as do then the sums over heads.
struct Cut {
    int64_t group, segment, per_group;
    explicit Cut(const ssm_ssd &a) {
        group = a.heads / a.groups;
        segment = max64(1, min64(min64(group, 8), a.batch * a.heads / 8));
        per_group = ceil_div(group, segment);
    }
    int64_t tasks(const ssm_ssd &a) const { return a.batch * a.groups * per_group; }
};

struct Task {
    int64_t b, g, segment, first, heads;
    Task(const ssm_ssd &a, const Cut &cut, int64_t index) {
        segment = index % cut.per_group;
        g = index / cut.per_group % a.groups;
        b = index / cut.per_group / a.groups;
        first = g * cut.group + segment * cut.segment;
        heads = min64(cut.segment, (g + 1) * cut.group - first);
    }
};

// `rows` tokens from `token` on.
struct Chunk {
    int64_t b, token, rows;
};

INLINE int64_t offset(const ssm_tensor &t, const Chunk &at, int64_t head) {
    return at.b * t.stride[0] + at.token * t.stride[1] + head * t.stride[2];
}
INLINE void load_map(float *out, const Sizes &s, const ssm_tensor &t, const Chunk &at, int64_t g) {
    load_padded(out, s.N, t, offset(t, at, g), at.rows, s.n, t.stride[1], t.stride[3]);
}
INLINE void load_head(float *out, const Sizes &s, const ssm_tensor &t, const Chunk &at, int64_t h) {
    load_padded(out, s.P, t, offset(t, at, h), at.rows, s.p, t.stride[1], t.stride[3]);
}
INLINE void store_head(const ssm_tensor &t, const float *in, const Sizes &s, const Chunk &at, int64_t h) {
    store_padded(t, offset(t, at, h), in, s.P, at.rows, s.p, t.stride[1], t.stride[3]);
}

INLINE float *inner(const ssm_ssd &a, const Sizes &s, const Chunk &at, int64_t h) {
    return a.inner + ((at.b * a.length + at.token) * a.heads + h) * s.p;
}

INLINE void load_state(float *out, const Sizes &s, const float *state) {  // from (p, n), or zero
    __builtin_memset(out, 0, s.state() * sizeof(float));
    if (state) transposed(out, s.P, state, s.n, s.p, s.n);
}

// out (tokens, tokens) = C B^T up to the diagonal; `turned` is B with the tokens along its rows.
INLINE void alike(float *out, const Sizes &s, const float *C, const float *turned, int64_t rows) {
    blocks<true>(rows, padded(rows), [&]<int M, int N>(int64_t i, int64_t c) __attribute__((always_inline)) {
        Block<M, N> block;
        block.clear();
        block.template add<false>(C + i * s.N, s.N, turned + c, s.Q, s.n);
        block.write(out + i * s.Q + c, s.Q);
    });
}

// 2^x, zero where it would hardly be a normal number: arithmetic on such is slow.
INLINE vf decay_of(vf x) {
    vf y = exp2v(min_const(125.f, x));
    return x < -115.f ? (vf){} : y;
}
INLINE vi lanes_from(int64_t first) {
    vi v;
    for (int i = 0; i < W; i++) v[i] = (int32_t)first + i;
    return v;
}

// Log decays from the start of a chunk on, in units of log 2, as sums coarse + fine. A difference of two float sums has lost
// what they were rounded by; the coarse parts are multiples of 2^-9, so that their sums and differences are exact, and
// exp(fine) are factors of single tokens.
struct Decays {
    float *delta, *coarse;
    float *grow, *shrink;  // exp(fine), exp(-fine)
    float *since, *until;  // the decay up to and with the token, and the one after it to the end of the chunk
    float *near, *far;     // what x is multiplied by: delta * shrink, delta * until
    float total;           // the decay of the whole chunk
    Decays(const Sizes &s, Arena &arena) {
        float **all[] = {&delta, &coarse, &grow, &shrink, &since, &until, &near, &far};
        for (float **p : all) *p = arena.take(s.Q);
        total = 1;
    }

    void compute(const ssm_ssd &a, const Chunk &at, int64_t h) {
        const int64_t size = padded(at.rows);
        load_padded(delta, 1, a.dt, offset(a.dt, at, h), at.rows, 1, a.dt.stride[1], 1);
        for (int64_t t = at.rows; t < size; t++) delta[t] = 0.f;
        const double rate = a.A[h] * 1.4426950408889634, forgets = -185.;  // a token of which forgets everything
        for (int64_t t = 0; t < size; t += W) {
            vd each = widen(load(delta + t)) * rate;
            each = each < forgets ? (vd){} + forgets : each;
            vd rounded = (each + 13194139533312.) - 13194139533312.;  // 1.5 * 2^43
            store(coarse + t, narrow(rounded)), store(grow + t, narrow(each - rounded));
        }
        const uint8_t *restart = a.restart ? a.restart + at.b * a.length + at.token : nullptr;
        float sum = 0, rest = 0;
        for (int64_t t = 0; t < at.rows; t++) {
            const bool fresh = restart && restart[t];
            coarse[t] = sum += fresh ? (float)forgets : coarse[t];
            grow[t] = rest += fresh ? 0.f : grow[t];
        }
        for (int64_t t = 0; t < size; t += W) {
            vf d = load(delta + t), fine = load(grow + t), c = load(coarse + t);
            vf up = exp2v(fine), down = exp2v(-fine), after = decay_of(sum - c) * exp2v(rest - fine);
            store(grow + t, up), store(shrink + t, down);
            store(since + t, decay_of(c) * up), store(until + t, after);
            store(near + t, d * down), store(far + t, d * after);
        }
        total = since[at.rows - 1];
    }
};

}  // namespace
