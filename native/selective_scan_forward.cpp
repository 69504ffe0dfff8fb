// Forward selective scan: a task walks its channels through time, chunk by chunk, W channels at once.
//
// Within a chunk the step sizes, the scaled inputs and the outputs of one block of channels stay in L1, A and the
// states of four state dimensions in registers. One pass over the inputs; nothing of size (b, d, l, n) exists.
#include "kernels.h"
#include "scan.h"

namespace {

struct Buffers {
    float *A, *h, *y, *x, *dt, *z;
    Steps steps;
    Map B, C;
    Buffers(const ssm_scan &a, int64_t blocks, Arena &arena)
        : A(arena.take(blocks * numbers(a) * W)), h(arena.take(blocks * numbers(a) * W)), y(arena.take(T * W)),
          x(arena.take(T * W)), dt(arena.take(T * W)), z(arena.take(T * W)), steps(arena),
          B(a.B, a.b_constant, a, blocks, arena), C(a.C, a.c_constant, a, blocks, arena) {}
};

void save_state(const ssm_scan &a, const Task &task, int64_t block, int64_t token, const float *h) {
    float *row = a.saved + (task.b * ceil_div(a.length, a.interval) + token / a.interval) * numbers(a) * a.dim;
    for (int64_t i = 0; i < numbers(a); i++) store_lanes(row + i * a.dim + task.channel(block), load(h + i * W), task.lanes(block));
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
    int64_t c = task.channel(block), size = numbers(a) * W;
    const Place at{task.b, c, token, rows, lanes, a.inner};
    Rows x = rows_of(a.x, at, m.x), dt = rows_of(a.dt, at, m.dt);
    vf bias = load_lanes(a.dt_bias ? a.dt_bias + c : nullptr, lanes), skip = load_lanes(a.D ? a.D + c : nullptr, lanes);
    for (int64_t t = 0; t < rows; t++) {
        vf u = x.at(t);
        m.steps.put(t, step_size(a, dt.at(t), bias), u);
        store(m.y + t * W, a.D ? skip * u : (vf){});  // 0 * inf is not 0
    }
    const uint8_t *restart = a.restart ? a.restart + task.b * a.length + token : nullptr;
    advance(m.B, m.C, block, m.steps, m.y, m.A + block * size, m.h + block * size, rows, restart, ahead(a, task, block, token));
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

void load_initial(const ssm_scan &a, int64_t b, int64_t c, int lanes, float *h) {
    const int64_t *stride = a.h0.stride, step = parts(a) == 2 ? 1 : stride[2];  // a complex state is contiguous along n
    load_tile_as(h, (const float *)a.h0.data + (b * stride[0] + c * stride[1]) * parts(a), numbers(a), lanes, step,
                 stride[1] * parts(a));
}

void run(const ssm_scan &a, const Cut &cut, int64_t index, float *workspace) {
    Task task(a, cut, index);
    Arena arena{workspace};
    Buffers m(a, ceil_div(cut.segment, W), arena);
    const int64_t count = numbers(a), size = count * W;
    m.B.load_constant(task), m.C.load_constant(task);
    for (int64_t k = 0; k < task.blocks; k++) {
        int64_t c = task.channel(k);
        load_tile_as(m.A + k * size, a.A + c * count, count, task.lanes(k), 1, count);
        if (a.h0.data) load_initial(a, task.b, c, task.lanes(k), m.h + k * size);
        else __builtin_memset(m.h + k * size, 0, size * sizeof(float));
    }
    for (int64_t token = 0; token < a.length; token += T) {
        int64_t rows = min64(T, a.length - token);
        m.B.load_tokens(task, token, rows, a.inner), m.C.load_tokens(task, token, rows, a.inner);
        for (int64_t k = 0; k < task.blocks; k++) {
            if (a.saved && token % a.interval == 0) save_state(a, task, k, token, m.h + k * size);
            chunk(a, task, m, k, token, rows);
        }
    }
    for (int64_t k = 0; k < task.blocks; k++)
        store_tile_as(a.h_final + (task.b * a.dim + task.channel(k)) * count, m.h + k * size, count, task.lanes(k), 1, count);
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
