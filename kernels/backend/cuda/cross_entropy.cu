/*
 * Softmax and cross-entropy over the vocabulary, in chunks of rows: a chunk's logits in float32, their
 * gradient as T, then the two products of the gradient.  The chunk's size follows from V alone.
 */
#include "product.h"

#ifndef CHUNK_BYTES /* of float32 logits; fewer in the test for the host */
#define CHUNK_BYTES ((size_t) 512 << 20)
#endif

#define THREADS    256
#define CHUNK_ROWS 128 /* chunks are a multiple of it, and at least it */

/* A running maximum and the sum of exp(x - maximum). */
struct softmax {
    float highest, sum;
};

__device__ static struct softmax merge(struct softmax a, struct softmax b)
{
    float highest = fmaxf(a.highest, b.highest);

    if (highest == -INFINITE)
        return a;
    return {highest, a.sum * expf(a.highest - highest) + b.sum * expf(b.highest - highest)};
}

__device__ static struct softmax block_merge(struct softmax own)
{
    __shared__ struct softmax of_thread[THREADS];

    of_thread[threadIdx.x] = own;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            of_thread[threadIdx.x] = merge(of_thread[threadIdx.x], of_thread[threadIdx.x + half]);
        __syncthreads();
    }
    return of_thread[0];
}

/*
 * losses[rows] and, when given, dlogits[rows, dlogits_ld] from logits[rows, ld]; targets[rows]; columns from
 * V to dlogits_ld are left as they are.  A block a row.
 */
template <class T>
__global__ void __launch_bounds__(THREADS)
    softmax_kernel(float *losses, T *dlogits, int dlogits_ld, const float *logits, int ld,
                   const int32_t *targets, float scale, int V)
{
    size_t row = blockIdx.x;
    int32_t target = targets[row];
    struct softmax own = {-INFINITE, 0};

    logits += row * ld;
    for (int v = threadIdx.x; v < V; v += THREADS) {
        float x = logits[v];

        if (x > own.highest)
            own = {x, own.sum * expf(own.highest - x) + 1};
        else
            own.sum += expf(x - own.highest);
    }
    own = block_merge(own);
    float lse = own.highest + logf(own.sum);
    if (threadIdx.x == 0)
        losses[row] = target < 0 ? 0 : lse - logits[target];
    if (!dlogits)
        return;
    if (target < 0)
        scale = 0;
    for (int v = threadIdx.x; v < V; v += THREADS)
        dlogits[row * dlogits_ld + v] =
            from_float<T>(scale * (expf(logits[v] - lse) - (v == target ? 1 : 0)));
}

template <class T>
void cross_entropy(struct device *device, real *losses, real *dx, real *dwte, const act *x, const real *wte,
                   const int32_t *targets, double scale, int rows, int C, int V)
{
    int ld = padded<float>(V), dlogits_ld = padded<T>(V);
    size_t fitting = CHUNK_BYTES / sizeof(float) / ld / CHUNK_ROWS * CHUNK_ROWS;
    int chunk = (int) min((size_t) rows, max((size_t) CHUNK_ROWS, fitting));
    struct operand xs = act_operand<T>(device, SCRATCH_X, x, rows, C);
    struct operand ws = weight_operand<T>(device, SCRATCH_W, wte, V, C);
    float *logits = (float *) scratch(device, SCRATCH_LOGITS, sizeof(float) * chunk * ld);
    T *dlogits = dx ? (T *) scratch(device, SCRATCH_DLOGITS, sizeof(T) * chunk * dlogits_ld) : NULL;

    for (int first = 0; first < rows; first += chunk) {
        int n = min(chunk, rows - first);
        struct operand part = {(const T *) xs.at + (size_t) first * xs.ld, xs.ld, false};
        struct operand gradient = {dlogits, dlogits_ld, false};
        struct result sums = {}, back = {}, weights = {};

        sums.as_real = logits;
        sums.ld = ld;
        multiply<T>(device, n, V, C, part, ws.turned(), sums);
        launch(device, softmax_kernel<T>, n, THREADS, losses + first, dlogits, dlogits_ld,
               (const float *) logits, ld, targets + first, (float) scale, V);
        if (!dx)
            continue;
        back.as_real = dx + (size_t) first * C;
        multiply<T>(device, n, C, V, gradient, ws, back);
        weights.as_real = dwte;
        weights.accumulate = true;
        multiply<T>(device, V, C, n, gradient.turned(), part, weights);
    }
}

template void cross_entropy<float>(struct device *, real *, real *, real *, const act *, const real *,
                                   const int32_t *, double, int, int, int);
template void cross_entropy<bf16>(struct device *, real *, real *, real *, const act *, const real *,
                                  const int32_t *, double, int, int, int);
