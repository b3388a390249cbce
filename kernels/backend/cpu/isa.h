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
#elif defined(NEON)
#include <arm_neon.h>
#endif

#ifdef TLAW_DOUBLE
#error "the fast CPU backend computes in float32 only"
#endif

/* VW: floats in a vector.  MR x 2 VW: tile of a product; AR x 2 VW: tile of attention, where AR divides VW.
 */
#if defined(__AVX512F__)
#define VW 16
#ifdef AMX
#define ISA_FAMILY "amx"
#else
#define ISA_FAMILY "avx512"
#endif
#define MR 14
#define AR 8
#elif defined(__AVX2__)
#define VW         8
#define ISA_FAMILY "avx2"
#define MR         6
#define AR         4
#else
#define VW 4
#ifdef NEON
#define ISA_FAMILY "neon"
#else
#define ISA_FAMILY "portable"
#endif
#define MR 4
#define AR 4
#endif
#define NR (2 * VW)

#define PASTE2(a, b)   a##_##b
#define PASTE(a, b)    PASTE2(a, b)
#define ISA_NAME(name) PASTE(name, ISA)

#define inline_always static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef float vf_any __attribute__((vector_size(4 * VW), aligned(4), may_alias)); /* at any element */

/* What a product reads: STEP elements in 32 bits, never used as a number when STEP is 2. */
typedef float cell;
#ifdef BF16
#define STEP 2
typedef uint16_t act_t;
#else
#define STEP 1
typedef float act_t;
#endif
typedef cell cell_any __attribute__((aligned(4 / STEP), may_alias)); /* where a row of act lies */

/* ---- loads and stores; the _n forms touch the first n elements only (n of VW or more: all) ---- */
inline_always vf load(const float *from)
{
    return *(const vf_any *) from;
}

inline_always void store(float *to, vf x)
{
    *(vf_any *) to = x;
}

#if defined(__AVX2__) && !defined(__AVX512F__)
inline_always __m256i first_lanes(long n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int) n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

inline_always vf load_n(const float *from, long n)
{
    if (n >= VW)
        return load(from);
#if defined(__AVX512F__)
    return (vf) _mm512_maskz_loadu_ps((__mmask16) ((1u << n) - 1), from);
#elif defined(__AVX2__)
    return (vf) _mm256_maskload_ps(from, first_lanes(n));
#else
    vf x = {0};

    memcpy(&x, from, (size_t) n * sizeof *from);
    return x;
#endif
}

inline_always void store_n(float *to, vf x, long n)
{
    if (n >= VW)
        store(to, x);
    else
#if defined(__AVX512F__)
        _mm512_mask_storeu_ps(to, (__mmask16) ((1u << n) - 1), (__m512) x);
#elif defined(__AVX2__)
        _mm256_maskstore_ps(to, first_lanes(n), (__m256) x);
#else
        memcpy(to, &x, (size_t) n * sizeof *to);
#endif
}

inline_always vf splat(float x)
{
    return x - (vf){0};
}

/* ---- elements of an array that is real or act: element `at` and those after it ---- */
#ifdef BF16
inline_always __m256i load_half(const act_t *from, long n)
{
    return n >= VW ? _mm256_loadu_si256((const __m256i_u *) from)
                   : _mm256_maskz_loadu_epi16((__mmask16) ((1u << n) - 1), from);
}
#endif

inline_always vf load_act_n(const act_t *from, long n)
{
#ifdef BF16
    return (vf) _mm512_slli_epi32(_mm512_cvtepu16_epi32(load_half(from, n)), 16);
#else
    return load_n(from, n);
#endif
}

inline_always void store_act_n(act_t *to, vf x, long n)
{
#ifdef BF16
    __m256i half = (__m256i) _mm512_cvtneps_pbh((__m512) x);

    if (n >= VW)
        _mm256_storeu_si256((__m256i_u *) to, half);
    else
        _mm256_mask_storeu_epi16(to, (__mmask16) ((1u << n) - 1), half);
#else
    store_n(to, x, n);
#endif
}

/* The two vectors of 2 VW consecutive elements. */
inline_always void store_act_row(act_t *to, vf first, vf second)
{
#ifdef BF16
    _mm512_storeu_si512(to, (__m512i) _mm512_cvtne2ps_pbh((__m512) second, (__m512) first));
#else
    store(to, first);
    store(to + VW, second);
#endif
}

inline_always vf load_of(const void *from, bool real, long at, long n)
{
    return real ? load_n((const float *) from + at, n) : load_act_n((const act_t *) from + at, n);
}

inline_always void store_of(void *to, bool real, long at, vf x, long n)
{
    if (real)
        store_n((float *) to + at, x, n);
    else
        store_act_n((act_t *) to + at, x, n);
}

inline_always const void *element(const void *from, bool real, long at)
{
    return (const char *) from + at * (long) (real ? sizeof(float) : sizeof(act_t));
}

/* ---- cells ---- */
#ifdef BF16
/* lane by lane the cell of the halves of x: element i of the low half, then of the high half */
inline_always vf interleave(__m512i x)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);

    return (vf) _mm512_permutexvar_epi16(order, x);
}

/* lane by lane the cell of a (first element) and b */
inline_always vf pair_lanes(vf a, vf b)
{
    return interleave((__m512i) _mm512_cvtne2ps_pbh((__m512) b, (__m512) a));
}

/* the cells of 2 VW consecutive elements a, b */
inline_always vf pair_row(vf a, vf b)
{
    return (vf) _mm512_cvtne2ps_pbh((__m512) b, (__m512) a);
}
#endif

/* VW cells along a row: the elements from `at` on, of which n exist */
inline_always vf cells_along(const void *from, bool real, long at, long n)
{
#ifdef BF16
    if (real)
        return pair_row(load_n((const float *) from + at, n),
                        n > VW ? load_n((const float *) from + at + VW, n - VW) : (vf){0});
    if (n >= 2 * VW)
        return load(element(from, false, at));
    return (vf) _mm512_maskz_loadu_epi16((__mmask32) ((1ull << n) - 1), (const act_t *) from + at);
#else
    return load_of(from, real, at, n);
#endif
}

/* VW cells down the rows: elements at .. of the first of `rows` rows that are ld apart, n of each exist */
inline_always vf cells_down(const void *from, bool real, long at, long ld, long rows, long n)
{
#ifdef BF16
    vf zero = {0};

    if (real)
        return pair_lanes(load_of(from, true, at, n), rows > 1 ? load_of(from, true, at + ld, n) : zero);
    const act_t *row = (const act_t *) from + at;
    __m256i first = load_half(row, n), second = rows > 1 ? load_half(row + ld, n) : _mm256_setzero_si256();

    return interleave(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
#else
    (void) ld, (void) rows;
    return load_of(from, real, at, n);
#endif
}

inline_always long steps(long elements)
{
    return (elements + STEP - 1) / STEP;
}

inline_always long least(long a, long b)
{
    return a < b ? a : b;
}

inline_always long round_up(long n, long multiple)
{
    return (n + multiple - 1) / multiple * multiple;
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

/* Lanes whose own number is below n. */
inline_always vi lanes_below(long n)
{
    const vi number = {LANES(LANE_NUMBER)};

    return number < (int32_t) (n < -VW ? -VW : n > VW ? VW : n);
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
#elif defined(NEON)
    return (vf) vmaxq_f32((float32x4_t) a, (float32x4_t) b);
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
#elif defined(NEON)
    return (vf) vminq_f32((float32x4_t) a, (float32x4_t) b);
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
#elif defined(NEON)
    return (vf) vsqrtq_f32((float32x4_t) x);
#else
    for (int i = 0; i < VW; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

inline_always float vsum(vf x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512) x);
#elif defined(NEON)
    return vaddvq_f32((float32x4_t) x);
#else
    float sum[VW];

    store(sum, x);
    for (int width = VW / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            sum[i] += sum[i + width];
    return sum[0];
#endif
}

inline_always float vlargest(vf x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512) x);
#else
    float largest = x[0];

    for (int i = 1; i < VW; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
#endif
}

/* The whole number nearest to x, |x| < 2^22. */
inline_always vf nearest(vf x)
{
#if defined(__AVX512F__)
    return (vf) _mm512_roundscale_ps((__m512) x, 0);
#else
    const float shift = 12582912.0f; /* 1.5 * 2^23: rounds to a whole number kept in the low bits */

    return x + shift - shift;
#endif
}

/* x 2^n, where both and n, which is whole, are within what normal numbers allow; NaN stays NaN. */
inline_always vf times_power(vf x, vf n)
{
#if defined(__AVX512F__)
    return (vf) _mm512_scalef_ps((__m512) x, (__m512) n);
#else
    const float shift = 12582912.0f;

    return (vf) ((vi) x + (((vi) (n + shift) - (vi) splat(shift)) << 23));
#endif
}

/*
 * e^x for x <= 88: 2^n e^f with |f| <= ln(2)/2 and a polynomial of degree 7 (relative error 1.2e-7); below
 * -87.3 the value there; NaN stays NaN.
 */
inline_always vf vexp(vf x)
{
    x = vmax(splat(-87.3f), x);
    vf n = nearest(x * 1.44269504f), f = x - n * 0.693359375f;
    f = f - n * -2.12194440e-4f;
    vf p = 1.9875691e-4f * f + 1.3981999e-3f;
    p = p * f + 8.3334519e-3f;
    p = p * f + 4.1665795e-2f;
    p = p * f + 1.6666665e-1f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    return times_power(p, n);
}

/*
 * 2^x for |x| <= EXP2_MOST by a polynomial of degree 5 that is 1 at 0 (relative error 1.6e-7); NaN stays NaN.
 */
#define EXP2_MOST 126.0f
inline_always vf vexp2(vf x)
{
    vf n = nearest(x), f = x - n, p = 1.326472731e-3f * f + 9.671512991e-3f;
    p = p * f + 5.550733581e-2f;
    p = p * f + 2.402224243e-1f;
    p = p * f + 6.931470037e-1f;
    p = p * f + 1.0f;
    return times_power(p, n);
}

/*
 * e^(x / EXP_SCALE) for what goes into act: with bf16 2^x, so that a caller who scales anyway does it once,
 * by a polynomial of degree 3 (relative error 7.5e-5).
 */
#ifdef BF16
#define EXP_SCALE 1.44269504f
#else
#define EXP_SCALE 1.0f
#endif

inline_always vf vexp_act(vf x)
{
#ifdef BF16
    vf n = nearest(x), f = x - n; /* no limits: right for any finite x */
    vf p = 5.51716695e-2f * f + 2.42611125e-1f;
    p = p * f + 6.93260986e-1f;
    p = p * f + 9.99928073e-1f;
    return times_power(p, n);
#else
    return vexp(x);
#endif
}

/* 1/x for normal x to 1.2e-7: an estimate and one step of Newton's, where the chip has one; for bf16 6e-5 */
inline_always vf reciprocal(vf x)
{
#if defined(__AVX512F__)
    vf estimate = (vf) _mm512_rcp14_ps((__m512) x); /* 6e-5 */

    return STEP == 2 ? estimate : estimate + estimate * (1.0f - x * estimate);
#else
    return 1.0f / x;
#endif
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

/*
 * GPT-2's GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), written as x logistic(2u), and
 * its slope, of up to four vectors in place: side by side, as the chip does not look ahead far enough to
 * work on several.
 */
#define GELU_2U   (2 * 0.7978845608f)
#define GELU_CUBE (0.044715f * GELU_2U)

inline_always void gelu(int n, vf x[], vf slope[])
{
    vf square[4], s[4];

#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        square[i] = x[i] * x[i];
        s[i] = x[i] * (square[i] * (-EXP_SCALE * GELU_CUBE) - EXP_SCALE * GELU_2U);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) /* e^80 is as good as none */
        s[i] = reciprocal(1.0f + vexp_act(STEP == 2 ? s[i] : vmin(splat(80.0f), s[i])));
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        x[i] *= s[i];
        slope[i] = (x[i] - x[i] * s[i]) * (square[i] * (3 * GELU_CUBE) + GELU_2U) + s[i];
    }
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

#define SUM_STEP(r, s)                                                                                       \
    _Pragma("GCC unroll 16") for (int i_ = 0; i_ < s; i_++) r[i_] =                                          \
        __builtin_shuffle(r[i_], r[i_ + s], (vi){LANES(LOW##s)}) +                                           \
        __builtin_shuffle(r[i_], r[i_ + s], (vi){LANES(HIGH##s)});

/* Lane i: the sum of r[i]'s lanes.  Changes r. */
inline_always vf vsums(vf r[VW])
{
#if VW > 8
    SUM_STEP(r, 8)
#endif
#if VW > 4
    SUM_STEP(r, 4)
#endif
    SUM_STEP(r, 2)
    SUM_STEP(r, 1)
    return r[0];
}

/* The square of cells (row i, k .. k + VW) for i < n, transposed: row k of `to` holds its cells of all rows.
 */
inline_always void pack_square(cell *to, long to_ld, const void *from, bool real, long from_ld, long n,
                               long K)
{
    for (long k = 0; k < K; k += STEP * VW, to += VW * to_ld) {
        vf r[VW];
        long count = least(steps(K - k), VW);

#pragma GCC unroll 16
        for (int i = 0; i < VW; i++)
            r[i] = i < n ? cells_along(from, real, i * from_ld + k, K - k) : (vf){0};
        transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < VW; i++)
            if (i < count)
                store(to + i * to_ld, r[i]);
    }
}

/*
 * to[k * to_ld + i] = cell k of row i, the rows being from_ld apart, for i < n <= VW and K elements.  VW
 * cells are written at a time (zeros beyond n), so to_ld < VW lets a row run over the start of the next,
 * written after it.
 */
static inline void pack_transposed(cell *to, long to_ld, const void *from, bool real, long from_ld, long n,
                                   long K)
{
    if (n >= VW && real)
        pack_square(to, to_ld, from, true, from_ld, VW, K);
    else if (n >= VW)
        pack_square(to, to_ld, from, false, from_ld, VW, K);
    else if (n == MR && real)
        pack_square(to, to_ld, from, true, from_ld, MR, K);
    else if (n == MR)
        pack_square(to, to_ld, from, false, from_ld, MR, K);
    else
        pack_square(to, to_ld, from, real, from_ld, n, K);
}

/* ---- the tile product: acc[i][v] += sum over k of a[i * a_row + k * a_k] * b[k * b_k + v * VW ...] for i <
 * rows and first <= v < end ---- */
inline_always vf multiply_add(vf sum, cell a, vf b)
{
#ifdef BF16
    return (vf) _mm512_dpbf16_ps((__m512) sum, (__m512bh) _mm512_set1_ps(a), (__m512bh) b);
#else
    return sum + a * b;
#endif
}

inline_always void multiply_tile(int rows, int first, int end, vf acc[][2], const cell *a, long a_row,
                                 long a_k, const cell *b, long b_k, long K)
{
    for (long k = 0; k < K; k++, a += a_k, b += b_k) {
        vf bs[2];

#pragma GCC unroll 2
        for (int v = first; v < end; v++)
            bs[v] = load(b + v * VW);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int v = first; v < end; v++)
                acc[i][v] = multiply_add(acc[i][v], a[i * a_row], bs[v]);
    }
}

/* The same with cells k of row i at a[i * ld + k] and b a panel: few pointers reach all rows. */
inline_always void multiply_rows(int rows, int first, int end, vf acc[][2], const cell_any *a, long ld,
                                 const cell *b, long K)
{
    const cell_any *at[6]; /* of 16 rows at most */

#pragma GCC unroll 8
    for (int i = 0; i < rows; i += 3)
        at[i / 3] = a + i * ld;
    for (long k = 0; k < K; k++, b += NR) {
        vf bs[2];

#pragma GCC unroll 2
        for (int v = first; v < end; v++)
            bs[v] = load(b + v * VW);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            cell x = at[i / 3][i % 3 * ld];

#pragma GCC unroll 2
            for (int v = first; v < end; v++)
                acc[i][v] = multiply_add(acc[i][v], x, bs[v]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows; i += 3)
            at[i / 3]++;
    }
}

/* ---- packing along rows ---- */
inline_always void pack_body(cell *to, long width, const void *from, bool real, long from_ld, long n, long K,
                             vf *sums)
{
#ifdef BF16
    const cell one = ((union {
                         uint32_t bits;
                         cell ones;
                     }){0x3f803f80})
                         .ones; /* twice 1 */
#else
    const cell one = 1.0f;
#endif

    for (long k = 0; k < K; k += STEP, to += width)
        for (long i = 0; i < width; i += VW) {
            vf x = {0};

            if (i < n && K - k >= STEP) /* a constant number of rows but for the last cell */
                x = cells_down(from, real, k * from_ld + i, from_ld, STEP, n - i);
            else if (i < n)
                x = cells_down(from, real, k * from_ld + i, from_ld, 1, n - i);
            __builtin_prefetch(element(from, real, (k + 16) * from_ld + i));
            store(to + i, x);
            if (sums)
                sums[i / VW] = multiply_add(sums[i / VW], one, x);
        }
}

/*
 * to[k * width + i] = cell of column i and rows k * STEP .. of K; columns n .. are zero; VW at a time, as
 * above. sums (NULL: none): += the columns' sums, one vector for every VW columns.
 */
inline_always void pack_rows(cell *to, long width, const void *from, bool real, long from_ld, long n, long K,
                             vf *sums)
{
    if (n == width && real)
        pack_body(to, width, from, true, from_ld, width, K, sums);
    else if (n == width)
        pack_body(to, width, from, false, from_ld, width, K, sums);
    else
        pack_body(to, width, from, real, from_ld, n, K, sums);
}

/* ---- the matrix product of isa_gemm.c: C[M,N] = A[M,K] B[K,N], then the epilogue ---- */
struct matrix {
    const void *at; /* element (i, j) is at[i * row + j * col], one of the two being 1 */
    bool real;      /* else act */
    long row, col;
};

struct product {
    long M, N, K;
    struct matrix a, b;
    void *c; /* c[i * c_row + j] */
    bool c_real;
    long c_row;
    bool accumulate;    /* c +=; c is real */
    const float *bias;  /* added to every row */
    act_t *gelu;        /* c = gelu(sum), and gelu[i * c_row + j] keeps the slope there */
    const act_t *slope; /* c = sum * slope[i * c_row + j] */
    float *column_sums; /* += sums over the rows of B, one a column (b.col is 1) */
    const cell *packed; /* B as pack_panels left it, or NULL */
    const float
        *shift; /* c = e^(sum - shift[i]), from 2^-EXP2_MOST to 2^EXP2_MOST, as act (NULL: kept nowhere) */
    float *panel_sums; /* and [panels][panel_row]: the sums of these over a panel of NR columns */
    long panel_row;
};
void ISA_NAME(product)(struct device *, const struct product *);
/* B of that product as `packed`, for several products with it; A is not transposed where M <= N. */
const cell *ISA_NAME(pack_panels)(struct device *, const struct product *, enum scratch);

/* Weights as a product reads them: their copy in bf16 where they have one. */
struct matrix ISA_NAME(weights)(struct device *, const float *w, long row, long col);
real *ISA_NAME(alloc_weights)(struct device *, size_t n);

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
OPERATION(upload, void *, const void *, size_t);
OPERATION(sum_squares, double *, const real *, size_t);
OPERATION(add_lanes, real *, const real *, int, size_t);
OPERATION(adamw, real *, const real *, real *, real *, size_t, const struct segment *, int,
          const struct adamw *, const struct update *);

#endif
