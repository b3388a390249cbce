/* Element by element: AdamW and conversion. */
#include "kernel.h"

#define THREADS 256

struct adamw_constants {
    float beta1, rest1, beta2, rest2; /* rest: 1 - beta */
    float rate, root2;                /* lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
    float eps, shrink, grad_scale;    /* shrink: 1 - lr decay */
};

/* p[n], m[n], v[n] of one step; a thread an element */
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *p, const float *g, float *m, float *v, size_t n, struct adamw_constants k)
{
    size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;

    if (i >= n)
        return;
    float gradient = g[i] * k.grad_scale;
    float first = k.beta1 * m[i] + k.rest1 * gradient;
    float second = k.beta2 * v[i] + k.rest2 * gradient * gradient;

    m[i] = first;
    v[i] = second;
    p[i] = k.shrink * p[i] - k.rate * first / (sqrtf(second) * k.root2 + k.eps);
}

void adamw(struct device *device, real *p, const real *g, real *m, real *v, size_t n, int64_t step, double lr,
           double beta1, double beta2, double eps, double decay, double grad_scale)
{
    double correction1 = 1 - pow(beta1, (double) step), correction2 = 1 - pow(beta2, (double) step);
    struct adamw_constants k = {
        .beta1 = (float) beta1,
        .rest1 = (float) (1 - beta1),
        .beta2 = (float) beta2,
        .rest2 = (float) (1 - beta2),
        .rate = (float) (lr / correction1),
        .root2 = (float) (1 / sqrt(correction2)),
        .eps = (float) eps,
        .shrink = (float) (1 - lr * decay),
        .grad_scale = (float) grad_scale,
    };

    launch(device, adamw_kernel, blocks_for(n, THREADS), THREADS, p, g, m, v, n, k);
}

template <class T>
__global__ void __launch_bounds__(THREADS) convert_kernel(float *out, const T *in, size_t n)
{
    size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;

    if (i < n)
        out[i] = as_float(in[i]);
}

template <class T> void act_to_real(struct device *device, real *out, const act *in, size_t n)
{
    launch(device, convert_kernel<T>, blocks_for(n, THREADS), THREADS, out, (const T *) in, n);
}

template void act_to_real<float>(struct device *, real *, const act *, size_t);
template void act_to_real<bf16>(struct device *, real *, const act *, size_t);
