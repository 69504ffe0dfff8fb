// The largest scores of every row and the logarithm of its sum of exponentials: what a search asks of logits.
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int64_t BLOCK = 64;  // scores that are looked at one by one where the largest of them is among the row's

INLINE vf larger(vf a, vf b) { return a > b ? a : b; }

// Of at most BLOCK scores, which is more than 0.
float largest(const float *x, int64_t count) {
    float most = x[0];
    int64_t i = 0;
    if (count >= W) {
        vf v = load(x);
        for (i = W; i + W <= count; i += W) v = larger(v, load(x + i));
        for (int lane = 0; lane < W; lane++) most = v[lane] > most ? v[lane] : most;
    }
    for (; i < count; i++) most = x[i] > most ? x[i] : most;
    return most;
}

double log_of_sum(const float *x, int64_t count, float most) {
    vd sums = {};
    double sum = 0.;
    int64_t i = 0;
    for (; i + W <= count; i += W) sums += widen(exp2v((load(x + i) - most) * LOG2E));
    for (int lane = 0; lane < W; lane++) sum += sums[lane];
    for (; i < count; i++) sum += __builtin_exp((double)x[i] - most);
    return most + __builtin_log(sum);
}

bool is_suppressed(const ssm_likeliest &a, int64_t place) {
    for (int64_t i = 0; i < a.suppressed; i++)
        if (a.suppress[i] == place) return true;
    return false;
}

void row_of(const ssm_likeliest &a, int64_t row) {
    const float *x = a.scores + row * a.stride;
    float *value = a.value + row * a.count, most = x[0];
    int64_t *place = a.place + row * a.count;
    for (int64_t i = 0; i < a.count; i++) value[i] = -__builtin_inff(), place[i] = 0;
    const int64_t last = a.count - 1;
    for (int64_t begin = 0; begin < a.places; begin += BLOCK) {
        const int64_t end = min64(begin + BLOCK, a.places);
        const float top = largest(x + begin, end - begin);
        most = top > most ? top : most;
        if (!(top > value[last])) continue;
        for (int64_t i = begin; i < end; i++) {
            if (!(x[i] > value[last]) || is_suppressed(a, i)) continue;
            int64_t at = last;
            for (; at > 0 && x[i] > value[at - 1]; at--) value[at] = value[at - 1], place[at] = place[at - 1];
            value[at] = x[i], place[at] = i;
        }
    }
    a.total[row] = log_of_sum(x, a.places, most);
}

}  // namespace

void KERNEL(likeliest)(const ssm_likeliest *a) {
    const int64_t pieces = max64(1, min64(a->threads, a->rows));
    PARALLEL_TASKS(a->threads, pieces, {
        (void)thread;
        for (int64_t row = task * a->rows / pieces; row < (task + 1) * a->rows / pieces; row++) row_of(*a, row);
    })
}
