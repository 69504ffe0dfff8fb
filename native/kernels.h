// The kernels of one instruction set, under names that carry its own (-DSSM_ISA=avx2 gives scan_forward_avx2).
#pragma once

#include "ssmlab.h"

#ifdef _OPENMP
#include <omp.h>
#define SSM_THREAD omp_get_thread_num()
#else
#define SSM_THREAD 0
#endif

#define SSM_JOIN2(a, b) a##_##b
#define SSM_JOIN(a, b) SSM_JOIN2(a, b)
#define KERNEL(name) SSM_JOIN(name, SSM_ISA)
#define SSM_PRAGMA(x) _Pragma(#x)

// Run `body` for every `task` below `tasks`, `thread` being the worker's number. The team never exceeds the tasks, and one
// thread opens no region: a worker process after fork has no pool to wake.
#define PARALLEL_TASKS(threads, tasks, body)                                                        \
    do {                                                                                            \
        int64_t count_ = (tasks);                                                                   \
        int team_ = (int)(count_ < (threads) ? count_ : (threads));                                 \
        if (team_ <= 1) {                                                                           \
            const int64_t thread = 0;                                                               \
            for (int64_t task = 0; task < count_; task++) body;                                     \
        } else {                                                                                    \
            SSM_PRAGMA(omp parallel for num_threads(team_) schedule(dynamic, 1))                    \
            for (int64_t task = 0; task < count_; task++) {                                         \
                const int64_t thread = SSM_THREAD;                                                  \
                body;                                                                               \
            }                                                                                       \
        }                                                                                           \
    } while (0);

#define SSM_DECLARE(isa)                                             \
    int64_t scan_segments_##isa(const ssm_scan *);                   \
    int64_t scan_forward_workspace_##isa(const ssm_scan *);          \
    int64_t scan_backward_workspace_##isa(const ssm_scan *);         \
    void scan_forward_##isa(const ssm_scan *);                       \
    void scan_backward_##isa(const ssm_scan *);                      \
    int64_t conv_pieces_##isa(const ssm_conv *);                     \
    int64_t conv_workspace_##isa(const ssm_conv *);                  \
    void conv_forward_##isa(const ssm_conv *);                       \
    void conv_backward_##isa(const ssm_conv *);                      \
    void conv_step_##isa(const ssm_conv_step *);                     \
    void head_step_##isa(const ssm_head_step *);                     \
    int64_t long_conv_workspace_##isa(const ssm_long_conv *);        \
    void long_conv_##isa(const ssm_long_conv *);                     \
    void linear_##isa(const ssm_linear *);                           \
    void linear_part_##isa(const ssm_linear *, int64_t first, int64_t last); \
    void heads_part_##isa(const ssm_head_step *, const float *before, float *after, int64_t first, int64_t last); \
    void program_##isa(const ssm_program *);                         \
    void product_rows_##isa(const ssm_product *, int64_t first, int64_t last, float *scratch); \
    void likeliest_##isa(const ssm_likeliest *);                     \
    int64_t ssd_segments_##isa(const ssm_ssd *);                     \
    int64_t ssd_forward_workspace_##isa(const ssm_ssd *);            \
    int64_t ssd_backward_workspace_##isa(const ssm_ssd *);           \
    void ssd_forward_##isa(const ssm_ssd *);                         \
    void ssd_backward_##isa(const ssm_ssd *);

SSM_DECLARE(baseline)
SSM_DECLARE(avx2)
SSM_DECLARE(avx512)
SSM_DECLARE(neon)
