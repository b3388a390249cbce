/*
 * Softmax and cross-entropy over the vocabulary.  The float32 logits of a few rows at a time are computed and
 * turned into their gradient as T; where a thousand rows fit into the second cache, they hardly reach memory.
 * The two products of the gradient take many such pieces at once, since the second reads and writes all of
 * dwte. How many rows follows from the call's shape alone.
 */
#include "product.h"

#include "fragment.h"

#ifndef LOGITS_BYTES /* of float32 logits at a time; fewer in the test for the host */
#define LOGITS_BYTES ((size_t) 24 << 20)
#endif
#ifndef GRADIENT_BYTES /* of their gradient */
#define GRADIENT_BYTES ((size_t) 512 << 20)
#endif

#ifndef LEAST_ROWS /* at a time, also where they do not fit: each piece reads all of wte */
#define LEAST_ROWS 1024
#endif

#define EVEN 128  /* rows are taken in multiples of it */
#define FEW  2048 /* words: fewer threads are enough */

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

template <int THREADS> __device__ struct softmax block_merge(struct softmax own)
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

/* Four logits; those beyond the vocabulary, which nobody has written, are impossible words. */
__device__ static float4 load_logits(const float *logits, int v, int V)
{
    const float *x = logits + v;

    if (v + 3 < V)
        return *(const float4 *) x;
    return make_float4(x[0], v + 1 < V ? x[1] : -INFINITE, v + 2 < V ? x[2] : -INFINITE, -INFINITE);
}

__device__ static void store_four(float *to, float4 x)
{
    *(float4 *) to = x;
}

__device__ static void store_four(bf16 *to, float4 x)
{
    *(uint2 *) to = make_uint2(pack(x.x, x.y), pack(x.z, x.w));
}

/*
 * losses[rows] and, when given, dlogits[rows, dlogits_ld] from logits[rows, ld]; targets[rows]; dlogits is 0
 * beyond V.  Both begin at multiples of 16 bytes, and so do their rows.  A block a row.
 */
template <class T, int THREADS>
__global__ void __launch_bounds__(THREADS)
    softmax_kernel(float *losses, T *dlogits, int dlogits_ld, const float *logits, int ld,
                   const int32_t *targets, float scale, int V)
{
    size_t row = blockIdx.x;
    int32_t target = targets[row];
    struct softmax own = {-INFINITE, 0};

    logits += row * ld;
    for (int v = 4 * threadIdx.x; v < V; v += 4 * THREADS) {
        float4 x = load_logits(logits, v, V);
        float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));

        if (most > own.highest)
            own = {most, own.sum * expf(own.highest - most)};
        own.sum += (expf(x.x - own.highest) + expf(x.y - own.highest)) +
                   (expf(x.z - own.highest) + expf(x.w - own.highest));
    }
    own = block_merge<THREADS>(own);
    float lse = own.highest + logf(own.sum);
    if (threadIdx.x == 0)
        losses[row] = target < 0 ? 0 : lse - logits[target];
    if (!dlogits)
        return;
    if (target < 0)
        scale = 0;
    dlogits += row * dlogits_ld;
    for (int v = 4 * threadIdx.x; v < dlogits_ld; v += 4 * THREADS) {
        float4 x = {-INFINITE, -INFINITE, -INFINITE, -INFINITE};

        if (v < V)
            x = load_logits(logits, v, V);
        x.x = scale * (expf(x.x - lse) - (v == target ? 1 : 0));
        x.y = scale * (expf(x.y - lse) - (v + 1 == target ? 1 : 0));
        x.z = scale * (expf(x.z - lse) - (v + 2 == target ? 1 : 0));
        x.w = scale * (expf(x.w - lse) - (v + 3 == target ? 1 : 0));
        store_four(dlogits + v, x);
    }
}

/* How many rows of `bytes` each are taken together: what fits, in even shares. */
static int rows_together(int rows, size_t bytes, size_t most)
{
    int fitting = (int) max((size_t) LEAST_ROWS, most / bytes / EVEN * EVEN);
    int shares = (rows + fitting - 1) / fitting, each = (rows + shares - 1) / shares;

    return (each + EVEN - 1) / EVEN * EVEN;
}

/* A call, as its pieces see it; scratch is as large as any of them needs. */
template <class T> struct head {
    struct operand x, w;
    float *logits;
    T *dlogits; /* NULL: no gradient */
    int ld, dlogits_ld, piece, C, V;
    float scale;

    /* losses and dlogits of `rows` rows from x's row `first` on */
    void forward(struct device *device, real *losses, const int32_t *targets, int first, int rows) const
    {
        for (int begin = 0; begin < rows; begin += piece) {
            int n = min(piece, rows - begin), row = first + begin;
            struct operand part = {(const T *) x.at + (size_t) row * x.ld, x.ld, false};
            struct result sums = {};
            T *out = dlogits ? dlogits + (size_t) begin * dlogits_ld : NULL;

            sums.as_real = logits;
            sums.ld = ld;
            multiply<T>(device, n, V, C, part, w.turned(), sums);
            if (V <= FEW)
                launch(device, softmax_kernel<T, 128>, n, 128, losses + row, out, dlogits_ld,
                       (const float *) logits, ld, targets + row, scale, V);
            else
                launch(device, softmax_kernel<T, 1024>, n, 1024, losses + row, out, dlogits_ld,
                       (const float *) logits, ld, targets + row, scale, V);
        }
    }
};

template <class T>
void cross_entropy(struct device *device, real *losses, real *dx, real *dwte, const act *x, const real *wte,
                   const int32_t *targets, double scale, int rows, int C, int V)
{
    struct head<T> head = {
    };
    head.ld = padded<float>(V);
    head.dlogits_ld = padded<T>(V);
    head.C = C, head.V = V, head.scale = (float) scale;
    int chunk = dx ? rows_together(rows, sizeof(T) * head.dlogits_ld, GRADIENT_BYTES) : rows;

    chunk = min(chunk, rows);
    head.piece = min(chunk, rows_together(chunk, sizeof(float) * head.ld, LOGITS_BYTES));
    head.x = act_operand<T>(device, SCRATCH_X, x, rows, C);
    head.w = weight_operand<T>(device, SCRATCH_W, wte, V, C);
    head.logits = (float *) scratch(device, SCRATCH_LOGITS, sizeof(float) * head.piece * head.ld);
    if (dx)
        head.dlogits = (T *) scratch(device, SCRATCH_DLOGITS, sizeof(T) * chunk * head.dlogits_ld);
    for (int first = 0; first < rows; first += chunk) {
        int n = min(chunk, rows - first);
        struct operand part = {(const T *) head.x.at + (size_t) first * head.x.ld, head.x.ld, false};
        struct operand gradient = {head.dlogits, head.dlogits_ld, false};
        struct result back = {}, weights = {};

        head.forward(device, losses, targets, first, n);
        if (!dx)
            continue;
        back.as_real = dx + (size_t) first * C;
        multiply<T>(device, n, C, V, gradient, head.w, back);
        weights.as_real = dwte;
        weights.accumulate = true;
        multiply<T>(device, V, C, n, gradient.turned(), part, weights);
    }
}

template void cross_entropy<float>(struct device *, real *, real *, real *, const act *, const real *,
                                   const int32_t *, double, int, int, int);
template void cross_entropy<bf16>(struct device *, real *, real *, real *, const act *, const real *,
                                  const int32_t *, double, int, int, int);
