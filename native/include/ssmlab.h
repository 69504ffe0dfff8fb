/* The whole C interface of ssmlab's native kernels: sizes, strides in elements, and pointers.
 *
 * Every member is 8 bytes wide, without padding. ops/_layout.py has the structs again, field by field in the same order;
 * `ssm_offset` lets it compare both.
 * No function allocates, keeps state or throws; every function works with at most `threads` threads.
 */
#ifndef SSMLAB_H
#define SSMLAB_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define SSM_EXPORT __declspec(dllexport)
#else
#define SSM_EXPORT __attribute__((visibility("default")))
#endif

enum ssm_dtype { SSM_FLOAT32 = 0, SSM_BFLOAT16 = 1, SSM_FLOAT16 = 2, SSM_COMPLEX64 = 3, SSM_INT8 = 4 };

/* A strided view; data == 0 where the argument is absent. Strides follow the axes named beside each member. */
typedef struct {
    void *data;
    int64_t dtype;
    int64_t stride[4];
} ssm_tensor;

/* Forward and backward of the selective scan. Tensors marked [f32] are contiguous float32.
 * B and C are per token, axes (b, g, n, l), or constant where the flag is set, axes (d, -, n, -).
 * Token t lies at t * stride[2]; where `inner` > 0 the tokens are the points of a plane, read in lines of `inner`, and
 * token t lies at (t / inner) * stride[2] + (t % inner) * stride[3]; B and C then have axes (b, outer, n, inner).
 * With `accumulate` y, and in the backward pass gx, are added to instead of written.
 * The dtype of `h0`, also where h0 is absent, is that of the state: SSM_FLOAT32, or SSM_COMPLEX64 and not with `inner`. Then
 * y = 2 Re(C h); A, h0, h_final, g_final, gh0, gA and constant maps with their gradients hold two floats for every state,
 * real and imaginary part; maps per token have axes (b, g, n, 2 l), the parts alternating along the last; h0 is contiguous
 * along n; below, a state of [f32] `saved` is two rows, and a token of gB and gC is two rows of n.
 * `interval` is the distance in tokens between saved states, a multiple of SSM_CHUNK. */
typedef struct {
    int64_t batch, dim, length, states, groups, b_constant, c_constant, softplus, interval, threads, inner, accumulate;
    ssm_tensor x, dt, z, y;   /* (b, d, l), or (b, d, outer, inner) */
    ssm_tensor B, C;
    float *A, *D, *dt_bias;   /* [f32] (d, n), (d), (d) */
    ssm_tensor h0;            /* (b, d, n), any strides, float32 or complex64 */
    float *h_final;           /* [f32] (b, d, n) */
    float *saved;             /* [f32] (b, ceil(l / interval), n, d): the state before every interval, or 0 */
    uint8_t *restart;         /* (b, l), 1 where a new sequence begins, or 0 */
    float *workspace;         /* ssm_scan_*_workspace floats, 64-byte aligned */
    /* backward only */
    ssm_tensor gy, gx, gdt, gz; /* (b, d, l) */
    float *g_final;           /* [f32] (b, d, n), or 0 */
    float *gh0, *gA;          /* [f32] (b, d, n) each */
    float *gB, *gC;           /* [f32] per token (segments, b, l, n), to be summed over a group's segments; constant (b, d, n) */
    float *gD, *gdt_bias;     /* [f32] (b, d) each */
} ssm_scan;

#define SSM_CHUNK 64

typedef struct {
    int64_t batch, dim, length, width, silu, threads;
    ssm_tensor x, y;          /* (b, d, l) */
    float *weight, *bias;     /* [f32] (width, d), (d) or 0 */
    ssm_tensor past;          /* (b, d, width - 1), or absent */
    uint8_t *taps;            /* (b, l), how many taps stay inside the token's own sequence (1..width), or 0 */
    float *workspace;
    /* backward only */
    ssm_tensor gy, gx;        /* (b, d, l) */
    ssm_tensor gpast;         /* (b, d, width - 1) float32 */
    float *gweight;           /* [f32] (b * pieces, width + 1, d): the taps' gradients, then the bias's; to be summed */
} ssm_conv;

/* One token of the convolution. All are float32; the channels of x and y lie side by side. */
typedef struct {
    int64_t batch, dim, width, length, silu;
    const float *x;           /* (b, d) */
    int64_t x_stride;         /* from one row of x to the next */
    float *state;             /* (b, d, length >= width - 1), contiguous: the inputs before x, newest last; moved on */
    const float *weight, *bias; /* (d, width), (d) or 0, contiguous */
    float *y;                 /* (b, d), contiguous */
} ssm_conv_step;

/* One token of a scan with one decay a head. All are float32; channels and states lie side by side. */
typedef struct {
    int64_t batch, heads, headdim, states, groups, softplus, threads;
    const float *x, *z, *dt;  /* (b, h p), (b, h p) or 0, (b, h) */
    int64_t x_stride, z_stride, dt_stride, dt_head_stride;
    const float *A, *D, *dt_bias; /* (h), (h) or 0, (h) or 0 */
    int64_t A_stride, D_stride, dt_bias_stride;
    const float *B, *C;       /* (b, g n) */
    int64_t B_stride, C_stride;
    float *state;             /* (b, h, p, n), contiguous; updated */
    float *y;                 /* (b, h p), contiguous */
} ssm_head_step;

/* A linear layer for few rows: x (rows, inputs) and y (rows, outputs) float32, weight (outputs, inputs) float32, a half
 * precision or SSM_INT8. A row of weights is multiplied by its scale. */
typedef struct {
    int64_t rows, inputs, outputs, dtype, threads;
    const float *x;
    int64_t x_stride;
    const void *weight;
    int64_t weight_stride;
    const float *bias;        /* [f32] (outputs), or 0 */
    float *y;                 /* contiguous */
    const float *scale;       /* [f32] (outputs), or 0 */
} ssm_linear;

/* The causal convolution with a filter of the sequence's length, y_t = sum_k f_k x_(t-k), axes (b, d, l), and its gradients:
 * of x, where `x` is the gradient of y, and of the filter, where `filter` is then the input and y has one row. */
enum { SSM_LONG_OUTPUT, SSM_LONG_INPUT, SSM_LONG_FILTER };
typedef struct {
    int64_t batch, dim, length, kind, threads;
    ssm_tensor x, filter, y;
    float *workspace;         /* ssm_long_conv_workspace floats, 64-byte aligned */
} ssm_long_conv;

/* A program: what one token of a whole model takes, run in one call by one team of threads. State tensors are found by
 * their slot in the tables of a call; they are contiguous, and those that come out are others than those that go in. */
enum { SSM_NORM, SSM_MATVEC, SSM_CONV_TOKEN, SSM_SCAN_TOKEN, SSM_HEADS_TOKEN, SSM_PRODUCT };

/* The root mean square norm in groups of channels: of residual + x, which residual becomes, or of x silu(gate). */
typedef struct {
    int64_t rows, dim, groups;
    float *residual;          /* (rows, dim), contiguous, or 0 */
    const float *x, *gate;    /* (rows, dim), either may be 0 */
    int64_t x_stride, gate_stride;
    const float *weight;      /* (dim) */
    double eps;
    float *y;                 /* (rows, dim), contiguous */
} ssm_norm;

/* One token of the convolution; the state (rows, dim, width - 1) is of any dtype. In a program by rows the state is
 * (rows, width - 1, dim) float32, the weight (width, dim). */
typedef struct {
    int64_t rows, dim, width, silu, dtype;
    const float *x;
    int64_t x_stride;
    const float *weight, *bias; /* (dim, width), (dim) or 0 */
    float *y;                 /* (rows, dim), contiguous */
} ssm_conv_token;

/* One token of the selective scan with softplus, the bias added to dt before; the state (rows, dim, states) is float32. */
typedef struct {
    int64_t rows, dim, states;
    const float *x, *dt, *z;  /* (rows, dim) */
    int64_t x_stride, dt_stride, z_stride;
    const float *B, *C;       /* (rows, states) */
    int64_t B_stride, C_stride;
    const float *A_log, *D;   /* (dim, states), (dim); A = -exp(A_log) */
    float *y;                 /* (rows, dim), contiguous */
    const float *rate;        /* (dim, states): exp(A_log), or 0 where it is to be computed */
} ssm_scan_token;

/* y = x weight^T + bias for any number of rows. Of every SSM_PANEL outputs the weights lie together, (inputs, SSM_PANEL);
 * outputs are filled up to whole panels, in `weight`, `bias` and `y`. What a row becomes does not depend on the others.
 *
 * With `scale` the weights are int8, of two inputs side by side, (panels, pairs, SSM_PANEL, 2), and each is to be multiplied by
 * its output's scale. Numbers of x are rounded to 16 bits then, as fractions of the largest of their row. */
#define SSM_PANEL 32
typedef struct {
    int64_t inputs, panels;
    const float *x;
    int64_t x_stride;
    const void *weight;       /* float32 (panels, inputs, SSM_PANEL), or int8 */
    const float *bias;        /* (panels SSM_PANEL) or 0 */
    float *y;                 /* (rows, panels SSM_PANEL), contiguous */
    const float *scale;       /* (panels SSM_PANEL) or 0 */
} ssm_product;

typedef struct {
    int64_t kind, slot;
    const void *call;         /* ssm_norm, ssm_linear, ssm_conv_token, ssm_scan_token, ssm_head_step without its state, or
                                 ssm_product */
} ssm_step;

typedef struct {
    int64_t steps, threads;
    const ssm_step *step;
    void *const *before, *const *after; /* by slot: the states that go in and those that come out */
    /* A program by rows, where `rows` > 0: threads share out groups of `group` rows and take all steps for theirs; the rows of
     * the steps do not count, and there is no SSM_MATVEC. Row r goes on from the state at parent[r], of a row of its group, and
     * its own becomes the one at own[r]. `before` and `after` may be the same: states are read and written in the order in
     * which `order` has the rows of a group, so that one that is still to be read is not overwritten. */
    int64_t rows, group;
    const int64_t *parent, *own, *order;
    float *scratch;           /* `threads` times scratch_size floats, (the largest inputs of a product + 1) times 16 ceil(rows / 16) */
    int64_t scratch_size;
} ssm_program;

/* Of every row of `scores` the logarithm of the sum of exponentials, and the `count` largest with their places, largest
 * first, equal ones in the order of their places; suppressed places are in the sum alone. */
typedef struct {
    int64_t rows, places, count, suppressed, threads;
    const float *scores;
    int64_t stride;
    const int64_t *suppress;
    double *total;            /* (rows) */
    float *value;             /* (rows, count), -inf where there are fewer */
    int64_t *place;           /* (rows, count) */
} ssm_likeliest;

/* Forward and backward of the state space dual: chunks of `chunk` tokens, at most SSM_CHUNK. dt is the step size itself. */
typedef struct {
    int64_t batch, length, heads, headdim, states, groups, chunk, threads;
    ssm_tensor x, z, y;       /* (b, l, h, p) */
    ssm_tensor dt;            /* (b, l, h) */
    ssm_tensor B, C;          /* (b, l, g, n) */
    float *A, *D;             /* [f32] (h), (h, p) or 0 */
    float *h0, *h_final;      /* [f32] (b, h, p, n), the first may be 0 */
    float *saved;             /* [f32] (ceil(l / chunk), b, h, n, p rounded up to 16): the state before every chunk, or 0 */
    float *inner;             /* [f32] (b, l, h, p): y before its gate, where there is `saved` and z */
    uint8_t *restart;         /* (b, l), 1 where a new sequence begins, or 0 */
    float *workspace;         /* ssm_ssd_*_workspace floats, 64-byte aligned */
    /* backward only */
    ssm_tensor gy, gx, gz;    /* (b, l, h, p) */
    float *g_final;           /* [f32] (b, h, p, n), or 0 */
    float *gh0, *gdt;         /* [f32] (b, h, p, n), (b, l, h) */
    float *gA, *gD;           /* [f32] (b, h), (b, h, p) */
    float *gB, *gC;           /* [f32] (segments, b, l, g, n), to be summed over the segments */
} ssm_ssd;

SSM_EXPORT const char *ssm_isa(void);
SSM_EXPORT int64_t ssm_integers(void); /* whether products with int8 weights are faster as such than as floats: AVX-512 VNNI */
/* Select "baseline", "avx2", "avx512" or "neon"; 0 on success, -1 where this machine or build lacks it. */
SSM_EXPORT int ssm_set_isa(const char *name);
SSM_EXPORT int64_t ssm_version(void);
/* The offset in bytes of a field, "ssm_scan.batch", or the size of a struct, "ssm_scan"; -1 for any other name. */
SSM_EXPORT int64_t ssm_offset(const char *name);

SSM_EXPORT int64_t ssm_scan_segments(const ssm_scan *);          /* first axis of gB and gC */
SSM_EXPORT int64_t ssm_scan_forward_workspace(const ssm_scan *); /* in floats */
SSM_EXPORT int64_t ssm_scan_backward_workspace(const ssm_scan *);
SSM_EXPORT void ssm_scan_forward(const ssm_scan *);
SSM_EXPORT void ssm_scan_backward(const ssm_scan *);

SSM_EXPORT int64_t ssm_conv_pieces(const ssm_conv *);
SSM_EXPORT int64_t ssm_conv_workspace(const ssm_conv *);
SSM_EXPORT void ssm_conv_forward(const ssm_conv *);
SSM_EXPORT void ssm_conv_backward(const ssm_conv *);

SSM_EXPORT void ssm_conv_step_(const ssm_conv_step *);
SSM_EXPORT void ssm_head_step_(const ssm_head_step *);
SSM_EXPORT int64_t ssm_long_conv_workspace(const ssm_long_conv *); /* in floats */
SSM_EXPORT void ssm_long_conv_(const ssm_long_conv *);
SSM_EXPORT void ssm_linear_(const ssm_linear *);
SSM_EXPORT void ssm_program_(const ssm_program *);
SSM_EXPORT void ssm_likeliest_(const ssm_likeliest *);

SSM_EXPORT int64_t ssm_ssd_segments(const ssm_ssd *);            /* first axis of gB and gC */
SSM_EXPORT int64_t ssm_ssd_forward_workspace(const ssm_ssd *);   /* in floats */
SSM_EXPORT int64_t ssm_ssd_backward_workspace(const ssm_ssd *);
SSM_EXPORT void ssm_ssd_forward(const ssm_ssd *);
SSM_EXPORT void ssm_ssd_backward(const ssm_ssd *);

#ifdef __cplusplus
}
#endif
#endif
