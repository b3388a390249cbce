/* Element by element: AdamW and conversion. */
#include "kernel.h"

#define THREADS 256

#define EACH 4 /* elements a thread, in adamw */

/* What an update multiplies by, rounded once. */
struct factors {
    float beta1, rest1, beta2, rest2; /* rest: 1 - beta */
    float rate, root2;                /* lr / correction1, 1 / sqrt(correction2) */
    float eps, shrink, grad_scale;    /* shrink: 1 - lr decay */
    bool diverged;
};

__device__ static struct factors factors_of(const struct adamw *k, const struct update *u)
{
    double norm = sqrt(u->squares);
    struct factors f = {
        .beta1 = (float) k->beta1,
        .rest1 = (float) (1 - k->beta1),
        .beta2 = (float) k->beta2,
        .rest2 = (float) (1 - k->beta2),
        .rate = (float) (u->learning_rate / u->correction1),
        .root2 = (float) (1 / sqrt(u->correction2)),
        .eps = (float) k->eps,
        .shrink = (float) (1 - u->learning_rate * k->decay),
        .grad_scale = (float) (k->grad_clip > 0 ? fmin(1.0, k->grad_clip / (norm + 1e-6)) : 1),
        .diverged = !isfinite(u->loss) || !isfinite(u->squares),
    };

    return f;
}

/* The segment of element i. */
__device__ static int segment_of(const struct segment *segments, int count, size_t i)
{
    int first = 0;

    for (int last = count - 1; first < last;) {
        int middle = (first + last) / 2;

        if (segments[middle].end <= i)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

/* p[n], m[n], v[n] of one step, and p once more as bf16 when there is a copy; a block THREADS * EACH elements
 */
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *p, bf16 *copy, const float *g, float *m, float *v, size_t n,
                 const struct segment *segments, int count, struct adamw constants,
                 const struct update *update)
{
    __shared__ struct factors k;
    __shared__ int first_segment;
    size_t first = (size_t) blockIdx.x * THREADS * EACH;

    if (threadIdx.x == 0) {
        k = factors_of(&constants, update);
        first_segment = segment_of(segments, count, first);
    }
    __syncthreads();
    if (k.diverged)
        return;
    int segment = first_segment;
    for (size_t i = first + threadIdx.x; i < min(first + THREADS * EACH, n); i += THREADS) {
        while (segments[segment].end <= i)
            segment++;
        float gradient = g[i] * k.grad_scale;
        float mean = k.beta1 * m[i] + k.rest1 * gradient;
        float square = k.beta2 * v[i] + k.rest2 * gradient * gradient;
        float moved = (segments[segment].decays ? k.shrink : 1) * p[i] -
                      k.rate * mean / (sqrtf(square) * k.root2 + k.eps);

        m[i] = mean;
        v[i] = square;
        p[i] = moved;
        if (copy)
            copy[i] = from_float<bf16>(moved);
    }
}

void adamw(struct device *device, real *p, const real *g, real *m, real *v, size_t n,
           const struct segment *segments, int count, const struct adamw *constants,
           const struct update *update)
{
    launch(device, adamw_kernel, blocks_for(n, THREADS * EACH), THREADS, p, weights_copy(device, p), g, m, v,
           n, segments, count, *constants, update);
}

template <class Out, class In>
__global__ void __launch_bounds__(THREADS) convert_kernel(Out *out, const In *in, size_t n)
{
    size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;

    if (i < n)
        out[i] = from_float<Out>(as_float(in[i]));
}

template <class T> void act_to_real(struct device *device, real *out, const act *in, size_t n)
{
    launch(device, convert_kernel<float, T>, blocks_for(n, THREADS), THREADS, out, (const T *) in, n);
}

void real_to_bf16(struct device *device, bf16 *out, const real *in, size_t n)
{
    launch(device, convert_kernel<bf16, float>, blocks_for(n, THREADS), THREADS, out, in, n);
}

template void act_to_real<float>(struct device *, real *, const act *, size_t);
template void act_to_real<bf16>(struct device *, real *, const act *, size_t);
