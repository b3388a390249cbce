/*
 * Residual + layer norm, forward and backward: a block of threads a row, whose columns stay in registers.
 *
 * Backward, a block takes a slab of rows one after the other and keeps its share of dgamma and dbeta in
 * registers; slabs are added up in their order.
 */
#include "kernel.h"

#include <type_traits>

#define SLABS_MOST 512 /* of the backward pass */

/* Calls f(threads, columns a thread) with constants that hold a row of C. */
template <class F> static void for_width(int C, F f)
{
    using std::integral_constant;
    if (C <= 256)
        f(integral_constant<int, 128>(), integral_constant<int, 2>());
    else if (C <= 1024)
        f(integral_constant<int, 128>(), integral_constant<int, 8>());
    else if (C <= 8192)
        f(integral_constant<int, 512>(), integral_constant<int, 16>());
    else
        f(integral_constant<int, 1024>(), integral_constant<int, 64>());
}

/* x[rows,C] (+= branch), y[rows,C], mean[rows], rstd[rows]; a block a row */
template <class T, int THREADS, int EACH>
__global__ void __launch_bounds__(THREADS)
    layernorm_forward_kernel(T *y, float *mean, float *rstd, float *x, const float *branch,
                             const float *gamma, const float *beta, int C)
{
    size_t row = blockIdx.x;
    float value[EACH], sum = 0, squares = 0;

    for (int i = 0; i < EACH; i++) {
        int c = threadIdx.x + i * THREADS;

        value[i] = 0;
        if (c < C) {
            value[i] = x[row * C + c];
            if (branch)
                x[row * C + c] = value[i] += branch[row * C + c];
            sum += value[i];
        }
    }
    float mu = block_sums<THREADS>(sum, 0).x / C;
    for (int i = 0; i < EACH; i++)
        if (threadIdx.x + i * THREADS < C)
            squares += (value[i] - mu) * (value[i] - mu);
    float scale = 1 / sqrtf(block_sums<THREADS>(squares, 0).x / C + 1e-5f);
    for (int i = 0; i < EACH; i++) {
        int c = threadIdx.x + i * THREADS;

        if (c < C)
            y[row * C + c] = from_float<T>((value[i] - mu) * scale * gamma[c] + (beta ? beta[c] : 0));
    }
    if (threadIdx.x == 0) {
        mean[row] = mu;
        rstd[row] = scale;
    }
}

/* dx[rows,C] += ...; partial: dgamma[slabs,C], then dbeta[slabs,C]; a block a slab of rows */
template <int THREADS, int EACH>
__global__ void __launch_bounds__(THREADS)
    layernorm_backward_kernel(float *dx, float *partial, const float *dy, const float *x, const float *mean,
                              const float *rstd, const float *gamma, int rows, int C, int slab)
{
    float dgamma[EACH] = {}, dbeta[EACH] = {};
    int first = blockIdx.x * slab, end = min(first + slab, rows);

    for (int row = first; row < end; row++) {
        size_t at = (size_t) row * C + threadIdx.x;
        float mu = mean[row], scale = rstd[row], normed[EACH], dnormed[EACH];
        float sum = 0, projection = 0;

        for (int i = 0; i < EACH; i++) {
            int c = threadIdx.x + i * THREADS;

            normed[i] = dnormed[i] = 0;
            if (c < C) {
                float d = dy[at + i * THREADS];

                normed[i] = (x[at + i * THREADS] - mu) * scale;
                dnormed[i] = d * gamma[c];
                dgamma[i] += d * normed[i];
                dbeta[i] += d;
            }
            sum += dnormed[i];
            projection += dnormed[i] * normed[i];
        }
        float2 sums = block_sums<THREADS>(sum, projection);
        for (int i = 0; i < EACH; i++)
            if (threadIdx.x + i * THREADS < C)
                dx[at + i * THREADS] += (dnormed[i] - sums.x / C - normed[i] * (sums.y / C)) * scale;
    }
    for (int i = 0; i < EACH; i++) {
        int c = threadIdx.x + i * THREADS;

        if (c < C) {
            partial[(size_t) blockIdx.x * C + c] = dgamma[i];
            partial[((size_t) gridDim.x + blockIdx.x) * C + c] = dbeta[i];
        }
    }
}

template <class T>
void layernorm_forward(struct device *device, act *y, real *mean, real *rstd, real *x, const real *branch,
                       const real *gamma, const real *beta, int rows, int C)
{
    for_width(C, [&](auto threads, auto each) {
        launch(device, layernorm_forward_kernel<T, threads(), each()>, rows, threads(), (T *) y, mean, rstd,
               x, branch, gamma, beta, C);
    });
}

void layernorm_backward(struct device *device, real *dx, real *dgamma, real *dbeta, const real *dy,
                        const real *x, const real *mean, const real *rstd, const real *gamma, int rows, int C)
{
    int slab = (rows + SLABS_MOST - 1) / SLABS_MOST, slabs = (rows + slab - 1) / slab;
    float *partial = (float *) scratch(device, SCRATCH_PARTIAL, 2 * sizeof(float) * slabs * C);

    for_width(C, [&](auto threads, auto each) {
        launch(device, layernorm_backward_kernel<threads(), each()>, slabs, threads(), dx, partial, dy, x,
               mean, rstd, gamma, rows, C, slab);
    });
    add_slabs(device, dgamma, dbeta, partial, slabs, C);
}

template void layernorm_forward<float>(struct device *, act *, real *, real *, real *, const real *,
                                       const real *, const real *, int, int);
template void layernorm_forward<bf16>(struct device *, act *, real *, real *, real *, const real *,
                                      const real *, const real *, int, int);
