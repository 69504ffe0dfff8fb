// Vectors of W floats in compiler extensions; the only file with intrinsics.
//
// Compiled once per instruction set. Everything is static and always inlined and no function of std:: is used: a weak
// copy made for AVX-512 could otherwise be the one that the linker keeps for every path.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE4_1__)
#include <smmintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__)
#define W 8
#else
#define W 4
#endif

#define MEMBER inline __attribute__((always_inline))
#define INLINE static MEMBER

namespace {

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef double vd __attribute__((vector_size(8 * W)));  // for the step sizes of a complex scan
typedef int64_t vl __attribute__((vector_size(8 * W)));

constexpr float LOG2E = 1.44269504088896340736f;

template <class V, class E> INLINE V load_as(const E *p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
INLINE vf load(const float *p) { return load_as<vf>(p); }
INLINE void store(float *p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
INLINE vf splat(float x) { return x - (vf){}; }  // x - 0, so that -0 stays -0

// With NaN in x the result is NaN: the second operand is returned.
INLINE vf max_const(float c, vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps(_mm512_set1_ps(c), (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps(_mm256_set1_ps(c), (__m256)x);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps(_mm_set1_ps(c), (__m128)x);
#elif defined(__ARM_NEON)
    return (vf)vmaxq_f32(vdupq_n_f32(c), (float32x4_t)x);
#else
    return x < c ? splat(c) : x;
#endif
}
INLINE vf min_const(float c, vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps(_mm512_set1_ps(c), (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps(_mm256_set1_ps(c), (__m256)x);
#elif defined(__SSE2__)
    return (vf)_mm_min_ps(_mm_set1_ps(c), (__m128)x);
#elif defined(__ARM_NEON)
    return (vf)vminq_f32(vdupq_n_f32(c), (float32x4_t)x);
#else
    return x > c ? splat(c) : x;
#endif
}

// 2^x, largest relative error 9.2e-8; exactly 1 at 0, so that a slow state forgets nothing by rounding.
INLINE vf exp2v(vf x) {
#if defined(__AVX512F__)
    vf r = (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf f = x - r;
#else
    x = min_const(128.f, max_const(-126.f, x));
    vf t = x + 12582912.f;  // 1.5 * 2^23: the integer part lands in the low mantissa bits
    vf f = x - (t - 12582912.f);
#endif
    vf p = 0.00132647079f * f + 0.009671514f;
    p = p * f + 0.0555073381f;
    p = p * f + 0.240222421f;
    p = p * f + 0.693146978f;
    p = p * f + 1.f;
#if defined(__AVX512F__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)r);
#else
    return (vf)((vi)p + ((vi)t << 23));
#endif
}

// 1 / (1 + exp(-v))
INLINE vf sigmoid(vf v) { return 1.f / (1.f + exp2v(v * -LOG2E)); }

// log(1 + exp(v)) = max(v, 0) + log1p(exp(-|v|)), log1p(e) = 2 atanh(s) with s = e / (2 + e): no cancellation.
INLINE vf softplus(vf v) {
    vf magnitude = (vf)((vi)v & 0x7fffffff);
    vf e = exp2v(magnitude * -LOG2E);
    vf s = e / (2.f + e);
    vf q = s * s;
    vf p = 0.13333333f * q + 0.15384615f;  // 2/15, 2/13, ...
    p = p * q + 0.18181818f;
    p = p * q + 0.22222222f;
    p = p * q + 0.28571429f;
    p = p * q + 0.4f;
    p = p * q + 0.66666667f;
    return max_const(0.f, v) + s * (p * q + 2.f);
}

INLINE vd widen(vf v) { return __builtin_convertvector(v, vd); }
INLINE vf narrow(vd v) { return __builtin_convertvector(v, vf); }

// The same in double, relative error 1e-11: Taylor's series of 2^f and of atanh, exact enough for the 36 bits that a phase needs.
INLINE vd softplus(vd v) {
    vd x = (vd)((vl)v & INT64_MAX) * -1.4426950408889634;
    x = x < -1000. ? (vd){} - 1000. : x;
    vd t = x + 6755399441055744.;  // 1.5 * 2^52
    vd f = (x - (t - 6755399441055744.)) * 0.69314718055994531;
    vd p = 1. + f * (1. / 9);
#pragma GCC unroll 8
    for (int k = 8; k > 0; k--) p = 1. + p * f * (1. / k);
    vd e = (vd)((vl)p + ((vl)t << 52));
    vd s = e / (2. + e), q = s * s, sum = q * (1. / 21);
#pragma GCC unroll 9
    for (int k = 19; k > 1; k -= 2) sum = (sum + 1. / k) * q;
    return (v < 0. ? (vd){} : v) + 2. * s * (1. + sum);
}

// An angle's rate of change in half turns, in two parts whose products with a step's two parts need no rounding.
struct Turns { vf coarse, fine; };
INLINE vf coarse(vf v) { return (vf)((vi)v & ~0xfff); }  // 12 bits of 24: a product of two such numbers is exact
INLINE Turns turns(vf radians) {
    vd exact = widen(radians) * 0.31830988618379067154;
    vf upper = coarse(narrow(exact));
    return {upper, narrow(exact - widen(upper))};
}

// cos and sin of pi * step * rate, where the step is known to more than a float: `rest` is what it has beyond coarse(step).
// Two reductions to half turns: of the exact product of the upper parts, and of the whole. The largest error is 3e-7 of the
// length up to 1e3 radians, 1e-6 up to 1e4, 1e-4 up to 1e6; beyond 1e7 the angle is lost, beyond 1e10 the length too.
INLINE void cos_sin(vf step, vf rest, Turns rate, vf *cosine, vf *sine) {
    const float round = 12582912.f;
    vf product = coarse(step) * rate.coarse;
    vf t = product + round;
    vf x = (product - (t - round)) + (step * rate.fine + rest * rate.coarse);
    vf u = x + round;
    x -= u - round;
    vu sign = ((vu)t + (vu)u) << 31;  // an odd number of half turns
    vf q = x * x;
    vf s = 0.07722013f * q - 0.59804517f;
    s = s * q + 2.55003138f;
    s = s * q - 5.16770688f;
    s = s * q + 3.14159258f;
    vf c = -0.0244207f * q + 0.23495393f;
    c = c * q - 1.3352161f;
    c = c * q + 4.0587096f;
    c = c * q - 4.93480216f;
    *cosine = (vf)((vu)(c * q + 1.f) ^ sign);
    *sine = (vf)((vu)(s * x) ^ sign);
}

// Half precisions, as 16-bit storage.
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

INLINE float bits_to_float(uint32_t u) { float f; __builtin_memcpy(&f, &u, 4); return f; }
INLINE uint32_t float_to_bits(float f) { uint32_t u; __builtin_memcpy(&u, &f, 4); return u; }

INLINE float to_float(float x) { return x; }
INLINE float to_float(int8_t x) { return x; }
INLINE float to_float(bf16 x) { return bits_to_float((uint32_t)x.bits << 16); }
INLINE float to_float(f16 x) {
    // Shift the exponent by a product, which also makes the subnormal halves right; then mend infinity and NaN.
    float f = bits_to_float((uint32_t)(x.bits & 0x7fff) << 13) * 0x1p112f;
    uint32_t u = float_to_bits(f);
    if (f >= 65536.f) u |= 0x7f800000u;
    return bits_to_float(u | (uint32_t)(x.bits & 0x8000) << 16);
}
INLINE void from_float(float *p, float x) { *p = x; }
INLINE void from_float(bf16 *p, float x) {
    uint32_t u = float_to_bits(x);
    p->bits = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0 : (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
INLINE void from_float(f16 *p, float x) {
    uint32_t u = float_to_bits(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
    uint32_t h;
    if (a > 0x7f800000u) h = 0x7e00;
    else if (a >= 0x477ff000u) h = 0x7c00;                              // rounds to infinity
    else if (a < 0x38800000u) h = float_to_bits(bits_to_float(a) + 0.5f) - 0x3f000000u;  // subnormal: the sum rounds
    else h = (a - 0x38000000u + 0xfff + ((a >> 13) & 1)) >> 13;
    p->bits = (uint16_t)(h | sign);
}

INLINE vf load_vec(const float *p) { return load(p); }
INLINE vf load_vec(const bf16 *p) {  // GCC 12 takes such conversions apart
#if defined(__AVX512F__)
    vu wide = (vu)_mm512_cvtepu16_epi32(load_as<__m256i>(p));
#elif defined(__AVX2__)
    vu wide = (vu)_mm256_cvtepu16_epi32(load_as<__m128i>(p));
#else
    vu wide = __builtin_convertvector(load_as<vh>(p), vu);
#endif
    return (vf)(wide << 16);
}
INLINE vf load_vec(const int8_t *p) {
#if defined(__AVX512F__)
    return __builtin_convertvector((vi)_mm512_cvtepi8_epi32(load_as<__m128i>(p)), vf);
#elif defined(__AVX2__)
    return __builtin_convertvector((vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(load_as<int64_t>(p))), vf);
#elif defined(__SSE4_1__)
    return __builtin_convertvector((vi)_mm_cvtepi8_epi32(_mm_cvtsi32_si128(load_as<int32_t>(p))), vf);
#else
    typedef int8_t bytes __attribute__((vector_size(W)));
    return __builtin_convertvector(__builtin_convertvector(load_as<bytes>(p), vi), vf);
#endif
}
INLINE vf load_vec(const f16 *p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(load_as<__m256i>(p));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtph_ps(load_as<__m128i>(p));
#else
    vf v;
    for (int i = 0; i < W; i++) v[i] = to_float(p[i]);
    return v;
#endif
}
INLINE void store_vec(float *p, vf v) { store(p, v); }
INLINE void store_vec(bf16 *p, vf v) {
    vu u = (vu)v;
    vu r = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    r = (u & 0x7fffffffu) > 0x7f800000u ? (vu){} + 0x7fc0u : r;
    vh h = __builtin_convertvector(r, vh);
    __builtin_memcpy(p, &h, sizeof h);
}
INLINE void store_vec(f16 *p, vf v) {
#if defined(__AVX512F__)
    __m256i h = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(p, &h, sizeof h);
#elif defined(__AVX2__)
    __m128i h = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(p, &h, sizeof h);
#else
    for (int i = 0; i < W; i++) from_float(p + i, v[i]);
#endif
}

// Transpose W vectors in place by perfect shuffles: after log2(W) of them rows and lanes have changed places.
INLINE vf interleave_low(vf a, vf b) {
#if W == 16
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif W == 8
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
INLINE vf interleave_high(vf a, vf b) {
#if W == 16
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif W == 8
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}
INLINE void transpose(vf r[W]) {
    for (int step = 1; step < W; step *= 2) {
        vf u[W];
        for (int i = 0; i < W / 2; i++) {
            u[2 * i] = interleave_low(r[i], r[i + W / 2]);
            u[2 * i + 1] = interleave_high(r[i], r[i + W / 2]);
        }
        for (int i = 0; i < W; i++) r[i] = u[i];
    }
}

// Sum halves of lanes: K vectors become one, in which W / K neighbouring lanes hold what is left of each.
INLINE vf merge_lanes(vf a, vf b) {
#if W == 16
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
#elif W == 8
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
#endif
}
INLINE vf merge_quarters(vf ab, vf cd) {
#if W == 16
    return __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif W == 8
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
#else
    return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
#endif
}
template <int K> INLINE vf merge(const vf *v) {
    if constexpr (K == 4) return merge_quarters(merge_lanes(v[0], v[1]), merge_lanes(v[2], v[3]));
    else if constexpr (K == 2) return merge_lanes(v[0], v[1]);
    else return v[0];
}

}  // namespace
