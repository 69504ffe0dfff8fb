// Forward selective scan: a task walks its channels through time, chunk by chunk, W channels at once.
//
// Within a chunk the step sizes, the scaled inputs and the outputs of one block of channels stay in L1, A and the
// states of four state dimensions in registers. One pass over the inputs; nothing of size (b, d, l, n) exists.
#include "kernels.h"
#include "scan.h"

namespace {

struct Buffers {
    float *A, *h, *delta, *dx, *y, *x, *dt, *z;
    Map B, C;
    Buffers(const ssm_scan &a, int64_t blocks, Arena &arena)
        : A(arena.take(blocks * a.states * W)), h(arena.take(blocks * a.states * W)), delta(arena.take(T * W)),
          dx(arena.take(T * W)), y(arena.take(T * W)), x(arena.take(T * W)), dt(arena.take(T * W)), z(arena.take(T * W)),
          B(a.B, a.b_constant, a.states, blocks, arena), C(a.C, a.c_constant, a.states, blocks, arena) {}
};

void save_state(const ssm_scan &a, const Task &task, int64_t block, int64_t token, const float *h) {
    float *row = a.saved + (task.b * ceil_div(a.length, a.interval) + token / a.interval) * a.states * a.dim;
    for (int64_t i = 0; i < a.states; i++) store_lanes(row + i * a.dim + task.channel(block), load(h + i * W), task.lanes(block));
}

Ahead ahead(const ssm_scan &a, const Task &task, int64_t block, int64_t token) {
    bool last = block + 1 == task.blocks;
    int64_t c = task.channel(last ? 0 : block + 1), next = last ? token + T : token;
    Ahead lines(a.A);
    if (a.inner) return lines;  // the lines of a plane are short, and mostly in the cache already
    lines.add(0, a.x, task.b, c, next), lines.add(1, a.dt, task.b, c, next);
    lines.add(2, a.z, task.b, c, next), lines.add(3, a.y, task.b, c, next);
    return lines;
}

void chunk(const ssm_scan &a, const Task &task, const Buffers &m, int64_t block, int64_t token, int64_t rows) {
    int lanes = task.lanes(block);
    int64_t c = task.channel(block), n = a.states;
    const Place at{task.b, c, token, rows, lanes, a.inner};
    Rows x = rows_of(a.x, at, m.x), dt = rows_of(a.dt, at, m.dt);
    vf bias = load_lanes(a.dt_bias ? a.dt_bias + c : nullptr, lanes), skip = load_lanes(a.D ? a.D + c : nullptr, lanes);
    for (int64_t t = 0; t < rows; t++) {
        vf d = dt.at(t) + bias, u = x.at(t);
        if (a.softplus) d = softplus(d);
        store(m.delta + t * W, d);
        store(m.dx + t * W, d * u);
        store(m.y + t * W, a.D ? skip * u : (vf){});  // 0 * inf is not 0
    }
    const uint8_t *restart = a.restart ? a.restart + task.b * a.length + token : nullptr;
    advance(m.B, m.C, block, m.delta, m.dx, m.y, m.A + block * n * W, m.h + block * n * W, n, rows, restart, ahead(a, task, block, token));
    const OutRows out = out_rows(a.y, at, m.y), y = a.accumulate ? OutRows{m.y, W} : out;
    if (a.z.data) {
        Rows z = rows_of(a.z, at, m.z);
        for (int64_t t = 0; t < rows; t++) store(y.p + t * y.stride, load(m.y + t * W) * z.at(t) * sigmoid(z.at(t)));
    } else if (y.p != m.y) {
        for (int64_t t = 0; t < rows; t++) store(y.p + t * y.stride, load(m.y + t * W));
    }
    if (a.accumulate) {
        Rows before = rows_of(a.y, at, m.x);
        for (int64_t t = 0; t < rows; t++) store(out.p + t * out.stride, load(m.y + t * W) + before.at(t));
    }
    flush(a.y, at, m.y);
}

void run(const ssm_scan &a, const Cut &cut, int64_t index, float *workspace) {
    Task task(a, cut, index);
    Arena arena{workspace};
    Buffers m(a, ceil_div(cut.segment, W), arena);
    int64_t n = a.states;
    m.B.load_constant(task), m.C.load_constant(task);
    for (int64_t k = 0; k < task.blocks; k++) {
        int64_t c = task.channel(k);
        load_states(m.A + k * n * W, a.A + c * n, n, task.lanes(k), LOG2E);
        if (a.h0.data)
            load_tile(m.h + k * n * W, a.h0, task.b * a.h0.stride[0] + c * a.h0.stride[1], n, task.lanes(k), a.h0.stride[2],
                      a.h0.stride[1]);
        else __builtin_memset(m.h + k * n * W, 0, n * W * sizeof(float));
    }
    for (int64_t token = 0; token < a.length; token += T) {
        int64_t rows = min64(T, a.length - token);
        m.B.load_tokens(task, token, rows, a.inner), m.C.load_tokens(task, token, rows, a.inner);
        for (int64_t k = 0; k < task.blocks; k++) {
            if (a.saved && token % a.interval == 0) save_state(a, task, k, token, m.h + k * n * W);
            chunk(a, task, m, k, token, rows);
        }
    }
    for (int64_t k = 0; k < task.blocks; k++)
        store_tile_as(a.h_final + (task.b * a.dim + task.channel(k)) * n, m.h + k * n * W, n, task.lanes(k), 1, n);
}

int64_t floats_per_thread(const ssm_scan &a) {
    Arena arena{nullptr};
    Buffers m(a, ceil_div(Cut::by_threads(a).segment, W), arena);
    return arena.used;
}

}  // namespace

int64_t KERNEL(scan_forward_workspace)(const ssm_scan *a) { return floats_per_thread(*a) * max64(1, a->threads); }

void KERNEL(scan_forward)(const ssm_scan *a) {
    Cut cut = Cut::by_threads(*a);
    int64_t per_thread = floats_per_thread(*a);
    PARALLEL_TASKS(a->threads, cut.tasks(*a), run(*a, cut, task, a->workspace + thread * per_thread))
}
