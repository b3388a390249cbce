/*
 * What the isa_*.c files share: a vector of VW floats, its loads, stores and functions, the tile product that
 * all matrix work goes through, and the names of the operations, suffixed by the instruction set that ISA
 * names.
 *
 * Vectors are GCC's vector extensions, so one source serves every instruction set; the few functions that
 * these lack (maximum, square root) are intrinsics.  Multiply-adds contract to FMA where the chip has it.
 */
#ifndef TLAW_CPU_ISA_H
#define TLAW_CPU_ISA_H

#include "cpu.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifdef TLAW_DOUBLE
#error "the fast CPU backend computes in float32 only"
#endif

/* VW: floats in a vector.  MR x 2 VW: tile of a product; AR x 2 VW: tile of attention, where AR divides VW.
 */
#if defined(__AVX512F__)
#define VW 16
#define MR 14
#define AR 8
#elif defined(__AVX2__)
#define VW 8
#define MR 6
#define AR 4
#else
#define VW 4
#define MR 4
#define AR 4
#endif
#define NR (2 * VW)

#define PASTE2(a, b)   a##_##b
#define PASTE(a, b)    PASTE2(a, b)
#define ISA_NAME(name) PASTE(name, ISA)
#define QUOTE2(a)      #a
#define QUOTE(a)       QUOTE2(a)

#define inline_always static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef float vf_any __attribute__((vector_size(4 * VW), aligned(4), may_alias)); /* at any element */

/* ---- loads and stores; the _n forms touch the first n elements only (n of VW or more: all) ---- */
inline_always vf load(const float *from)
{
    return *(const vf_any *) from;
}

inline_always void store(float *to, vf x)
{
    *(vf_any *) to = x;
}

inline_always vf load_n(const float *from, long n)
{
    vf x = {0};

    if (n >= VW)
        return load(from);
    memcpy(&x, from, (size_t) n * sizeof *from);
    return x;
}

inline_always void store_n(float *to, vf x, long n)
{
    if (n >= VW)
        store(to, x);
    else
        memcpy(to, &x, (size_t) n * sizeof *to);
}

inline_always vf splat(float x)
{
    return x - (vf){0};
}

/* ---- element functions ---- */
#if VW == 16
#define LANES(f)                                                                                             \
    f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#elif VW == 8
#define LANES(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define LANES(f) f(0), f(1), f(2), f(3)
#endif
#define LANE_NUMBER(i) i

inline_always vf choose(vi mask, vf yes, vf no)
{
    return (vf) ((mask & (vi) yes) | (~mask & (vi) no));
}

/* b where either is not a number, so that a NaN in b survives vmax(limit, b). */
inline_always vf vmax(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf) _mm512_max_ps((__m512) a, (__m512) b);
#elif defined(__AVX2__)
    return (vf) _mm256_max_ps((__m256) a, (__m256) b);
#elif defined(__SSE2__)
    return (vf) _mm_max_ps((__m128) a, (__m128) b);
#else
    return choose(a > b, a, b);
#endif
}

inline_always vf vmin(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf) _mm512_min_ps((__m512) a, (__m512) b);
#elif defined(__AVX2__)
    return (vf) _mm256_min_ps((__m256) a, (__m256) b);
#elif defined(__SSE2__)
    return (vf) _mm_min_ps((__m128) a, (__m128) b);
#else
    return choose(a < b, a, b);
#endif
}

inline_always vf vsqrt(vf x)
{
#if defined(__AVX512F__)
    return (vf) _mm512_sqrt_ps((__m512) x);
#elif defined(__AVX2__)
    return (vf) _mm256_sqrt_ps((__m256) x);
#elif defined(__SSE2__)
    return (vf) _mm_sqrt_ps((__m128) x);
#else
    for (int i = 0; i < VW; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

inline_always float vsum(vf x)
{
    float sum[VW];

    store(sum, x);
    for (int width = VW / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            sum[i] += sum[i + width];
    return sum[0];
}

inline_always float vlargest(vf x)
{
    float largest = x[0];

    for (int i = 1; i < VW; i++)
        largest = x[i] > largest || x[i] != x[i] ? x[i] : largest;
    return largest;
}

/*
 * e^x: 2^n e^f with |f| <= ln(2)/2 and a polynomial of degree 6 (relative error 1.2e-7 measured over the
 * range); below -87.3 and above 88.0 the value at that limit; NaN stays NaN.
 */
inline_always vf vexp(vf x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: rounds to a whole number kept in the low bits */

    x = vmin(splat(88.0f), vmax(splat(-87.3f), x));
    vf shifted = x * 1.44269504f + shift;
    vf n = shifted - shift;
    vf f = x - n * 0.693359375f;
    f = f - n * -2.12194440e-4f;
    vf p = 1.9875691e-4f * f + 1.3981999e-3f;
    p = p * f + 8.3334519e-3f;
    p = p * f + 4.1665795e-2f;
    p = p * f + 1.6666665e-1f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    return (vf) ((vi) p + (((vi) shifted - (vi) splat(shift)) << 23));
}

/* ln(x) for normal x > 0 (Cephes' logf; relative error 1.3e-7 away from 1, absolute there). */
inline_always vf vlog(vf x)
{
    vi bits = (vi) x, big;
    vf m = (vf) ((bits & 0x007fffff) | 0x3f000000); /* [0.5, 1) */

    big = m >= 0.70710678f;
    vf e = __builtin_convertvector(((bits >> 23) & 0xff) - 126 + ~big, vf);
    m = choose(big, m - 1.0f, m + m - 1.0f);
    vf z = m * m, p = 7.0376836292e-2f * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z - 0.5f * z + e * -2.12194440e-4f;
    return m + p + e * 0.693359375f;
}

/* GPT-2's GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), written as x / (1 + e^-2u). */
#define GELU_2U (2 * 0.7978845608f)

inline_always vf gelu(vf x)
{
    return x / (1.0f + vexp(-GELU_2U * x * (1.0f + 0.044715f * x * x)));
}

inline_always vf gelu_slope(vf x)
{
    vf square = 0.044715f * x * x;
    vf e = vexp(-GELU_2U * x * (1.0f + square)), s = 1.0f / (1.0f + e);

    return s + x * s * (e * s) * (GELU_2U * (1.0f + 3.0f * square));
}

/* ---- transposition of a square of VW vectors ---- */
#define SWAP_LOW(i, s)  ((i) & (s) ? VW + (i) - (s) : (i))
#define SWAP_HIGH(i, s) ((i) & (s) ? VW + (i) : (i) + (s))
#define LOW1(i)         SWAP_LOW(i, 1)
#define HIGH1(i)        SWAP_HIGH(i, 1)
#define LOW2(i)         SWAP_LOW(i, 2)
#define HIGH2(i)        SWAP_HIGH(i, 2)
#define LOW4(i)         SWAP_LOW(i, 4)
#define HIGH4(i)        SWAP_HIGH(i, 4)
#define LOW8(i)         SWAP_LOW(i, 8)
#define HIGH8(i)        SWAP_HIGH(i, 8)
#define TRANSPOSE_STEP(r, s)                                                                                 \
    _Pragma("GCC unroll 16") for (int i_ = 0; i_ < VW; i_++) if (!(i_ & s))                                  \
    {                                                                                                        \
        vf low_ = __builtin_shuffle(r[i_], r[i_ + s], (vi){LANES(LOW##s)});                                  \
        r[i_ + s] = __builtin_shuffle(r[i_], r[i_ + s], (vi){LANES(HIGH##s)});                               \
        r[i_] = low_;                                                                                        \
    }

inline_always void transpose(vf r[VW])
{
#if VW > 8
    TRANSPOSE_STEP(r, 8)
#endif
#if VW > 4
    TRANSPOSE_STEP(r, 4)
#endif
    TRANSPOSE_STEP(r, 2)
    TRANSPOSE_STEP(r, 1)
}

/*
 * to[k * to_ld + i] = scale * from[i * from_ld + k] for i < n <= VW, k < K.  Rows of VW are written (zeros
 * beyond n), so to_ld < VW lets a row run over the next one's start, which is written after it.
 */
inline_always void pack_transposed(float *to, long to_ld, const float *from, long from_ld, long n, long K,
                                   float scale)
{
    for (long k = 0; k < K; k += VW) {
        vf r[VW];
        long width = K - k < VW ? K - k : VW;

#pragma GCC unroll 16
        for (int i = 0; i < VW; i++)
            r[i] = i < n ? load_n(from + i * from_ld + k, width) * scale : (vf){0};
        transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < VW; i++)
            if (i < width)
                store(to + (k + i) * to_ld, r[i]);
    }
}

/* ---- the tile product: acc[i][v] += sum over k of a[i * a_row + k * a_k] * b[k * b_k + v * VW ...] ---- */
inline_always void multiply_tile(int rows, int vectors, vf acc[rows][vectors], const float *a, long a_row,
                                 long a_k, const float *b, long b_k, long K)
{
    for (long k = 0; k < K; k++, a += a_k, b += b_k) {
        vf bs[2];

#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            bs[v] = load(b + v * VW);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                acc[i][v] += a[i * a_row] * bs[v];
    }
}

/* ---- the matrix product of isa_gemm.c: C[M,N] = A[M,K] B[K,N], then the epilogue ---- */
struct product {
    long M, N, K;
    const float *a,
        *b; /* element (i, k) of A is a[i * a_row + k * a_col], one of the two being 1; B likewise */
    long a_row, a_col, b_row, b_col;
    float *c; /* c[i * c_row + j] */
    long c_row;
    bool accumulate;    /* c += */
    const float *bias;  /* added to every row */
    float *pre;         /* keeps the sum, and c = gelu(sum) */
    const float *slope; /* c = sum * gelu'(slope[i * c_row + j]) */
    float *column_sums; /* += sums over the rows of B, one a column (b_col is 1) */
};
void ISA_NAME(product)(struct device *, const struct product *);

/* ---- the operations, as backend.h has them ---- */
#define OPERATION(name, ...) void ISA_NAME(name)(struct device *, __VA_ARGS__)
OPERATION(act_to_real, real *, const act *, size_t);
OPERATION(embedding_forward, real *, const int32_t *, const real *, const real *, int, int, int);
OPERATION(embedding_backward, real *, real *, const real *, const int32_t *, int, int, int, int);
OPERATION(layernorm_forward, act *, real *, real *, real *, const real *, const real *, const real *, int,
          int);
OPERATION(layernorm_backward, real *, real *, real *, const real *, const real *, const real *, const real *,
          const real *, int, int);
OPERATION(linear_forward, act *, real *, act *, const act *, const real *, const real *, int, int, int);
OPERATION(linear_backward, act *, real *, real *, real *, const act *, const real *, const act *, const act *,
          const real *, int, int, int);
OPERATION(attention_forward, act *, real *, const act *, int, int, int, int);
OPERATION(attention_backward, act *, const act *, const act *, const real *, const act *, int, int, int, int);
OPERATION(attention_decode, act *, act *, act *, const act *, int, int, int);
OPERATION(cross_entropy, real *, real *, real *, const act *, const real *, const int32_t *, double, int, int,
          int);
OPERATION(logits, real *, const act *, const real *, int, int, int);
OPERATION(adamw, real *, const real *, real *, real *, size_t, int64_t, double, double, double, double,
          double, double);
double ISA_NAME(sum_squares)(struct device *, const real *, size_t);

#endif
