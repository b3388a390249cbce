/*
 * Causal attention: which kernels serve a call; and the plain ones, for float32 and for any head size: a warp
 * a row, its lanes on columns lane, lane + 32, ... of a piece of PIECE.
 */
#include "kernel.h"

#include <type_traits>

#define THREADS 128
#define EACH    4
#define PIECE   (EACH * WARP)

/* a . b over D columns, the same bits in every lane */
template <class A, class B> __device__ float warp_dot(const A *a, const B *b, int D)
{
    float sum = 0;

    for (int d = threadIdx.x % WARP; d < D; d += WARP)
        sum += as_float(a[d]) * as_float(b[d]);
    return warp_sum(sum);
}

/* sum[EACH] += factor times a lane's columns of row[piece ...] */
template <class T> __device__ void add_row(float *sum, float factor, const T *row, int piece, int D)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int d = piece + threadIdx.x % WARP + i * WARP;

        if (d < D)
            sum[i] += factor * as_float(row[d]);
    }
}

template <class T> __device__ void put_row(T *row, const float *sum, float factor, int piece, int D)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int d = piece + threadIdx.x % WARP + i * WARP;

        if (d < D)
            row[d] = from_float<T>(sum[i] * factor);
    }
}

/*
 * y[D] = softmax(q k^T / sqrt(D)) v over rows 0 to `last`, a step apart; returns the log of the softmax's
 * denominator.
 */
template <class T>
__device__ float attend(T *y, const T *q, const T *k, const T *v, size_t step, int last, int D)
{
    float scale = 1 / sqrtf((float) D), highest = -INFINITE, sum = 0;

    for (int j = 0; j <= last; j++) {
        float score = scale * warp_dot(q, k + j * step, D), most = fmaxf(highest, score);

        sum = sum * expf(highest - most) + expf(score - most);
        highest = most;
    }
    float lse = highest + logf(sum);
    for (int piece = 0; piece < D; piece += PIECE) {
        float out[EACH] = {};

        for (int j = 0; j <= last; j++)
            add_row(out, expf(scale * warp_dot(q, k + j * step, D) - lse), v + j * step, piece, D);
        put_row(y, out, 1, piece, D);
    }
    return lse;
}

/* Which row a warp has: numbered over [B,H,T], beyond the last: none. */
struct place {
    size_t number, row; /* of [B,T] */
    int t, column;
    bool exists;
};

__device__ static struct place place_of_warp(int B, int T, int C, int H)
{
    size_t number = (size_t) blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    size_t b = number / T / H;
    int t = number % T, h = number / T % H;

    return {number, b * T + t, t, h * (C / H), b < B};
}

/* y[B,T,C], lse[B,H,T]; a warp a query of a head */
template <class T>
__global__ void __launch_bounds__(THREADS)
    attention_plain_kernel(T *y, float *lse, const T *qkv, int B, int length, int C, int H)
{
    struct place at = place_of_warp(B, length, C, H);
    size_t step = 3 * (size_t) C;

    if (!at.exists)
        return;
    const T *first = qkv + (at.row - at.t) * step + at.column;
    float value =
        attend(y + at.row * C + at.column, first + at.t * step, first + C, first + 2 * C, step, at.t, C / H);
    if (threadIdx.x % WARP == 0)
        lse[at.number] = value;
}

/* delta[B,H,T] = dy . y of a head's columns; a warp a query of a head */
template <class T>
__global__ void __launch_bounds__(THREADS)
    delta_kernel(float *delta, const T *dy, const T *y, int B, int length, int C, int H)
{
    struct place at = place_of_warp(B, length, C, H);

    if (!at.exists)
        return;
    size_t begin = at.row * C + at.column;
    float value = warp_dot(dy + begin, y + begin, C / H);
    if (threadIdx.x % WARP == 0)
        delta[at.number] = value;
}

/* A pair's weight and the gradient of its score, for query t and key j of one head. */
template <class T>
__device__ float2 pair(const T *q, const T *k, const T *v, const T *dy, float lse, float delta, int D)
{
    float scale = 1 / sqrtf((float) D), weight = expf(scale * warp_dot(q, k, D) - lse);

    return make_float2(weight, weight * (warp_dot(dy, v, D) - delta) * scale);
}

/* dq, dk and dv of row t; a warp a row of a head */
template <class T>
__global__ void __launch_bounds__(THREADS)
    attention_plain_backward_kernel(T *dqkv, const T *dy, const float *lse, const float *delta, const T *qkv,
                                    int B, int length, int C, int H)
{
    struct place at = place_of_warp(B, length, C, H);
    size_t step = 3 * (size_t) C;
    int D = C / H, t = at.t;

    if (!at.exists)
        return;
    const T *q = qkv + (at.row - t) * step + at.column, *k = q + C, *v = k + C; /* of row 0 */
    const T *dys = dy + (at.row - t) * C + at.column;
    T *out = dqkv + at.row * step + at.column;

    lse += at.number - t;
    delta += at.number - t;
    for (int piece = 0; piece < D; piece += PIECE) {
        float dq[EACH] = {}, dk[EACH] = {}, dv[EACH] = {};

        for (int j = 0; j <= t; j++) {
            float2 p =
                pair(q + t * step, k + j * step, v + j * step, dys + (size_t) t * C, lse[t], delta[t], D);

            add_row(dq, p.y, k + j * step, piece, D);
        }
        for (int i = t; i < length; i++) {
            float2 p =
                pair(q + i * step, k + t * step, v + t * step, dys + (size_t) i * C, lse[i], delta[i], D);

            add_row(dv, p.x, dys + (size_t) i * C, piece, D);
            add_row(dk, p.y, q + i * step, piece, D);
        }
        put_row(out, dq, 1, piece, D);
        put_row(out + C, dk, 1, piece, D);
        put_row(out + 2 * C, dv, 1, piece, D);
    }
}

/* y[C] of one new position; keys, values [T,C]; a block of one warp a head */
template <class T>
__global__ void __launch_bounds__(WARP)
    decode_kernel(T *y, T *keys, T *values, const T *qkv, int position, int C, int H)
{
    int D = C / H, column = blockIdx.x * D;
    size_t row = (size_t) position * C;

    for (int c = column + threadIdx.x; c < column + D; c += WARP) {
        keys[row + c] = qkv[C + c];
        values[row + c] = qkv[2 * C + c];
    }
    __syncwarp();
    attend(y + column, qkv + column, keys + column, values + column, C, position, D);
}

/* ---- launches ---- */

static unsigned row_blocks(int B, int T, int H)
{
    return blocks_for((size_t) B * T * H, THREADS / WARP);
}

template <class T>
void attention_forward(struct device *device, act *y, real *lse, const act *qkv, int B, int length, int C,
                       int H)
{
    if constexpr (std::is_same_v<T, bf16>)
        if (C / H <= ATTENTION_TENSOR_MOST) {
            attention_tensor_forward(device, (bf16 *) y, lse, (const bf16 *) qkv, B, length, C, H);
            return;
        }
    launch(device, attention_plain_kernel<T>, row_blocks(B, length, H), THREADS, (T *) y, lse,
           (const T *) qkv, B, length, C, H);
}

template <class T>
void attention_backward(struct device *device, act *dqkv, const act *dy, const act *y, const real *lse,
                        const act *qkv, int B, int length, int C, int H)
{
    float *delta = (float *) scratch(device, SCRATCH_DELTA, sizeof(float) * B * H * length);

    launch(device, delta_kernel<T>, row_blocks(B, length, H), THREADS, delta, (const T *) dy, (const T *) y,
           B, length, C, H);
    if constexpr (std::is_same_v<T, bf16>)
        if (C / H <= ATTENTION_TENSOR_MOST) {
            attention_tensor_backward(device, (bf16 *) dqkv, (const bf16 *) dy, delta, lse,
                                      (const bf16 *) qkv, B, length, C, H);
            return;
        }
    launch(device, attention_plain_backward_kernel<T>, row_blocks(B, length, H), THREADS, (T *) dqkv,
           (const T *) dy, lse, (const float *) delta, (const T *) qkv, B, length, C, H);
}

template <class T>
void attention_decode(struct device *device, act *y, act *k_cache, act *v_cache, const act *qkv, int position,
                      int C, int H)
{
    launch(device, decode_kernel<T>, H, WARP, (T *) y, (T *) k_cache, (T *) v_cache, (const T *) qkv,
           position, C, H);
}

#define INSTANTIATE(T)                                                                                       \
    template void attention_forward<T>(struct device *, act *, real *, const act *, int, int, int, int);     \
    template void attention_backward<T>(struct device *, act *, const act *, const act *, const real *,      \
                                        const act *, int, int, int, int);                                    \
    template void attention_decode<T>(struct device *, act *, act *, act *, const act *, int, int, int);

INSTANTIATE(float)
INSTANTIATE(bf16)
