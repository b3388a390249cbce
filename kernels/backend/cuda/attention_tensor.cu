/*
 * Causal attention on tensor cores, in bf16 with float32 sums (FlashAttention-2: Dao 2023), for heads of at
 * most ATTENTION_TENSOR_MOST columns, which are padded to PAD with zeros.
 *
 * Scores never leave the registers: forward keeps a running maximum and sum a query; backward recomputes them
 * from lse.  Backward is two kernels, one whose blocks own keys (dk, dv) and one whose blocks own queries
 * (dq), so that nothing is added by two blocks.  A warp owns 16 rows; softmax is taken in powers of two.
 * While one tile is worked on the next is loaded, where two fit the 48 KB of shared memory that need no
 * asking.
 */
#include "kernel.h"

#include "fragment.h"

#include <math.h>

#define LOG2E 1.4426950408889634f
#define TILE  64 /* queries of a block and keys at a time, forward */

/* Rows of one head in shared memory; the 8 more columns keep fragments in different banks. */
template <int ROWS, int PAD> struct tile {
    bf16 at[ROWS][PAD + 8];
};

/* Where a block works: one head of one sequence.  qkv rows are 3 C apart, y rows C. */
struct head {
    size_t sequence; /* first row */
    int column, D;
    size_t statistics; /* first element of lse[B,H,T] */
};

__device__ static struct head head_of_block(int T, int C, int H)
{
    int b = blockIdx.x / H, h = blockIdx.x % H;

    return {(size_t) b * T, h * (C / H), C / H, (size_t) blockIdx.x * T};
}

/* Begins to fill a tile with rows first, first + 1, ... of in[T, D], `step` apart; zeros beyond. */
template <int ROWS, int PAD>
__device__ void load_tile(struct tile<ROWS, PAD> *tile, const bf16 *in, size_t step, int first, int T, int D)
{
    if (D % 8 == 0 && step % 8 == 0 && (uintptr_t) in % 16 == 0) {
        for (int i = threadIdx.x; i < ROWS * PAD / 8; i += blockDim.x) {
            int row = i / (PAD / 8), column = i % (PAD / 8) * 8;
            bool exists = first + row < T && column < D;

            copy_16(&tile->at[row][column], exists ? in + (first + row) * step + column : in, exists);
        }
        return;
    }
    for (int i = threadIdx.x; i < ROWS * PAD; i += blockDim.x) {
        int row = i / PAD, column = i % PAD;

        tile->at[row][column] =
            first + row < T && column < D ? in[(first + row) * step + column] : from_float<bf16>(0);
    }
}

/* Waits for what all threads of the block have begun to load, and for what they read before. */
__device__ static void loaded()
{
    wait_copies();
    __syncthreads();
}

/* out[T, D] rows first + lane / 4 and 8 further = a warp's sums times a factor each */
template <int PAD>
__device__ void store_rows(bf16 *out, size_t step, int first, int T, int D, const float (*sums)[4],
                           float factor0, float factor1)
{
    int lane = threadIdx.x % WARP;
    bool pairs = D % 2 == 0 && step % 2 == 0 && (uintptr_t) out % 4 == 0;

#pragma unroll
    for (int n = 0; n < PAD / 8; n++)
        for (int half = 0; half < 2; half++) {
            int row = first + lane / 4 + 8 * half, column = n * 8 + lane % 4 * 2;
            float factor = half ? factor1 : factor0;
            float low = sums[n][2 * half] * factor, high = sums[n][2 * half + 1] * factor;
            bf16 *to = out + row * step + column;

            if (row >= T || column >= D)
                continue;
            if (pairs) {
                *(uint32_t *) to = pack(low, high);
                continue;
            }
            to[0] = from_float<bf16>(low);
            if (column + 1 < D)
                to[1] = from_float<bf16>(high);
        }
}

/* Reduces over the four lanes that share a row. */
__device__ static float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL, x, 2));
}

__device__ static float row_sum(float x)
{
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}

/* ---- forward ---- */

/* s[TILE / 8] = q k^T */
template <int PAD>
__device__ void scores(float (*s)[4], const struct fragment_a *q, const struct tile<TILE, PAD> *k)
{
#pragma unroll
    for (int n = 0; n < TILE / 8; n += 2) {
        for (int i = 0; i < 4; i++)
            s[n][i] = s[n + 1][i] = 0;
#pragma unroll
        for (int d = 0; d < PAD / 16; d++) {
            struct fragment_b keys[2];

            load_b(keys, &k->at[n * 8][d * 16], PAD + 8);
            multiply_add(s[n], q[d], keys[0]);
            multiply_add(s[n + 1], q[d], keys[1]);
        }
    }
}

/* -inf where the key comes after the query; row, key: of the lane's first element */
__device__ static void mask(float (*s)[4], int row, int key)
{
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
        for (int i = 0; i < 4; i++)
            s[n][i] = key + n * 8 + i % 2 <= row + i / 2 * 8 ? s[n][i] : -INFINITE;
}

/*
 * Turns scores into weights 2^(factor (s - maximum)), and brings sum and out to the new maximum; highest is
 * in powers of two, the factor of the scores is in it.
 */
template <int PAD>
__device__ void soften(float (*s)[4], float (*out)[4], float highest[2], float sum[2], float factor)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = -INFINITE, shrink;

#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        most = fmaxf(highest[half], row_max(most) * factor);
        shrink = power_of_two(highest[half] - most);
        highest[half] = most;
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < PAD / 8; n++) {
            out[n][2 * half] *= shrink;
            out[n][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = power_of_two(s[n][i] * factor - most);
                sum[half] += s[n][i];
            }
    }
}

/*
 * y[B,T,C], lse[B,H,T] of qkv[B,T,3C]; blockIdx.x: the head, blockIdx.y: the tile of queries, the longest
 * first.  With two BUFFERS the next keys and values are loaded while these are worked on.
 */
template <int PAD, int BUFFERS>
__global__ void __launch_bounds__(128)
    attention_forward_kernel(bf16 *y, float *lse, const bf16 *qkv, int T, int C, int H, float scale)
{
    __shared__ __align__(16) struct tile<TILE, PAD> k[BUFFERS], v[BUFFERS];
    struct head head = head_of_block(T, C, H);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first = (gridDim.y - 1 - blockIdx.y) * TILE, row = first + warp * 16 + lane / 4;
    const bf16 *in = qkv + head.sequence * 3 * C + head.column;
    size_t step = 3 * (size_t) C;
    float highest[2] = {-INFINITE, -INFINITE}, sum[2] = {}, out[PAD / 8][4] = {};
    struct fragment_a q[PAD / 16];

    load_tile(&k[0], in, step, first, T, head.D);
    loaded();
#pragma unroll
    for (int d = 0; d < PAD / 16; d++)
        q[d] = load_a(&k[0].at[warp * 16][d * 16], PAD + 8);
    __syncthreads();
    load_tile(&k[0], in + C, step, 0, T, head.D);
    load_tile(&v[0], in + 2 * C, step, 0, T, head.D);
    for (int key = 0; key <= first; key += TILE) {
        int now = key / TILE % BUFFERS, next = (key / TILE + 1) % BUFFERS;
        float s[TILE / 8][4];

        loaded();
        if (BUFFERS > 1 && key < first) {
            load_tile(&k[next], in + C, step, key + TILE, T, head.D);
            load_tile(&v[next], in + 2 * C, step, key + TILE, T, head.D);
        }
        scores(s, q, &k[now]);
        if (key == first)
            mask(s, row, key + lane % 4 * 2);
        soften<PAD>(s, out, highest, sum, scale * LOG2E);
#pragma unroll
        for (int j = 0; j < TILE / 16; j++) {
            struct fragment_a weights = as_a(s[2 * j], s[2 * j + 1]);

#pragma unroll
            for (int n = 0; n < PAD / 8; n += 2) {
                struct fragment_b values[2];

                load_b_rows(values, &v[now].at[j * 16][n * 8], PAD + 8);
                multiply_add(out[n], weights, values[0]);
                multiply_add(out[n + 1], weights, values[1]);
            }
        }
        if (BUFFERS == 1 && key < first) {
            __syncthreads();
            load_tile(&k[0], in + C, step, key + TILE, T, head.D);
            load_tile(&v[0], in + 2 * C, step, key + TILE, T, head.D);
        }
    }
    for (int half = 0; half < 2; half++) {
        sum[half] = row_sum(sum[half]);
        if (lane % 4 == 0 && row + 8 * half < T)
            lse[head.statistics + row + 8 * half] = highest[half] / LOG2E + logf(sum[half]);
    }
    store_rows<PAD>(y + head.sequence * C + head.column, C, first + warp * 16, T, head.D, out, 1 / sum[0],
                    1 / sum[1]);
}

/* ---- backward ---- */

/*
 * The 16x16 of scores a b^T, and of gradients of weights da db^T, as two 16x8 each; b, db: 16 rows from `at`
 * on. For owned keys a = k, da = v, b = q, db = dy; for owned queries a = q, da = dy, b = k, db = v.
 */
template <int ROWS, int PAD>
__device__ void score_pairs(float (*s)[4], float (*dweight)[4], const struct fragment_a *a,
                            const struct fragment_a *da, const struct tile<ROWS, PAD> *b,
                            const struct tile<ROWS, PAD> *db, int at)
{
    for (int n = 0; n < 2; n++)
        for (int i = 0; i < 4; i++)
            s[n][i] = dweight[n][i] = 0;
#pragma unroll
    for (int d = 0; d < PAD / 16; d++) {
        struct fragment_b others[2], dothers[2];

        load_b(others, &b->at[at][d * 16], PAD + 8);
        load_b(dothers, &db->at[at][d * 16], PAD + 8);
        for (int n = 0; n < 2; n++) {
            multiply_add(s[n], a[d], others[n]);
            multiply_add(dweight[n], da[d], dothers[n]);
        }
    }
}

/* dk and dv; a block owns ROWS keys; blockIdx.y: which, the ones with most queries first */
template <int ROWS, int PAD>
__global__ void __launch_bounds__(ROWS * 2)
    attention_keys_kernel(bf16 *dqkv, const bf16 *dy, const float *lse, const float *delta, const bf16 *qkv,
                          int T, int C, int H, float scale)
{
    __shared__ __align__(16) struct tile<ROWS, PAD> q[2], dys[2];
    __shared__ float lses[2][ROWS], deltas[2][ROWS];
    struct head head = head_of_block(T, C, H);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.y * ROWS;
    int key = first + warp * 16 + lane / 4;
    float factor = scale * LOG2E;
    size_t step = 3 * (size_t) C;
    const bf16 *in = qkv + head.sequence * step + head.column;
    const bf16 *gradient = dy + head.sequence * C + head.column;
    bf16 *out = dqkv + head.sequence * step + head.column;
    float dk[PAD / 8][4] = {}, dv[PAD / 8][4] = {};
    struct fragment_a k[PAD / 16], v[PAD / 16];
    auto load = [&](int stage, int start) {
        load_tile(&q[stage], in, step, start, T, head.D);
        load_tile(&dys[stage], gradient, C, start, T, head.D);
        for (int i = threadIdx.x; i < ROWS; i += blockDim.x) {
            size_t at = head.statistics + min(start + i, T - 1);

            copy_4(&lses[stage][i], lse + at, start + i < T);
            copy_4(&deltas[stage][i], delta + at, start + i < T);
        }
    };

    load_tile(&q[1], in + C, step, first, T, head.D);
    load_tile(&dys[1], in + 2 * C, step, first, T, head.D);
    load(0, first);
    loaded();
#pragma unroll
    for (int d = 0; d < PAD / 16; d++) {
        k[d] = load_a(&q[1].at[warp * 16][d * 16], PAD + 8);
        v[d] = load_a(&dys[1].at[warp * 16][d * 16], PAD + 8);
    }
    for (int start = first, now = 0; start < T; start += ROWS, now = 1 - now) {
        bool edge = start == first || start + ROWS > T; /* some query comes before a key, or is none */

        loaded();
        if (start + ROWS < T)
            load(1 - now, start + ROWS);
        for (int at = 0; at < ROWS; at += 16) {
            float s[2][4], ds[2][4];

            score_pairs(s, ds, k, v, &q[now], &dys[now], at);
            for (int n = 0; n < 2; n++)
                for (int i = 0; i < 4; i++) {
                    int query = at + n * 8 + lane % 4 * 2 + i % 2;
                    float weight = power_of_two(s[n][i] * factor - lses[now][query] * LOG2E);

                    if (edge && !(key + i / 2 * 8 <= start + query && start + query < T))
                        weight = 0;
                    s[n][i] = weight;
                    ds[n][i] = weight * (ds[n][i] - deltas[now][query]);
                }
            struct fragment_a weights = as_a(s[0], s[1]), dscores = as_a(ds[0], ds[1]);
#pragma unroll
            for (int n = 0; n < PAD / 8; n += 2) {
                struct fragment_b of_dy[2], of_q[2];

                load_b_rows(of_dy, &dys[now].at[at][n * 8], PAD + 8);
                load_b_rows(of_q, &q[now].at[at][n * 8], PAD + 8);
                for (int i = 0; i < 2; i++) {
                    multiply_add(dv[n + i], weights, of_dy[i]);
                    multiply_add(dk[n + i], dscores, of_q[i]);
                }
            }
        }
    }
    store_rows<PAD>(out + C, 3 * (size_t) C, first + warp * 16, T, head.D, dk, scale, scale);
    store_rows<PAD>(out + 2 * C, 3 * (size_t) C, first + warp * 16, T, head.D, dv, 1, 1);
}

/* dq; a block owns ROWS queries; blockIdx.y: which, the longest first */
template <int ROWS, int PAD>
__global__ void __launch_bounds__(ROWS * 2)
    attention_queries_kernel(bf16 *dqkv, const bf16 *dy, const float *lse, const float *delta,
                             const bf16 *qkv, int T, int C, int H, float scale)
{
    __shared__ __align__(16) struct tile<ROWS, PAD> k[2], v[2];
    struct head head = head_of_block(T, C, H);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first = (gridDim.y - 1 - blockIdx.y) * ROWS, row = first + warp * 16 + lane / 4;
    size_t step = 3 * (size_t) C;
    const bf16 *in = qkv + head.sequence * step + head.column;
    float dq[PAD / 8][4] = {}, row_lse[2] = {}, row_delta[2] = {}, factor = scale * LOG2E;
    struct fragment_a q[PAD / 16], dys[PAD / 16];

    load_tile(&k[1], in, step, first, T, head.D);
    load_tile(&v[1], dy + head.sequence * C + head.column, C, first, T, head.D);
    load_tile(&k[0], in + C, step, 0, T, head.D);
    load_tile(&v[0], in + 2 * C, step, 0, T, head.D);
    loaded();
#pragma unroll
    for (int d = 0; d < PAD / 16; d++) {
        q[d] = load_a(&k[1].at[warp * 16][d * 16], PAD + 8);
        dys[d] = load_a(&v[1].at[warp * 16][d * 16], PAD + 8);
    }
    for (int half = 0; half < 2; half++)
        if (row + 8 * half < T) {
            row_lse[half] = lse[head.statistics + row + 8 * half] * LOG2E;
            row_delta[half] = delta[head.statistics + row + 8 * half];
        }
    for (int start = 0, now = 0; start <= first; start += ROWS, now = 1 - now) {
        loaded();
        if (start < first) {
            load_tile(&k[1 - now], in + C, step, start + ROWS, T, head.D);
            load_tile(&v[1 - now], in + 2 * C, step, start + ROWS, T, head.D);
        }
        for (int at = 0; at < ROWS; at += 16) {
            float s[2][4], ds[2][4];

            score_pairs(s, ds, q, dys, &k[now], &v[now], at);
            for (int n = 0; n < 2; n++)
                for (int i = 0; i < 4; i++) {
                    int key = start + at + n * 8 + lane % 4 * 2 + i % 2, query = row + i / 2 * 8;
                    float weight = power_of_two(s[n][i] * factor - row_lse[i / 2]);

                    if (start == first && !(key <= query && query < T))
                        weight = 0;
                    ds[n][i] = weight * (ds[n][i] - row_delta[i / 2]);
                }
            struct fragment_a dscores = as_a(ds[0], ds[1]);
#pragma unroll
            for (int n = 0; n < PAD / 8; n += 2) {
                struct fragment_b keys[2];

                load_b_rows(keys, &k[now].at[at][n * 8], PAD + 8);
                multiply_add(dq[n], dscores, keys[0]);
                multiply_add(dq[n + 1], dscores, keys[1]);
            }
        }
    }
    store_rows<PAD>(dqkv + head.sequence * 3 * C + head.column, 3 * (size_t) C, first + warp * 16, T, head.D,
                    dq, scale, scale);
}

/* ---- launches ---- */

template <int PAD>
static void forward(struct device *device, bf16 *y, float *lse, const bf16 *qkv, int B, int T, int C, int H)
{
    launch(device, attention_forward_kernel < PAD, PAD <= 64 ? 2 : 1 >, dim3(B * H, blocks_for(T, TILE)), 128,
           y, lse, qkv, T, C, H, 1 / sqrtf((float) (C / H)));
}

void attention_tensor_forward(struct device *device, bf16 *y, float *lse, const bf16 *qkv, int B, int T,
                              int C, int H)
{
    int D = C / H;

    (D <= 16   ? forward<16>
     : D <= 32 ? forward<32>
     : D <= 64 ? forward<64>
               : forward<ATTENTION_TENSOR_MOST>) (device, y, lse, qkv, B, T, C, H);
}

template <int ROWS, int PAD>
static void backward(struct device *device, bf16 *dqkv, const bf16 *dy, const float *delta, const float *lse,
                     const bf16 *qkv, int B, int T, int C, int H)
{
    dim3 blocks(B * H, blocks_for(T, ROWS));
    float scale = 1 / sqrtf((float) (C / H));

    launch(device, attention_keys_kernel<ROWS, PAD>, blocks, ROWS * 2, dqkv, dy, lse, delta, qkv, T, C, H,
           scale);
    launch(device, attention_queries_kernel<ROWS, PAD>, blocks, ROWS * 2, dqkv, dy, lse, delta, qkv, T, C, H,
           scale);
}

void attention_tensor_backward(struct device *device, bf16 *dqkv, const bf16 *dy, const float *delta,
                               const float *lse, const bf16 *qkv, int B, int T, int C, int H)
{
    int D = C / H;

    (D <= 16   ? backward<64, 16>
     : D <= 32 ? backward<64, 32>
     : D <= 64 ? backward<64, 64>
               : backward<32, ATTENTION_TENSOR_MOST>) (device, dqkv, dy, delta, lse, qkv, B, T, C, H);
}
