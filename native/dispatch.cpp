// Run-time choice of the instruction set, and the exported functions, which forward to it.
#include <cstddef>
#include <cstring>

#include "kernels.h"

namespace {

struct Kernels {
    const char *name;
    bool (*runs)();
    int64_t (*scan_segments)(const ssm_scan *);
    int64_t (*scan_forward_workspace)(const ssm_scan *);
    int64_t (*scan_backward_workspace)(const ssm_scan *);
    void (*scan_forward)(const ssm_scan *);
    void (*scan_backward)(const ssm_scan *);
    int64_t (*conv_pieces)(const ssm_conv *);
    int64_t (*conv_workspace)(const ssm_conv *);
    void (*conv_forward)(const ssm_conv *);
    void (*conv_backward)(const ssm_conv *);
    void (*conv_step)(const ssm_conv_step *);
    void (*head_step)(const ssm_head_step *);
    int64_t (*long_conv_workspace)(const ssm_long_conv *);
    void (*long_conv)(const ssm_long_conv *);
    void (*linear)(const ssm_linear *);
    void (*program)(const ssm_program *);
    void (*likeliest)(const ssm_likeliest *);
    int64_t (*ssd_segments)(const ssm_ssd *);
    int64_t (*ssd_forward_workspace)(const ssm_ssd *);
    int64_t (*ssd_backward_workspace)(const ssm_ssd *);
    void (*ssd_forward)(const ssm_ssd *);
    void (*ssd_backward)(const ssm_ssd *);
};

#define SSM_TABLE(isa, runs)                                                                                                \
    {#isa, runs, scan_segments_##isa, scan_forward_workspace_##isa, scan_backward_workspace_##isa, scan_forward_##isa,       \
     scan_backward_##isa, conv_pieces_##isa, conv_workspace_##isa, conv_forward_##isa, conv_backward_##isa,     \
     conv_step_##isa, head_step_##isa, long_conv_workspace_##isa, long_conv_##isa, linear_##isa, program_##isa,              \
     likeliest_##isa,                                                                                                       \
     ssd_segments_##isa, ssd_forward_workspace_##isa, ssd_backward_workspace_##isa, ssd_forward_##isa, ssd_backward_##isa}

[[maybe_unused]] bool always() { return true; }
#if defined(SSM_HAS_avx2) || defined(SSM_HAS_avx512)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Kernels ALL[] = {  // fastest first
#if defined(SSM_HAS_avx512)
    SSM_TABLE(avx512, has_avx512),
#endif
#if defined(SSM_HAS_avx2)
    SSM_TABLE(avx2, has_avx2),
#endif
#if defined(SSM_HAS_neon)
    SSM_TABLE(neon, always),
#endif
#if defined(SSM_HAS_baseline)
    SSM_TABLE(baseline, always),
#endif
};

const Kernels *fastest() {
    for (const Kernels &k : ALL)
        if (k.runs()) return &k;
    return &ALL[0];
}
const Kernels *active = fastest();

// One entry for a struct's size and one for each of its fields; a name that the header does not have does not compile.
struct Place {
    const char *name;
    int64_t offset;
};
#define SSM_NOTHING ()
#define SSM_1(...) __VA_ARGS__
#define SSM_4(...) SSM_1(SSM_1(SSM_1(SSM_1(__VA_ARGS__))))
#define SSM_16(...) SSM_4(SSM_4(SSM_4(SSM_4(__VA_ARGS__))))
#define SSM_64(...) SSM_16(SSM_16(SSM_16(SSM_16(__VA_ARGS__))))
#define SSM_FIELD(s, field, ...) {#s "." #field, offsetof(s, field)}, __VA_OPT__(SSM_FIELDS SSM_NOTHING(s, __VA_ARGS__))
#define SSM_FIELDS() SSM_FIELD
#define SSM_STRUCT(s, ...) {#s, sizeof(s)}, SSM_64(SSM_FIELD(s, __VA_ARGS__))
const Place LAYOUT[] = {
    SSM_STRUCT(ssm_tensor, data, dtype, stride[0], stride[1], stride[2], stride[3])
    SSM_STRUCT(ssm_scan, batch, dim, length, states, groups, b_constant, c_constant, softplus, interval, threads, inner,
               accumulate, x, dt, z, y, B, C, A, D, dt_bias, h0, h_final, saved, restart, workspace, gy, gx, gdt, gz,
               g_final, gh0, gA, gB, gC, gD, gdt_bias)
    SSM_STRUCT(ssm_conv, batch, dim, length, width, silu, threads, x, y, weight, bias, past, taps, workspace, gy, gx, gpast,
               gweight)
    SSM_STRUCT(ssm_conv_step, batch, dim, width, length, silu, x, x_stride, state, weight, bias, y)
    SSM_STRUCT(ssm_head_step, batch, heads, headdim, states, groups, softplus, threads, x, z, dt, x_stride, z_stride,
               dt_stride, dt_head_stride, A, D, dt_bias, A_stride, D_stride, dt_bias_stride, B, C, B_stride, C_stride,
               state, y)
    SSM_STRUCT(ssm_linear, rows, inputs, outputs, dtype, threads, x, x_stride, weight, weight_stride, bias, y, scale)
    SSM_STRUCT(ssm_long_conv, batch, dim, length, kind, threads, x, filter, y, workspace)
    SSM_STRUCT(ssm_norm, rows, dim, groups, residual, x, gate, x_stride, gate_stride, weight, eps, y)
    SSM_STRUCT(ssm_conv_token, rows, dim, width, silu, dtype, x, x_stride, weight, bias, y)
    SSM_STRUCT(ssm_scan_token, rows, dim, states, x, dt, z, x_stride, dt_stride, z_stride, B, C, B_stride, C_stride, A_log,
               D, y, rate)
    SSM_STRUCT(ssm_product, inputs, panels, x, x_stride, weight, bias, y, scale)
    SSM_STRUCT(ssm_step, kind, slot, call)
    SSM_STRUCT(ssm_program, steps, threads, step, before, after, rows, group, parent, own, order, scratch,
               scratch_size)
    SSM_STRUCT(ssm_likeliest, rows, places, count, suppressed, threads, scores, stride, suppress, total, value, place)
    SSM_STRUCT(ssm_ssd, batch, length, heads, headdim, states, groups, chunk, threads, x, z, y, dt, B, C, A, D, h0, h_final,
               saved, inner, restart, workspace, gy, gx, gz, g_final, gh0, gdt, gA, gD, gB, gC)
};

}  // namespace

extern "C" {

int64_t ssm_version(void) { return 12; }
int64_t ssm_offset(const char *name) {
    for (const Place &place : LAYOUT)
        if (!strcmp(place.name, name)) return place.offset;
    return -1;
}
const char *ssm_isa(void) { return active->name; }
int64_t ssm_integers(void) {
#if defined(SSM_HAS_avx512)
    return !strcmp(active->name, "avx512") && __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}
int ssm_set_isa(const char *name) {
    for (const Kernels &k : ALL)
        if (!strcmp(k.name, name) && k.runs()) return active = &k, 0;
    return -1;
}
int64_t ssm_scan_segments(const ssm_scan *a) { return active->scan_segments(a); }
int64_t ssm_scan_forward_workspace(const ssm_scan *a) { return active->scan_forward_workspace(a); }
int64_t ssm_scan_backward_workspace(const ssm_scan *a) { return active->scan_backward_workspace(a); }
void ssm_scan_forward(const ssm_scan *a) { active->scan_forward(a); }
void ssm_scan_backward(const ssm_scan *a) { active->scan_backward(a); }
int64_t ssm_conv_pieces(const ssm_conv *a) { return active->conv_pieces(a); }
int64_t ssm_conv_workspace(const ssm_conv *a) { return active->conv_workspace(a); }
void ssm_conv_forward(const ssm_conv *a) { active->conv_forward(a); }
void ssm_conv_backward(const ssm_conv *a) { active->conv_backward(a); }
void ssm_conv_step_(const ssm_conv_step *a) { active->conv_step(a); }
void ssm_head_step_(const ssm_head_step *a) { active->head_step(a); }
int64_t ssm_long_conv_workspace(const ssm_long_conv *a) { return active->long_conv_workspace(a); }
void ssm_long_conv_(const ssm_long_conv *a) { active->long_conv(a); }
void ssm_linear_(const ssm_linear *a) { active->linear(a); }
void ssm_program_(const ssm_program *a) { active->program(a); }
void ssm_likeliest_(const ssm_likeliest *a) { active->likeliest(a); }
int64_t ssm_ssd_segments(const ssm_ssd *a) { return active->ssd_segments(a); }
int64_t ssm_ssd_forward_workspace(const ssm_ssd *a) { return active->ssd_forward_workspace(a); }
int64_t ssm_ssd_backward_workspace(const ssm_ssd *a) { return active->ssd_backward_workspace(a); }
void ssm_ssd_forward(const ssm_ssd *a) { active->ssd_forward(a); }
void ssm_ssd_backward(const ssm_ssd *a) { active->ssd_backward(a); }
}
